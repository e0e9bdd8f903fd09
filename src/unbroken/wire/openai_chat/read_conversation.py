"""Requests of this dialect into words."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.conversation import Conversation, JsonFormat, NamedTool, Reasoning, Tool, ToolUse
from unbroken.chat.error import RequestRefused, invalid
from unbroken.chat.request import ChatRequest
from unbroken.wire.openai_chat.envelope import NULL
from unbroken.wire.openai_chat.read_messages import WireMessage, read_messages, said
from unbroken.wire.openai_chat.request import explain


class _Function(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: Raw = NULL
    strict: bool | None = None


class _Tool(Struct, forbid_unknown_fields=True):
    type: str = "function"
    function: _Function | None = None
    cache_control: Raw = NULL


class _Named(Struct):
    name: str | None = None


class _Choice(Struct):
    type: str
    function: _Named | None = None


class _Schema(Struct, forbid_unknown_fields=True):
    name: str | None = None
    description: str | None = None
    schema: Raw = NULL
    strict: bool | None = None


class _Format(Struct):
    type: str
    json_schema: _Schema | None = None


class _Body(Struct):
    """The fields that have words of ours; `_HANDLED` are read by others, the rest becomes `extras`."""

    messages: list[WireMessage]
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[_Function] | None = None
    function_call: str | _Named | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None


_HANDLED = {*_Body.__struct_fields__, "model", "stream", "stream_options", "n"}

#: Values that ask for what is done anyway.
_SAY_NOTHING: Mapping[str, tuple[Raw, ...]] = {
    "store": (Raw(b"false"),),
    "modalities": (Raw(b'["text"]'),),
    "logit_bias": (Raw(b"{}"),),
    "metadata": (Raw(b"{}"),),
}

_read = msgspec.json.Decoder(_Body).decode
_write = msgspec.json.Encoder().encode


def read_conversation(request: ChatRequest) -> Conversation:
    """The request in words.

    Raises:
        RequestRefused: 400 that names a field that is wrong, or that no word of ours says.
    """
    fields = request.fields
    try:
        body = _read(_write({name: raw for name, raw in fields.items() if name in _HANDLED}))
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except RecursionError:
        raise invalid("The request body is nested too deeply to be read.") from None
    extras = {
        name: raw
        for name, raw in fields.items()
        if name not in _HANDLED and raw != NULL and raw not in _SAY_NOTHING.get(name, ())
    }
    user = body.safety_identifier or body.user
    if body.user not in (None, user):
        extras["user"] = fields["user"]
    format, is_known = _format(body.response_format)
    if not is_known:
        extras["response_format"] = fields["response_format"]
    effort = body.reasoning_effort
    return Conversation(
        messages=read_messages(body.messages, fields["messages"]),
        tools=_tools(body),
        tool_choice=_tool_choice(body),
        parallel_tools=body.parallel_tool_calls,
        max_tokens=_max_tokens(body),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        seed=body.seed,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        choices=request.choices,
        top_logprobs=_top_logprobs(body),
        format=format,
        reasoning=None if effort is None else Reasoning(enabled=False if effort == "none" else None, effort=effort),
        user=user,
        service_tier=body.service_tier,
        extras=extras,
    )


def _max_tokens(body: _Body) -> int | None:
    limits = {limit for limit in (body.max_completion_tokens, body.max_tokens) if limit is not None}
    if len(limits) > 1:
        problem = "'max_tokens' and 'max_completion_tokens' say different limits; give one of them."
        raise invalid(problem, param="max_tokens", code="invalid_value")
    return limits.pop() if limits else None


def _top_logprobs(body: _Body) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        problem = "'top_logprobs' is only allowed where 'logprobs' is true."
        raise invalid(problem, param="top_logprobs", code="invalid_value")
    return None


def _tools(body: _Body) -> tuple[Tool, ...]:
    tools = []
    for at, tool in enumerate(body.tools or ()):
        if tool.type != "function":
            raise _untranslatable(f"tools[{at}].type", tool.type, '"function"')
        if tool.function is None:
            path = f"tools[{at}].function"
            raise invalid(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
        tools.append(_tool(tool.function, tool.cache_control))
    if tools and body.functions:
        raise invalid("'functions' is deprecated in favour of 'tools'; give one of them.", param="functions")
    if body.functions:
        message = "'functions' is deprecated, and cannot be translated for the upstream of this model; use 'tools'."
        raise invalid(message, param="functions", code="unsupported_parameter")
    return tuple(tools)


def _tool(function: _Function, cache: Raw) -> Tool:
    return Tool(function.name, function.description, said(function.parameters), function.strict, said(cache))


def _tool_choice(body: _Body) -> ToolUse | NamedTool | None:
    choice = body.tool_choice
    if choice is None:
        return None
    if isinstance(choice, str):
        try:
            return ToolUse(choice)
        except ValueError:
            raise _untranslatable("tool_choice", choice, '"auto", "none", "required" or a function') from None
    if choice.type != "function" or choice.function is None or not choice.function.name:
        raise _untranslatable("tool_choice.type", choice.type, '"function" with its name')
    return NamedTool(choice.function.name)


def _format(format: _Format | None) -> tuple[JsonFormat | None, bool]:
    """The format, and whether it is one that we have words for."""
    if format is None or format.type == "text":
        return None, True
    if format.type == "json_object":
        return JsonFormat(), True
    if format.type == "json_schema" and (schema := format.json_schema) is not None:
        return JsonFormat(said(schema.schema), schema.name, schema.description, schema.strict), True
    return None, False


def _untranslatable(path: str, found: str, expected: str) -> RequestRefused:
    message = f"Invalid value for '{path}': \"{found}\" cannot be translated for the upstream of this model"
    return invalid(f"{message}; expected {expected}.", param=path, code="unsupported_parameter")
