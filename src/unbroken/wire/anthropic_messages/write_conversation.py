"""A conversation as a request of this dialect."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.conversation import Conversation, NamedTool, Tool, ToolUse
from unbroken.chat.error import RequestRefused, invalid
from unbroken.wire.anthropic_messages.abilities import Abilities, abilities_of
from unbroken.wire.anthropic_messages.write_messages import as_short, lacks_thoughts, write_messages
from unbroken.wire.anthropic_messages.write_parts import PartWriter
from unbroken.wire.anthropic_messages.write_thinking import Effort, write_effort
from unbroken.wire.dialects import Written

_write = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_NO_ARGUMENTS = Raw(b'{"type":"object","properties":{}}')

_CHOICES: Mapping[ToolUse, str] = {ToolUse.AUTO: "auto", ToolUse.REQUIRED: "any", ToolUse.NONE: "none"}

#: Fields of this dialect without a word in a `Conversation`: they go up as they came.
_OWN = frozenset(
    (
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
        "speed",
        "thinking",
        "user_profile_id",
        "workspace_id",
    )
)

#: What fields of other dialects say when they say nothing.
_EMPTY: tuple[object, ...] = (None, [], {})
_SAYS_NOTHING: Mapping[str, tuple[object, ...]] = {
    "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}),
}

#: Other dialects' fields that change nothing of what is answered: the caller is told that they were left out.
_MERE_SETTINGS = frozenset(
    (
        "background",
        "client_metadata",
        "include",
        "max_tool_calls",
        "metadata",
        "min_p",
        "obfuscation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "repetition_penalty",
        "safety_identifier",
        "skip_special_tokens",
        "store",
        "stream_options",
        "truncation",
        "typical_p",
        "user",
        "verbosity",
    )
)


def write_conversation(conversation: Conversation, *, model: str, stream: bool) -> Written:
    """The body for an upstream, with the names of the settings that it could not say.

    Raises:
        RequestRefused: 400 that names what cannot be left out without changing the answer, and has no word here.
    """
    _check(conversation)
    abilities = abilities_of(model)
    parts = PartWriter()
    system, messages = write_messages(conversation.messages, parts, has_later_system=abilities.has_later_system)
    effort = write_effort(
        conversation.reasoning, abilities, conversation.max_tokens, lacks_thoughts=lacks_thoughts(messages)
    )
    dropped = [*parts.dropped, *effort.dropped]
    fields: dict[str, Any] = {
        "model": model,
        "max_tokens": effort.max_tokens,
        "system": as_short({"content": system})["content"] or None,
        "messages": [as_short(message) for message in messages],
        "tools": [_write_tool(tool) for tool in conversation.tools] or None,
        "tool_choice": _write_choice(conversation, dropped),
        "thinking": effort.thinking,
        "output_config": _write_output(conversation, effort, dropped),
        **_sampling(conversation, abilities, effort, dropped),
        "stop_sequences": conversation.stop or None,
        "metadata": {"user_id": conversation.user} if conversation.user else None,
        "service_tier": _service_tier(conversation, dropped),
        "stream": stream or None,
    }
    _add_settings(conversation, dropped)
    _add_extras(conversation.extras, fields, dropped)
    body = _write({name: value for name, value in fields.items() if value is not None})
    return Written(body, tuple(dict.fromkeys(dropped)))


def _check(conversation: Conversation) -> None:
    if conversation.choices > 1:
        raise _no_word("n", "more than one answer at once")
    if conversation.top_logprobs is not None:
        raise _no_word("logprobs", "log probabilities")
    if conversation.format is not None and conversation.format.schema is None:
        raise _no_word("response_format", "JSON without a schema", "give a json_schema")
    if conversation.temperature is not None and not 0 <= conversation.temperature <= 1:
        problem = f"temperature: {conversation.temperature:g} is out of range: Claude's goes from 0 to 1"
        raise invalid(problem, param="temperature")
    if not all(sequence.strip() for sequence in conversation.stop):
        raise invalid("stop: Claude takes no stop sequences that are nothing but white space", param="stop")


def _no_word(name: str, what: str, instead: str = "") -> RequestRefused:
    return invalid(
        f"{name}: {what} cannot be asked of Anthropic's Messages API{instead and f'; {instead}'}", param=name
    )


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = _NO_ARGUMENTS if tool.schema is None else tool.schema
    written = {
        "name": tool.name,
        "description": tool.description,
        "input_schema": schema,
        "strict": tool.strict,
        "cache_control": tool.cache,
    }
    return {name: value for name, value in written.items() if value is not None}


def _write_choice(conversation: Conversation, dropped: list[str]) -> dict[str, Any] | None:
    choice, parallel = conversation.tool_choice, conversation.parallel_tools
    if not conversation.tools:
        if isinstance(choice, NamedTool) or choice is ToolUse.REQUIRED:
            raise invalid("tool_choice: a tool must be called, but no tools are given", param="tool_choice")
        return None  # the API refuses a choice where there is nothing to choose from
    if choice is ToolUse.NONE:
        if parallel is not None:
            dropped.append("parallel_tool_calls")
        return {"type": "none"}
    if choice is None and parallel is not False:
        return None  # side by side is what the API does if nothing is said
    written: dict[str, Any]
    if isinstance(choice, NamedTool):
        written = {"type": "tool", "name": choice.name}
    else:
        written = {"type": _CHOICES[choice or ToolUse.AUTO]}
    return written if parallel is None else {**written, "disable_parallel_tool_use": not parallel}


def _write_output(conversation: Conversation, effort: Effort, dropped: list[str]) -> dict[str, Any] | None:
    written: dict[str, Any] = {}
    if effort.effort is not None:
        written["effort"] = effort.effort
    if (format := conversation.format) is not None:
        written["format"] = {"type": "json_schema", "schema": format.schema}
        if format.description is not None:
            dropped.append("response_format.json_schema.description")
    return written or None


def _sampling(
    conversation: Conversation, abilities: Abilities, effort: Effort, dropped: list[str]
) -> dict[str, float | None]:
    """The settings of chance that the model takes; thinking and new models take none."""
    names = ("temperature", "top_p", "top_k")
    given = {name: value for name in names if (value := getattr(conversation, name)) is not None}
    taken = dict(given)
    if not abilities.has_sampling:
        taken.clear()
    elif effort.is_thinking:
        taken = {name: value for name, value in given.items() if name == "top_p" and value >= 0.95}
    if "temperature" in taken and not abilities.has_both_samplings:
        taken.pop("top_p", None)
    is_default = {"temperature": 1, "top_p": 1}
    dropped += [name for name, value in given.items() if name not in taken and value != is_default.get(name)]
    return taken


def _service_tier(conversation: Conversation, dropped: list[str]) -> str | None:
    if conversation.service_tier in (None, "auto", "standard_only"):
        return conversation.service_tier
    dropped.append("service_tier")
    return None


def _add_settings(conversation: Conversation, dropped: list[str]) -> None:
    if conversation.seed is not None:
        dropped.append("seed")
    dropped += [name for name in ("frequency_penalty", "presence_penalty") if getattr(conversation, name)]


def _add_extras(extras: Mapping[str, Raw], fields: dict[str, Any], dropped: list[str]) -> None:
    for name, raw in extras.items():
        if _decode(raw) in _SAYS_NOTHING.get(name, _EMPTY):
            continue
        outer, _, inner = name.partition(".")
        if name in _OWN:
            fields[name] = raw
        elif outer == "output_config" and inner:
            fields[outer] = {**(fields.get(outer) or {}), inner: raw}
        elif outer == "tools" and inner.count(".") == 1:
            at, _, member = inner.partition(".")
            fields["tools"][int(at)][member] = raw
        elif outer in _MERE_SETTINGS:
            dropped.append(name)
        else:
            raise invalid(f"{name}: this field cannot be said in Anthropic's Messages API", param=name)
