"""A run that goes on says only its texts in the journal: whoever reads from wherever knows what stands around them."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from unbroken.chat.stream import Block, Epoch, Offset, StreamId
from unbroken.store import sqlite_follow, sqlite_gather
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import TextWriter
from unbroken.store.sqlite import SqliteStorage

pytestmark = pytest.mark.anyio

STREAM = StreamId("chatcmpl-1")
LEASE = 60.0
BEFORE, AFTER = b"data: " + b"-" * 200, b"\n\n"


class Reader:
    """What a follower was given."""

    def __init__(self, after: int = 0) -> None:
        self.at = after
        self.got: list[bytes] = []

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert first == self.at + 1
        self.at += len(blocks)
        self.got += blocks

    async def wait_for(self, blocks: Sequence[bytes]) -> None:
        async with asyncio.timeout(30):
            while self.at < len(blocks):
                await asyncio.sleep(0.001)
        assert self.got == list(blocks[len(blocks) - len(self.got) :])


class Place:
    """A file, several processes' logs over it, and the time of its leases."""

    def __init__(self, path: Path, surroundings: AsyncExitStack) -> None:
        self.path = path
        self.now = 1000.0
        self.storages: dict[DurableStreamLog, SqliteStorage] = {}
        self._surroundings = surroundings

    async def open(self) -> DurableStreamLog:
        storage = SqliteStorage(self.path, lease=LEASE, now=lambda: self.now)
        log = DurableStreamLog(storage, lease=3600.0)
        await log.start()
        self.storages[log] = storage
        self._surroundings.push_async_callback(log.close)
        return log

    def journal(self) -> list[bytes]:
        """The bodies of its rows, oldest first."""
        with closing(sqlite3.connect(self.path)) as connection:
            return [body for (body,) in connection.execute("SELECT body FROM journal ORDER BY id")]

    async def stored(self) -> list[bytes]:
        """All blocks, as another process reads them."""
        return [entry.block for entry in await (await self.open()).read(STREAM, Offset(0))]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as surroundings:
        yield Place(tmp_path / "streams.db", surroundings)


class Writer:
    """Writes the stream: each piece is a commit."""

    def __init__(self, log: DurableStreamLog, epoch: Epoch, said: list[bytes] | None = None) -> None:
        self.log, self.epoch = log, epoch
        self.said = said or []
        self._writers: dict[tuple[bytes, bytes], TextWriter] = {}

    async def text(self, before: bytes = BEFORE, after: bytes = AFTER) -> None:
        writer = self._writers.get((before, after)) or self.log.text_writer(STREAM, self.epoch, before, after)
        assert writer is not None
        self._writers[before, after] = writer
        text = b'"%d"' % len(self.said)
        assert writer.add([text])
        self.said.append(before + text + after)
        await self.log.settle()

    async def block(self) -> None:
        self.said.append(b"a block of its own")
        self.log.append(STREAM, self.epoch, [Block(self.said[-1])])
        await self.log.settle()


async def writer_in(place: Place) -> Writer:
    log = await place.open()
    return Writer(log, await log.create(STREAM, keep=True))


async def test_what_stands_around_the_texts_is_said_once(place: Place) -> None:
    writer = await writer_in(place)
    for _ in range(5):
        await writer.text()
    await writer.text(b"event: other\n")
    await writer.block()
    await writer.text(b"event: other\n")
    assert [BEFORE in body for body in place.journal()] == [True] + [False] * 7
    assert [b"event" in body for body in place.journal()] == [False] * 5 + [True, False, True]
    assert await place.stored() == writer.said


async def test_it_is_said_again_behind_what_was_gathered(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_gather, "SEGMENT_BLOCKS", 4)
    writer = await writer_in(place)
    for _ in range(10):
        await writer.text()
        assert await place.stored() == writer.said
    assert 1 < len([body for body in place.journal() if BEFORE in body]) < 10


async def test_who_takes_the_stream_up_says_it_again(place: Place) -> None:
    writer = await writer_in(place)
    await writer.text()
    await writer.text()
    other = await place.open()
    heir = Writer(other, await other.claim(STREAM), writer.said)
    await heir.text()
    await heir.text()
    assert [BEFORE in body for body in place.journal()] == [True, False, True, False]
    assert await place.stored() == heir.said


async def test_an_owner_that_was_taken_for_dead_says_it_again(place: Place) -> None:
    writer = await writer_in(place)
    await writer.text()
    await writer.text()
    place.now += 2 * LEASE
    tidying = SqliteStorage(place.path, lease=LEASE, now=lambda: place.now)
    log = DurableStreamLog(tidying, lease=3600.0)
    await log.start()
    await tidying.renew()
    await tidying.write(lambda connection: None)  # by then it has gathered what the dead had in the journal
    await writer.text()
    await writer.text()
    assert await place.stored() == writer.said
    await log.close()


async def test_a_writer_that_has_failed_goes_on_with_what_the_file_says(place: Place) -> None:
    writer = await writer_in(place)
    await writer.text()
    storage = place.storages[writer.log]

    def fail(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(Exception, match="disk I/O error"):
        await storage.write(fail)
    await writer.text()
    await writer.text()
    assert await place.stored() == writer.said


async def test_a_reader_elsewhere_may_begin_in_the_middle_of_a_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = sqlite_follow.blocks_behind

    def counted(*given: object) -> object:
        looks.append(1)
        return look(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_follow, "blocks_behind", counted)
    writer = await writer_in(place)
    for _ in range(4):
        await writer.text()
    first = await followed(place.storages[await place.open()], 2, writer)
    for _ in range(4):
        await writer.text()
        await first.wait_for(writer.said)
    second = await followed(place.storages[await place.open()], 5, writer)
    steps: list[Callable[[], object]] = [writer.text, writer.block, lambda: writer.text(b"event: other\n")]
    for step in [*steps, *steps[2:], *steps, steps[0], steps[0]]:
        await step()  # type: ignore[misc]
        await first.wait_for(writer.said)
        await second.wait_for(writer.said)
    assert len(looks) == 2  # the journal's news were enough after that


async def followed(storage: SqliteStorage, after: int, writer: Writer) -> Reader:
    """A follower that has had all there is; what it follows from on is in the cache of its own process."""
    reader = Reader(after)

    def on_news(stream: StreamId, part: object) -> None:
        reader(part.first, part.blocks, part.has_ended)  # type: ignore[attr-defined]

    await storage.follow(STREAM, Offset(after), on_news)
    await reader.wait_for(writer.said)
    return reader
