"""Many at once, and many one after the other: nothing is mixed up, and nothing is left behind."""

import asyncio
import gc
import os
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from unbroken.gateway.attempt import StreamAttempt
from unbroken.gateway.connection import ClientConnection
from unbroken.gateway.follow import StreamFollower
from unbroken.gateway.produce import Producer
from unbroken.upstream.scripted import Gate, Received, ScriptedUpstream, cut_after, hold_after, text
from unbroken.wire.sse import SseReader

pytestmark = pytest.mark.anyio

AT_ONCE = 300
ROUNDS = 5
MANY = 20_000
WARM_UP = 4_000
GROWTH = 6 << 20  # bytes; an object of 300 bytes that each of the 16,000 streams left behind would be seen
LINES = 40


def text_of(body: bytes) -> str:
    """The text of a stream that must have come whole."""
    *chunks, done = [event.data for event in SseReader().feed(body)]
    assert done == b"[DONE]"
    deltas = (choice["delta"] for chunk in chunks for choice in msgspec.json.decode(chunk)["choices"])
    return "".join(delta.get("content", "") for delta in deltas)


def question_of(request: Received) -> str:
    return str(request.json()["messages"][0]["content"])


def answer_to(question: str) -> str:
    """An answer that no other question has, of a length of its own."""
    return " ".join(f"{question}/{word}" for word in range(5 + hash(question) % 40))


async def test_streams_at_the_same_time_are_not_mixed_up(serve, upstream: ScriptedUpstream, dial) -> None:
    gate = Gate()
    upstream.answer_with(lambda request: text(answer_to(question_of(request))) | hold_after(4, gate))
    gateway = await serve(upstream)

    async def read(number: int) -> None:
        line = await dial(gateway)
        line.post(gateway.body(f"q{number}", stream=True), f"x-request-id: id-{number}\r\n")
        response = await line.read_response()
        assert response.header("x-request-id") == f"id-{number}"
        assert text_of(response.body) == answer_to(f"q{number}")
        await line.close()

    readers = [asyncio.create_task(read(number)) for number in range(AT_ONCE)]
    await upstream.wait_for_requests(AT_ONCE, timeout=60)
    assert upstream.open_answers == AT_ONCE  # all of them, at once
    gate.open()
    await asyncio.gather(*readers)
    assert {line["id"] for line in gateway.log_lines()} == {f"id-{number}" for number in range(AT_ONCE)}
    await gateway.wait_until_connections(0)


def alive() -> Counter[str]:
    """How many of what belongs to one stream there are; a timer or a task that was left would keep them."""
    gc.collect()
    kinds = (Producer, StreamAttempt, StreamFollower, ClientConnection)
    return Counter(type(found).__name__ for found in gc.get_objects() if isinstance(found, kinds))


async def test_nothing_is_left_of_streams_however_they_end(serve, upstream: ScriptedUpstream, dial) -> None:
    before = alive()
    gate = Gate()
    big = text(["x" * 20_000] * 100)
    endings = {
        "read": text("one two three"),
        "cut": text("one two three") | cut_after(3),
        "left early": text("one two three") | hold_after(0, Gate()),
        "left late": text("one two three") | hold_after(3, Gate()),
        "slow": big,
        "never reads": text(["x" * 200_000] * 150),  # more than the buffers of two connections hold
        "whole": text("one two three"),
    }
    upstream.answer_with(lambda request: endings[question_of(request)])
    gateway = await serve(upstream, retries={"attempts": 1, "breaker_failures": 1000})
    tasks = len(asyncio.all_tasks())

    async def ask(ending: str) -> None:
        line = await dial(gateway)
        line.post(gateway.body(ending, stream=ending != "whole"))
        if ending == "never reads":
            line.stop_reading()
            await gate.wait()
            line.reset()
        elif ending == "left early":
            await gate.wait()
            line.reset()
        elif ending == "left late":
            await line.read_head()
            line.reset()
        else:
            await line.read_response()
        await line.close()

    asking = [asyncio.create_task(ask(ending)) for ending in list(endings) * ROUNDS]
    await upstream.wait_until_blocked(ROUNDS, timeout=30)
    gate.open()
    await asyncio.gather(*asking)
    await gateway.wait_until_connections(0)
    await upstream.wait_until_idle()
    async with asyncio.timeout(10):
        while gateway.gateway.productions or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.005)
    del asking
    assert alive() == before
    assert len(gateway.gateway.log) == 0
    assert gateway.gateway.metrics.open_streams == 0
    assert all(upstream.open_requests == 0 for upstream in gateway.gateway.upstreams)
    assert len([line for line in gateway.log_lines() if line["event"] == "request"]) == ROUNDS * len(endings)


class Caller(asyncio.Protocol):
    """A client that asks one question after the other on its connection, and checks each answer."""

    def __init__(self, questions: "Questions", port: int) -> None:
        self._questions, self._port = questions, port
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._seen = b""
        self._question = self._questions.next()
        if self._question is None:
            self._transport.close()
            return
        # One in ten leaves in the middle, and some before there is anything.
        self._leaves_after = self._questions.chance.choice([0, 300, 1200]) if self._questions.leaves() else -1
        body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}' % self._question
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))  # type: ignore[attr-defined]
        if self._leaves_after == 0:
            self._transport.abort()  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if 0 < self._leaves_after < len(self._seen):
            self._transport.abort()  # type: ignore[attr-defined]
        elif self._seen.endswith(b"\r\n0\r\n\r\n"):
            assert self._seen.count(b'"content":"' + self._question) >= 1
            assert self._seen.count(b"data: [DONE]") == 1
            self._questions.answered += 1
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


class Questions:
    """So many questions, each another one."""

    def __init__(self, count: int) -> None:
        self._left = range(count).__iter__()
        self.chance = random.Random(1)
        self.answered = self.left = 0

    def next(self) -> bytes | None:
        number = next(self._left, None)
        return None if number is None else b"question-%d-" % number

    def leaves(self) -> bool:
        leaves = self.chance.random() < 0.1
        self.left += leaves
        return leaves


async def ask_all(port: int, count: int) -> None:
    questions = Questions(count)

    async def call() -> None:
        before = -1
        while questions.answered + questions.left > before:  # a caller that left comes back
            before = questions.answered + questions.left
            _, caller = await asyncio.get_running_loop().create_connection(
                lambda: Caller(questions, port), "127.0.0.1", port
            )
            await caller.done

    await asyncio.gather(*(call() for _ in range(LINES)))
    assert questions.answered + questions.left == count
    assert questions.left > count // 20


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.timeout(300)
async def test_memory_is_flat_over_many_streams(start, upstream: ScriptedUpstream) -> None:
    upstream.answer_with(lambda request: text([question_of(request), "and", "more"]) if request.body else None)
    served = await start("serve", "--port", "0", "--log-file", os.devnull, upstream=upstream)
    await served.wait_until_serving()
    port = int(served.base_url.rpartition(":")[2].removesuffix("/v1"))
    pid = served.process.pid
    await ask_all(port, WARM_UP)
    memory = resident_bytes(pid)
    await ask_all(port, MANY - WARM_UP)
    grown = resident_bytes(pid) - memory
    assert grown < GROWTH, f"{grown >> 10} KiB more after {MANY - WARM_UP} streams"
    await upstream.wait_until_idle()
    async with served.client() as client:
        figures = (await client.get(f"http://127.0.0.1:{port}/metrics")).text.splitlines()
    assert "unbroken_open_streams 0.0" in figures
    assert 'unbroken_upstream_open_requests{upstream="up"} 0.0' in figures
