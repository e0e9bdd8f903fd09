"""A request of this dialect in words that no dialect owns."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.conversation import (
    Conversation,
    JsonFormat,
    Message,
    NamedTool,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolUse,
)
from unbroken.chat.request import ChatRequest
from unbroken.wire.openai_responses.complaints import no_word, read_as
from unbroken.wire.openai_responses.items import read_items
from unbroken.wire.openai_responses.request import NULL

Fields = Mapping[str, Raw]


class _Tool(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Raw = NULL
    strict: bool | None = None


class _Format(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    schema: Raw = NULL
    strict: bool | None = None


class _TextSettings(Struct):
    format: _Format | None = None
    verbosity: Raw = NULL


class _Reasoning(Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None  # its name in earlier days


class _Choice(Struct):
    type: str
    name: str | None = None


class _Settings(Struct):
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    instructions: str | None = None


_INPUT = msgspec.json.Decoder(str | list[Raw] | None)
_TOOLS = msgspec.json.Decoder(list[_Tool] | None)
_TOOL_CHOICE = msgspec.json.Decoder(str | _Choice | None)
_TEXT = msgspec.json.Decoder(_TextSettings | None)
_REASONING = msgspec.json.Decoder(_Reasoning | None)
_INCLUDE = msgspec.json.Decoder(list[str] | None)
_write = msgspec.json.Encoder().encode

#: Fields that only the one who keeps the responses or the prompts can resolve.
_KEPT_ELSEWHERE = {
    "previous_response_id": "there is no such response here, or it was not stored",
    "conversation": "conversations are not kept here; give the items as input",
    "prompt": "prompts are not kept here; give the text as input",
}

#: What the gateway itself does, and what has a word of ours: no upstream is told by this name.
_SAID = frozenset(
    {
        *("model", "input", "stream", "stream_options", "store", "background", "metadata"),
        *("tools", "tool_choice", "text", "reasoning", "include"),
        *_Settings.__struct_fields__,
    }
)

#: What `include` may ask for that is given anyway, or has its own word.
_ALWAYS_INCLUDED = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})

_DEFAULTS: Fields = {"truncation": Raw(b'"disabled"')}


def read_conversation(request: ChatRequest) -> Conversation:
    """The request in words.

    Raises:
        RequestRefused: 400 that names a field that is wrong, or a tool that only this API's own servers have.
    """
    fields = {name: raw for name, raw in request.fields.items() if raw != NULL}
    for name, problem in _KEPT_ELSEWHERE.items():
        if name in fields:
            raise no_word(name, problem)
    settings = msgspec.json.Decoder(_Settings).decode(_write({name: fields[name] for name in _known(fields)}))
    text = read_as(_TEXT, fields.get("text", NULL), "text") or _TextSettings()
    extras = {name: raw for name, raw in fields.items() if name not in _SAID and raw != _DEFAULTS.get(name)}
    if text.verbosity != NULL:
        extras["verbosity"] = text.verbosity
    if settings.safety_identifier and settings.user not in (None, settings.safety_identifier):
        extras["user"] = fields["user"]
    include = read_as(_INCLUDE, fields.get("include", NULL), "include") or []
    if not _ALWAYS_INCLUDED.issuperset(include):
        extras["include"] = fields["include"]
    return Conversation(
        messages=_messages(settings.instructions, fields),
        tools=_tools(fields),
        tool_choice=_tool_choice(fields),
        parallel_tools=settings.parallel_tool_calls,
        max_tokens=settings.max_output_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_logprobs=settings.top_logprobs or (0 if "message.output_text.logprobs" in include else None),
        format=_format(text.format),
        reasoning=_reasoning(fields),
        user=settings.safety_identifier or settings.user,
        service_tier=settings.service_tier,
        extras=extras,
    )


def _known(fields: Fields) -> set[str]:
    return fields.keys() & set(_Settings.__struct_fields__)


def _messages(instructions: str | None, fields: Fields) -> tuple[Message, ...]:
    said = read_as(_INPUT, fields.get("input", NULL), "input")
    first = (Message(Role.SYSTEM, (Text(instructions),)),) if instructions else ()
    if isinstance(said, str):
        return (*first, Message(Role.USER, (Text(said),)))
    return (*first, *read_items(said or []))


def _tools(fields: Fields) -> tuple[Tool, ...]:
    tools = read_as(_TOOLS, fields.get("tools", NULL), "tools") or []
    return tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools))


def _tool(tool: _Tool, where: str) -> Tool:
    if tool.type != "function":
        name = f'"{tool.type}"' + (f' ("{tool.name}")' if tool.name else "")
        raise no_word(f"{where}.type", f"no upstream of this model has the tool {name}; functions can be called")
    if not tool.name:
        raise no_word(f"{where}.name", "a function needs a name")
    schema = None if tool.parameters == NULL else tool.parameters
    return Tool(tool.name, tool.description, schema, tool.strict)


def _tool_choice(fields: Fields) -> ToolUse | NamedTool | None:
    choice = read_as(_TOOL_CHOICE, fields.get("tool_choice", NULL), "tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise no_word("tool_choice", f'expected "auto", "none" or "required", found "{choice}"')
        return ToolUse(choice)
    if choice.type != "function" or not choice.name:
        raise no_word("tool_choice", f'only functions can be chosen here, not "{choice.type}"')
    return NamedTool(choice.name)


def _format(format: _Format | None) -> JsonFormat | None:
    if format is None or format.type == "text":
        return None
    if format.type == "json_object":
        return JsonFormat()
    if format.type != "json_schema" or format.schema == NULL:
        raise no_word("text.format", 'expected "text", "json_object" or a "json_schema" with a schema')
    return JsonFormat(format.schema, format.name, format.description, format.strict)


def _reasoning(fields: Fields) -> Reasoning | None:
    said = read_as(_REASONING, fields.get("reasoning", NULL), "reasoning")
    if said is None or said == _Reasoning():
        return None
    summary = said.summary or said.generate_summary
    if said.effort == "none":
        return Reasoning(enabled=False, effort="none", summary=summary)
    return Reasoning(effort=said.effort, summary=summary)
