"""Durable streams while as much waits to be committed as may: what is to end ends, what is lost is told (D5, D13)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unbroken.chat.stream import Block, Epoch, StreamId, StreamRecord
from unbroken.gateway.stores import Stores
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import MemoryResponseStore
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.storage import Append
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    ScriptedUpstream,
    Stall,
    before_head,
    cut_after,
    hold_after,
    overloaded,
    text,
)
from unbroken.wire.sse import SseReader

from .conftest import Serve, Served, upstream_settings

pytestmark = pytest.mark.anyio

DURABLE = {"unbroken-durable": "true"}
EVENTS = {"accept": "text/event-stream"}
WORDS = "one two three four five six"
LEASE = 0.5
MAX_PENDING_BYTES = 80_000
FILLER = StreamId("filler")


class Disk(SqliteStorage):
    """A file on a disk that commits when the test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lease=LEASE)
        self.at_commit: Gate | None = None
        #: While it is set, commits fail with it.
        self.broken: StoreUnavailable | None = None

    async def commit(self, appends: Sequence[Append]) -> Any:
        if self.at_commit is not None:
            await self.at_commit.wait()
        if self.broken is not None:
            raise self.broken
        return await super().commit(appends)


class Stage:
    """A gateway with a disk that can be filled to the brim."""

    def __init__(self, gateway: Served, disk: Disk, log: DurableStreamLog) -> None:
        self.gateway, self.disk, self.log = gateway, disk, log

    async def fill(self) -> None:
        """Has as much wait to be committed as may: nothing more is taken until the disk goes on."""
        epoch = await self.log.open(StreamRecord(id=FILLER, orphan_grace=1000.0))
        assert epoch == Epoch(1)
        await self.log.settle()
        self.disk.at_commit = Gate()
        self.log.append(FILLER, Epoch(1), [Block(b"x" * MAX_PENDING_BYTES)])
        await self.disk.at_commit.wait_until_reached()

    def go_on(self) -> None:
        """Lets the disk commit what waits."""
        if self.disk.at_commit is not None:
            self.disk.at_commit.open()

    async def turns(self, count: int = 50) -> None:
        """Lets all who have something to do try it."""
        for _ in range(count):
            await self.gateway.turn()

    async def status_of(self, stream: str) -> dict[str, Any]:
        status: dict[str, Any] = (await self.gateway.client.get(f"/streams/{stream}")).json()
        return status

    async def events_of(self, stream: str) -> list[dict[str, Any]]:
        """The data of a stream's blocks, from a new reader."""
        response = await self.gateway.client.get(f"/streams/{stream}", headers=EVENTS)
        return [msgspec.json.decode(event.data) for event in SseReader().feed(response.content)]

    @asynccontextmanager
    async def cancelling(self, stream: str) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
        """A cancel that is asked for; its result is what is answered."""
        async with asyncio.timeout(15):
            cancelling = asyncio.create_task(self._cancel(stream))
            try:
                yield cancelling
            finally:  # one that never ends would hold up the end of the test
                self.gateway.gateway.durable.readers.cut(StreamId(stream))
                cancelling.cancel()

    async def _cancel(self, stream: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.gateway.client.delete(f"/streams/{stream}")).json()
        return answer

    def outcomes(self) -> list[str]:
        """How the answers have ended of which the log has a line."""
        return [line["outcome"] for line in self.gateway.log_lines() if "outcome" in line]

    def lost(self) -> list[tuple[str, str]]:
        """Which streams the log says are lost, and why."""
        lines = self.gateway.log_lines()
        return [(line["stream"], line["message"]) for line in lines if line["event"] == "lost"]


async def until(gateway: Served, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await gateway.turn()


Staged = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def staged(serve: Serve, upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Staged]:
    """Serves a gateway in front of an upstream that gives these answers."""
    stages: list[Stage] = []

    async def start(*answers: Answer, continuation: str = "match", **bounds: Any) -> Stage:
        upstream.script(*answers)
        disk = Disk(tmp_path / "s.db")
        log = DurableStreamLog(disk, lease=LEASE, max_pending_bytes=MAX_PENDING_BYTES, **bounds)
        settings = upstream_settings("up0", upstream, continuation=continuation)
        stores = Stores(log, MemoryResponseStore())
        gateway = await serve(
            settings, stores=stores, store={"lease": LEASE}, retries={"backoff_first": 60.0, "backoff_most": 60.0}
        )
        stages.append(Stage(gateway, disk, log))
        return stages[-1]

    yield start
    for stage in stages:  # one that could not be closed would hold up the end of a test that has failed
        stage.go_on()


# what is to end


async def test_answer_that_is_cancelled_while_nothing_is_taken_ends_as_cancelled(
    staged: Staged, upstream: ScriptedUpstream
) -> None:
    """D5: its end waits for room, and nobody goes on with it meanwhile."""
    stage = await staged(text(WORDS) | hold_after(3, Gate()), text(WORDS))
    async with stage.gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
        await stage.fill()
        async with stage.cancelling(stream) as cancelling:
            await upstream.wait_until_left()
            await stage.turns()
            assert not cancelling.done()
            stage.go_on()
            assert (await cancelling)["state"] == "cancelled"
            answer = await reading.read_to_end()
    assert answer.text == "one two"
    assert answer.error is not None
    assert answer.error["code"] == "cancelled"
    assert (await stage.events_of(stream))[-1]["error"]["code"] == "cancelled"
    assert len(upstream.requests) == 1, "nobody has asked for the answer again"
    await stage.gateway.wait_until_idle()
    assert stage.outcomes() == ["cancelled"]


@pytest.mark.parametrize("answer", [text(WORDS) | before_head(Stall()), overloaded()])
async def test_answer_that_is_cancelled_before_it_began_is_not_begun(
    staged: Staged, upstream: ScriptedUpstream, answer: Answer
) -> None:
    """D5: while its upstream is silent, or is to be asked again in a while."""
    stage = await staged(answer, text(WORDS))
    asking = asyncio.create_task(stage.gateway.stream(headers=DURABLE))
    await until(stage.gateway, lambda: bool(upstream.requests) and bool(stage.gateway.gateway.durable.readers.streams))
    (stream,) = stage.gateway.gateway.durable.readers.streams
    await stage.turns()
    await stage.fill()
    async with stage.cancelling(stream) as cancelling:
        await stage.turns()
        assert not cancelling.done()
        stage.go_on()
        assert (await cancelling)["state"] == "cancelled"
        assert (await asking).error is not None
    assert len(upstream.requests) == 1


async def test_answer_that_is_cancelled_elsewhere_while_nothing_is_taken_there_ends_as_cancelled(
    staged: Staged, serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """D5, D12: who has claimed a stream to end it does not leave it to those who would go on with it."""
    stage = await staged(text(WORDS) | hold_after(3, Gate()), text(WORDS))
    stores = Stores(DurableStreamLog(SqliteStorage(tmp_path / "s.db", lease=LEASE), lease=LEASE), MemoryResponseStore())
    first = await serve(upstream_settings("up0", upstream, continuation="match"), stores=stores)
    async with first.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
        await stage.fill()
        async with stage.cancelling(stream) as cancelling:
            await upstream.wait_until_left()
            await stage.turns()
            assert not cancelling.done()
            stage.go_on()
            assert (await cancelling)["state"] == "cancelled"
            answer = await reading.read_to_end()
    assert answer.error is not None
    assert answer.error["code"] == "cancelled"
    assert len(upstream.requests) == 1


async def test_answer_whose_end_is_too_long_and_has_no_room_ends_all_the_same(
    staged: Staged, upstream: ScriptedUpstream
) -> None:
    """L1: the terminal event of Responses repeats the answer; what is written in its place has to wait as well."""
    pieces = ["x" * 10_500] * 7
    answer = text(pieces) | hold_after(8, Gate())
    stage = await staged(answer, text(pieces), max_stream_bytes=MAX_PENDING_BYTES)
    body = {"model": "m", "input": "hello", "background": True}
    stream = (await stage.gateway.client.post("/responses", json=body)).json()["id"]
    async with asyncio.timeout(10):
        while (await stage.status_of(stream))["offset"] < 11:
            await stage.gateway.turn()
    await stage.fill()
    async with stage.cancelling(stream) as cancelling:
        await upstream.wait_until_left()
        await stage.turns()
        assert not cancelling.done()
        stage.go_on()
        assert (await cancelling)["state"] == "cancelled"
    last = (await stage.events_of(stream))[-1]
    assert (last["type"], last["code"]) == ("error", "cancelled")
    assert len(upstream.requests) == 1


async def test_answer_that_fails_while_nothing_is_taken_ends_as_failed(
    staged: Staged, upstream: ScriptedUpstream
) -> None:
    """L1: with its own error, once there is room; nobody makes another answer of it."""
    gate = Gate()
    cut = text(WORDS) | cut_after(3) | hold_after(3, gate)
    stage = await staged(cut, continuation="none")
    async with stage.gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
        await stage.fill()
        gate.open()
        await upstream.wait_until_idle()
        await stage.turns()
        assert stage.gateway.gateway.running, "it is not over before its end is written"
        stage.go_on()
        async with asyncio.timeout(15):
            answer = await reading.read_to_end()
    assert answer.text == "one two"
    assert answer.error is not None
    assert answer.error["code"] == "cut"
    assert (await stage.status_of(stream))["state"] == "failed"
    await stage.gateway.wait_until_idle()
    assert stage.outcomes() == ["cut"]


async def test_who_cancels_hears_that_the_store_has_failed(staged: Staged, upstream: ScriptedUpstream) -> None:
    """D13: a cancel that could not be kept was none, and may be asked for again."""
    stage = await staged(text(WORDS) | hold_after(3, Gate()), text(WORDS), patience=0.0)
    async with stage.gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
    await stage.fill()
    async with stage.cancelling(stream) as cancelling:
        await upstream.wait_until_left()
        stage.disk.broken = StoreUnavailable("the disk is full")
        stage.go_on()
        assert (await cancelling)["error"]["code"] == "store_unavailable"
    await stage.gateway.wait_until_idle()
    assert stream in [lost for lost, _ in stage.lost()]
    stage.disk.broken = None
    async with stage.cancelling(stream) as cancelling:
        assert (await cancelling)["state"] == "cancelled"
    assert len(upstream.requests) == 1


# what is lost


async def test_answer_that_is_lost_because_nothing_is_taken_is_told_in_the_log(
    staged: Staged, upstream: ScriptedUpstream
) -> None:
    """D13: the operator reads which stream it was, and why; once."""
    gate = Gate()
    stage = await staged(text(WORDS) | hold_after(3, gate), text(WORDS))
    async with stage.gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
        await stage.fill()
        gate.open()
        await until(stage.gateway, lambda: bool(stage.lost()))
        ((lost, why),) = stage.lost()
        assert lost == stream
        assert f"the bound is {MAX_PENDING_BYTES}" in why
        stage.go_on()
        async with asyncio.timeout(15):
            assert (await reading.read_to_end()).text == WORDS
    assert len(stage.lost()) == 1
