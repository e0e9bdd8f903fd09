"""The log in this process's memory: plain streams live here."""

from collections.abc import Callable, Sequence

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId
from unbroken.store.log import (
    MAX_STREAM_BYTES,
    Follower,
    StaleEpoch,
    StreamEnded,
    StreamTooLong,
    StreamUnknown,
)


class _Stream:
    __slots__ = ("blocks", "dropped", "ended", "epoch", "followers", "keep", "size")

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.epoch = 1
        self.blocks: list[Block] = []
        self.dropped = 0  # blocks that stood before the first one held
        self.size = 0
        self.ended = False
        self.followers: tuple[Follower, ...] = ()


class MemoryStreamLog:
    """`StreamLog` without durability; see there for what each method promises."""

    def __init__(self, max_stream_bytes: int = MAX_STREAM_BYTES) -> None:
        self._streams: dict[StreamId, _Stream] = {}
        self._max_stream_bytes = max_stream_bytes

    def __len__(self) -> int:
        return len(self._streams)

    def create(self, stream: StreamId, *, keep: bool) -> Epoch:
        if stream in self._streams:
            raise ValueError(f"there is a stream {stream} already")
        self._streams[stream] = _Stream(keep)
        return Epoch(1)

    def claim(self, stream: StreamId) -> Epoch:
        found = self._find(stream)
        found.epoch += 1
        return Epoch(found.epoch)

    def append(self, stream: StreamId, epoch: Epoch, blocks: Sequence[Block], *, ends: bool = False) -> None:
        found = self._find(stream)
        if epoch != found.epoch:
            raise StaleEpoch(f"stream {stream}: epoch {epoch} has been followed by {found.epoch}")
        if found.ended:
            raise StreamEnded(f"stream {stream} has ended after {found.dropped + len(found.blocks)} blocks")
        first = found.dropped + len(found.blocks) + 1
        if found.keep or not found.followers:
            size = found.size + sum(map(len, blocks))
            if size > self._max_stream_bytes:
                raise StreamTooLong(f"stream {stream}: more than {self._max_stream_bytes} bytes")
            found.size = size
            found.blocks.extend(blocks)
        else:
            found.dropped += len(blocks)
        found.ended = ends
        for follower in found.followers:
            follower(Offset(first), blocks, ends)

    def read(self, stream: StreamId, after: Offset) -> list[Entry]:
        found = self._find(stream)
        skipped = max(after - found.dropped, 0)
        first = found.dropped + skipped + 1
        return [Entry(Offset(first + n), block) for n, block in enumerate(found.blocks[skipped:])]

    def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        found = self._find(stream)
        if after < found.dropped:
            raise StreamUnknown(f"stream {stream}: blocks up to {found.dropped} are no longer held")
        blocks = found.blocks[after - found.dropped :]
        ended = found.ended
        found.followers = (*found.followers, follower)
        if not found.keep:
            found.dropped += len(found.blocks)
            found.blocks, found.size = [], 0
        if blocks or ended:
            follower(Offset(after + 1), blocks, ended)

        def unfollow() -> None:
            found.followers = tuple(other for other in found.followers if other is not follower)

        return unfollow

    def forget(self, stream: StreamId) -> None:
        self._streams.pop(stream, None)

    def _find(self, stream: StreamId) -> _Stream:
        found = self._streams.get(stream)
        if found is None:
            raise StreamUnknown(f"there is no stream {stream}")
        return found
