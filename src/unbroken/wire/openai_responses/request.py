"""Requests: the caller's body to a `ChatRequest`, and a `ChatRequest` to the upstream's body."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from unbroken.chat.error import invalid
from unbroken.chat.request import ChatRequest
from unbroken.wire.openai_responses.complaints import explain, syntax_problem

NULL = Raw(b"null")
"""What a field that is absent is taken for."""


class _Body(Struct):
    """The fields whose type we know; all others go up as they came."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[dict[str, Raw]] | None = None
    instructions: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Raw]] | None = None
    tool_choice: str | dict[str, Raw] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Raw] | None = None
    reasoning: dict[str, Raw] | None = None
    include: list[str] | None = None
    metadata: dict[str, Raw] | None = None
    truncation: str | None = None
    service_tier: str | None = None
    user: str | None = None


#: Any of these says what the model is to answer.
_QUESTIONS = ("input", "previous_response_id", "prompt", "conversation")

_read_body = msgspec.json.Decoder(_Body).decode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode


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
    if all(fields.get(name, NULL) == NULL for name in _QUESTIONS):
        raise invalid("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    if known.input == []:
        raise invalid("Invalid value for 'input': expected an array that is not empty.", param="input")
    # Usage comes with every response object, and there is one answer.
    return ChatRequest(model=known.model, stream=known.stream is True, include_usage=True, choices=1, fields=fields)


def as_stream(request: ChatRequest) -> ChatRequest:
    """The same question asked for an answer in pieces."""
    return ChatRequest(request.model, True, True, 1, {**request.fields, "stream": Raw(b"true")})


def write_request(request: ChatRequest, *, model: str, more: Mapping[str, object] = MappingProxyType({})) -> bytes:
    """The upstream's body: the caller's fields and the upstream's name of the model.

    `more` are fields of ours, for what only this upstream knows. The body is always written anew from the fields that
    were read, so that a key that occurs twice cannot say one thing to us and another to the upstream.
    """
    fields: dict[str, Any] = {**request.fields, **more, "model": model}
    return _write(fields)
