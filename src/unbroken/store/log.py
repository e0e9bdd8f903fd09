"""The log of streams: what every implementation of it promises."""

from collections.abc import Callable, Sequence
from typing import Protocol

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId, StreamRecord, StreamStatus

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


class StoreUnavailable(LogError):
    """The disk or server that holds the log cannot be written to or read from; what was not committed is not told."""


OnLost = Callable[[LogError], None]
"""Told once when an owner can write no more: `StaleEpoch`, or `StoreUnavailable` when its appends were given up."""


def say_nothing(error: LogError) -> None:
    """An `OnLost` for an owner that asks no questions."""


class StreamLog(Protocol):
    """An append-only log of blocks for each stream, written by one owner, read by any number of followers.

    Followers are called in order, with every block once, from the loop that the log lives on; a follower sees
    only what the log holds (law 2). `append` never waits: an implementation that writes to a disk or a server
    gathers appends and calls the followers when they are committed. It raises what it knows by then; what it learns
    later, it tells the owner's `on_lost`, and from then on `append` raises it.

    A follower may append, and stop following, while it is called. What it appends takes its place at once, and is
    delivered when the present delivery is over, so that every follower sees one order. A follower that raises is
    not called again; the append that called it and the other followers go on.
    """

    async def create(self, stream: StreamId, *, keep: bool, on_lost: OnLost = say_nothing) -> Epoch:
        """Begins a stream and gives its first epoch. `keep=False`: blocks are dropped once a follower has had them.

        A follower that begins behind a block has had it. A durable log keeps all blocks in any case.

        Raises:
            StreamExists: the id is taken.
            StoreUnavailable: a durable log could not write it down.
        """
        ...

    async def claim(self, stream: StreamId, *, on_lost: OnLost = say_nothing) -> Epoch:
        """Makes the caller its owner: the epoch after the present one, which fences off the former owner.

        Raises:
            StreamUnknown: there is none of this id.
            StoreUnavailable: a durable log could not write it down.
        """
        ...

    def append(
        self,
        stream: StreamId,
        epoch: Epoch,
        blocks: Sequence[Block],
        *,
        ends: bool = False,
        note: bytes = b"",
        account: bytes = b"",
    ) -> None:
        """Adds blocks; `ends` says that the last of them is the terminal one (so there must be one).

        A durable log keeps with them what only a later owner reads: `note` is added to the notes before it,
        `account` takes the place of the one before it.

        Raises:
            StaleEpoch, StreamEnded, StreamUnknown, StreamTooLong, StoreUnavailable: nothing was added.
        """
        ...

    async def read(self, stream: StreamId, after: Offset) -> list[Entry]:
        """What the log holds behind `after`.

        Raises:
            StreamUnknown: there is none of this id.
            OffsetUnknown: the stream has not come so far, or blocks behind `after` have been dropped.
        """
        ...

    async def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        """Calls `follower` with what is there behind `after`, then with what comes; gives what stops it for good.

        What `follower` raises in this first call is raised here, and it is not followed.

        Raises:
            StreamUnknown: there is none of this id.
            OffsetUnknown: the stream has not come so far, or blocks behind `after` have been dropped.
        """
        ...

    async def forget(self, stream: StreamId) -> None:
        """Removes the stream, and its followers are not called again; an unknown one is no error."""
        ...


class TextWriter(Protocol):
    """Appends blocks that differ only in their text, in less time than `append` takes; for their owner alone."""

    def add(self, texts: list[bytes]) -> bool:
        """Adds a block for each text, JSON; False if it may not, and then none is added: `append` says why."""
        ...


class Health(Protocol):
    """Whether a store is well, told to one who wants to hear of it."""

    #: Told why when the store goes, and None when it is back.
    on_change: Callable[[StoreUnavailable | None], None]


class DurableLog(StreamLog, Protocol):
    """A log that outlives its process and is shared by all that open the same store.

    A stream belongs to the process that opened or claimed it last, for as long as that process renews its lease
    (which the log does by itself). What one process commits, followers in every other see within 50 ms.
    """

    @property
    def health(self) -> Health:
        """Whether the store is well."""
        ...

    async def open(self, record: StreamRecord, *, on_lost: OnLost = say_nothing) -> Epoch | StreamStatus:
        """Begins the stream of `record`: its first durable write. Where its claim is taken, the stream that has it.

        Raises:
            StreamExists: the id is taken.
            StreamTooLong: the store holds more bytes of streams that have not ended than its bound.
            StoreUnavailable: it could not be written down; there is no such stream.
        """
        ...

    async def take_over(self, stream: StreamId, *, on_lost: OnLost = say_nothing) -> Epoch | None:
        """Claims a stream that has not ended and whose owner is not known to live; else None.

        Raises:
            StreamUnknown, StoreUnavailable: as said.
        """
        ...

    def text_writer(self, stream: StreamId, epoch: Epoch, before: bytes, after: bytes) -> TextWriter | None:
        """Appends blocks that are `before`, a text and `after`, one by one; None where the owner may append nothing."""
        ...

    async def committed(self, stream: StreamId, epoch: Epoch) -> None:
        """Waits until what was appended with this epoch is committed, or `on_lost` has been told."""
        ...

    def let_go(self, stream: StreamId, epoch: Epoch) -> None:
        """Gives up a stream that is written here, with what is not committed: anybody may take it over soon.

        Nothing is done if it is not ours with this epoch, or has ended. `on_lost` is not told.
        """
        ...

    async def status(self, stream: StreamId) -> StreamStatus:
        """How the stream stands; what is appended but not committed is not in it.

        Raises:
            StreamUnknown, StoreUnavailable: as said.
        """
        ...

    async def notes(self, stream: StreamId) -> bytes:
        """All notes appended so far, one behind the other; raises StreamUnknown, StoreUnavailable."""
        ...

    async def live(self) -> list[StreamStatus]:
        """Every stream in the store that has not ended, oldest first, whoever owns it; raises StoreUnavailable."""
        ...

    async def lapsed(self) -> list[StreamStatus]:
        """Those of `live` that nobody owns; raises StoreUnavailable."""
        ...

    async def watch(self, stream: StreamId, until: float) -> None:
        """Writes down that a reader is there until `until` (seconds since 1970); never moves it back."""
        ...

    async def start(self) -> None:
        """Opens the store and begins to renew the lease; raises StoreUnavailable saying what is wrong with it."""
        ...

    async def close(self) -> None:
        """Commits what has been appended and gives up the lease, so that others may take over at once."""
        ...
