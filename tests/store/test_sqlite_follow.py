"""What other processes write to a SQLite file is seen at the first look behind its commit, and looks are close."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.appends import append_of
from unbroken.chat.stream import Block, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.durable_group import APART, MOST_FOR_APPENDS
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_database import DatabaseThread
from unbroken.store.sqlite_follow import POLL_SECONDS, Poller
from unbroken.store.storage import Stored

pytestmark = pytest.mark.anyio

STREAM = StreamId("chatcmpl-1")
PROMISED_SECONDS = 0.05  # from a commit of another process to the follower


class Pauses:
    """Pauses between looks that end when the test says so."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun, self._over = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._begun.release()
        await self._over.acquire()

    async def wait_for_one(self) -> None:
        """Returns when the next pause begins: the look before it is over."""
        async with asyncio.timeout(15):
            await self._begun.acquire()

    def end_one(self) -> None:
        self._over.release()


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    """The other process."""
    storage = SqliteStorage(tmp_path / "streams.db")
    await storage.start(OwnerId("elsewhere"))
    await storage.create(StreamRecord(id=STREAM))
    yield storage
    await storage.close()


async def test_a_block_of_another_process_is_seen_at_the_first_look(elsewhere: SqliteStorage) -> None:
    """D3: on any worker, and what a look costs is all that may be added to the pause."""
    thread = DatabaseThread(elsewhere.path, name="reader")
    thread.start()
    pauses, told = Pauses(), list[bytes]()
    poller = Poller(thread.do, pause=pauses)

    def on_news(stream: StreamId, stored: Stored) -> None:
        told.extend(stored.blocks)

    stop = await poller.follow(STREAM, Offset(0), on_news)
    await pauses.wait_for_one()
    for number in range(1, 6):
        await elsewhere.commit([append_of(STREAM, 1, number, [Block(b"%d" % number)])])
        pauses.end_one()
        await pauses.wait_for_one()
        assert told == [b"%d" % seen for seen in range(1, number + 1)]
    assert max(pauses.seconds) <= PROMISED_SECONDS / 2
    stop()
    poller.close()
    thread.stop()
    await asyncio.to_thread(thread.join)


def test_a_piece_that_waits_for_its_commit_is_seen_elsewhere_in_time() -> None:
    """The longest wait for company, the longest until a look, and a fifth of what is promised for the work itself."""
    assert APART + MOST_FOR_APPENDS + POLL_SECONDS <= 0.8 * PROMISED_SECONDS + 1e-9
