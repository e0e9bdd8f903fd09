"""Whichever process dies, the answer arrives whole: streams are taken over, former owners fenced off (D12)."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from tests.acceptance.processes import children
from tests.store.valkey_server import skip_without_server, valkey_url
from unbroken.upstream.scripted import Gate, ScriptedUpstream, hold_after, text
from unbroken.wire.sse import SseReader

from .conftest import Process, Start

pytestmark = pytest.mark.anyio

WORDS = "The quick brown fox jumps over the lazy dog."
DURABLE = {"unbroken-durable": "true"}
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
SQLITE = "sqlite:///streams.db"


def sharing(store: str) -> str:
    """The configuration of processes on one store: each is a worker to the other."""
    return f'[server]\nport = 0\ndrain = 0.2\n[store]\nstreams = "{store}"\nlease = 0.6\npatience = 0.2\n'


@pytest.fixture(params=["sqlite", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a store that nobody else uses."""
    if request.param == "sqlite":
        yield SQLITE
    else:
        skip_without_server()
        with valkey_url() as url:
            yield url


@pytest.fixture
async def gateways(start: Start, upstream: ScriptedUpstream, store: str) -> tuple[Process, Process]:
    """Two gateways on one store."""
    first = await start("serve", upstream=upstream, more=sharing(store))
    await first.wait_until_serving()
    second = await start("serve", upstream=upstream, more=sharing(store))
    await second.wait_until_serving()
    return first, second


class Reader:
    """A client that comes back to any gateway for what it has not seen."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.stream = ""

    @property
    def text(self) -> str:
        chunks = [msgspec.json.decode(block) for block in self.blocks if block != b"[DONE]"]
        return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices", ()))

    @asynccontextmanager
    async def reading(self, gateway: Process) -> AsyncIterator[AsyncIterator[bytes]]:
        """What comes from the gateway, piece by piece; the line may break."""
        async with gateway.client() as client:
            if self.stream:
                headers = {"accept": "text/event-stream", "last-event-id": str(len(self.blocks))}
                asked = client.stream("GET", f"/streams/{self.stream}", headers=headers)
            else:
                asked = client.stream("POST", "/chat/completions", json=BODY, headers=DURABLE)
            async with asked as response:
                assert response.status_code == 200
                self.stream = response.headers["unbroken-stream"]
                yield self._pieces(response)

    async def _pieces(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        reader = SseReader()
        try:
            async for piece in response.aiter_raw():
                self.blocks += [event.data for event in reader.feed(piece)]
                yield piece
        except httpx2.TransportError:
            return  # the line broke; whole blocks are what counts

    async def read_until(self, gateway: Process, words: str) -> None:
        async with self.reading(gateway) as pieces:
            async for _ in pieces:
                if self.text.startswith(words):
                    return

    async def read_to_end(self, gateway: Process) -> None:
        async with self.reading(gateway) as pieces:
            async for _ in pieces:
                pass


async def status_of(gateway: Process, stream: str) -> dict[str, Any]:
    async with gateway.client() as client:
        status: dict[str, Any] = (await client.get(f"/streams/{stream}")).json()
        return status


async def all_of(gateway: Process, stream: str) -> list[bytes]:
    reader = Reader()
    reader.stream = stream
    await reader.read_to_end(gateway)
    return reader.blocks


@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 9])
async def test_answer_of_a_killed_gateway_is_gone_on_with_by_another(
    gateways: tuple[Process, Process], upstream: ScriptedUpstream, blocks: int
) -> None:
    first, second = gateways
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(blocks, gate), text(WORDS))
    reader = Reader()
    async with reader.reading(first) as pieces:
        reading = asyncio.create_task(anext(pieces, b""))
        await gate.wait_until_reached()
        if blocks > 1:
            await reading
        first.process.kill()
        await asyncio.wait({reading})
        async for _ in pieces:
            pass
    await reader.read_to_end(second)
    assert reader.text == WORDS
    assert reader.blocks[-1] == b"[DONE]"
    assert len(upstream.requests) == 2
    assert await all_of(second, reader.stream) == reader.blocks
    status = await status_of(second, reader.stream)
    assert status["state"] == "finished"
    assert status["tier"] == ("matched" if blocks > 1 else None)


async def test_restarted_gateway_goes_on_with_its_own(start: Start, upstream: ScriptedUpstream) -> None:
    first = await start("serve", upstream=upstream, more=sharing(SQLITE))
    await first.wait_until_serving()
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(4, gate), text(WORDS))
    reader = Reader()
    await reader.read_until(first, "The quick brown")
    first.process.kill()
    await first.wait_until_ended()
    again = await start("serve", upstream=upstream, more=sharing(SQLITE))
    await again.wait_until_serving()
    await reader.read_to_end(again)
    assert reader.text == WORDS


async def test_work_in_the_background_is_finished_without_being_asked_for(
    gateways: tuple[Process, Process], upstream: ScriptedUpstream
) -> None:
    first, second = gateways
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(4, gate), text(WORDS))
    async with first.client() as client:
        body = {"model": "m", "input": "hello", "background": True}
        id = (await client.post("/responses", json=body)).json()["id"]
    await gate.wait_until_reached()
    first.process.kill()
    async with second.client() as client, asyncio.timeout(20):
        while (response := (await client.get(f"/responses/{id}")).json())["status"] != "completed":
            await client.get("/models")
    assert response["output"][0]["content"][0]["text"] == WORDS


async def test_paused_owner_that_wakes_up_cannot_write(
    gateways: tuple[Process, Process], upstream: ScriptedUpstream
) -> None:
    first, second = gateways
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(4, gate), text(WORDS))
    reader = Reader()
    await reader.read_until(first, "The quick brown")
    first.process.send_signal(signal.SIGSTOP)
    await reader.read_to_end(second)
    assert reader.text == WORDS
    gate.open()  # the first one finds the rest of its answer when it wakes
    first.process.send_signal(signal.SIGCONT)
    await upstream.wait_until_idle()
    assert await all_of(first, reader.stream) == reader.blocks
    assert await all_of(second, reader.stream) == reader.blocks


async def test_graceful_shutdown_hands_streams_over(
    gateways: tuple[Process, Process], upstream: ScriptedUpstream
) -> None:
    first, second = gateways
    upstream.script(text(WORDS) | hold_after(4, Gate()), text(WORDS))
    reader = Reader()
    await reader.read_until(first, "The quick brown")
    first.process.terminate()
    assert await first.wait_until_ended() == 0
    await reader.read_to_end(second)
    assert reader.text == WORDS


async def read_through(reader: Reader, number: int, serving: list[Process]) -> None:
    """Reads to the end of the answer, at whichever gateway serves when the line has broken."""
    while not reader.blocks or reader.blocks[-1] != b"[DONE]":
        assert not reader.blocks or b'"error"' not in reader.blocks[-1]
        with suppress(httpx2.TransportError):
            await reader.read_to_end(serving[number % len(serving)])


async def test_rolling_restart_under_load_loses_nothing(
    gateways: tuple[Process, Process], start: Start, upstream: ScriptedUpstream, store: str
) -> None:
    """D12: a dozen answers are being written, and one gateway after the other ends and begins anew."""
    gate = Gate()
    upstream.always(text(WORDS) | hold_after(4, gate))
    serving, readers = list(gateways), [Reader() for _ in range(12)]
    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        for number, reader in enumerate(readers):
            tasks.create_task(read_through(reader, number, serving))
        while not all(reader.text.startswith("The quick brown") for reader in readers):
            await asyncio.sleep(0.01)
        for gateway in gateways:
            serving.remove(gateway)
            gateway.process.terminate()
            assert await gateway.wait_until_ended() == 0
            assert gateway.said.count('"event":"handed_over"') == (6 if gateway is gateways[0] else 12)
            again = await start("serve", upstream=upstream, more=sharing(store))
            await again.wait_until_serving()
            serving.append(again)
            asked = 18 if gateway is gateways[0] else 30  # each of what was handed over has been gone on with
            while len(upstream.requests) < asked:
                await asyncio.sleep(0.01)
        gate.open()
    for reader in readers:
        assert reader.text == WORDS
        for gateway in serving:
            assert await all_of(gateway, reader.stream) == reader.blocks
        assert (await status_of(serving[0], reader.stream))["state"] == "finished"


async def test_stream_is_followed_attached_to_and_cancelled_at_another_gateway(
    gateways: tuple[Process, Process], upstream: ScriptedUpstream
) -> None:
    first, second = gateways
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(4, gate))
    reader, other = Reader(), Reader()
    async with reader.reading(first) as pieces:
        await anext(pieces)
        other.stream = reader.stream
        following = asyncio.create_task(other.read_to_end(second))
        assert (await status_of(second, reader.stream))["state"] == "running"
        await gate.wait_until_reached()
        async with second.client() as client:
            status = (await client.delete(f"/streams/{reader.stream}")).json()
        assert status["state"] == "cancelled"
        async for _ in pieces:
            pass
    await following
    assert other.blocks == reader.blocks
    assert b'"cancelled"' in reader.blocks[-1]
    await upstream.wait_until_left()


async def test_worker_that_is_killed_leaves_its_streams_to_the_others(start: Start, upstream: ScriptedUpstream) -> None:
    gateway = await start("serve", "--workers", "2", upstream=upstream, more=sharing(SQLITE))
    await gateway.wait_until_serving()
    upstream.script(text(WORDS) | hold_after(4, Gate()), text(WORDS))
    reader = Reader()
    await reader.read_until(gateway, "The quick brown")
    (owner,) = [pid for pid in children(gateway.process.pid) if talks_to(pid, upstream.port)]
    os.kill(owner, signal.SIGKILL)
    await reader.read_to_end(gateway)
    assert reader.text == WORDS
    assert len(upstream.requests) == 2


def talks_to(pid: int, port: int) -> bool:
    """Whether a process has a connection to a port of loopback, as /proc tells it."""
    mine = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in mine for row in rows)


async def test_store_that_cannot_be_written_costs_no_plain_answer_and_mends_itself(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    first = await start("serve", upstream=upstream, more=sharing(SQLITE))
    await first.wait_until_serving()
    upstream.script(text(WORDS) | hold_after(4, gate := Gate()), text(WORDS), text(WORDS), text(WORDS))
    reader = Reader()
    async with reader.reading(first) as pieces:
        while not reader.text.startswith("The quick brown"):
            await anext(pieces)
        with closing(sqlite3.connect(tmp_path / "streams.db", isolation_level=None)) as greedy:
            greedy.execute("BEGIN IMMEDIATE")
            gate.open()
            async for _ in pieces:
                pass
            assert WORDS.startswith(reader.text)
            assert reader.blocks[-1] != b"[DONE]"  # what was not committed is not delivered
            async with first.client() as client:
                plain = await client.post("/chat/completions", json={**BODY, "stream": False})
                assert plain.json()["choices"][0]["message"]["content"] == WORDS
                durable = await client.post("/chat/completions", json=BODY, headers=DURABLE)
                assert durable.status_code == 503
                assert durable.json()["error"]["code"] == "store_unavailable"
            greedy.execute("ROLLBACK")
    await reader.read_to_end(first)
    assert reader.text == WORDS
    assert reader.blocks[-1] == b"[DONE]"
    await first.wait_until_said('"method":"TAKEOVER"')
    assert first.said.count('"outcome":"finished"') == 2  # the plain one, and this one once (L6)
    await first.wait_until_said("is well again")
    assert first.said.count('"event":"store"') == 2  # when it went, and when it was back
