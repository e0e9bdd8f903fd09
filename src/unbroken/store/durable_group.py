"""Group commit: one commit at a time, of whatever was appended while the last one ran."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from unbroken.chat.stream import Epoch, StreamId
from unbroken.store.log import LogError, OnLost, StoreUnavailable
from unbroken.store.storage import Append, StreamStorage

FIRST_PAUSE = 0.05  # seconds before a commit that failed is repeated; doubled each time
LONGEST_PAUSE = 1.0

# Seconds between the beginnings of two commits under load: larger groups for a delay that nobody sees, about the
# time between two tokens. What comes when the last commit is longer ago than that is committed at once; so is the
# first piece of a stream, for which somebody waits. Of many streams each commit delivers a piece of nearly all, and
# costs in proportion: then all, first pieces too, wait for as much longer as the last group was large.
APART = 0.010
APART_PER_APPEND = 100e-6
MOST_FOR_APPENDS = 0.015  # a follower elsewhere looks every 15 ms, and is to see a piece within 50


class Owned:
    """A stream that is written here, as its owner sees it: what is appended and not yet committed is in it."""

    __slots__ = ("epoch", "has_ended", "is_ours", "last", "on_lost", "pending", "size", "stream")

    def __init__(self, stream: StreamId, epoch: Epoch, on_lost: OnLost, last: int = 0, size: int = 0) -> None:
        self.stream = stream
        self.epoch = epoch
        self.on_lost = on_lost
        self.last = last
        self.size = size
        self.has_ended = False
        self.is_ours = True  # until another has it, or it is gone
        self.pending: Append | None = None  # of the group that gathers


class Owners(Protocol):
    """Who hears what came of the appends."""

    def deliver(self, written: Iterable[tuple[Owned, Append]]) -> None:
        """They are committed."""
        ...

    def lose(self, owned: Owned, error: LogError) -> None:
        """It was refused."""
        ...

    def lose_found(self, stream: StreamId, error: LogError) -> None:
        """A stream of ours is lost that has nothing in this group."""
        ...

    def give_up(self, owned: Owned, error: StoreUnavailable) -> None:
        """It could not be written for too long."""
        ...


class Committer:
    """Commits groups of appends and tells what came of them; `pending_bytes` are appended and not committed."""

    def __init__(self, storage: StreamStorage, *, now: Callable[[], float], patience: float, log: Owners) -> None:
        self._storage = storage
        self._now = now
        self._patience = patience
        self._log = log
        self._gathering: dict[Owned, None] = {}
        self._in_flight: dict[Owned, None] = {}
        self.pending_bytes = 0
        self._is_pressing = False  # what gathers waits for as long as the last group was large, and no longer
        self._pause: asyncio.Future[None] | None = None  # while it waits for the first append, or for more of them
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []  # until nothing is pending
        self.is_closing = False  # then nothing more may be added

    def start(self) -> None:
        """Begins to commit."""
        self._task = asyncio.create_task(self._commit_groups())

    def add(self, owned: Owned, size: int, *, is_pressing: bool = False) -> None:
        """Takes a stream's first append since the last group into the next one; one that is pressing waits less."""
        if (is_pressing and not self._is_pressing) or not self._gathering:
            self._is_pressing |= is_pressing
            self._wake()
        self._gathering[owned] = None
        self.pending_bytes += size

    def _wake(self) -> None:
        if self._pause is not None:
            _resolve(self._pause)
            self._pause = None

    def remove(self, owned: Owned) -> None:
        """Drops what has not been sent to the storage."""
        if owned.pending is not None:
            self.pending_bytes -= owned.pending.size + len(owned.pending.account)
            owned.pending = None
            del self._gathering[owned]
            if not self._gathering:
                self._is_pressing = False

    async def settle(self) -> None:
        """Waits until all appends have been committed and delivered, or given up."""
        while self._gathering or self._in_flight:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    async def settle_one(self, owned: Owned) -> None:
        """Waits until the appends of one stream have been committed and delivered, or given up."""
        while owned in self._gathering or owned in self._in_flight:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    async def close(self) -> None:
        """Commits what there is, and ends."""
        self.is_closing = True
        self._wake()
        if self._task is not None:
            await self._task

    async def _commit_groups(self) -> None:
        loop = asyncio.get_running_loop()
        may_begin = loop.time() - APART  # as far as the size of the last group goes
        try:
            while self._gathering or not self.is_closing:
                if not self._gathering:
                    self._tell_waiting()  # what they waited for may have been dropped
                    await self._wait()
                    continue
                if not self._is_pressing:
                    await self._gather_until(may_begin + APART)
                if self._is_pressing:
                    await self._gather_until(may_begin)
                if self._gathering:
                    may_begin = loop.time() + min(APART_PER_APPEND * len(self._gathering), MOST_FOR_APPENDS)
                    await self._commit_group()
                self._tell_waiting()
        except BaseException as error:
            self._give_up(StoreUnavailable(f"nothing is committed any more: {error!r}"))
            self.pending_bytes = sys.maxsize  # beyond every bound: no append is taken
            raise
        finally:
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        while self._waiting:
            _resolve(self._waiting.pop())

    async def _gather_until(self, moment: float) -> None:
        if moment > asyncio.get_running_loop().time() and not self.is_closing:
            await self._wait(until=moment)

    async def _wait(self, *, until: float | None = None) -> None:
        """Waits for the first append, or one that is pressing; no longer than about until a moment."""
        loop = asyncio.get_running_loop()
        self._pause = loop.create_future()
        timer = None if until is None else loop.call_at(until, self._wake)
        try:
            await self._pause
        finally:
            if timer is not None:
                timer.cancel()

    async def _commit_group(self) -> None:
        self._in_flight, self._gathering = self._gathering, {}
        self._is_pressing = False
        appends: list[Append] = []
        for owned in self._in_flight:
            if owned.pending is not None:  # as always
                appends.append(owned.pending)
                owned.pending = None
        size = self.pending_bytes
        try:
            refused = await self._commit(appends)
        except StoreUnavailable as error:
            return self._give_up(error)
        self.pending_bytes -= size
        written = zip(self._in_flight, appends, strict=True)
        if refused:
            self._tell_refused(list(written), refused)
        else:
            self._log.deliver(written)
        self._in_flight = {}

    def _tell_refused(self, asked: Sequence[tuple[Owned, Append]], refused: Mapping[StreamId, LogError]) -> None:
        for owned, append in asked:
            if append.stream in refused:
                self._log.lose(owned, refused[append.stream])
            else:
                self._log.deliver([(owned, append)])
        for stream in refused.keys() - {append.stream for _, append in asked}:
            self._log.lose_found(stream, refused[stream])

    async def _commit(self, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        """Commits them, again and again for as long as patience lasts."""
        try:
            return await self._storage.commit(appends)
        except StoreUnavailable:
            deadline = self._now() + self._patience
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                return await self._storage.commit(appends)
            except StoreUnavailable:
                if self._now() >= deadline:
                    raise

    def _give_up(self, error: StoreUnavailable) -> None:
        pending = [*self._in_flight, *self._gathering]
        self._in_flight, self._gathering = {}, {}
        self.pending_bytes = 0
        for owned in pending:
            owned.pending = None
        for owned in pending:
            self._log.give_up(owned, error)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():  # who waited may have gone
        future.set_result(None)
