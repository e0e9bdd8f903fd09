"""Owners in processes of their own that die or hang: their streams go on elsewhere, whole (D12, L5)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from unbroken.chat.stream import Block, Epoch, Offset, StreamId
from unbroken.store.durable import DurableStreamLog
from unbroken.store.sqlite import SqliteStorage

pytestmark = pytest.mark.anyio

STREAM = StreamId("chatcmpl-1")
LEASE = 0.5


class Owner:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []  # all blocks that its own follower was called with

    async def hear(self, many: int) -> None:
        """Reads until it has delivered so many blocks."""
        while len(self.said) < many:
            assert await self._hear_line(), "it has ended"

    async def hear_all(self) -> str:
        """Reads to its end; gives its last words."""
        last = ""
        while line := await self._hear_line():
            last = line
        return last

    async def _hear_line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        if line.startswith("has "):
            self.said += line.split()[1:]
        return line


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    script = Path(__file__).with_name("owner_process.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, script, tmp_path / "streams.db", STREAM, str(LEASE)), stdout=asyncio.subprocess.PIPE
    )
    yield Owner(process)
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[DurableStreamLog]:
    log = DurableStreamLog(SqliteStorage(tmp_path / "streams.db", lease=LEASE), lease=LEASE)
    await log.start()
    yield log
    await log.close()


class Reader:
    """A follower that checks that it hears every block once and in order."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.has_ended = asyncio.Event()

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert first == len(self.got) + 1
        self.got += b"".join(blocks).decode().split()
        if ends:
            self.has_ended.set()


async def taken_over(log: DurableStreamLog) -> Epoch:
    """Asks until the lease has lapsed."""
    while (epoch := await log.take_over(STREAM)) is None:
        await asyncio.sleep(0.01)
    return epoch


async def test_a_stream_whose_owner_is_killed_goes_on_behind_all_that_anybody_was_given(
    owner: Owner, log: DurableStreamLog
) -> None:
    async with asyncio.timeout(60):
        await owner.hear(400)
        reader = Reader()
        await log.follow(STREAM, Offset(0), reader)
        assert await log.take_over(STREAM) is None
        owner.process.kill()
        await owner.hear_all()
        epoch = await taken_over(log)
        log.append(STREAM, epoch, [Block(b"on ")])
        log.append(STREAM, epoch, [Block(b"end")], ends=True)
        await reader.has_ended.wait()
    *counted, on, end = reader.got
    assert (on, end) == ("on", "end")
    assert counted == [str(number) for number in range(1, len(counted) + 1)]
    assert owner.said == counted[: len(owner.said)]  # L2: what its reader had is there


async def test_an_owner_that_was_stopped_for_longer_than_its_lease_cannot_append(
    owner: Owner, log: DurableStreamLog
) -> None:
    import signal

    async with asyncio.timeout(60):
        await owner.hear(50)
        reader = Reader()
        await log.follow(STREAM, Offset(0), reader)
        owner.process.send_signal(signal.SIGSTOP)
        epoch = await taken_over(log)
        log.append(STREAM, epoch, [Block(b"on ")])
        await log.settle()
        owner.process.send_signal(signal.SIGCONT)
        assert await owner.hear_all() == "lost StaleEpoch\n"
        log.append(STREAM, epoch, [Block(b"end")], ends=True)
        await reader.has_ended.wait()
    assert reader.got[-2:] == ["on", "end"]
    assert reader.got[:-2] == [str(number) for number in range(1, len(reader.got) - 1)]
    assert owner.said[: len(reader.got) - 2] == reader.got[:-2][: len(owner.said)]
