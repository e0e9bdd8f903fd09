"""What a writer of the SQLite store knows after a failure, and what it leaves to others: all of it, and once."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.store.appends import append_of
from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store import sqlite_gather
from unbroken.store.durable import DurableStreamLog
from unbroken.store.held import Run, size_of
from unbroken.store.log import LogError, StoreUnavailable
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_rows import read_behind
from unbroken.store.storage import Append

pytestmark = pytest.mark.anyio

ONE, OTHER = StreamId("one"), StreamId("other")
LEASE = 10.0


class Place:
    """A file that several processes have open, each with a clock of its own for leases."""

    def __init__(self, path: Path, surroundings: AsyncExitStack) -> None:
        self.path = path
        self._surroundings = surroundings

    async def open(self, owner: str, *, ahead: float = 0.0) -> SqliteStorage:
        storage = SqliteStorage(self.path, lease=LEASE, now=lambda: 1000.0 + ahead)
        await storage.start(OwnerId(owner))
        self._surroundings.push_async_callback(storage.close)
        return storage


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as surroundings:
        yield Place(tmp_path / "streams.db", surroundings)


def texts(stream: StreamId, first: int, *said: str, epoch: int = 1, note: bytes = b"") -> Append:
    run = Run(b"<", b">", [text.encode() for text in said])
    return Append(stream, Epoch(epoch), Offset(first), run, size_of(run) + len(note), note=note)


def note(stream: StreamId, first: int, said: bytes) -> Append:
    return append_of(stream, 1, first, [], note=said)


async def create(storage: SqliteStorage, *streams: StreamId) -> None:
    for stream in streams:
        assert await storage.create(StreamRecord(id=stream)) is None


async def blocks_in(storage: SqliteStorage, stream: StreamId = ONE) -> list[bytes]:
    return list((await storage.read(stream, Offset(0))).blocks)


async def seem_to_fail(storage: SqliteStorage, appends: Sequence[Append], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, and loses the answer."""

    def lose(row: int, written: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(storage._writer, "_committed", lose)
        with pytest.raises(StoreUnavailable):
            await storage.commit(appends)


async def fail(storage: SqliteStorage) -> None:
    def work(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StoreUnavailable):
        await storage.write(work)


async def have_cleared_up(storage: SqliteStorage) -> None:
    await storage.renew()
    await storage.write(lambda connection: None)


async def write_much(storage: SqliteStorage, stream: StreamId, rows: int = 1200) -> None:
    """So much that what nobody needs any more is dropped from the journal."""
    for number in range(1, rows):
        assert await storage.commit([texts(stream, number, "x")]) == {}
    await storage.write(lambda connection: None)


async def test_what_seemed_to_fail_is_gathered_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE)
    await storage.commit([texts(ONE, 1, "1")])
    group = [texts(ONE, 2, "2")]
    await seem_to_fail(storage, group, monkeypatch)
    assert await storage.commit(group) == {}
    await have_cleared_up(storage)
    assert await blocks_in(elsewhere) == [b"<1>", b"<2>"]
    assert await elsewhere.claim(ONE, only_lapsed=False) == (2, 2)
    assert await blocks_in(elsewhere) == [b"<1>", b"<2>"]


async def test_a_note_that_seemed_to_fail_is_there_once_after_a_renewal(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await place.open("a")
    await create(storage, ONE)
    await storage.commit([texts(ONE, 1, "1")])
    group = [note(ONE, 2, b"N")]
    await seem_to_fail(storage, group, monkeypatch)
    await storage.renew()
    assert await storage.commit(group) == {}
    assert await storage.notes(ONE) == b"N"


async def test_a_note_that_seemed_to_fail_is_there_once_where_its_neighbour_was_claimed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE, OTHER)
    group = [texts(ONE, 1, "1"), note(OTHER, 1, b"N")]
    await seem_to_fail(storage, group, monkeypatch)
    await elsewhere.claim(ONE, only_lapsed=False)
    assert list(await storage.commit(group)) == [ONE]
    assert await storage.notes(OTHER) == b"N"


async def test_the_same_note_is_not_taken_for_the_one_that_seemed_to_fail(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await place.open("a")
    await create(storage, ONE)
    await storage.commit([texts(ONE, 1, "1")])
    group = [note(ONE, 2, b"N")]
    await seem_to_fail(storage, group, monkeypatch)
    await storage.commit(group)
    again = [note(ONE, 2, b"N")]

    class Full:
        """Takes no row."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def execute(self, statement: str, *parameters: object) -> object:
            if "INSERT INTO journal" in statement:
                raise sqlite3.OperationalError("database or disk is full")
            return self._connection.execute(statement, *parameters)  # type: ignore[arg-type]

    with pytest.raises(StoreUnavailable):
        await storage.write(lambda connection: storage._writer.commit(Full(connection), again))  # type: ignore[arg-type]
    assert await storage.commit(again) == {}
    assert await storage.notes(ONE) == b"NN"


async def test_a_note_of_an_owner_that_was_taken_for_dead_is_there_once(place: Place) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b", ahead=2 * LEASE)
    await create(storage, ONE)
    await storage.commit([note(ONE, 1, b"N1 ")])
    await have_cleared_up(elsewhere)
    await storage.commit([texts(ONE, 1, "1", note=b"N2 ")])
    await storage.close()
    assert await elsewhere.notes(ONE) == b"N1 N2 "
    assert await blocks_in(elsewhere) == [b"<1>"]


async def test_what_was_released_stays(place: Place) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE, OTHER)
    await storage.commit([texts(ONE, 1, "1", note=b"N")])
    await storage.commit([texts(ONE, 2, "2")])
    await storage.release(ONE, Epoch(1))
    await write_much(storage, OTHER)
    assert await blocks_in(elsewhere) == [b"<1>", b"<2>"]
    assert await elsewhere.notes(ONE) == b"N"


async def test_a_release_of_before_releases_nothing(place: Place) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE, OTHER)
    assert await storage.claim(ONE, only_lapsed=False) == (2, 0)
    await storage.commit([texts(ONE, 1, "1", epoch=2)])
    await storage.release(ONE, Epoch(1))
    await write_much(storage, OTHER)
    assert await blocks_in(elsewhere) == [b"<1>"]


async def test_after_a_failure_no_row_goes_before_it_is_gathered(place: Place) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    streams = [StreamId(f"s{number:02}") for number in range(sqlite_gather.GATHERED_AT_ONCE + 8)]
    await create(storage, *streams)
    last = streams[-1]  # made last, and first in the journal
    await storage.commit([texts(last, 1, "1")])
    await write_much(storage, streams[0], 700)
    await storage.commit([texts(last, 2, "2")])
    await storage.commit([texts(stream, 1, "1") for stream in streams[1:-1]])
    await fail(storage)

    def gather_some(connection: sqlite3.Connection) -> Sequence[Block]:
        storage._writer.gather(connection)
        return read_behind(connection, last, Offset(0)).blocks

    assert list(await storage.write(gather_some)) == [b"<1>", b"<2>"]
    await have_cleared_up(storage)
    assert await blocks_in(elsewhere, last) == [b"<1>", b"<2>"]


async def test_rows_of_those_who_have_closed_are_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_gather, "KEPT_ROWS", 4)
    for number in range(3):
        storage = await place.open(f"owner {number}")
        stream = StreamId(f"s{number}")
        await create(storage, stream)
        for offset in range(1, 20):
            await storage.commit([texts(stream, offset, "x")])
        await storage.commit([append_of(stream, 1, 20, [Block(b"end")], ends=True)])
        await storage.close()
    last = await place.open("last")
    await have_cleared_up(last)
    rows = await last.write(lambda connection: connection.execute("SELECT count(*) FROM journal").fetchone()[0])
    assert rows <= 5
    for number in range(3):
        assert len(await blocks_in(last, StreamId(f"s{number}"))) == 20


async def test_an_owner_hears_of_its_loss_though_its_writer_has_failed(place: Place) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE)
    await fail(storage)
    await elsewhere.claim(ONE, only_lapsed=False)
    assert await storage.renew() == [ONE]
    assert await storage.renew() == []


async def test_an_owner_hears_of_its_loss_though_its_gatherer_has_found_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_gather, "SEGMENT_BLOCKS", 2)
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE)
    gather: list[Callable[[], None]] = []
    monkeypatch.setattr(storage._writer._gatherer, "_on_due", lambda: gather.append(lambda: None))
    await storage.commit([texts(ONE, 1, "1", "2")])
    assert gather
    await elsewhere.claim(ONE, only_lapsed=False)
    await storage.write(storage._writer.gather)
    assert await storage.renew() == [ONE]


async def test_what_was_claimed_again_is_not_told_as_lost(place: Place) -> None:
    storage, elsewhere = await place.open("a"), await place.open("b")
    await create(storage, ONE)
    await fail(storage)
    await elsewhere.claim(ONE, only_lapsed=False)
    assert await storage.claim(ONE, only_lapsed=False) == (3, 0)
    assert await storage.renew() == []
    assert await storage.commit([texts(ONE, 1, "1", epoch=3)]) == {}


async def test_what_a_claim_has_made_ours_that_seemed_to_fail_is_not_told_as_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await place.open("a")
    await create(storage, ONE)
    await fail(storage)

    def lose(stream: StreamId) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(storage._writer, "_forget_ours", lose)
        with pytest.raises(StoreUnavailable):
            await storage.claim(ONE, only_lapsed=False)
    assert await storage.renew() == []
    assert await storage.commit([texts(ONE, 1, "1", epoch=2)]) == {}


async def test_a_journal_that_makes_no_sense_ends_no_thread(place: Place) -> None:
    """Whoever reads it is told; whoever clears up behind the dead leaves it, and goes on."""
    storage, elsewhere = await place.open("a"), await place.open("b", ahead=2 * LEASE)
    await create(storage, ONE)
    await storage.commit([texts(ONE, 1, "1")])
    await storage.commit([texts(ONE, 2, "2")])
    await storage.write(lambda connection: connection.execute("DELETE FROM journal WHERE id = 1"))
    for read in (elsewhere.read(ONE, Offset(0)), elsewhere.live(), elsewhere.claim(ONE, only_lapsed=False)):
        with pytest.raises(StoreUnavailable, match="malformed"):
            await read  # type: ignore[misc]
    await have_cleared_up(elsewhere)
    await create(elsewhere, OTHER)
    assert await elsewhere.commit([texts(OTHER, 1, "1")]) == {}
    await elsewhere.forget(ONE)


async def test_work_that_raises_ends_no_thread(place: Place) -> None:
    storage = await place.open("a")
    assert storage._write_thread is not None

    def work(connection: sqlite3.Connection) -> None:
        raise AssertionError("a bug")

    storage._write_thread.do_later(work)
    await create(storage, ONE)


async def test_nobody_waits_for_what_is_let_go_before_it_is_committed(tmp_path: Path) -> None:
    log = DurableStreamLog(SqliteStorage(tmp_path / "streams.db"))
    await log.start()
    epoch = await log.create(ONE, keep=True)

    async def write() -> None:
        log.append(ONE, epoch, [Block(b"1")])
        await log.committed(ONE, epoch)

    async def let_go() -> None:
        log.let_go(ONE, epoch)

    async with asyncio.timeout(30):
        await asyncio.gather(write(), let_go())
    with pytest.raises(LogError):
        log.append(ONE, epoch, [Block(b"2")])
    await log.close()
