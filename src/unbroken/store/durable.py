"""A log that outlives its process, over any storage: appends are committed in groups, and delivered when they are."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from uuid import uuid4

import msgspec

from unbroken.chat.stream import Block, Entry, Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store.durable_group import Committer, Owned
from unbroken.store.durable_mirrors import Mirrors
from unbroken.store.durable_texts import RunWriter
from unbroken.store.durable_unwritten import Unwritten
from unbroken.store.health import StoreHealth
from unbroken.store.heard import HeardStorage
from unbroken.store.held import size_of
from unbroken.store.log import (
    MAX_STREAM_BYTES,
    TERMINAL_BYTES,
    Follower,
    LogError,
    OffsetUnknown,
    OnLost,
    StaleEpoch,
    StoreUnavailable,
    StreamEnded,
    StreamTooLong,
    StreamUnknown,
    say_nothing,
)
from unbroken.store.memory import MemoryStreamLog
from unbroken.store.storage import Append, StreamStorage

PATIENCE_SECONDS = 10.0  # how long a store may fail before its streams are given up
LEASE_SECONDS = 15.0
RENEW_AGAIN_SECONDS = 1.0  # after a renewal that failed
MAX_PENDING_BYTES = 64 << 20  # appended and not committed, of all streams: what comes while the store fails
REMEMBERED = 10_000  # streams that were ours, to tell their former owners why they are not any more

_FIRST = Epoch(1)


class DurableStreamLog:
    """`DurableLog` over a storage; see there for what each method promises.

    Streams that are written or followed here are cached in memory as far as they are committed, so that a live stream
    is read from the storage once, at most. `now` measures patience, in seconds.
    """

    def __init__(
        self,
        storage: StreamStorage,
        *,
        now: Callable[[], float] = time.monotonic,
        owner: OwnerId | None = None,
        patience: float = PATIENCE_SECONDS,
        lease: float = LEASE_SECONDS,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        on_follower_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.health = StoreHealth()
        self._storage = storage = HeardStorage(storage, self.health)
        self._owner = OwnerId(uuid4().hex) if owner is None else owner
        self._lease = lease
        self._max_stream_bytes = max_stream_bytes
        self._max_pending_bytes = max_pending_bytes
        # Bounds have been kept by then.
        self._cache = MemoryStreamLog(sys.maxsize, on_follower_error=on_follower_error)
        self._mirrors = Mirrors(storage, self._cache)
        self._owned: dict[StreamId, Owned] = {}
        self._departed: dict[StreamId, tuple[Epoch, LogError]] = {}  # the latest ones last
        self._unwritten = Unwritten(storage, self._owned.__contains__)
        self._committer = Committer(storage, now=now, patience=patience, log=self)
        self._renewing: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def held(self) -> int:
        """Streams in memory: those that are written or followed here."""
        return len(self._cache)

    # opening and closing

    async def start(self) -> None:
        await self._storage.start(self._owner)
        self._committer.start()
        self._renewing = asyncio.create_task(self._renew())

    async def close(self) -> None:
        self._closing = True
        await self._committer.close()
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._mirrors.close()
        await self._storage.close()

    async def settle(self) -> None:
        """Waits until all that has been appended is committed and delivered, or given up."""
        await self._committer.settle()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            while not await self._has_renewed():
                await asyncio.sleep(min(RENEW_AGAIN_SECONDS, self._lease / 3))

    async def _has_renewed(self) -> bool:
        try:
            for stream in await self._storage.renew():
                if (owned := self._owned.get(stream)) is not None:
                    self.lose(owned, StaleEpoch(f"stream {stream}: another process has claimed it"))
            await self._unwritten.release()
        except StoreUnavailable:
            return False
        return True

    # owners

    async def create(self, stream: StreamId, *, keep: bool, on_lost: OnLost = say_nothing) -> Epoch:
        opened = await self.open(StreamRecord(id=stream), on_lost=on_lost)
        assert not isinstance(opened, StreamStatus), "a stream without a claim has no other in its place"
        return opened

    async def open(self, record: StreamRecord, *, on_lost: OnLost = say_nothing) -> Epoch | StreamStatus:
        creation = asyncio.ensure_future(self._storage.create(record))
        try:
            status = await asyncio.shield(creation)
        except asyncio.CancelledError:
            self._mirrors.in_background(self._take_back(creation, record.id))
            raise
        except StoreUnavailable:
            self._unwritten.doubt(record.id)
            raise
        if status is not None:
            return self._seen_from_here(status)
        self._departed.pop(record.id, None)
        self._unwritten.forget(record.id)
        self._cache.begin(record.id, keep=True)
        self._owned[record.id] = Owned(record.id, _FIRST, on_lost)
        return _FIRST

    async def _take_back(self, creation: "asyncio.Future[StreamStatus | None]", stream: StreamId) -> None:
        """Removes a stream whose owner has gone before it heard of it."""
        try:
            if await creation is None:
                await self._storage.forget(stream)
        except StoreUnavailable:
            self._unwritten.doubt(stream)
        except LogError:
            pass  # it was not made

    async def claim(self, stream: StreamId, *, on_lost: OnLost = say_nothing) -> Epoch:
        claimed = await self._claim(stream, only_lapsed=False)
        assert claimed is not None, "a claim without a condition is never refused"
        return await self._make_ours(stream, *claimed, on_lost)

    async def take_over(self, stream: StreamId, *, on_lost: OnLost = say_nothing) -> Epoch | None:
        if stream in self._owned:
            return None
        is_still_ours = False
        if (given_up := self._unwritten.epoch_of(stream)) is not None:
            status = await self._storage.status(stream)
            is_still_ours = status.epoch == given_up and not status.has_ended
            if self._unwritten.epoch_of(stream) is None:
                is_still_ours = False  # released, or taken over, while we looked
        claimed = await self._claim(stream, only_lapsed=not is_still_ours)
        return None if claimed is None else await self._make_ours(stream, *claimed, on_lost)

    async def committed(self, stream: StreamId, epoch: Epoch) -> None:
        owned = self._owned.get(stream)
        if owned is not None and owned.epoch == epoch:
            await self._committer.settle_one(owned)
        await asyncio.sleep(0)  # `on_lost` is told in the next turn of the loop

    def let_go(self, stream: StreamId, epoch: Epoch) -> None:
        owned = self._owned.get(stream)
        if owned is not None and owned.epoch == epoch and not owned.has_ended:
            owned.on_lost = say_nothing
            self._unwritten.give_up(stream, epoch)
            self._part_with(owned, StaleEpoch(f"stream {stream}: it was let go in epoch {epoch}"))
            self._mirrors.go_on(stream)

    async def _claim(self, stream: StreamId, *, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        claiming = asyncio.ensure_future(self._storage.claim(stream, only_lapsed=only_lapsed))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._mirrors.in_background(self._give_back(claiming, stream))
            raise
        except StoreUnavailable:
            self._unwritten.doubt(stream)
            raise

    async def _give_back(self, claiming: "asyncio.Future[tuple[Epoch, Offset] | None]", stream: StreamId) -> None:
        """Lets others have a stream whose new owner has gone before it heard of it."""
        try:
            if (claimed := await claiming) is not None:
                self._unwritten.give_up(stream, claimed[0])
        except StoreUnavailable:
            self._unwritten.doubt(stream)
        except LogError:
            pass  # there is none

    async def _make_ours(self, stream: StreamId, epoch: Epoch, last: Offset, on_lost: OnLost) -> Epoch:
        """Goes on where a claim begins: all before it is in the cache, the former owner's rest is refused."""
        if (former := self._owned.get(stream)) is not None:
            self._part_with(former, StaleEpoch(f"stream {stream}: it is another owner's since epoch {epoch}"))
        try:
            size = await self._mirrors.make_whole(stream, last)
        except BaseException:
            self._unwritten.give_up(stream, epoch)  # it is ours, and nobody here knows
            raise
        self._departed.pop(stream, None)
        self._unwritten.forget(stream)
        if size is None:
            self._remember(stream, epoch, StreamEnded(f"stream {stream} has ended after {last} blocks"))
        else:
            self._owned[stream] = Owned(stream, epoch, on_lost, last, size)
        return epoch

    def _remember(self, stream: StreamId, epoch: Epoch, error: LogError) -> None:
        self._departed.pop(stream, None)
        self._departed[stream] = epoch, error
        if len(self._departed) > REMEMBERED:
            del self._departed[next(iter(self._departed))]

    # appending

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
        owned = self._owned.get(stream)
        if owned is None or owned.epoch != epoch:
            raise self._refusal(stream, epoch)
        if owned.has_ended:
            raise StreamEnded(f"stream {stream} has ended after {owned.last} blocks")
        if not blocks:
            if ends:
                raise ValueError(f"stream {stream}: an end without a terminal block")
            if not note and not account:
                return
        added = size_of(blocks) + len(note)
        size = owned.size + added
        if size > self._max_stream_bytes and (not ends or size > self._max_stream_bytes + TERMINAL_BYTES):
            raise StreamTooLong(f"stream {stream}: more than {self._max_stream_bytes} bytes")
        committer = self._committer
        if committer.pending_bytes + added + len(account) > self._max_pending_bytes or self._closing:
            raise self._no_more(stream)
        owned.size = size
        owned.has_ended = ends
        first = Offset(owned.last + 1)
        owned.last += len(blocks)
        if (pending := owned.pending) is None:
            owned.pending = Append(stream, epoch, first, list(blocks), added, ends, note, account)
            committer.add(owned, added + len(account), is_pressing=first == 1)
        else:
            pending.add(blocks)
            pending.size += added
            pending.ends = ends
            pending.note += note
            pending.account = account or pending.account
            committer.pending_bytes += added + len(account)

    def text_writer(self, stream: StreamId, epoch: Epoch, before: bytes, after: bytes) -> RunWriter | None:
        owned = self._owned.get(stream)
        if owned is None or owned.epoch != epoch or owned.has_ended or self._closing:
            return None
        bounds = self._max_stream_bytes, self._max_pending_bytes
        return RunWriter(owned, self._committer, before, after, *bounds)

    def _no_more(self, stream: StreamId) -> StoreUnavailable:
        if self._closing:
            return StoreUnavailable(f"stream {stream}: the log is closed")
        held = f"{self._committer.pending_bytes} bytes wait to be committed"
        return StoreUnavailable(f"stream {stream}: {held}, and the bound is {self._max_pending_bytes}")

    def _refusal(self, stream: StreamId, epoch: Epoch) -> LogError:
        if (owned := self._owned.get(stream)) is not None:
            return StaleEpoch(f"stream {stream}: epoch {epoch} was given, {owned.epoch} is its owner's")
        if (departed := self._departed.get(stream)) is not None:
            if departed[0] == epoch:
                return departed[1]
            return StaleEpoch(f"stream {stream}: epoch {epoch} was given, {departed[0]} was its last one here")
        return StreamUnknown(f"there is no stream {stream} that is written here")

    # what the committer tells

    def deliver(self, written: Iterable[tuple[Owned, Append]]) -> None:
        """Takes what is committed to the cache, and so to the followers."""
        take = self._cache.take
        for owned, append in written:
            if owned.is_ours:  # else forgotten, or lost meanwhile: then it is read from the storage
                ends = append.ends
                take(append.stream, append.first, append.blocks, ends)
                if ends and owned.is_ours:
                    self._part_at_its_end(owned)

    def _part_at_its_end(self, owned: Owned) -> None:
        self._mirrors.drop(owned.stream)
        del self._owned[owned.stream]
        ended = StreamEnded(f"stream {owned.stream} has ended after {owned.last} blocks")
        self._remember(owned.stream, owned.epoch, ended)

    def lose(self, owned: Owned, error: LogError) -> None:
        """Takes a stream from its owner here; its followers go on with what the new owner commits."""
        if self._owned.get(owned.stream) is owned:
            self._part_with(owned, error)
            if isinstance(error, StreamUnknown):
                self._mirrors.drop(owned.stream)
            else:
                self._mirrors.go_on(owned.stream)

    def give_up(self, owned: Owned, error: StoreUnavailable) -> None:
        """Takes a stream from its owner here that cannot be written; its followers are not called again."""
        if self._owned.get(owned.stream) is owned:
            self._unwritten.give_up(owned.stream, owned.epoch)
            self._mirrors.drop(owned.stream)
            self._part_with(owned, error)

    def lose_found(self, stream: StreamId, error: LogError) -> None:
        """As `lose`, for a stream of which the storage has found by the way that it is lost."""
        if (owned := self._owned.get(stream)) is not None:
            self.lose(owned, error)

    def _part_with(self, owned: Owned, error: LogError) -> None:
        self._committer.remove(owned)
        owned.is_ours = False
        del self._owned[owned.stream]
        self._remember(owned.stream, owned.epoch, error)
        # What it raises is the loop's: it must not stop the committer.
        asyncio.get_running_loop().call_soon(owned.on_lost, error)

    # readers

    async def read(self, stream: StreamId, after: Offset) -> list[Entry]:
        if after < 0:
            raise OffsetUnknown(f"stream {stream}: there is no offset {after}")
        stored = await self._storage.read(stream, after)
        return [Entry(Offset(stored.first + place), block) for place, block in enumerate(stored.blocks)]

    async def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        return await self._mirrors.follow(stream, after, follower)

    async def forget(self, stream: StreamId) -> None:
        if (owned := self._owned.pop(stream, None)) is not None:
            owned.is_ours = False
            self._committer.remove(owned)
        self._departed.pop(stream, None)
        self._unwritten.forget(stream)
        self._mirrors.drop(stream)
        await self._storage.forget(stream)

    async def status(self, stream: StreamId) -> StreamStatus:
        return self._seen_from_here(await self._storage.status(stream))

    async def notes(self, stream: StreamId) -> bytes:
        return await self._storage.notes(stream)

    async def live(self) -> list[StreamStatus]:
        return [self._seen_from_here(status) for status in await self._storage.live()]

    async def lapsed(self) -> list[StreamStatus]:
        if self._unwritten:  # which the storage takes for ours
            return [status for status in await self.live() if not status.is_owned]
        return await self._storage.lapsed()

    async def watch(self, stream: StreamId, until: float) -> None:
        await self._storage.watch(stream, until)

    def _seen_from_here(self, status: StreamStatus) -> StreamStatus:
        """A stream that we gave up has no owner, whatever the storage still says."""
        if self._unwritten.epoch_of(status.record.id) != status.epoch:
            return status
        return msgspec.structs.replace(status, is_owned=False)
