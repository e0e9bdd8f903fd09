"""The straight way through the gateway, for an answer under way: from an upstream's socket to its client's in one step.

Nearly every read of a live stream is one chunk of HTTP's chunked coding with one event in it that only adds text. A
lane takes these past the parsers of HTTP, of events and of JSON, past the log's and the follower's bookkeeping, and
holds of each what it alone has: its text. What comes otherwise ends the lane and goes the long way, which finds
everything as if the lane had never been: the parsers are between two chunks, the log counts what the lane has added.

A step of Python that was not run for some microseconds costs several times what a warm one does; that is why all of
this is one method (docs/decisions/0010-lanes.md).
"""

import asyncio
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from functools import partial
from operator import sub
from typing import Protocol

from unbroken.gateway.metrics import GAP_BOUNDS
from unbroken.store.log import TextWriter
from unbroken.store.shared import shared
from unbroken.upstream.chunked import LONGEST, READ_LINES, SIZE_LINES, chunks_in
from unbroken.upstream.http import Connection
from unbroken.wire.template import NOT_TEXT, Template, read_text, says_something

MAX_TEXTS = 256  # in one lane: at its end the log looks at its bounds
MAX_BYTES = MAX_TEXTS * 3 * LONGEST  # of its blocks: a text in a chunk of twice that, and what stands around it

_place_of_gap = partial(bisect_right, GAP_BOUNDS)


class Writes(Protocol):
    """To what a client's bytes are written."""

    def write(self, data: bytes) -> None:
        """Sends them, now or later."""
        ...


class Lane(asyncio.Protocol):
    """In place of an upstream connection's own protocol for as long as only pieces of text come."""

    __slots__ = (
        "_behind",
        "_connection",
        "_gaps",
        "_head",
        "_loop",
        "_on_left",
        "_own_after",
        "_own_before",
        "_own_size",
        "_start",
        "_tail",
        "_times",
        "_to",
        "_writer",
        "texts",
    )

    def __init__(
        self,
        template: Template,
        to: Writes | None = None,
        writer: TextWriter | None = None,
        *,
        gaps: list[int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`gaps` counts the time between two texts by `GAP_BOUNDS`.

        A plain stream's blocks are written `to` its only client, each as a chunk. The texts of a durable one are given
        to `writer`, which tells whether the log has taken them, and go to clients when they are committed.
        """
        self._head, self._tail = template.head, shared(template.tail + b"\r\n")
        self._start, self._behind = shared(len(template.before)), shared(len(template.after) + 2)
        self._own_before, self._own_after = template.block_before, shared(template.block_after + b"\r\n")
        self._own_size = shared(len(template.block_before) + len(template.block_after))
        #: The text of each block, as JSON: of a plain stream from before the client has it.
        self.texts: list[bytes] = []
        self._to = to
        self._writer = writer
        self._gaps = gaps
        self._loop = loop
        self._times = array("d", [loop.time()])  # of the opening, and of each text
        self._connection: Connection | None = None
        self._on_left: Callable[[int], None] | None = None

    def open(self, connection: Connection, on_left: Callable[[int], None]) -> None:
        """Takes what comes on `connection`, which is between two chunks; `on_left` hears how many texts it has taken.

        It hears it once, when the lane ends.
        """
        self._connection, self._on_left = connection, on_left
        connection.lend(self)

    @property
    def heard_at(self) -> float:
        """Loop time of the last text; of the opening where there was none."""
        return self._times[-1]

    def leave(self) -> None:
        """Ends the lane: what comes next goes the long way."""
        connection, on_left, self._on_left = self._connection, self._on_left, None
        if connection is None or on_left is None:
            return
        connection.take_back()
        times = self._times
        for place, count in Counter(map(_place_of_gap, map(sub, times[1:], times))).items():
            self._gaps[place] += count
        del times[:-1]
        on_left(len(self.texts))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        length = len(data)
        if length < LONGEST:
            line = READ_LINES[length]
            start = len(line)
            if data.startswith(line) and data.startswith(self._head, start) and data.endswith(self._tail):
                text = data[start + self._start : length - self._behind]
                texts = self.texts
                try:
                    says_something = len(texts) < MAX_TEXTS and read_text(text)
                except NOT_TEXT:
                    says_something = False
                writer = self._writer
                if says_something and (writer is None or writer.add([text])):
                    texts.append(text)
                    self._times.append(self._loop.time())
                    if (to := self._to) is not None:
                        size_line = SIZE_LINES[self._own_size + len(text)]
                        to.write(b"".join((size_line, self._own_before, text, self._own_after)))
                    return
        if not self._take_several(data):
            self._go_back(data)

    def connection_lost(self, exc: Exception | None) -> None:
        connection = self._connection
        self.leave()
        if connection is not None:
            connection.connection_lost(exc)

    def _go_back(self, data: bytes) -> None:
        connection = self._connection
        self.leave()
        if connection is not None:
            connection.data_received(data)

    def _take_several(self, data: bytes) -> bool:
        """Whether the read was several chunks that only add text: a gateway that is busy gets more at once."""
        if not (chunks := chunks_in(data)):
            return False
        head, tail = self._head, self._tail.removesuffix(b"\r\n")
        texts = []
        for chunk in chunks:
            text = chunk[self._start : len(chunk) + 2 - self._behind]
            if not (chunk.startswith(head) and chunk.endswith(tail) and says_something(text)):
                return False
            texts.append(text)
        if len(self.texts) + len(texts) > MAX_TEXTS or not (self._writer is None or self._writer.add(texts.copy())):
            return False
        self.texts += texts
        self._times.append(self._loop.time())
        if self._to is not None:
            blocks = b"".join([self._own_before + text + self._own_after.removesuffix(b"\r\n") for text in texts])
            self._to.write(b"%x\r\n%b\r\n" % (len(blocks), blocks))
        return True


NewLane = Callable[[Template, list[int]], Lane | None]
"""Makes a lane for chunks after a template, that counts gaps in the list; None where there cannot be one."""


def fits(template: Template) -> bool:
    """Whether there can be a lane for it."""
    return len(template.block_before) + len(template.block_after) < LONGEST
