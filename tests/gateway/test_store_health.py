"""The log of a store that fails: a line when it goes and one when it is back, whatever fails how often (D13)."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from unbroken.chat.stream import StreamId, StreamRecord, StreamStatus
from unbroken.gateway.stores import Stores
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import MemoryResponseStore
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.storage import Append
from unbroken.upstream.scripted import Gate, ScriptedUpstream, hold_after, text

from .conftest import Serve, Served

pytestmark = pytest.mark.anyio

DURABLE = {"unbroken-durable": "true"}
LEASE = 0.9
WELL = "the store of streams is well again"
FULL = "store streams.db: database or disk is full: make room"


class Disk(SqliteStorage):
    """A file on a disk that is full when the test says so: what is written fails, and the small lease still fits."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lease=LEASE)
        self.is_full = self.is_gone = False
        self.failures = self.renewals = 0

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        self._fail_if(self.is_full)
        return await super().create(record)

    async def commit(self, appends: Sequence[Append]) -> Any:
        self._fail_if(self.is_full)
        return await super().commit(appends)

    async def renew(self) -> Sequence[StreamId]:
        self._fail_if(self.is_gone)
        self.renewals += 1
        return await super().renew()

    async def lapsed(self) -> list[StreamStatus]:
        self._fail_if(self.is_gone)
        return await super().lapsed()

    def _fail_if(self, is_so: bool) -> None:
        if is_so or self.is_gone:
            self.failures += 1
            raise StoreUnavailable(FULL)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "streams.db")


@pytest.fixture
async def gateway(serve: Serve, upstream: ScriptedUpstream, disk: Disk) -> Served:
    stores = Stores(DurableStreamLog(disk, lease=LEASE, patience=0.2), MemoryResponseStore())
    served: Served = await serve(upstream, stores=stores, store={"lease": LEASE})
    return served


async def until(gateway: Served, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await gateway.turn()


def said_of_store(gateway: Served) -> list[str]:
    return [line["message"] for line in gateway.log_lines() if line["event"] == "store"]


async def test_disk_that_is_full_is_told_once_and_once_when_it_is_well_again(gateway: Served, disk: Disk) -> None:
    disk.is_full = True
    answers = await asyncio.gather(*(gateway.ask(headers=DURABLE) for _ in range(3)))
    assert [answer.json()["error"]["code"] for answer in answers] == ["store_unavailable"] * 3
    assert said_of_store(gateway) == [FULL]
    disk.is_full = False
    await until(gateway, lambda: len(said_of_store(gateway)) > 1)
    assert said_of_store(gateway) == [FULL, WELL]


async def test_commit_that_fails_is_told_before_anybody_asks_for_more(
    gateway: Served, disk: Disk, upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.script(text("one two three four") | hold_after(3, gate))
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        disk.is_full = True
        gate.open()
        await until(gateway, lambda: bool(said_of_store(gateway)))
    assert said_of_store(gateway) == [FULL]


async def test_store_that_is_gone_for_a_while_is_told_once(gateway: Served, disk: Disk) -> None:
    """Whoever finds it gone: the lease, the looks for lapsed streams, or a client."""
    disk.is_gone = True
    await gateway.ask(headers=DURABLE)
    await until(gateway, lambda: disk.failures > 6)
    disk.is_gone = False
    await until(gateway, lambda: len(said_of_store(gateway)) > 1)
    seen = disk.renewals
    await until(gateway, lambda: disk.renewals > seen + 2)
    assert said_of_store(gateway) == [FULL, WELL]


async def test_refusal_for_want_of_room_is_no_failure_of_the_store(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The bound is ours; the line of the request says `store_full`."""
    storage = SqliteStorage(tmp_path / "streams.db", max_live_bytes=1)
    gateway = await serve(upstream, stores=Stores(DurableStreamLog(storage), MemoryResponseStore()))
    assert (await gateway.ask(headers=DURABLE)).json()["error"]["code"] == "store_full"
    assert not said_of_store(gateway)
    assert [line["code"] for line in gateway.log_lines() if line["event"] == "refused"] == ["store_full"]
