"""Durable streams in one process and between several: who owns and follows them, and what a failing store does."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.store.appends import append_of
from unbroken.chat.stream import Block, Epoch, Offset, StreamId, StreamRecord, StreamStatus
from unbroken.store import durable_group
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import (
    LogError,
    OffsetUnknown,
    StaleEpoch,
    StoreUnavailable,
    StreamEnded,
    StreamExists,
    StreamTooLong,
    StreamUnknown,
)
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.storage import Append

pytestmark = pytest.mark.anyio

Heard = TypeVar("Heard")

STREAM, OTHER = StreamId("chatcmpl-1"), StreamId("chatcmpl-2")
LEASE = 15.0


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


class CountedStorage(SqliteStorage):
    """Tells how the appends were grouped."""

    groups: list[int]

    async def commit(self, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        self.groups.append(len(appends))
        return await super().commit(appends)


Counted = TypeVar("Counted", bound=CountedStorage)


class DeafStorage(CountedStorage):
    """Does what it is asked to, and does not hear that it is done."""

    is_deaf = False

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        return self._heard(await super().create(record))

    async def claim(self, stream: StreamId, *, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        return self._heard(await super().claim(stream, only_lapsed=only_lapsed))

    def _heard(self, answer: Heard) -> Heard:
        if self.is_deaf:
            raise StoreUnavailable("no answer")
        return answer


class Reader:
    """A follower that checks that it hears every block once and in order."""

    def __init__(self, after: int = 0) -> None:
        self.at = after
        self.text = ""
        self.has_ended = False

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert not self.has_ended
        assert first == self.at + 1
        self.at += len(blocks)
        self.text += b"".join(blocks).decode()
        self.has_ended = ends

    async def wait_for(self, text: str) -> None:
        async with asyncio.timeout(30):
            while self.text != text:
                assert text.startswith(self.text)
                await asyncio.sleep(0.001)


def blocks(*texts: str) -> list[Block]:
    return [Block(text.encode()) for text in texts]


def record(stream: StreamId = STREAM, **fields: object) -> StreamRecord:
    return StreamRecord(id=stream, **fields)  # type: ignore[arg-type]


async def wait_until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await is_so():
            await asyncio.sleep(0.001)


async def renewed(storage: SqliteStorage) -> None:
    """Renews, and waits for what is cleared up after that."""
    await storage.renew()
    await storage.write(lambda connection: None)


class Place:
    """A file that several logs open, as the workers of one gateway do."""

    def __init__(self, path: Path, surroundings: AsyncExitStack) -> None:
        self.path = path
        self.clock = Clock()
        self.storages: dict[DurableStreamLog, SqliteStorage] = {}
        self._surroundings = surroundings

    def storage(
        self,
        kind: type[Counted] = CountedStorage,  # type: ignore[assignment]
        *,
        max_live_bytes: int = 1 << 30,
        retention: float = 60.0,
        busy: float = 5.0,
    ) -> Counted:
        storage = kind(
            self.path, lease=LEASE, retention=retention, max_live_bytes=max_live_bytes, busy=busy, now=self.clock
        )
        storage.groups = []
        return storage

    async def open(
        self, storage: SqliteStorage | None = None, *, patience: float = 30.0, max_pending_bytes: int = 1 << 20
    ) -> DurableStreamLog:
        """A log that renews its lease only when a test says so."""
        storage = storage or self.storage()
        log = DurableStreamLog(
            storage,
            lease=3600.0,
            patience=patience,
            max_pending_bytes=max_pending_bytes,
            max_stream_bytes=1 << 20,
        )
        await log.start()
        self.storages[log] = storage
        self._surroundings.push_async_callback(log.close)
        return log

    def look(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as surroundings:
        yield Place(tmp_path / "store" / "streams.db", surroundings)


# commits


async def test_appends_of_all_streams_share_a_commit(place: Place) -> None:
    storage = place.storage()
    log = await place.open(storage)
    owners = {StreamId(str(number)): await log.create(StreamId(str(number)), keep=True) for number in range(20)}
    for _ in range(5):
        for stream, epoch in owners.items():
            log.append(stream, epoch, blocks("a", "b"))
    await log.settle()
    assert storage.groups == [20]
    for stream in owners:
        assert (await log.status(stream)).last == 10


async def test_what_comes_while_a_commit_runs_goes_with_the_next_one(place: Place) -> None:
    storage = place.storage()
    log = await place.open(storage)
    epoch = await log.create(STREAM, keep=True)
    reader = Reader()
    await log.follow(STREAM, Offset(0), reader)
    log.append(STREAM, epoch, blocks("a"))
    while not storage.groups:
        await asyncio.sleep(0)
    assert reader.text == ""  # L2: it is on its way
    for text in "bcd":
        log.append(STREAM, epoch, blocks(text))
    await log.settle()
    assert (storage.groups, reader.text) == ([1, 1], "abcd")


async def test_the_first_piece_of_a_stream_waits_for_no_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes with it what waits; closing does too."""
    monkeypatch.setattr(durable_group, "APART", 3600.0)
    storage = place.storage()
    log = await place.open(storage)
    one, other = StreamId("one"), StreamId("other")
    epochs = {stream: await log.create(stream, keep=True) for stream in (one, other)}
    log.append(one, epochs[one], blocks("a"))
    await log.settle()
    log.append(one, epochs[one], blocks("b"))
    for _ in range(5):
        await storage.write(lambda connection: None)
    assert storage.groups == [1]
    log.append(other, epochs[other], blocks("c"))
    await log.settle()
    assert storage.groups == [1, 2]
    log.append(one, epochs[one], blocks("d"), ends=True)
    await log.close()
    assert storage.groups == [1, 2, 1]


async def test_behind_a_large_group_a_first_piece_waits_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_group, "APART", 0.0)
    monkeypatch.setattr(durable_group, "APART_PER_APPEND", 1800.0)
    monkeypatch.setattr(durable_group, "MOST_FOR_APPENDS", 3600.0)
    storage = place.storage()
    log = await place.open(storage)
    streams = [StreamId(name) for name in "abc"]
    epochs = {stream: await log.create(stream, keep=True) for stream in streams}
    for stream in streams[:2]:
        log.append(stream, epochs[stream], blocks("x"))
    await log.settle()
    log.append(streams[2], epochs[streams[2]], blocks("x"))
    for _ in range(5):
        await storage.write(lambda connection: None)
    assert storage.groups == [2]
    await log.close()
    assert storage.groups == [2, 1]


async def test_who_waits_for_what_is_dropped_waits_no_longer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_group, "APART", 0.01)
    log = await place.open()
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a"))
    await log.settle()
    log.append(STREAM, epoch, blocks("b"))
    settling = asyncio.ensure_future(log.settle())
    await asyncio.sleep(0)
    await log.forget(STREAM)
    async with asyncio.timeout(30):
        await settling


async def test_nobody_waits_for_a_committer_that_has_failed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = place.storage()
    log = DurableStreamLog(storage, lease=3600.0)
    await log.start()
    epoch = await log.create(STREAM, keep=True)

    async def fail(appends: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(storage, "commit", fail)
    log.append(STREAM, epoch, blocks("a"))
    async with asyncio.timeout(30):
        await log.settle()
    with pytest.raises(StoreUnavailable):
        log.append(STREAM, await log.create(StreamId("other"), keep=True), blocks("b"))
    with pytest.raises(RuntimeError, match="a bug"):
        await log.close()
    await storage.close()


async def test_nothing_is_delivered_before_it_is_in_the_file(place: Place) -> None:
    """L2."""
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    looks: list[asyncio.Task[list[object]]] = []

    def look(first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        looks.append(asyncio.ensure_future(elsewhere.read(STREAM, Offset(first - 1))))  # type: ignore[arg-type]

    await log.follow(STREAM, Offset(0), look)
    log.append(STREAM, epoch, blocks("a"))
    await log.settle()
    assert len(await looks[0]) == 1


async def test_what_was_appended_is_committed_when_the_log_closes(place: Place) -> None:
    log = await place.open()
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a", "b"))
    await log.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        log.append(STREAM, epoch, blocks("c"))
    assert (await (await place.open()).status(STREAM)).last == 2


async def test_notes_are_added_up_and_the_last_account_counts(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a"), note=b"one ", account=b"1")
    log.append(STREAM, epoch, blocks("b"), note=b"two ")
    await log.settle()
    log.append(STREAM, epoch, [], note=b"three", account=b"2")
    log.append(STREAM, epoch, blocks("c"))
    await log.settle()
    for each in (log, elsewhere):
        assert await each.notes(STREAM) == b"one two three"
        assert (await each.status(STREAM)).account == b"2"
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await log.settle()
    assert await elsewhere.notes(STREAM) == b"one two three"
    assert (await elsewhere.status(STREAM)).account == b"2"


@pytest.mark.parametrize("many", [3, 255, 256, 257, 1500])
async def test_a_stream_is_read_alike_from_the_journal_and_from_segments(place: Place, many: int) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    written = [f"<{number}>" for number in range(many)]
    for text in written:
        log.append(STREAM, epoch, blocks(text))
        if len(text) % 7 == 0:
            await log.settle()
    await log.settle()
    for after in {0, 1, many // 2, many - 1, many}:
        assert [entry.block.decode() for entry in await elsewhere.read(STREAM, Offset(after))] == written[after:]
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await log.settle()
    for after in {0, 1, 256, many, many + 1} - {after for after in (256,) if after > many}:
        expected = [*written, "end"][after:]
        assert [entry.block.decode() for entry in await elsewhere.read(STREAM, Offset(after))] == expected


# requests, claims


async def test_a_claim_is_taken_once(place: Place) -> None:
    """D8, L6: who comes second gets the stream that there is, in whichever process."""
    log, elsewhere = await place.open(), await place.open()
    first = await log.open(record(claim="key", fingerprint="one", body=b'{"a":1}', headers={"x": "y"}))
    assert first == 1
    for each in (log, elsewhere):
        taken = await each.open(record(OTHER, claim="key", fingerprint="two"))
        assert isinstance(taken, StreamStatus)
        assert (taken.record.id, taken.record.fingerprint, taken.is_owned) == (STREAM, "one", True)
        assert (taken.record.body, taken.record.headers) == (b'{"a":1}', {"x": "y"})
        with pytest.raises(StreamUnknown):
            await each.status(OTHER)


async def test_of_many_who_open_with_one_claim_one_begins(place: Place) -> None:
    logs = [await place.open() for _ in range(3)]
    opened = await asyncio.gather(
        *(log.open(record(StreamId(f"{number}"), claim="key")) for number, log in enumerate(logs * 4))
    )
    assert len([each for each in opened if not isinstance(each, StreamStatus)]) == 1


async def test_a_claim_is_free_when_its_stream_is_forgotten(place: Place) -> None:
    log = await place.open()
    await log.open(record(claim="key"))
    await log.forget(STREAM)
    assert await log.open(record(OTHER, claim="key")) == 1


async def test_streams_without_a_claim_do_not_meet(place: Place) -> None:
    log = await place.open()
    assert await log.open(record()) == await log.open(record(OTHER)) == 1
    with pytest.raises(StreamExists):
        await log.open(record())


async def test_who_leaves_while_a_stream_is_opened_leaves_no_stream(place: Place) -> None:
    log = await place.open()
    opening = asyncio.ensure_future(log.open(record(claim="key")))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    async def is_free() -> bool:
        return not isinstance(await log.open(record(OTHER, claim="key")), StreamStatus)

    await wait_until(is_free)
    with pytest.raises(StreamUnknown):
        await log.status(STREAM)


# following across processes


async def test_a_follower_elsewhere_gets_what_there_is_and_what_comes(place: Place) -> None:
    """D3."""
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a", "b"))
    await log.settle()
    first, second = Reader(), Reader(1)
    await elsewhere.follow(STREAM, Offset(0), first)
    await elsewhere.follow(STREAM, Offset(1), second)
    assert (first.text, second.text) == ("ab", "b")
    log.append(STREAM, epoch, blocks("c"))
    await first.wait_for("abc")
    log.append(STREAM, epoch, blocks("d"), ends=True)
    await first.wait_for("abcd")
    assert second.text == "bcd"
    assert first.has_ended
    assert second.has_ended


async def test_who_has_read_more_elsewhere_can_go_on_here_at_once(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    await elsewhere.follow(STREAM, Offset(0), Reader())
    for number in range(1, 20):
        log.append(STREAM, epoch, blocks("x"))
        await log.settle()
        await elsewhere.follow(STREAM, Offset(number), Reader(number))
    with pytest.raises(OffsetUnknown):
        await elsewhere.follow(STREAM, Offset(20), Reader(20))


async def test_a_follower_elsewhere_that_leaves_is_not_called_and_may_come_back(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    leaving, staying = Reader(), Reader()
    leave = await elsewhere.follow(STREAM, Offset(0), leaving)
    leave()
    leave()
    log.append(STREAM, epoch, blocks("a"))
    await elsewhere.follow(STREAM, Offset(0), staying)
    await staying.wait_for("a")
    assert leaving.text == ""


async def test_a_stream_that_is_written_faster_than_it_is_looked_for_comes_whole(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    reader = Reader()
    await elsewhere.follow(STREAM, Offset(0), reader)
    for _ in range(700):  # far more commits than the journal keeps
        log.append(STREAM, epoch, blocks("x"))
        await log.settle()
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await reader.wait_for("x" * 700 + "end")


async def test_what_has_ended_is_not_held_in_memory(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    here, there = Reader(), Reader()
    await log.follow(STREAM, Offset(0), here)
    await elsewhere.follow(STREAM, Offset(0), there)
    assert log.held == elsewhere.held == 1
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await there.wait_for("end")
    await here.wait_for("end")
    assert log.held == elsewhere.held == 0
    late = Reader()
    await log.follow(STREAM, Offset(0), late)
    assert (late.text, late.has_ended, log.held) == ("end", True, 0)


# owners


async def test_a_claim_elsewhere_fences_the_former_owner_and_its_followers_go_on(place: Place) -> None:
    """L5, D12."""
    log, elsewhere = await place.open(), await place.open()
    lost: list[LogError] = []
    epoch = await log.open(record(), on_lost=lost.append)
    assert not isinstance(epoch, StreamStatus)
    here, there = Reader(), Reader()
    await log.follow(STREAM, Offset(0), here)
    await elsewhere.follow(STREAM, Offset(0), there)
    log.append(STREAM, epoch, blocks("a"))
    await log.settle()
    newer = await elsewhere.claim(STREAM)
    assert newer == epoch + 1
    log.append(STREAM, epoch, blocks("stale"))  # it cannot know yet
    await log.settle()
    await asyncio.sleep(0)
    assert [type(error) for error in lost] == [StaleEpoch]
    with pytest.raises(StaleEpoch):
        log.append(STREAM, epoch, blocks("stale"))
    elsewhere.append(STREAM, newer, blocks("b"), ends=True)
    for reader in (here, there):
        await reader.wait_for("ab")
        assert reader.has_ended
    assert len(lost) == 1


async def test_an_owner_without_anything_to_append_hears_of_a_claim_by_another_commit(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    lost: list[LogError] = []
    await log.open(record(), on_lost=lost.append)
    epoch = await log.create(OTHER, keep=True)
    await elsewhere.claim(STREAM)
    log.append(OTHER, epoch, blocks("a"))
    await log.settle()
    await asyncio.sleep(0)
    assert [type(error) for error in lost] == [StaleEpoch]
    assert (await log.status(OTHER)).last == 1


async def test_a_claim_in_the_same_process_fences_too(place: Place) -> None:
    log = await place.open()
    lost: list[LogError] = []
    epoch = await log.open(record(), on_lost=lost.append)
    assert not isinstance(epoch, StreamStatus)
    reader = Reader()
    await log.follow(STREAM, Offset(0), reader)
    log.append(STREAM, epoch, blocks("a"))
    newer = await log.claim(STREAM)
    with pytest.raises(StaleEpoch):
        log.append(STREAM, epoch, blocks("stale"))
    log.append(STREAM, newer, blocks("b"), ends=True)
    await log.settle()
    assert [type(error) for error in lost] == [StaleEpoch]
    assert reader.text in ("ab", "b")
    assert reader.has_ended


async def test_a_stream_with_a_living_owner_is_not_taken_over(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    assert await log.take_over(STREAM) is None
    assert await elsewhere.take_over(STREAM) is None
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await log.settle()
    place.clock.time += 2 * LEASE
    assert await elsewhere.take_over(STREAM) is None  # it has ended
    with pytest.raises(StreamUnknown):
        await elsewhere.take_over(OTHER)


async def test_a_stream_whose_owners_lease_has_lapsed_is_taken_over_by_one(place: Place) -> None:
    """D12."""
    log, *others = [await place.open() for _ in range(3)]
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a"))
    await log.settle()
    assert (await others[0].status(STREAM)).is_owned
    place.clock.time += LEASE + 1
    for other in others:
        await other._storage.renew()
    assert not (await others[0].status(STREAM)).is_owned
    taken = [await other.take_over(STREAM) for other in others]
    assert taken == [2, None]
    reader = Reader()
    await others[1].follow(STREAM, Offset(0), reader)
    others[0].append(STREAM, Epoch(2), blocks("b"), ends=True)
    await reader.wait_for("ab")
    log.append(STREAM, epoch, blocks("stale"))
    await log.settle()
    assert (await log.status(STREAM)).last == 2


async def test_a_stream_is_taken_over_at_once_where_its_owner_has_closed(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a"), note=b"n", account=b"acc")
    await log.close()
    assert await elsewhere.take_over(STREAM) == 2
    assert [entry.block for entry in await elsewhere.read(STREAM, Offset(0))] == [b"a"]
    assert await elsewhere.notes(STREAM) == b"n"
    assert (await elsewhere.status(STREAM)).account == b"acc"


async def test_who_leaves_while_a_stream_is_taken_over_leaves_it_to_others(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    await log.create(STREAM, keep=True)
    await log.close()
    taking = asyncio.ensure_future(elsewhere.take_over(STREAM))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking

    async def is_taken() -> bool:
        return await elsewhere.take_over(STREAM) is not None

    await wait_until(is_taken)


async def test_live_streams_are_listed_oldest_first_with_what_is_known_of_them(place: Place) -> None:
    log, elsewhere = await place.open(), await place.open()
    epochs = {stream: await log.create(stream, keep=True) for stream in (STREAM, OTHER, StreamId("third"))}
    log.append(STREAM, epochs[STREAM], blocks("a", "b"), account=b"acc")
    log.append(OTHER, epochs[OTHER], blocks("end"), ends=True)
    await log.settle()
    await elsewhere.watch(STREAM, 5.0)
    await elsewhere.watch(STREAM, 3.0)
    first, third = await elsewhere.live()
    assert (first.record.id, third.record.id) == (STREAM, "third")
    assert (first.last, first.account, first.watched_until, first.is_owned) == (2, b"acc", 5.0, True)
    assert await elsewhere.lapsed() == await log.lapsed() == []
    place.clock.time += LEASE + 1
    assert not any(status.is_owned for status in await elsewhere.live())
    assert await elsewhere.lapsed() == await elsewhere.live()


async def test_a_stream_that_was_let_go_here_has_no_owner(place: Place) -> None:
    log = await place.open()
    epoch = await log.create(STREAM, keep=True)
    await log.create(OTHER, keep=True)
    log.append(STREAM, epoch, blocks("a"))
    await log.settle()
    log.let_go(STREAM, epoch)
    assert [status.record.id for status in await log.lapsed()] == [STREAM]
    await log.take_over(STREAM)
    assert await log.lapsed() == []


# bounds and retention


async def test_a_stream_is_kept_for_its_time_after_its_end_and_a_live_one_for_ever(place: Place) -> None:
    """D10."""
    storage = place.storage(retention=60.0)
    log = await place.open(storage)
    await log.create(STREAM, keep=True)
    epoch = await log.open(record(OTHER, claim="key"))
    assert not isinstance(epoch, StreamStatus)
    log.append(OTHER, epoch, blocks("end"), ends=True)
    await log.settle()
    place.clock.time += 59.0
    await renewed(storage)
    assert (await log.status(OTHER)).has_ended
    for passed in (2.0, 1_000_000.0):
        place.clock.time += passed
        await renewed(storage)
    assert (await log.status(STREAM)).last == 0
    with pytest.raises(StreamUnknown):
        await log.status(OTHER)
    assert await log.open(record(StreamId("third"), claim="key")) == 1


async def test_what_a_dead_owner_ended_but_did_not_gather_is_kept_for_its_time_too(place: Place) -> None:
    dead = place.storage()
    log = await place.open(dead)
    storage = place.storage(retention=60.0)
    elsewhere = await place.open(storage)
    epoch = await log.create(STREAM, keep=True)
    await dead.commit([append_of(STREAM, epoch, Offset(1), blocks("end"), ends=True)])
    place.clock.time += LEASE + 1
    await renewed(storage)
    assert (await elsewhere.status(STREAM)).has_ended
    place.clock.time += 100
    await renewed(storage)
    with pytest.raises(StreamUnknown):
        await elsewhere.status(STREAM)


async def test_the_journal_does_not_grow_with_what_is_gathered(place: Place) -> None:
    log = await place.open()
    slow = await log.create(OTHER, keep=True)
    log.append(OTHER, slow, blocks("slow"))
    epoch = await log.create(STREAM, keep=True)
    for _ in range(3000):
        log.append(STREAM, epoch, blocks("x"))
        await log.settle()
    assert place.look("SELECT count(*) FROM journal")[0][0] < 2000  # type: ignore[operator]
    assert [entry.block for entry in await log.read(OTHER, Offset(0))] == [b"slow"]


async def test_live_streams_are_bounded_in_all(place: Place) -> None:
    log = await place.open(place.storage(max_live_bytes=2000))
    epoch = await log.create(STREAM, keep=True)
    log.append(STREAM, epoch, [Block(b"x" * 2000)])
    await log.settle()
    with pytest.raises(StreamTooLong, match="2000"):
        await log.create(OTHER, keep=True)
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await log.settle()

    async def has_room() -> bool:
        try:
            await log.create(OTHER, keep=True)
        except StreamTooLong:
            return False
        return True

    await wait_until(has_room)


async def test_the_file_is_for_its_owner_only(place: Place) -> None:
    await place.open()
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.path.parent.stat().st_mode) == 0o700


async def test_many_processes_may_make_the_file_at_once(place: Place) -> None:
    logs = await asyncio.gather(*(place.open() for _ in range(6)))
    for number, log in enumerate(logs):
        await log.create(StreamId(str(number)), keep=True)
    assert len(await logs[0].live()) == 6


# a store that fails


async def test_a_store_that_is_locked_for_a_while_only_delays(place: Place) -> None:
    log = await place.open(place.storage(busy=0.01))
    epoch = await log.create(STREAM, keep=True)
    reader = Reader()
    await log.follow(STREAM, Offset(0), reader)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        log.append(STREAM, epoch, blocks("a"), note=b"once")
        with pytest.raises(StoreUnavailable, match="locked"):
            await log.create(OTHER, keep=True)
        log.append(STREAM, epoch, blocks("b"))
        assert reader.text == ""  # D13: what is not committed is not delivered
        other.execute("ROLLBACK")
    await log.settle()
    assert reader.text == "ab"
    assert await log.notes(STREAM) == b"once"


async def test_streams_of_a_store_that_fails_for_too_long_are_given_up_and_can_be_taken_over(place: Place) -> None:
    """D13."""
    storage = place.storage(busy=0.01)
    log, elsewhere = await place.open(storage, patience=0.0), await place.open()
    lost: list[LogError] = []
    epoch = await log.open(record(), on_lost=lost.append)
    assert not isinstance(epoch, StreamStatus)
    quiet = await log.create(OTHER, keep=True)
    reader = Reader()
    await log.follow(STREAM, Offset(0), reader)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        log.append(STREAM, epoch, blocks("never seen"))
        await log.settle()
        await asyncio.sleep(0)
        assert [type(error) for error in lost] == [StoreUnavailable]
        with pytest.raises(StoreUnavailable):
            log.append(STREAM, epoch, blocks("b"))
        other.execute("ROLLBACK")
    assert reader.text == ""
    assert not (await log.status(STREAM)).is_owned
    newer = await log.take_over(STREAM)
    assert newer == 2
    await log.follow(STREAM, Offset(0), reader)
    log.append(STREAM, newer, blocks("a"), ends=True)
    log.append(OTHER, quiet, blocks("was never lost"))
    await log.settle()
    assert reader.text == "a"
    assert (await elsewhere.status(OTHER)).last == 1


async def test_a_stream_that_was_given_up_can_be_taken_over_elsewhere_when_the_store_is_back(place: Place) -> None:
    storage = place.storage(busy=0.01)
    log, elsewhere = DurableStreamLog(storage, lease=0.03, patience=0.0), await place.open()
    await log.start()
    epoch = await log.create(STREAM, keep=True)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        log.append(STREAM, epoch, blocks("never seen"))
        await log.settle()
        other.execute("ROLLBACK")

    async def is_taken() -> bool:
        return await elsewhere.take_over(STREAM) is not None

    await wait_until(is_taken)
    assert (await log.status(STREAM)).is_owned
    assert await log.take_over(STREAM) is None
    await log.close()


@pytest.fixture
async def deaf(place: Place) -> AsyncIterator[tuple[DurableStreamLog, DeafStorage]]:
    """A log that renews its lease all the time, over a storage that may be deaf."""
    storage = place.storage(DeafStorage)
    log = DurableStreamLog(storage, lease=0.03)
    await log.start()
    yield log, storage
    await log.close()


async def can_be_taken_over(stream: StreamId, log: DurableStreamLog) -> None:
    async def is_taken() -> bool:
        with suppress(StreamUnknown):  # it is being made
            return await log.take_over(stream) is not None
        return False

    await wait_until(is_taken)


@pytest.mark.parametrize("has_gone", [False, True])
async def test_a_stream_that_was_made_though_that_seemed_to_fail_is_nobodys(
    place: Place, deaf: tuple[DurableStreamLog, DeafStorage], has_gone: bool
) -> None:
    """D13: else whoever asks for it would wait without end: our lease is renewed, and nobody writes it."""
    (log, storage), elsewhere = deaf, await place.open()
    storage.is_deaf = True
    opening = asyncio.ensure_future(log.open(record(claim="key")))
    if has_gone:
        await asyncio.sleep(0)
        opening.cancel()
    with pytest.raises(asyncio.CancelledError if has_gone else StoreUnavailable):
        await opening
    await can_be_taken_over(STREAM, elsewhere)
    again = await elsewhere.open(record(OTHER, claim="key"))
    assert isinstance(again, StreamStatus)
    assert (again.record.id, again.is_owned) == (STREAM, True)


@pytest.mark.parametrize("has_gone", [False, True])
@pytest.mark.parametrize("here", [False, True])
async def test_a_claim_that_was_made_though_that_seemed_to_fail_is_given_up(
    place: Place, deaf: tuple[DurableStreamLog, DeafStorage], here: bool, has_gone: bool
) -> None:
    (log, storage), former = deaf, await place.open()
    epoch = await former.create(STREAM, keep=True)
    former.append(STREAM, epoch, blocks("a"))
    await former.settle()
    storage.is_deaf = True
    claiming = asyncio.ensure_future(log.claim(STREAM))
    if has_gone:
        await asyncio.sleep(0)
        claiming.cancel()
    with pytest.raises(asyncio.CancelledError if has_gone else StoreUnavailable):
        await claiming
    storage.is_deaf = False
    taker = log if here else await place.open()
    await can_be_taken_over(STREAM, taker)
    reader = Reader()
    await taker.follow(STREAM, Offset(0), reader)
    assert reader.text == "a"


async def test_what_waits_for_a_failing_store_is_bounded(place: Place) -> None:
    """L9."""
    log = await place.open(place.storage(busy=0.01), max_pending_bytes=1000)
    epoch = await log.create(STREAM, keep=True)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        log.append(STREAM, epoch, [Block(b"x" * 900)])
        with pytest.raises(StoreUnavailable, match="1000"):
            log.append(STREAM, epoch, [Block(b"x" * 101)])
        other.execute("ROLLBACK")
    await log.settle()
    log.append(STREAM, epoch, [Block(b"x" * 900)])
    await log.settle()
    assert (await log.status(STREAM)).last == 2


async def test_a_full_disk_refuses_and_is_used_again_when_there_is_room(place: Place) -> None:
    """D13. The bound is the connection's: the one that is opened after an error has room."""
    storage = place.storage()
    log = await place.open(storage)
    epoch = await log.create(STREAM, keep=True)
    reader = Reader()
    await log.follow(STREAM, Offset(0), reader)
    big = Block(b"x" * 500_000)
    await storage.write(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall())
    with pytest.raises(StoreUnavailable, match="full: make room") as raised:
        await storage.commit([append_of(STREAM, epoch, Offset(1), [big])])
    assert str(place.path) in str(raised.value)
    await storage.write(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall())
    log.append(STREAM, epoch, [big], note=b"once")
    log.append(STREAM, epoch, blocks("end"), ends=True)
    await log.settle()
    assert reader.at == 2
    assert [len(entry.block) for entry in await log.read(STREAM, Offset(0))] == [500_000, 3]
    assert await log.notes(STREAM) == b"once"


async def test_a_commit_that_is_repeated_is_not_made_twice(place: Place) -> None:
    storage = place.storage()
    log = await place.open(storage)
    epoch = await log.create(STREAM, keep=True)
    group = [append_of(STREAM, epoch, Offset(1), blocks("a", "b"), note=b"n", account=b"acc")]
    assert await storage.commit(group) == {}
    assert await storage.commit(group) == {}
    longer = [append_of(STREAM, epoch, Offset(2), blocks("b", "c"))]
    assert await storage.commit(longer) == {}
    assert list((await storage.read(STREAM, Offset(0))).blocks) == [b"a", b"b", b"c"]
    assert await storage.notes(STREAM) == b"n"


FILES: dict[str, tuple[bytes, str]] = {
    "text": (b"this is no database, but a letter to a friend\n" * 100, "not a database"),
    "another program's": (b"", "another program's database"),
    "newer": (b"", "version 99"),
}


@pytest.mark.parametrize("found", FILES)
async def test_a_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path: Path, found: str) -> None:
    path = tmp_path / "streams.db"
    content, complaint = FILES[found]
    path.write_bytes(content)
    if found != "text":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE something (else_)")
            if found == "newer":
                connection.execute("PRAGMA user_version = 99")
                connection.execute(f"PRAGMA application_id = {0x756E6272}")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=complaint) as raised:
        await DurableStreamLog(SqliteStorage(path)).start()
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before


async def test_a_place_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"file/streams\.db"):
        await DurableStreamLog(SqliteStorage(tmp_path / "file" / "streams.db")).start()


async def test_a_log_in_memory_is_one_too() -> None:
    log = DurableStreamLog(SqliteStorage(":memory:"))
    await log.start()
    epoch = await log.create(STREAM, keep=True)
    reader = Reader()
    await log.follow(STREAM, Offset(0), reader)
    log.append(STREAM, epoch, blocks("a", "end"), ends=True)
    await log.settle()
    assert reader.text == "aend"
    with pytest.raises(StreamEnded):
        log.append(STREAM, epoch, blocks("b"))
    await log.close()
