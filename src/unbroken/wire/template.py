"""The fast way for the pieces of an answer: events that differ from one before only in their text."""

import re
from collections.abc import Collection
from typing import Protocol

import msgspec

from unbroken.chat.stream import Block

_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"(\s*:\s*)?', re.DOTALL)  # a key, if a colon follows

# Pieces after which a template may be learned anew; twice as many each time that one has been of little use.
LEARN_AFTER, MAX_LEARN_AFTER = 8, 512

_QUOTE = b'"'

read_text = msgspec.json.Decoder(str).decode
"""The text of a JSON string; raises `NOT_TEXT` for what is none."""

NOT_TEXT = (msgspec.DecodeError, UnicodeDecodeError)


def says_something(text: bytes) -> bool:
    """Whether it is a JSON string that is not empty, and nothing around it."""
    try:
        return text.startswith(_QUOTE) and text.endswith(_QUOTE) and bool(read_text(text))
    except NOT_TEXT:
        return False


Hole = tuple[bytes, int, int]
"""Name, start and end of a string in an event, its quotes included."""


class Shortcut(Protocol):
    """How to get from an event that only adds text to its block, without parsing it."""

    def fill(self, data: bytes) -> Block | None:
        """The block for an event; None for one that is not like that, or that says nothing."""
        ...


class Template:
    """What stands around the text in an event and in its block.

    An event fits if it has the same bytes around its text, and a valid JSON string in its place: then it is a valid
    event that says the same but for its text, and becomes the same block but for its text. It need not be parsed.
    """

    __slots__ = ("after", "before", "block_after", "block_before", "head", "tail")

    def __init__(self, before: bytes, after: bytes, block_before: bytes, block_after: bytes) -> None:
        self.before, self.after = before, after
        self.block_before, self.block_after = block_before, block_after
        #: What it begins and ends with, the quotes of its text included: JSON allows white space around a string.
        self.head, self.tail = before + _QUOTE, _QUOTE + after

    def fill(self, data: bytes) -> Block | None:
        if not (data.startswith(self.head) and data.endswith(self.tail)):
            return None
        text = data[len(self.before) : -len(self.after)]
        if not says_something(text):
            return None
        return Block(self.block_before + text + self.block_after)

    def within(self, head: bytes, tail: bytes) -> "Template":
        """The same for events with `head` before them and `tail` behind."""
        return Template(head + self.before, self.after + tail, self.block_before, self.block_after)


class Lessons:
    """When a template is learned: at once, then anew after some events that the one before did not fit.

    The more of them, the less it has been of use; all is counted in pieces of the answer.
    """

    __slots__ = ("_after", "_at", "_next", "missed")

    def __init__(self) -> None:
        self._at = self._next = 0
        self._after = LEARN_AFTER
        #: Pieces since then that only added text, and that the template did not fit.
        self.missed = 0

    def is_due(self, pieces: int) -> bool:
        """Whether one is learned now, behind so many `pieces`."""
        if pieces < self._next:
            return False
        was_of_use = pieces - self._at > 2 * self.missed
        self._after = LEARN_AFTER if was_of_use else min(2 * self._after, MAX_LEARN_AFTER)
        self._at, self._next, self.missed = pieces, pieces + self._after, 0
        return True


class PaddedTemplate:
    """A template with two texts; the second is padding, which hides how long the first is."""

    __slots__ = ("_after", "_before", "_between", "_block_after", "_block_before", "_block_between")

    def __init__(self, fixed: list[bytes], block_fixed: list[bytes]) -> None:
        self._before, self._between, self._after = fixed
        self._block_before, self._block_between, self._block_after = block_fixed

    def fill(self, data: bytes) -> Block | None:
        if not (data.startswith(self._before + _QUOTE) and data.endswith(_QUOTE + self._after)):
            return None
        start = len(self._before)
        between = _QUOTE + self._between + _QUOTE
        if (at := data.find(between, start)) < 0:
            return None
        text, padding = data[start : at + 1], data[at + len(between) - 1 : -len(self._after)]
        try:
            if not read_text(text):
                return None
            read_text(padding)
        except NOT_TEXT:
            return None
        return Block(b"".join((self._block_before, text, self._block_between, padding, self._block_after)))

    def within(self, head: bytes, tail: bytes) -> "PaddedTemplate":
        """The same for events with `head` before them and `tail` behind."""
        fixed = [head + self._before, self._between, self._after + tail]
        return PaddedTemplate(fixed, [self._block_before, self._block_between, self._block_after])


def template_of(event: bytes, names: Collection[bytes], around: tuple[bytes, bytes]) -> Template | None:
    """The template of events like this one, whose blocks have `around` around their text.

    None if there is not just one string in it that is a member with one of the `names`.
    """
    holes = strings_named(event, names)
    if len(holes) != 1:
        return None
    _, start, end = holes[0]
    return Template(event[:start], event[end:], *around)


def strings_named(data: bytes, names: Collection[bytes]) -> list[Hole]:
    """Every string that is the value of a member with one of these names and is not empty."""
    holes = []
    name, value_at = b"", -1
    for string in _STRING.finditer(data):
        if string.start() == value_at and name in names and string[1]:
            holes.append((name, string.start(), string.end(1) + 1))
        if string[2] is not None:
            name, value_at = string[1], string.end()
    return holes
