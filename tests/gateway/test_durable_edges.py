"""Durable streams where things happen at the wrong moment: nobody hangs, nothing is done twice or stays behind."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unbroken.chat.fault import Failure, Fault
from unbroken.chat.stream import StreamId, StreamRecord, StreamStatus
from unbroken.gateway.durable import MAX_OWNERS
from unbroken.gateway.produce import Producer
from unbroken.gateway.production import Asked
from unbroken.gateway.stores import Stores
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import MemoryResponseStore
from unbroken.store.sqlite import SqliteStorage
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    Hold,
    ScriptedUpstream,
    before_head,
    cut_after,
    hold_after,
    overloaded,
    refusal,
    text,
    tool_call,
)
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.sse import SseReader

from .conftest import Dial, Serve, Served, upstream_settings

pytestmark = pytest.mark.anyio

DURABLE = {"unbroken-durable": "true"}
EVENTS = {"accept": "text/event-stream"}
WORDS = "one two three four five six"
LEASE = 0.5


class Disk(SqliteStorage):
    """A file on a disk that is slow, or fails, when the test says so."""

    def __init__(self, path: Path | str = ":memory:", **options: Any) -> None:
        super().__init__(path, lease=LEASE, **options)
        #: What each reading of a status waits for, or fails with.
        self.at_status: Callable[[], None] = lambda: None
        #: What an answer that finds its claim taken waits for.
        self.at_claim_taken: Gate | None = None
        self.at_create: Gate | None = None

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        if self.at_create is not None:
            await self.at_create.wait()
        taken = await super().create(record)
        if taken is not None and self.at_claim_taken is not None:
            await self.at_claim_taken.wait()
        return taken

    async def status(self, stream: StreamId) -> StreamStatus:
        self.at_status()
        return await super().status(stream)


def stores_at(disk: Disk, **options: Any) -> Stores:
    return Stores(DurableStreamLog(disk, lease=LEASE, **options), MemoryResponseStore())


def blocks_of(raw: bytes) -> list[bytes]:
    return [event.data for event in SseReader().feed(raw)]


async def until(gateway: Served, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await gateway.turn()


async def status_of(gateway: Served, stream: str) -> dict[str, Any]:
    status: dict[str, Any] = (await gateway.client.get(f"/streams/{stream}")).json()
    return status


async def wait_for_state(gateway: Served, stream: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (status := await status_of(gateway, stream)).get("state") != state:
            await gateway.turn()
    return status


# who asks for the head only


async def test_head_of_a_stream_has_no_body(serve: Serve, upstream: ScriptedUpstream, dial: Dial) -> None:
    upstream.script(text(WORDS) | hold_after(3, Gate()), text(WORDS) | hold_after(3, Gate()))
    gateway = await serve(upstream)
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        body = {"model": "m", "input": "hello", "background": True}
        response = (await gateway.client.post("/responses", json=body)).json()["id"]
        line = await dial(gateway)
        for path in (
            f"/v1/streams/{reading.answer.headers['unbroken-stream']}",
            f"/v1/responses/{response}?stream=true",
        ):
            line.send(f"HEAD {path} HTTP/1.1\r\nhost: g\r\naccept: text/event-stream\r\n\r\n".encode())
            head = await line.read_response(to="HEAD")
            assert head.status == 200
            assert "text/event-stream" in (head.header("content-type") or "")
            line.get("/healthz")  # the line is fit for what comes next
            assert (await line.read_response()).status == 200


# a process loses a stream, or gets it


async def test_takeover_that_fails_on_the_way_is_tried_again(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """D12: a stream that was claimed and cannot be read is nobody's, and not for ever ours."""
    upstream.script(text(WORDS) | hold_after(3, Gate()), text(WORDS))
    match = upstream_settings("up0", upstream, continuation="match")
    first = await serve(match, stores=stores_at(Disk(tmp_path / "s.db")))
    disk = Disk(tmp_path / "s.db")
    second = await serve(match, stores=stores_at(disk), store={"lease": LEASE})
    async with first.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = StreamId(reading.answer.headers["unbroken-stream"])
        await first.gateway.durable.hand_over()
    await first.gateway.durable.log.close()

    def fail() -> None:
        disk.at_status = lambda: None
        raise StoreUnavailable("a hiccup")

    disk.at_status = fail
    with pytest.raises(StoreUnavailable):
        await second.gateway.durable.take_over(stream)
    events = await second.client.get(f"/streams/{stream}", headers=EVENTS)
    assert blocks_of(events.content)[-1] == b"[DONE]"


async def test_stream_that_is_forgotten_elsewhere_is_no_reader_to_wait_for_ever(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script(text(WORDS) | hold_after(3, Gate()))
    first = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")))
    second = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")), store={"lease": LEASE})
    async with first.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = StreamId(reading.answer.headers["unbroken-stream"])
        coming = asyncio.create_task(second.client.get(f"/streams/{stream}", headers=EVENTS))
        await until(second, lambda: second.gateway.durable.readers.has(stream))
        await first.gateway.durable.log.forget(stream)
        first.gateway.durable.readers.cut(stream)
    async with asyncio.timeout(10):
        (ended,) = await asyncio.gather(coming, return_exceptions=True)
    assert isinstance(ended, Exception)  # the line was cut: there is no more to be had
    await until(second, lambda: not second.gateway.durable.readers.streams)


async def test_reader_hears_of_a_cancel_elsewhere_before_the_first_token(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    gate = Gate()
    upstream.script(text(WORDS) | before_head(Hold(gate)))
    first = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")))
    second = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")), store={"lease": LEASE})
    asking = asyncio.create_task(first.stream(headers=DURABLE))
    await gate.wait_until_reached()
    (stream,) = first.gateway.durable.readers.streams
    cancelled = await second.client.delete(f"/streams/{stream}")
    assert cancelled.json()["state"] == "cancelled"
    answer = await asking
    assert answer.error is not None
    assert answer.error["code"] == "cancelled"
    assert answer.headers["unbroken-stream"] == stream


async def test_cancel_elsewhere_books_what_there_is_once(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script(text(WORDS) | hold_after(4, Gate()))
    first = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")))
    second = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")), store={"lease": LEASE})
    async with first.reading(headers=DURABLE) as reading:
        await reading.read_text("one two three")
        stream = reading.answer.headers["unbroken-stream"]
        status = (await second.client.delete(f"/streams/{stream}")).json()
        await reading.read_to_end()
    assert status["usage"]["output"] == 3
    await first.wait_until_idle()
    await second.wait_until_idle()
    booked = [line for gateway in (first, second) for line in gateway.log_lines() if "outcome" in line]
    assert [line["output_tokens"] for line in booked] == [3]


async def test_work_that_is_ended_before_it_has_begun_asks_nobody(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | before_head(Hold(Gate())))
    gateway = await serve(upstream)
    body = msgspec.json.encode({**gateway.body(), "stream": True})
    asked = Asked(OPENAI_CHAT.read_request(body), StreamId("s"), OPENAI_CHAT, 0, {}, {})
    producer = Producer(asked, gateway.gateway.means)
    work = asyncio.create_task(producer.write_stream())
    producer.stop(Failure(Fault.CANCELLED, "never mind"))
    async with asyncio.timeout(10):
        await work
    assert not upstream.requests


# idempotency keys


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_key_whose_answer_is_forgotten_meanwhile_is_free(
    serve: Serve, upstream: ScriptedUpstream, is_streamed: bool
) -> None:
    """D8: who asks again while the first answer fails gets that failure, or a new answer; never a 404."""
    failing, key = Gate(), {"idempotency-key": "order-1"}
    upstream.script(overloaded() | before_head(Hold(failing)), *[overloaded()] * 3, text(WORDS))
    disk = Disk()
    gateway = await serve(upstream, stores=stores_at(disk))
    disk.at_claim_taken = Gate()
    first = asyncio.create_task(gateway.ask(headers=key, stream=is_streamed))
    await failing.wait_until_reached()
    again = asyncio.create_task(gateway.ask(headers=key, stream=is_streamed))
    await disk.at_claim_taken.wait_until_reached()
    failing.open()
    assert (await first).status_code == 503
    await until(gateway, lambda: not gateway.gateway.running and not gateway.gateway.durable.readers.streams)
    disk.at_claim_taken.open()
    answer = await again
    assert answer.status_code in (200, 503)
    assert b"overloaded" in answer.content, answer.text
    await until(gateway, lambda: not gateway.gateway.durable.readers.streams)
    async with asyncio.timeout(10):
        while (answer := await gateway.ask(headers=key, stream=is_streamed)).headers.get("unbroken-replayed"):
            await gateway.turn()
    assert b"six" in answer.content


async def test_client_that_leaves_while_its_answer_is_accepted_is_no_reader(
    serve: Serve, upstream: ScriptedUpstream, dial: Dial
) -> None:
    """D9: the answer is an orphan from the start, and does not go on until it is whole."""
    upstream.script(text(WORDS) | hold_after(3, Gate()))
    disk = Disk()
    gateway = await serve(upstream, stores=stores_at(disk), store={"orphan_grace": 0.05})
    disk.at_create = Gate()
    line = await dial(gateway)
    line.post({**gateway.body()}, more="unbroken-durable: true\r\n")
    await disk.at_create.wait_until_reached()
    line.reset()
    await until(gateway, lambda: len(gateway.connections) <= 1)
    disk.at_create.open()
    await until(gateway, lambda: gateway.gateway.running == 0 and bool(upstream.requests))
    line_of_it = await gateway.wait_for_line()
    assert line_of_it["outcome"] == "cancelled"


async def test_two_keys_are_none(serve: Serve, upstream: ScriptedUpstream, dial: Dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.post(gateway.body(), more="idempotency-key: one\r\nidempotency-key: two\r\n")
    response = await line.read_response()
    assert response.status == 400
    assert "idempotency-key" in response.error["message"]
    assert not upstream.requests


# how it came about


@pytest.mark.parametrize("answer", [tool_call("f", {"a": 1}), refusal("no"), text(WORDS)])
async def test_whole_durable_answer_is_what_a_plain_one_is(
    serve: Serve, upstream: ScriptedUpstream, answer: Answer
) -> None:
    upstream.script(answer, answer)
    gateway = await serve(upstream)
    plain, durable = (await gateway.ask()).json(), (await gateway.ask(headers=DURABLE)).json()
    for whole in (plain, durable):
        del whole["id"], whole["created"]
    assert durable == plain


async def test_status_of_a_running_answer_tells_how_it_was_continued(serve: Serve, upstream: ScriptedUpstream) -> None:
    """D4; whoever takes it over knows it too."""
    upstream.script(text(WORDS) | cut_after(3), text(WORDS) | hold_after(5, Gate()))
    gateway = await serve(upstream_settings("up0", upstream, continuation="match"))
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two three four")
        status = await status_of(gateway, reading.answer.headers["unbroken-stream"])
    assert status["tier"] == "matched"
    assert [(one["tier"], one["upstream"]) for one in status["continuations"]] == [("matched", "up0")]


# bounds


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
async def test_answer_that_is_too_long_ends(serve: Serve, upstream: ScriptedUpstream, path: str) -> None:
    """L1, L9: the terminal event of Responses repeats the answer, and has to fit all the same."""
    upstream.script(text(["x" * 10_000] * 100))
    gateway = await serve(upstream, stores=stores_at(Disk(), max_stream_bytes=400_000))
    body = {"model": "m", "stream": True, "max_tokens": 1000} | (
        {"input": "hello"} if path == "/responses" else {"messages": [{"role": "user", "content": "hello"}]}
    )
    if path == "/responses":
        del body["max_tokens"]
    async with asyncio.timeout(10):
        response = await gateway.client.post(path, json=body, headers=DURABLE)
    last = msgspec.json.decode(blocks_of(response.content)[-1])
    assert "error" in last
    assert (await status_of(gateway, response.headers["unbroken-stream"]))["state"] == "failed"


async def test_answer_that_the_store_cannot_take_fast_enough_is_gone_on_with(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    """L9, D13: beyond the bound of what waits to be committed the stream is nobody's, and taken over like any other."""
    upstream.script(text(["x" * 10_000] * 100), text(["x" * 10_000] * 100))
    stores = stores_at(Disk(), max_pending_bytes=8_000)
    match = upstream_settings("up0", upstream, continuation="match")
    gateway = await serve(match, stores=stores, store={"lease": LEASE})
    response = await gateway.client.post("/responses", json={"model": "m", "input": "hello", "background": True})
    stream = response.json()["id"]
    await until(gateway, lambda: gateway.gateway.running == 0)
    status = await status_of(gateway, stream)
    assert status["state"] != "running" or not (await gateway.gateway.durable.log.status(StreamId(stream))).is_owned


async def test_long_responses_answer_that_is_cancelled_elsewhere_ends_with_its_next_number(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """O3, D5: also where the answer is longer than what is remembered for a continuation."""
    pieces = ["x" * 10_000] * 150
    upstream.script(text(pieces) | hold_after(140, Gate()))
    first = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")))
    second = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")), store={"lease": LEASE})
    body = {"model": "m", "input": "hello", "background": True}
    stream = (await first.client.post("/responses", json=body)).json()["id"]
    async with asyncio.timeout(10):
        while (await status_of(first, stream))["offset"] < 139:
            await first.turn()
    assert (await second.client.delete(f"/streams/{stream}")).json()["state"] == "cancelled"
    events = blocks_of((await second.client.get(f"/streams/{stream}", headers=EVENTS)).content)
    numbers = [msgspec.json.decode(event)["sequence_number"] for event in events]
    assert numbers == list(range(len(numbers)))
    assert msgspec.json.decode(events[-1])["type"] == "response.failed"


async def test_crowd_does_not_wait_in_turn_for_a_file_that_is_locked(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """D13: who has waited behind one that waited in vain is told at once."""
    gateway = await serve(upstream, stores=stores_at(Disk(tmp_path / "s.db")))
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as greedy:
        greedy.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(15):  # each alone waits for a second
            answers = await asyncio.gather(*(gateway.ask(headers=DURABLE) for _ in range(40)))
        assert {answer.json()["error"]["code"] for answer in answers} == {"store_unavailable"}
        assert str(tmp_path) not in answers[0].text
        greedy.execute("ROLLBACK")
    assert (await gateway.ask(headers=DURABLE)).status_code == 200


# what stays behind


async def test_nothing_stays_in_memory_of_streams_that_are_over(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, store={"orphan_grace": 0.01})
    for n in range(10):
        key = {"idempotency-key": f"k{n}"}
        upstream.script(text(WORDS), *[overloaded()] * 4, text(WORDS) | hold_after(3, Gate()))
        await gateway.stream(headers=DURABLE)
        await gateway.ask(headers=key)  # fails
        async with gateway.reading(headers=DURABLE) as reading:
            await reading.read_text("one two")
            if n % 2:
                await gateway.client.delete(f"/streams/{reading.answer.headers['unbroken-stream']}")
    await gateway.wait_until_idle()
    durable = gateway.gateway.durable
    await until(gateway, lambda: not durable.readers.streams and not durable._tasks)
    kept = (durable._producers, durable._grace, durable._orphan_timers, durable._to_forget, durable._opening)
    assert not any(kept)
    assert isinstance(durable.log, DurableStreamLog)
    assert durable.log.held == 0


async def test_answer_that_outlives_one_owner_after_the_other_is_given_up(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    upstream.always(text(WORDS) | hold_after(3, Gate()))
    gateway = await serve(upstream, store={"lease": 0.5})
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = StreamId(reading.answer.headers["unbroken-stream"])
        log = gateway.gateway.durable.log
        for _ in range(MAX_OWNERS):
            epoch = await log.claim(stream)
        await gateway.wait_until_idle()
        log.let_go(stream, epoch)
        answer = await reading.read_to_end()
    assert answer.error is not None
    assert "processes have ended" in answer.error["message"]
