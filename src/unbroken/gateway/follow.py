"""A follower: reads a stream's log from an offset and writes it to one client's socket."""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum

from unbroken.chat.stream import Block, Offset
from unbroken.gateway.connection import ClientConnection
from unbroken.gateway.lane import Lane, Writes
from unbroken.wire.sse import KEEP_ALIVE


class Ending(Enum):
    """Why a follower stopped."""

    ENDED = "ended"  # the terminal block has been written
    LEFT = "left"  # the client has gone


class _Nobody:
    """In the place of a client that has gone."""

    def write(self, data: bytes) -> None:
        """Lets it go."""


_NOBODY = _Nobody()


def _to_nobody(is_paused: bool) -> None:
    """Takes a pause that nobody is to hear of any more."""


class StreamFollower:
    """Writes blocks to a client's transport as they come, and comments into silence.

    `feed` is what the log calls. It is one synchronous step: no task is woken for a block.
    """

    __slots__ = (
        "_comment_every",
        "_commented",
        "_first_comment",
        "_is_paused",
        "_keep_alive",
        "_loop",
        "_on_pause",
        "_timer",
        "_wrote_at",
        "ended",
        "is_chunked",
        "lane",
        "to",
    )

    def __init__(
        self,
        connection: ClientConnection,
        *,
        first_comment: float,
        comment_every: float,
        is_late: bool,
        on_pause: Callable[[bool], None],
        keep_alive: bytes = KEEP_ALIVE,
    ) -> None:
        """`is_late` says that the client has waited for the first comment already."""
        self._loop = asyncio.get_running_loop()
        #: The client's transport.
        self.to: Writes = connection.transport
        self.is_chunked = connection.is_chunked
        #: The lane that writes to the client by itself, or did.
        self.lane: Lane | None = None
        self._keep_alive = b"%x\r\n%b\r\n" % (len(keep_alive), keep_alive) if self.is_chunked else keep_alive
        self._first_comment = first_comment
        self._comment_every = comment_every
        self._wrote_at = self._loop.time()
        self._commented = False
        self._timer = self._loop.call_later(0.0 if is_late else first_comment, self._look, is_late)
        self._is_paused = connection.flow.write_paused  # the head of the response may have filled its buffer
        self._on_pause = on_pause
        #: Done when there is nothing more to write.
        self.ended: asyncio.Future[Ending] = self._loop.create_future()
        connection.on_pause = self._pause
        connection.on_lost = self._lost
        if self._is_paused:
            self._loop.call_soon(self._tell_paused)  # by then whoever made it is ready to hear of it
        if connection.is_lost:
            self._lost()

    def feed(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        """Writes blocks; `first` is the offset of the first, `ends` says that nothing follows."""
        self._write_data(blocks[0] if len(blocks) == 1 else b"".join(blocks), ends)

    def _write_data(self, data: bytes, ends: bool) -> None:
        if data:
            self.to.write(b"%x\r\n%b\r\n" % (len(data), data) if self.is_chunked else data)
            self._wrote_at = self._loop.time()
            self._commented = False
        if ends:
            self._end(Ending.ENDED)

    def close(self) -> None:
        """Writes nothing more."""
        self._end(Ending.LEFT)
        self._on_pause = _to_nobody  # whoever hears of pauses may hold us

    def _look(self, is_due: bool = False) -> None:
        if self.lane is not None and self.lane.heard_at > self._wrote_at:
            self._wrote_at, self._commented = self.lane.heard_at, False
        due = self._wrote_at + (self._comment_every if self._commented else self._first_comment)
        now = self._loop.time()
        if is_due or now >= due:
            if not self._is_paused:
                self.to.write(self._keep_alive)
            self._wrote_at, self._commented = now, True
            due = now + self._comment_every
        self._timer = self._loop.call_at(due, self._look)

    def _pause(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        self._on_pause(is_paused)

    def _tell_paused(self) -> None:
        if self._is_paused:
            self._on_pause(True)

    def _lost(self) -> None:
        self.to = _NOBODY  # until the log is left it may call once more, and uvloop's transport would raise
        self._end(Ending.LEFT)

    def _end(self, how: Ending) -> None:
        self._timer.cancel()
        if self.lane is not None:
            self.lane.leave()
        if not self.ended.done():
            self.ended.set_result(how)
