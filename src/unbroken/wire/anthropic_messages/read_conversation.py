"""A request of this dialect in words that no dialect owns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.conversation import (
    Conversation,
    JsonFormat,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    ToolUse,
)
from unbroken.chat.request import ChatRequest
from unbroken.wire.anthropic_messages.blocks import NULL, Members
from unbroken.wire.anthropic_messages.read_parts import cache_of, decoded, read_content, type_of
from unbroken.wire.anthropic_messages.request import wrong


class _Message(Struct):
    role: str
    content: str | list[Members]


class _Tool(Struct):
    name: str
    input_schema: Raw
    description: str | None = None
    strict: bool | None = None


class _Choice(Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(Struct):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _OutputConfig(Struct):
    effort: str | None = None
    format: Members | None = None


class _Metadata(Struct):
    user_id: str | None = None


_write = msgspec.json.Encoder().encode

#: Fields with words in a `Conversation`, or that say only how the answer is sent.
_KNOWN = frozenset(
    (
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "metadata",
        "service_tier",
    )
)

_CHOICES: Mapping[str, ToolUse] = {"auto": ToolUse.AUTO, "any": ToolUse.REQUIRED, "none": ToolUse.NONE}

_THINKING = {"enabled": True, "adaptive": True, "disabled": False}

#: Who may say what: a block in another's turn is not of the dialect.
_SAID_BY: Mapping[type, frozenset[Role]] = {
    ToolCall: frozenset({Role.ASSISTANT}),
    ToolResult: frozenset({Role.USER}),
}


def read_conversation(request: ChatRequest) -> Conversation:
    """The request in words.

    Raises:
        RequestRefused: a field is wrong, or says what only a model behind Anthropic's API can be told.
    """
    fields = {name: raw for name, raw in request.fields.items() if raw != NULL}
    extras = {name: raw for name, raw in fields.items() if name not in _KNOWN}
    choice, parallel = _read_choice(fields)
    format, reasoning = _read_output(fields, extras)
    return Conversation(
        messages=(*_read_system(fields), *_read_messages(fields)),
        tools=_read_tools(fields, extras),
        tool_choice=choice,
        parallel_tools=parallel,
        max_tokens=_value(fields, "max_tokens", int),
        temperature=_value(fields, "temperature", float),
        top_p=_value(fields, "top_p", float),
        top_k=_value(fields, "top_k", int),
        stop=tuple(_value(fields, "stop_sequences", list[str]) or ()),
        format=format,
        reasoning=reasoning,
        user=_read_user(fields, extras),
        service_tier=_value(fields, "service_tier", str),
        extras=MappingProxyType(extras),
    )


def _value(fields: Mapping[str, Raw], name: str, kind: Any) -> Any:
    return decoded(fields[name], kind, name) if name in fields else None


def _read_system(fields: Mapping[str, Raw]) -> tuple[Message, ...]:
    parts = read_content(_value(fields, "system", str | list[Members]) or "", "system")
    _check_system(parts, "system")
    return (Message(Role.SYSTEM, parts),) if parts else ()


def _check_system(parts: tuple[Part, ...], path: str) -> None:
    for at, part in enumerate(parts):
        if not isinstance(part, Text):
            raise wrong(f"{path}.{at}.type", "Input should be 'text'")


def _read_messages(fields: Mapping[str, Raw]) -> list[Message]:
    messages = []
    for at, message in enumerate(decoded(fields["messages"], list[_Message], "messages")):
        path = f"messages.{at}.content"
        role, parts = Role(message.role), read_content(message.content, path)
        if role is Role.SYSTEM:
            _check_system(parts, path)
        for number, part in enumerate(parts):
            if role not in _SAID_BY.get(type(part), (role,)):
                word = "tool_use" if isinstance(part, ToolCall) else "tool_result"
                raise wrong(f"{path}.{number}", f"`{word}` blocks cannot be in messages of the role '{role.value}'")
        messages.append(Message(role, parts))
    return messages


def _read_tools(fields: Mapping[str, Raw], extras: dict[str, Raw]) -> tuple[Tool, ...]:
    tools = []
    for at, members in enumerate(_value(fields, "tools", list[Members]) or ()):
        path = f"tools.{at}"
        kind = type_of(members, path) if members.get("type", NULL) != NULL else "custom"
        if kind != "custom":
            problem = f"the tool \"{kind}\" is Anthropic's own; the model that is asked is not behind Anthropic's API"
            raise wrong(f"{path}.type", problem)
        known = decoded(_write(members), _Tool, path)
        tools.append(Tool(known.name, known.description, members["input_schema"], known.strict, cache_of(members)))
        for name, raw in members.items():
            if name not in _TOOL_KNOWN and raw not in (NULL, Raw(b"false")):
                extras[f"{path}.{name}"] = raw
    return tuple(tools)


_TOOL_KNOWN = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})


def _read_choice(fields: Mapping[str, Raw]) -> tuple[ToolUse | NamedTool | None, bool | None]:
    if "tool_choice" not in fields:
        return None, None
    known = decoded(fields["tool_choice"], _Choice, "tool_choice")
    parallel = None if known.disable_parallel_tool_use is None else not known.disable_parallel_tool_use
    if known.type == "tool":
        if not known.name:
            raise wrong("tool_choice.name", "Field required")
        return NamedTool(known.name), parallel
    if known.type not in _CHOICES:
        raise wrong("tool_choice.type", "Input should be 'auto', 'any', 'tool' or 'none'")
    return _CHOICES[known.type], parallel


def _read_output(fields: Mapping[str, Raw], extras: dict[str, Raw]) -> tuple[JsonFormat | None, Reasoning | None]:
    thinking = decoded(fields["thinking"], _Thinking, "thinking") if "thinking" in fields else None
    config = _OutputConfig()
    if "output_config" in fields:
        config = decoded(fields["output_config"], _OutputConfig, "output_config")
        for name, raw in decoded(fields["output_config"], Members, "output_config").items():
            if name not in ("effort", "format") and raw != NULL:
                extras[f"output_config.{name}"] = raw
    reasoning = Reasoning(effort=config.effort) if config.effort else None
    if thinking is not None and thinking.type in _THINKING:
        enabled = _THINKING[thinking.type]
        if thinking.type == "enabled" and thinking.budget_tokens is None:
            raise wrong("thinking.enabled.budget_tokens", "Field required")
        reasoning = Reasoning(enabled, config.effort, thinking.budget_tokens, thinking.display)
    elif thinking is not None:
        extras["thinking"] = fields["thinking"]
    return _read_format(config.format), reasoning


def _read_format(format: Members | None) -> JsonFormat | None:
    if format is None:
        return None
    if type_of(format, "output_config.format") != "json_schema":
        raise wrong("output_config.format.type", "Input should be 'json_schema'")
    if format.get("schema", NULL) == NULL:
        raise wrong("output_config.format.schema", "Field required")
    return JsonFormat(schema=format["schema"])


def _read_user(fields: Mapping[str, Raw], extras: dict[str, Raw]) -> str | None:
    if "metadata" not in fields:
        return None
    for name, raw in decoded(fields["metadata"], Members, "metadata").items():
        if name != "user_id" and raw != NULL:
            extras[f"metadata.{name}"] = raw
    return decoded(fields["metadata"], _Metadata, "metadata").user_id
