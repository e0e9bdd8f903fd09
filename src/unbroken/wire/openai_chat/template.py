"""The fast way for the pieces of an answer: chunks that differ from one before only in their text."""

import re
from collections.abc import Callable

import msgspec

from unbroken.chat.stream import Block

_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"(\s*:\s*)?', re.DOTALL)  # a key, if a colon follows

_TEXTS = frozenset({b"content", b"reasoning_content", b"reasoning", b"refusal", b"arguments"})
_PADDING = b"obfuscation"  # random text that makes every chunk as long as the next

_read_text = msgspec.json.Decoder(str).decode

Fill = Callable[[bytes], Block | None]
"""Gives the block for a chunk that fits a template, None for one that does not, or that says nothing."""


def learn_templates(data: bytes, block: bytes) -> tuple[Fill | None, Fill | None]:
    """How to get from a chunk to its block, learned from the chunk `data` that became `block`; None if it is no model.

    A chunk fits if it has the same bytes around its text, and valid JSON strings in their place: then it is a valid
    chunk that says the same but for its text, and becomes the same block but for its text. It need not be parsed.
    The second is for chunks as they come in most reads, with `data: ` before and an empty line behind.
    """
    holes = _holes(data)
    names = [name for name, _, _ in holes]
    make = _MAKERS.get(len(names))
    if make is None or names[0] not in _TEXTS or names[1:] != [_PADDING] * (len(names) - 1):
        return None, None
    fixed, block_fixed = _around(data, holes), _around_same(data, block, holes)
    if block_fixed is None:
        return None, None
    fill = make(*fixed, *block_fixed)
    if b"\n" in data:  # of several lines; each begins with its own `data:`
        return fill, None
    head, *between, tail = fixed
    return fill, make(b"data: " + head, *between, tail + b"\n\n", *block_fixed)


def _one_text(head: bytes, tail: bytes, block_head: bytes, block_tail: bytes) -> Fill:
    start, end = len(head), -len(tail)

    def fill(data: bytes) -> Block | None:
        if not (data.startswith(head) and data.endswith(tail)):
            return None
        text = data[start:end]
        try:
            if not _read_text(text):
                return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return Block(block_head + text + block_tail)

    return fill


def _text_and_padding(
    head: bytes, middle: bytes, tail: bytes, block_head: bytes, block_middle: bytes, block_tail: bytes
) -> Fill:
    start, width, end = len(head), len(middle), -len(tail)

    def fill(data: bytes) -> Block | None:
        if not (data.startswith(head) and data.endswith(tail)):
            return None
        if (at := data.find(middle, start)) < 0:
            return None
        text, padding = data[start:at], data[at + width : end]
        try:
            if not _read_text(text):
                return None
            _read_text(padding)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return Block(b"%b%b%b%b%b" % (block_head, text, block_middle, padding, block_tail))

    return fill


_MAKERS: dict[int, Callable[..., Fill]] = {1: _one_text, 2: _text_and_padding}


def _holes(data: bytes) -> list[tuple[bytes, int, int]]:
    """Name, start and end of every string, quotes included, that is likely to differ from chunk to chunk."""
    holes = []
    name, value_at = b"", -1
    for string in _STRING.finditer(data):
        if string.start() == value_at and (name == _PADDING or (name in _TEXTS and string[1])):
            holes.append((name, string.start(), string.end(1) + 1))
        if string[2] is not None:
            name, value_at = string[1], string.end()
    return holes


def _around(data: bytes, holes: list[tuple[bytes, int, int]]) -> list[bytes]:
    """The pieces of `data` before, between and after the holes."""
    starts = [0, *(end for _, _, end in holes)]
    ends = [*(start for _, start, _ in holes), len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def _around_same(data: bytes, block: bytes, holes: list[tuple[bytes, int, int]]) -> list[bytes] | None:
    """The pieces of `block` around the texts that `data` has in its holes; None where the block says something else."""
    rest = data[holes[0][1] :] + b"\n\n"
    if block.endswith(rest):  # what we exchange stands before the text, as with nearly all servers
        shift = len(block) - len(rest) - holes[0][1]
        return _around(block, [(name, start + shift, end + shift) for name, start, end in holes])
    block_holes = _holes(block)
    if [data[start:end] for _, start, end in holes] != [block[start:end] for _, start, end in block_holes]:
        return None
    return _around(block, block_holes)
