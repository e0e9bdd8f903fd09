"""The second fastest way: chunks that add a piece of text, whatever else they say (log probabilities, timings)."""

from collections.abc import Container

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.stream import Block
from unbroken.wire.openai_chat.envelope import Frame


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    role: None = None
    tool_calls: list[Raw] | None = None


class _Choice(Struct):
    index: int
    delta: _Delta
    finish_reason: None = None


class _Chunk(Struct):
    """What stands in a frame; what is typed None has to be looked at where it is there."""

    choices: tuple[_Choice]
    usage: None = None
    error: None = None
    type: None = None


_read = msgspec.json.Decoder(_Chunk).decode


def relay_plain_chunk(data: bytes, frame: Frame, open: Container[int]) -> Block | None:
    """The block of a chunk in this frame that adds text to one of the `open` choices, None for any other.

    It is parsed, but only its id and model are exchanged.
    """
    if (chunk := frame.exchange(data)) is None or b"\n" in data:  # of several lines; each begins with its own `data:`
        return None
    try:
        if not data.isascii():
            data.decode()  # strings that are not read are passed on as they are
        choice = _read(data).choices[0]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    delta = choice.delta
    if not (delta.content or delta.reasoning_content or delta.reasoning or delta.refusal):
        return None
    if delta.tool_calls or choice.index not in open:
        return None
    return Block(b"data: %b\n\n" % chunk)
