"""The log of streams: what every implementation of it promises."""

from collections.abc import Callable, Sequence
from typing import Protocol

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId

Follower = Callable[[Offset, Sequence[Block], bool], None]
"""Called with new blocks, the offset of the first, and whether the stream has ended with them.

There are no blocks only where a follower begins behind the last block of a stream that has ended.
"""

MAX_STREAM_BYTES = 64 << 20  # held for one stream; an answer is a few hundred kilobytes at the most
TERMINAL_BYTES = 64 << 10  # beyond the bound, for the terminal block: a stream that is too long must still end


class LogError(Exception):
    """An append or read that the log refuses; nothing has changed."""


class StreamExists(LogError):
    """There is a stream of this id already."""


class StaleEpoch(LogError):
    """Another owner has claimed the stream (law 5)."""


class StreamEnded(LogError):
    """The stream has its terminal block: nothing may follow it (law 1)."""


class StreamUnknown(LogError):
    """No stream of this id, or it has been forgotten."""


class StreamTooLong(LogError):
    """The stream holds more bytes than the log's bound (law 9)."""


class OffsetUnknown(LogError):
    """The stream cannot be read from there: it has not come so far, or what follows is no longer held."""


class StreamLog(Protocol):
    """An append-only log of blocks for each stream, written by one owner, read by any number of followers.

    Followers are called in order, with every block once, from the loop that the log lives on; a follower sees
    only what the log holds (law 2). Nothing here waits: an implementation that writes to a disk or a server
    gathers appends and calls the followers when they are committed.

    A follower may do anything to the log while it is called. What it appends is in the log at once, and is
    delivered when the present delivery is over, so that every follower sees one order. A follower that raises is
    not called again; the append that called it and the other followers go on.
    """

    def create(self, stream: StreamId, *, keep: bool) -> Epoch:
        """Begins a stream and gives its first epoch. `keep=False`: blocks are dropped once a follower has had them.

        A follower that begins behind a block has had it.

        Raises:
            StreamExists: the id is taken.
        """
        ...

    def claim(self, stream: StreamId) -> Epoch:
        """Makes the caller its owner: the epoch after the present one, which fences off the former owner.

        Raises:
            StreamUnknown: there is none of this id.
        """
        ...

    def append(self, stream: StreamId, epoch: Epoch, blocks: Sequence[Block], *, ends: bool = False) -> None:
        """Adds blocks; `ends` says that the last of them is the terminal one (so there must be one).

        Raises:
            StaleEpoch, StreamEnded, StreamUnknown, StreamTooLong: nothing was added.
        """
        ...

    def read(self, stream: StreamId, after: Offset) -> list[Entry]:
        """What the log holds behind `after`.

        Raises:
            StreamUnknown: there is none of this id.
            OffsetUnknown: the stream has not come so far, or blocks behind `after` have been dropped.
        """
        ...

    def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        """Calls `follower` with what is there behind `after`, then with what comes; gives what stops it for good.

        What `follower` raises in this first call is raised here, and it is not followed.

        Raises:
            StreamUnknown: there is none of this id.
            OffsetUnknown: the stream has not come so far, or blocks behind `after` have been dropped.
        """
        ...

    def forget(self, stream: StreamId) -> None:
        """Removes the stream, and its followers are not called again; an unknown one is no error."""
        ...
