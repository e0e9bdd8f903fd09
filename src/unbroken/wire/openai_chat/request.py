"""Requests: the caller's body to a `ChatRequest`, and a `ChatRequest` to the upstream's body."""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from unbroken.chat.error import RequestRefused, invalid
from unbroken.chat.request import ChatRequest
from unbroken.wire.openai_chat.surrogates import has_halves

MAX_CHOICES = 128  # the API's own bound of `n`


class _Message(Struct):
    role: str
    content: str | list[dict[str, Raw]] | None = None
    tool_calls: list[dict[str, Raw]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Body(Struct):
    """The fields whose type we know; all others go up as they came."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Raw] | None = None
    tools: list[dict[str, Raw]] | None = None
    tool_choice: str | dict[str, Raw] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Raw] | None = None
    metadata: dict[str, Raw] | None = None
    user: str | None = None


_read_body = msgspec.json.Decoder(_Body).decode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_options = msgspec.json.Decoder(dict[str, Raw] | None).decode
_write = msgspec.json.Encoder().encode

_WRONG_TYPE = re.compile(r"Expected `(?P<expected>.+?)`, got `(?P<found>.+?)`")
_TOO_SHORT = re.compile(r"Expected `(?P<type>str|array)` of length >= 1")
_OUT_OF_BOUNDS = re.compile(r"Expected `int` (?P<relation>>=|<=) (?P<bound>\d+)")
_MISSING = re.compile(r"Object missing required field `(?P<field>.+?)`")
_PATH = re.compile(r" - at `\$\.?(?P<path>.*?)`$")
_TYPE_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_RELATIONS = {">=": "at least", "<=": "at most"}


def read_request(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises:
        RequestRefused: 400 that names the field, what was found and what was expected.
    """
    try:
        # Strings inside values that we hand on unread would otherwise go up unchecked.
        body.decode()
        fields = _read_fields(body)
        known = _read_body(body)
    except UnicodeDecodeError as error:
        raise invalid(f"The request body is not UTF-8: byte {error.start} cannot be decoded.") from None
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except msgspec.DecodeError as error:
        raise invalid(f"The request body is not valid JSON: {syntax_problem(body, str(error))}.") from None
    except RecursionError:
        raise invalid("The request body is nested too deeply to be read.") from None
    options = known.stream_options
    return ChatRequest(
        model=known.model,
        stream=known.stream is True,
        include_usage=bool(options and options.include_usage),
        choices=known.n or 1,
        fields=fields,
    )


def as_stream(request: ChatRequest) -> ChatRequest:
    """The same question asked for an answer in pieces, with its usage."""
    options = Raw(b'{"include_usage":true}')
    fields = {**request.fields, "stream": Raw(b"true"), "stream_options": options}
    return replace(request, stream=True, include_usage=True, fields=fields)


def write_request(
    request: ChatRequest, *, model: str, ask_usage: bool, more: Mapping[str, object] = MappingProxyType({})
) -> bytes:
    """The upstream's body: the caller's fields, the upstream's name of the model, usage asked for on streams.

    `more` are fields of ours, for what only this upstream knows.

    The body is always written anew from the fields that were read, so that a key that occurs twice
    cannot say one thing to us and another to the upstream.
    """
    fields: dict[str, Any] = {**request.fields, **more, "model": model}
    if request.stream and ask_usage and not request.include_usage:
        options = fields.get("stream_options")
        given = _read_options(options) if options is not None else None
        fields["stream_options"] = {**(given or {}), "include_usage": True}
    return _write(fields)


def syntax_problem(body: bytes, problem: str) -> str:
    """msgspec's words for JSON that it could not parse, in the caller's."""
    if not body.strip():
        return "it is empty"
    if has_halves(body):
        return "a string has one half of a UTF-16 surrogate pair"
    return "it ends too early" if problem == "Input data was truncated" else problem.removeprefix("JSON is malformed: ")


def explain(problem: str) -> RequestRefused:
    """Puts msgspec's words into the caller's: the field, what was found, what was expected."""
    at = _PATH.search(problem)
    path = at["path"] if at else ""
    if missing := _MISSING.search(problem):
        field = f"{path}.{missing['field']}" if path else missing["field"]
        return invalid(f"Missing required parameter: '{field}'.", param=field, code="missing_required_parameter")
    subject = f"Invalid value for '{path}'" if path else "Invalid request body"
    param = path or None
    if wrong := _WRONG_TYPE.search(problem):
        # Optional fields may be null; nobody who sent something else wants to be told so.
        expected = _either([_TYPE_NAMES.get(name, name) for name in wrong["expected"].split(" | ") if name != "null"])
        found = _TYPE_NAMES.get(wrong["found"], wrong["found"])
        return invalid(f"{subject}: expected {expected}, but found {found}.", param=param, code="invalid_type")
    if short := _TOO_SHORT.search(problem):
        kind = _TYPE_NAMES[short["type"]]
        return invalid(f"{subject}: expected {kind} that is not empty.", param=param, code="invalid_value")
    if bounds := _OUT_OF_BOUNDS.search(problem):
        limit = f"{_RELATIONS[bounds['relation']]} {bounds['bound']}"
        return invalid(f"{subject}: expected an integer of {limit}.", param=param, code="invalid_value")
    reason = _PATH.sub("", problem)
    return invalid(f"{subject}: {reason[:1].lower()}{reason[1:]}.", param=param, code="invalid_value")


def _either(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
