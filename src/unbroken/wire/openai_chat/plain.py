"""The second fastest way: chunks that add a piece of text, whatever else they say (log probabilities, timings)."""

from collections.abc import Callable, Container

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.stream import Block
from unbroken.wire.openai_chat.envelope import Fields, member_spans


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
    """A chunk that nothing has to be done about; what is typed None has to be looked at where it is there."""

    id: str
    object: str
    created: int
    model: str
    choices: tuple[_Choice]
    usage: None = None
    error: None = None
    type: None = None


_read = msgspec.json.Decoder(_Chunk).decode

Pass = Callable[[bytes, Container[int]], Block | None]
"""Gives the block for a chunk that adds text to one of the open choices, None for any other."""


def learn_envelope(data: bytes, fields: Fields, block: bytes) -> Pass | None:
    """How to get from a chunk to its block, learned from the chunk `data` that became `block`; None if it is no model.

    Chunks are parsed, but only their id and model are exchanged: by the bytes around them, which are the same in
    nearly every chunk of a stream. Exact, because what begins or ends with the same bytes has the same members there.
    """
    try:
        chunk = _read(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    spans = member_spans(data, fields)
    if spans is None or not _adds_text(data, chunk, {chunk.choices[0].index}):
        return None
    ours = [spans["id"], spans["model"]]
    growth = len(block) - len(b"data: \n\n") - len(data)
    if max(ours) < spans["choices"]:
        end = max(ours)[2]
        return _by_head(chunk, data[:end], block[: len(b"data: ") + end + growth])
    if min(ours) > spans["choices"]:
        start = min(ours)[0]
        return _by_tail(chunk, data[start:], block[len(b"data: ") + start :])
    return None


def _by_head(like: _Chunk, head: bytes, block_head: bytes) -> Pass:
    end = len(head)

    def relay(data: bytes, open: Container[int]) -> Block | None:
        if data.startswith(head) and _adds_text(data, like, open):
            return Block(b"%b%b\n\n" % (block_head, data[end:]))
        return None

    return relay


def _by_tail(like: _Chunk, tail: bytes, block_tail: bytes) -> Pass:
    end = -len(tail)

    def relay(data: bytes, open: Container[int]) -> Block | None:
        if data.endswith(tail) and _adds_text(data, like, open):
            return Block(b"data: %b%b" % (data[:end], block_tail))
        return None

    return relay


def _adds_text(data: bytes, like: _Chunk, open: Container[int]) -> bool:
    try:
        if not data.isascii():
            data.decode()  # strings that are not read are passed on as they are
        chunk = _read(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    choice = chunk.choices[0]
    delta = choice.delta
    return (
        choice.index in open
        and bool(delta.content or delta.reasoning_content or delta.reasoning or delta.refusal)
        and not delta.tool_calls
        and chunk.id == like.id  # also where a member occurs twice
        and chunk.model == like.model
        and chunk.object != "error"
        and b"\n" not in data  # of several lines; each begins with its own `data:`
    )
