"""Two processes over one store, in any order of what they do: one order of blocks, and every reader has it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from unbroken.chat.stream import Block, Epoch, Offset, StreamId
from unbroken.store import sqlite_gather
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import LogError, StaleEpoch, StreamEnded
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.storage import StreamStorage

STREAM = StreamId("chatcmpl-1")
WORKER = st.integers(0, 1)
RENEWED = 0.02  # seconds; who has lost a stream and appends nothing hears of it then

LEASE = 15.0  # of the model's clock

Stores = Callable[[], AbstractAsyncContextManager[Sequence[StreamStorage]]]


class Clock:
    """A clock that goes when the model says so."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


class Dozing(SqliteStorage):
    """A storage of a process that may be held up: then it does not renew its lease, and does all else late."""

    def __init__(self, path: str, clock: Clock) -> None:
        super().__init__(path, lease=LEASE, now=clock)
        self.clock = clock
        self.is_asleep = False
        self.renewals = 0

    async def renew(self) -> Sequence[StreamId]:
        if self.is_asleep:
            return ()
        lost = await super().renew()
        self.renewals += 1
        return lost


@asynccontextmanager
async def sqlite_stores() -> AsyncIterator[Sequence[StreamStorage]]:
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        yield [Dozing(f"{folder}/streams.db", clock) for _ in range(2)]


@asynccontextmanager
async def hasty_sqlite_stores() -> AsyncIterator[Sequence[StreamStorage]]:
    """A stream is gathered after every few blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_gather, "SEGMENT_BLOCKS", 4)
        async with sqlite_stores() as stores:
            yield stores


@asynccontextmanager
async def valkey_stores() -> AsyncIterator[Sequence[StreamStorage]]:
    from tests.store.valkey_server import valkey_url
    from unbroken.store.valkey import ValkeyStorage

    with valkey_url() as url:
        yield [ValkeyStorage(url, lease=3600.0, retention=3600.0, max_live_bytes=1 << 30) for _ in range(2)]


STORES: dict[str, Stores] = {"sqlite": sqlite_stores, "hasty sqlite": hasty_sqlite_stores, "valkey": valkey_stores}


class Reader:
    """What a follower was given."""

    def __init__(self, after: int) -> None:
        self.begins_at = self.at = after
        self.got: list[bytes] = []
        self.has_ended = False

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert not self.has_ended
        assert first == self.at + 1
        self.at += len(blocks)
        self.got += blocks
        self.has_ended = ends


class Workers(RuleBasedStateMachine):
    """Each block says in which epoch it was appended, and as which one there."""

    new_stores: Stores

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.readers: list[Reader] = []
        self.lost: list[tuple[Epoch, LogError]] = []
        #: By epoch: who has it, and how many blocks it appended.
        self.owners: dict[Epoch, int] = {}
        self.appended: dict[Epoch, int] = {}

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            self.surroundings = self.new_stores()
            self.storages = await self.surroundings.__aenter__()
            self.logs = [DurableStreamLog(storage, lease=RENEWED * 3) for storage in self.storages]
            for log in self.logs:
                await log.start()
            first = Epoch(1)
            await self.logs[0].create(STREAM, keep=True, on_lost=lambda error: self.lost.append((first, error)))
            self.owners[first], self.appended[first] = 0, 0

        self.runner.run(begin())

    @rule(worker=WORKER)
    def claim(self, worker: int) -> None:
        epoch = Epoch(max(self.owners) + 1)
        on_lost = lambda error: self.lost.append((epoch, error))  # noqa: E731
        assert self.runner.run(self.logs[worker].claim(STREAM, on_lost=on_lost)) == epoch
        self.owners[epoch], self.appended[epoch] = worker, 0

    @rule(worker=WORKER)
    def take_over(self, worker: int) -> None:
        """It is the other's for as long as that one renews its lease, and then whoever's that asks first."""
        latest = max(self.owners)
        epoch = Epoch(latest + 1)
        on_lost = lambda error: self.lost.append((epoch, error))  # noqa: E731
        owner = self.owners[latest]
        taken = self.runner.run(self.logs[worker].take_over(STREAM, on_lost=on_lost))
        if owner == worker or not self._is_asleep(owner):
            assert taken is None
        elif taken is None:
            assert self._takes_itself_for_the_owner(worker)
        else:
            assert taken == epoch
            self.owners[epoch], self.appended[epoch] = worker, 0

    def _takes_itself_for_the_owner(self, worker: int) -> bool:
        """Whether it has had the stream, and has not heard yet that it lost it."""
        had = [epoch for epoch, owner in self.owners.items() if owner == worker]
        return bool(had) and max(had) not in {epoch for epoch, _ in self.lost}

    @rule(worker=WORKER)
    def fall_asleep(self, worker: int) -> None:
        """The worker renews no more, and its lease lapses; the other's does not."""
        storage = self.storages[worker]
        if isinstance(storage, Dozing):  # a server has a clock of its own
            storage.is_asleep = True
            storage.clock.now += LEASE + 1
            self._renew()

    @rule(worker=WORKER)
    def wake_up(self, worker: int) -> None:
        """What nobody has taken over meanwhile is the worker's still."""
        storage = self.storages[worker]
        if isinstance(storage, Dozing):
            storage.is_asleep = False
            self._renew()

    def _is_asleep(self, worker: int) -> bool:
        storage = self.storages[worker]
        return isinstance(storage, Dozing) and storage.is_asleep

    def _renew(self) -> None:
        """Waits until all who are awake have renewed their lease."""

        async def renew() -> None:
            awake = [storage for storage in self.storages if isinstance(storage, Dozing) and not storage.is_asleep]
            before = [storage.renewals for storage in awake]
            while any(storage.renewals == seen for storage, seen in zip(awake, before, strict=True)):
                await asyncio.sleep(0.001)

        self.runner.run(renew())

    @rule(back=st.integers(0, 2), many=st.integers(1, 3), turns=st.integers(0, 3))
    def append(self, back: int, many: int, turns: int) -> None:
        """By the owner or a former one, who may not know yet; and then some of what follows from it."""
        epoch = Epoch(max(1, max(self.owners) - back))
        try:
            for _ in range(many):
                block = Block(f"{epoch}:{self.appended[epoch] + 1} ".encode())
                self.logs[self.owners[epoch]].append(STREAM, epoch, [block])
                self.appended[epoch] += 1
        except StaleEpoch:
            assert epoch < max(self.owners)
        except StreamEnded:
            pass

        self._turn(turns)

    @rule(back=st.integers(0, 2), many=st.integers(1, 3), way=st.integers(0, 1), turns=st.integers(0, 3))
    def append_texts(self, back: int, many: int, way: int, turns: int) -> None:
        """As `append`, text by text, with one of two things around them."""
        epoch = Epoch(max(1, max(self.owners) - back))
        before, after = ((b"%d:" % epoch, b" "), (b" %d:" % epoch, b""))[way]
        writer = self.logs[self.owners[epoch]].text_writer(STREAM, epoch, before, after)
        if writer is None:
            assert epoch < max(self.owners)
            return
        for _ in range(many):
            if not writer.add([b"%d" % (self.appended[epoch] + 1)]):
                break
            self.appended[epoch] += 1
        self._turn(turns)

    def _turn(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.runner.run(turn())

    @rule(worker=WORKER)
    def settle(self, worker: int) -> None:
        self.runner.run(self.logs[worker].settle())

    @rule(worker=WORKER, place=st.integers(0, 50))
    def follow(self, worker: int, place: int) -> None:
        async def follow() -> None:
            last = (await self.logs[worker].status(STREAM)).last
            reader = Reader(place % (last + 1))
            await self.logs[worker].follow(STREAM, Offset(reader.at), reader)
            self.readers.append(reader)

        self.runner.run(follow())

    def teardown(self) -> None:
        if hasattr(self, "logs"):
            self.runner.run(self._end())
        self.runner.close()

    async def _end(self) -> None:
        """The owner ends the stream; then every reader has all, and what is there is each owner's, in order."""
        epoch = max(self.owners)
        for storage in self.storages:
            if isinstance(storage, Dozing):
                storage.is_asleep = False
        self.logs[self.owners[epoch]].append(STREAM, epoch, [Block(b"end")], ends=True)
        for log in self.logs:
            await log.settle()
        async with asyncio.timeout(20):
            while not all(reader.has_ended for reader in self.readers):
                await asyncio.sleep(0.002)
        there = [entry.block for entry in await self.logs[0].read(STREAM, Offset(0))]
        for reader in self.readers:
            assert reader.got == there[reader.begins_at :]
        self._check(there, epoch)
        for log in self.logs:
            await log.close()
        await self.surroundings.__aexit__(None, None, None)

    def _check(self, there: Sequence[bytes], latest: Epoch) -> None:
        assert there[-1] == b"end"
        parts = [tuple(map(int, block.split(b":"))) for block in there[:-1]]
        assert parts == sorted(parts)
        for epoch in self.owners:
            numbers = [number for written_in, number in parts if written_in == epoch]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) <= self.appended[epoch]
        assert len([1 for written_in, _ in parts if written_in == latest]) == self.appended[latest]
        told = [epoch for epoch, error in self.lost if isinstance(error, StaleEpoch)]
        assert len(told) == len(self.lost) == len(set(told))
        assert latest not in told


@pytest.mark.parametrize("store", STORES)
def test_two_processes_have_one_order(store: str) -> None:
    if store == "valkey":
        from tests.store.valkey_server import skip_without_server

        skip_without_server()
    machine = type("Machine", (Workers,), {"new_stores": staticmethod(STORES[store])})
    run_state_machine_as_test(machine, settings=settings(max_examples=30, stateful_step_count=20, deadline=None))
