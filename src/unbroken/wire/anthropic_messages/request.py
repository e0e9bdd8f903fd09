"""Requests: the caller's body to a `ChatRequest`, and a `ChatRequest` to the upstream's body."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from unbroken.chat.error import RequestRefused, invalid
from unbroken.chat.request import ChatRequest
from unbroken.wire.anthropic_messages.errors import NO_THREADS
from unbroken.wire.openai_chat.surrogates import has_halves

_Text = Annotated[str, Meta(min_length=1)]


class _Message(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Raw]]


class _Question(Struct):
    """The fields whose type we know and that a count of tokens has too; all others go up as they came."""

    model: _Text
    messages: Annotated[list[_Message], Meta(min_length=1)]
    system: str | list[dict[str, Raw]] | None = None
    tools: list[dict[str, Raw]] | None = None
    tool_choice: dict[str, Raw] | None = None
    thinking: dict[str, Raw] | None = None
    output_config: dict[str, Raw] | None = None


class _Body(_Question, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=0)]  # 0 fills the provider's cache and asks for no answer
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Raw] | None = None
    service_tier: str | None = None


_read_body = msgspec.json.Decoder(_Body).decode
_read_question = msgspec.json.Decoder(_Question).decode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode

_NULL = Raw(b"null")

_WRONG_TYPE = re.compile(r"Expected `(?P<expected>.+?)`, got `(?P<found>.+?)`")
_TOO_SHORT = re.compile(r"Expected `(?P<type>str|array)` of length >= 1")
_OUT_OF_BOUNDS = re.compile(r"Expected `(?:int|float)` (?P<relation>>=|<=) (?P<bound>[\d.]+)")
_MISSING = re.compile(r"Object missing required field `(?P<field>.+?)`")
_PATH = re.compile(r" - at `\$\.?(?P<path>.*?)`$")
_TYPE_NAMES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "object": "object",
    "array": "list",
}
_RELATIONS = {">=": "greater than or equal to", "<=": "less than or equal to"}


def read_request(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises:
        RequestRefused: 400 that names the field, what was found and what was expected, as Anthropic words it.
    """
    fields, known = _read(body, _read_body)
    if fields.get("thread", _NULL) != _NULL:
        # A provider keeps it under its own message's id, which no client of ours has seen. The SDKs go on without.
        problem = "thread: conversations are not kept here; send all messages"
        raise invalid(problem, param="thread", code=NO_THREADS)
    return ChatRequest(known.model, known.stream is True, include_usage=True, choices=1, fields=fields)


def read_count_request(body: bytes) -> ChatRequest:
    """The question whose input tokens are to be counted; raises RequestRefused as `read_request` does."""
    fields, known = _read(body, _read_question)
    return ChatRequest(known.model, stream=False, include_usage=True, choices=1, fields=fields)


def write_request(request: ChatRequest, *, model: str, more: Mapping[str, object] = MappingProxyType({})) -> bytes:
    """The upstream's body: the caller's fields, the upstream's name of the model, and `more` fields of ours.

    It is always written anew from the fields that were read, so that a key that occurs twice cannot say one thing to
    us and another to the upstream.
    """
    fields: dict[str, Any] = {**request.fields, **more, "model": model}
    return _write(fields)


def wrong(path: str, problem: str) -> RequestRefused:
    """The refusal of a request for one of its fields; `path` has dots and no brackets, as the API writes it."""
    return invalid(f"{path}: {problem}", param=path)


def explain(problem: str, under: str = "") -> RequestRefused:
    """The refusal that says msgspec's problem in Anthropic's words; `under` is the path to what was decoded."""
    at = _PATH.search(problem)
    steps = [under, *re.findall(r"[^.\[\]]+", at["path"] if at else "")]
    path = ".".join(step for step in steps if step and step != "...")
    if missing := _MISSING.search(problem):
        return wrong(".".join(filter(None, (path, missing["field"]))), "Field required")
    return wrong(path or "body", _reason(path, _PATH.sub("", problem)))


def _read(body: bytes, read: Any) -> tuple[dict[str, Raw], Any]:
    try:
        # Strings inside values that we hand on unread would otherwise go up unchecked.
        body.decode()
        return _read_fields(body), read(body)
    except UnicodeDecodeError as error:
        raise invalid(f"The request body is not UTF-8: byte {error.start} cannot be decoded.") from None
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except msgspec.DecodeError as error:
        raise invalid(f"The request body is not valid JSON: {_syntax_problem(body, str(error))}") from None
    except RecursionError:
        raise invalid("The request body is nested too deeply to be read.") from None


def _syntax_problem(body: bytes, problem: str) -> str:
    if not body.strip():
        return "it is empty"
    if has_halves(body):
        return "a string has one half of a UTF-16 surrogate pair"
    return "it ends too early" if problem == "Input data was truncated" else problem.removeprefix("JSON is malformed: ")


def _reason(path: str, problem: str) -> str:
    if kind := _WRONG_TYPE.search(problem):
        expected = [_TYPE_NAMES.get(name, name) for name in kind["expected"].split(" | ") if name != "null"]
        found = _TYPE_NAMES.get(kind["found"], kind["found"])
        return f"Input should be a valid {' or '.join(expected)}, found {found}"
    if short := _TOO_SHORT.search(problem):
        if path == "messages":
            return "at least one message is required"
        return "String should have at least 1 character" if short["type"] == "str" else "List should not be empty"
    if bounds := _OUT_OF_BOUNDS.search(problem):
        return f"Input should be {_RELATIONS[bounds['relation']]} {bounds['bound'].removesuffix('.0')}"
    if path.endswith(".role"):
        return "Input should be 'user', 'assistant' or 'system'"
    return problem[:1].lower() + problem[1:]
