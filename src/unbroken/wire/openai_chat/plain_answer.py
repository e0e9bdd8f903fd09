"""The fast way for a whole answer that is just as the API describes it: id and model are exchanged where they stand."""

import re
from typing import Literal

import msgspec
from msgspec import Struct

# As OpenAI, vLLM, llama.cpp and most others begin their answers. What a string escapes is left to the slow way.
_HEAD = re.compile(
    rb'\s*\{\s*"id"\s*:\s*"(?P<id>[^"\\]*+)"\s*,\s*"object"\s*:\s*"chat\.completion"\s*,\s*"created"\s*:\s*\d++\s*,'
    rb'\s*"model"\s*:\s*"(?P<model>[^"\\]*+)"\s*,'
)


class _Message(Struct):
    role: Literal["assistant"]
    content: str
    tool_calls: None = None


class _Choice(Struct):
    index: int
    message: _Message
    finish_reason: Literal["stop", "length"]


class _Answer(Struct):
    id: str
    model: str
    choices: list[_Choice]
    usage: object = None
    error: None = None
    type: None = None


_read = msgspec.json.Decoder(_Answer).decode
_write = msgspec.json.Encoder().encode


def relay_plain_answer(body: bytes, stream_id: str, model: str) -> tuple[bytes, object, tuple[str, ...]] | None:
    """The answer in our name, its decoded usage, and its finish reasons; None where it wants a closer look."""
    head = _HEAD.match(body)
    if head is None:
        return None
    try:
        if not body.isascii():
            body.decode()  # strings that are not read are passed on as they are
        answer = _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # Also where a member occurs twice: the last one counts, and would not be the one that is exchanged.
    is_once = body.count(b'"id"') == 1 and body.count(b'"model"') == 1
    if not answer.choices or not is_once:
        return None
    written = b"%b%b%b%b%b" % (
        body[: head.start("id") - 1],
        _write(stream_id),
        body[head.end("id") + 1 : head.start("model") - 1],
        _write(model),
        body[head.end("model") + 1 :],
    )
    return written, answer.usage, tuple(choice.finish_reason for choice in answer.choices)
