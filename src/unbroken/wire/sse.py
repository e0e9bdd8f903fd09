"""Server-sent events: bytes in any pieces to whole events, and back.

Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".
"""

import re
from typing import NamedTuple

from msgspec import Raw

MAX_EVENT_BYTES = 4 << 20  # far above any provider's largest event

KEEP_ALIVE = b": keep-alive\n"
"""A comment with a single line end: an empty line after it makes a widely used SDK fail once it saw an `id:`."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")  # not splitlines(): U+2028, U+0085 and form feeds are data


class SseEvent(NamedTuple):
    """One dispatched event: its type (empty for the default, `message`) and its data."""

    type: bytes
    data: bytes


_new_tuple = tuple.__new__  # half the price of a named tuple's own constructor, once per chunk


class EventTooLarge(ValueError):
    """An event grew past the reader's bound."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"an event of the stream is larger than {limit} bytes")


class SseReader:
    """Feeds on the bytes of an event stream, however they are cut, and gives whole events.

    Only the data and type of an event matter here: `id` and `retry` are read over, comments dropped.
    """

    __slots__ = (
        "_after_cr",
        "_begun",
        "_data",
        "_data_size",
        "_limit",
        "_line",
        "_line_size",
        "_too_large",
        "_type",
        "is_between",
    )

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._line: list[bytes] = []  # pieces of the line that has not ended yet
        self._line_size = 0
        self._after_cr = False  # a LF that comes next belongs to the line end already seen
        self._type = b""
        self._data: list[bytes] = []  # the data lines of the event that has not ended yet
        self._data_size = 0
        self._begun = False
        #: Whether the stream has begun and nothing is held over from what was fed before.
        self.is_between = False
        self._too_large = False

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completes.

        Raises:
            EventTooLarge: an event is larger than the bound, now and whenever the reader is fed again. Events that
                were complete before it are given first: then it is raised by the feed that follows.
        """
        if (
            self.is_between
            and data.startswith(b"data: ")
            and data.find(b"\n") == (end := len(data) - 2)
            and data[-1] == 10
            and b"\r" not in data
            and end < self._limit
        ):
            return [_new_tuple(SseEvent, (b"", data[6:end]))]  # nearly every read of a live stream
        self._check_size()
        events: list[SseEvent] = []
        if not self.is_between and (end := data.find(b"\n\n") + 2) > 1:
            self._feed_lines(data[:end], events)  # the rest of what was held over
            data = data[end:]
        if self.is_between and (end := data.rfind(b"\n\n")) >= 0 and _read_plain(data[:end], self._limit, events):
            data = data[end + 2 :]
        if data:
            self._feed_lines(data, events)
        if not events:
            self._check_size()
        return events

    @property
    def has_rest(self) -> bool:
        """Whether an event has begun that is not complete: at the end of a stream it is lost."""
        return bool(self._data) or (self._line_size > 0 and not b"".join(self._line).startswith(b":"))

    def _check_size(self) -> None:
        if self._too_large:
            raise EventTooLarge(self._limit)

    def _feed_lines(self, data: bytes, events: list[SseEvent]) -> None:
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        *lines, rest = _LINE_END.split(data)
        for line in lines:
            if self._too_large:
                return
            self._read_line(line, events)
        if rest:
            self._line.append(rest)
            self._line_size += len(rest)
            self._too_large |= self._line_size + self._data_size > self._limit
        elif lines:
            self._after_cr = data.endswith(b"\r")
        self.is_between = self._begun and not (self._line_size or self._data_size or self._type or self._after_cr)
        if self._too_large:
            self._line, self._data, self.is_between = [], [], False

    def _read_line(self, line: bytes, events: list[SseEvent]) -> None:
        if self._line:
            line = b"".join([*self._line, line])
            self._line, self._line_size = [], 0
        if not self._begun:
            line = line.removeprefix(_BOM)
            self._begun = True
        if len(line) + self._data_size > self._limit:
            self._too_large = True
        elif line:
            self._read_field(line)
        elif self._data:
            events.append(SseEvent(self._type, b"\n".join(self._data)))
            self._type, self._data, self._data_size = b"", [], 0
        else:
            self._type = b""  # an event without data is not dispatched

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_size += len(line)
        elif name == b"event":
            self._type = value.removeprefix(b" ")


def _read_plain(data: bytes, limit: int, events: list[SseEvent]) -> bool:
    """Reads a burst of events where each is one `data: ` line, as most servers send; False where one is not."""
    if b"\r" in data:
        return False
    found = []
    for block in data.split(b"\n\n"):
        if not block.startswith(b"data: ") or b"\n" in block or len(block) > limit:
            return False
        found.append(_new_tuple(SseEvent, (b"", block[6:])))
    events += found
    return True


def write_data(data: bytes) -> bytes:
    """The block of one event with the default type; line ends inside the data start a new `data:` line."""
    if b"\n" in data or b"\r" in data:
        return b"".join(b"data: %b\n" % line for line in _LINE_END.split(data)) + b"\n"
    return b"data: %b\n\n" % data


def in_one_line(json: Raw) -> Raw:
    """JSON that came from elsewhere as it may stand in an event of our own making, which has one line of data.

    An upstream may spread an event over several lines, a client its request: in JSON a line end stands only where a
    space says the same. The same object where there is none.
    """
    data = bytes(json)
    if b"\n" in data or b"\r" in data:
        return Raw(data.replace(b"\n", b" ").replace(b"\r", b" "))
    return json
