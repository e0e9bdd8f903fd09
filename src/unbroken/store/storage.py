"""What a durable log asks of the disk or server below it: groups of appends, committed or refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store.held import Run
from unbroken.store.log import LogError


class Append(Struct):
    """Blocks of one stream for the next commit; several appends of a stream are gathered into one."""

    stream: StreamId
    epoch: Epoch
    #: Offset of the first block: a commit that is repeated after a lost line must not add them twice.
    first: Offset
    blocks: list[Block] | Run
    #: Bytes of the blocks and the note.
    size: int
    ends: bool = False
    note: bytes = b""
    account: bytes = b""

    def add(self, blocks: Sequence[Block]) -> None:
        """Takes more blocks behind those that it has; their size is the caller's to add."""
        if isinstance(self.blocks, Run):
            self.blocks = self.blocks.blocks()
        self.blocks += blocks


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds behind an offset, and whether the stream has ended with it."""

    first: Offset
    blocks: Sequence[Block]
    has_ended: bool


OnNews = Callable[[StreamId, Stored], None]
"""Called on the loop with blocks of a watched stream, in order, each once."""


class StreamStorage(Protocol):
    """Streams on a disk or server. Each method raises StoreUnavailable where that cannot be reached or written."""

    async def start(self, owner: OwnerId) -> None:
        """Opens it, made new where there is none, and takes the first lease of `owner`."""
        ...

    async def close(self) -> None:
        """Gives up the lease and closes."""
        ...

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        """Writes a new stream with epoch 1, owned by us; or gives the stream that has its claim.

        Raises:
            StreamExists: the id is taken.
            StreamTooLong: streams that have not ended hold more bytes than the bound.
        """
        ...

    async def claim(self, stream: StreamId, *, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        """Makes it ours with the next epoch; gives that and the last offset.

        None if `only_lapsed` and it has ended, is ours, or its owner's lease holds.

        Raises:
            StreamUnknown: there is none of this id.
        """
        ...

    async def release(self, stream: StreamId, epoch: Epoch) -> None:
        """Gives up a stream that is ours with this epoch: anybody may take it over, as if our lease had lapsed."""
        ...

    async def commit(self, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        """Writes one group, all or none of it but for those refused: StaleEpoch, StreamEnded, StreamUnknown.

        It may be repeated after StoreUnavailable with the same appends: what is there already is not added again.
        """
        ...

    async def read(self, stream: StreamId, after: Offset) -> Stored:
        """What it holds behind `after`; raises StreamUnknown, OffsetUnknown."""
        ...

    async def notes(self, stream: StreamId) -> bytes:
        """All notes of the stream; raises StreamUnknown."""
        ...

    async def status(self, stream: StreamId) -> StreamStatus:
        """How it stands; raises StreamUnknown."""
        ...

    async def live(self) -> list[StreamStatus]:
        """All that have not ended, oldest first."""
        ...

    async def lapsed(self) -> list[StreamStatus]:
        """Those of `live` that nobody owns: the lease of their owner has lapsed, or it has released them."""
        ...

    async def watch(self, stream: StreamId, until: float) -> None:
        """Notes that a reader is there until `until`."""
        ...

    async def forget(self, stream: StreamId) -> None:
        """Removes the stream; an unknown one is no error."""
        ...

    async def renew(self) -> Sequence[StreamId]:
        """Renews our lease, drops what was kept for its time; gives streams of ours that others have claimed."""
        ...

    async def follow(self, stream: StreamId, after: Offset, on_news: OnNews) -> Callable[[], None]:
        """Calls `on_news` within 50 ms of each commit of another process; gives what stops it.

        Its waiting costs nothing while nothing is followed.

        Raises:
            StreamUnknown, OffsetUnknown: as `read`.
        """
        ...
