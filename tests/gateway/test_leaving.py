"""Readers who leave, and readers who are slow (FAULTS.md 26, 28; L7, L9)."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from unbroken.chat.fault import Failure, Fault
from unbroken.upstream.scripted import (
    Gate,
    Hold,
    ReadNothing,
    Script,
    ScriptedUpstream,
    Stall,
    before_head,
    cut_after,
    error_event,
    hold_after,
    insert_after,
    overloaded,
    rate_limited,
    stall_after,
    text,
)

from .conftest import Served, upstream_settings

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


END = b"data: [DONE]\n\n\r\n0\r\n\r\n"


def text_of(data: bytes) -> str:
    """The text in the bytes of a stream."""
    chunks = [msgspec.json.decode(line[6:]) for line in data.split(b"\n") if line.startswith(b'data: {"')]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


class RawClient:
    """A client that takes from its socket only what it is told to."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()

    async def send(self, **fields: object) -> None:
        body = msgspec.json.encode(Served.body(**fields))  # type: ignore[arg-type]
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        await self._loop.sock_sendall(self._socket, head.encode() + body)

    async def read_until(self, mark: bytes) -> bytes:
        """What comes up to and with the mark."""
        looked_at = 0
        while (at := self._read.find(mark, max(looked_at - len(mark), 0))) < 0:
            looked_at = len(self._read)
            piece = await self._loop.sock_recv(self._socket, 1 << 18)
            assert piece, f"the gateway has hung up after {bytes(self._read[-500:])!r}"
            self._read += piece
        at += len(mark)
        data = bytes(self._read[:at])
        del self._read[:at]
        return data

    async def read_answer(self) -> str:
        """The text of one whole stream."""
        return text_of(await self.read_until(END))

    def leave(self) -> None:
        self._socket.close()


@asynccontextmanager
async def raw_client(gateway: Served) -> AsyncIterator[RawClient]:
    with socket.socket() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", gateway.port))
        yield RawClient(connected)


# --- leaving


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_during_prefill_stops_the_upstream(
    serve, upstream: ScriptedUpstream, stream: bool
) -> None:
    """FAULTS.md 26: nothing has been written yet, and there is nothing to write."""
    upstream.script(Script((Stall(),)))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=stream)
        await upstream.wait_for_requests(1)
        client.leave()
        await upstream.wait_until_left(timeout=1)
    line = await gateway.wait_for_line()
    assert (line["outcome"], line["status"], line["output_tokens"]) == ("client_left", 499, 0)
    assert "message" not in line


async def test_a_client_that_leaves_in_the_very_moment_of_a_failure_is_not_retried(
    serve, upstream: ScriptedUpstream
) -> None:
    """FAULTS.md 26: nobody would ever stop that second answer."""
    upstream.script(Script((Stall(),)))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await upstream.wait_for_requests(1)
        (producer,) = gateway.gateway.productions
        producer._attempt.lost(Failure(Fault.RESET, "the connection was closed"))
        producer.stop(Failure(Fault.CLIENT_LEFT, "the client has gone"))
        await gateway.wait_until_idle()
    assert len(upstream.requests) == 1


async def test_a_client_that_leaves_after_the_role_stops_the_upstream(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 26."""
    gate = Gate()
    upstream.script(text("one two three") | hold_after(1, gate))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await gate.wait_until_reached()
        client.leave()
        await upstream.wait_until_left(timeout=1)


async def test_a_client_that_leaves_in_mid_stream_stops_the_upstream_and_is_billed_what_came(
    serve, upstream: ScriptedUpstream
) -> None:
    """FAULTS.md 26, 28."""
    upstream.script(text("one two three") | stall_after(3))
    gateway = await serve(upstream)
    async with gateway.reading() as reading:
        await reading.read_text("one two")
    await upstream.wait_until_left(timeout=1)
    line = await gateway.wait_for_line()
    assert (line["outcome"], line["output_tokens"], line["estimated"]) == ("client_left", 2, True)
    metrics = await gateway.metrics()
    assert metrics['unbroken_requests_total{model="m",outcome="client_left",upstream="up0"}'] == 1
    assert metrics['unbroken_tokens_total{direction="output",model="m",upstream="up0"}'] == 2
    assert metrics["unbroken_open_streams"] == 0
    assert metrics['unbroken_upstream_open_requests{upstream="up0"}'] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_its_request_waits_for_a_retry_is_not_retried(
    serve, upstream: ScriptedUpstream, stream: bool
) -> None:
    """FAULTS.md 26: also in backoff, whether comments have been sent or not."""
    upstream.always(rate_limited(8))
    gateway = await serve(upstream, keep_alive={"first": 0.05})
    async with raw_client(gateway) as client:
        await client.send(stream=stream)
        await upstream.wait_for_requests(1)
        if stream:
            await client.read_until(b": keep-alive\n")
        client.leave()
        line = await gateway.wait_for_line()
    assert line["outcome"] == "client_left"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_we_connect_ends_the_connecting(
    serve, upstream: ScriptedUpstream, stream: bool
) -> None:
    """FAULTS.md 26: the TLS handshake of this upstream never ends."""
    upstream.always(Script((ReadNothing(),)))
    silent = upstream_settings("up0", upstream, base_url=upstream.base_url.replace("http:", "https:"))
    gateway = await serve(silent)
    async with raw_client(gateway) as client:
        await client.send(stream=stream)
        await upstream.wait_for_connections(1)
        client.leave()
        line = await gateway.wait_for_line()
    assert line["outcome"] == "client_left"
    await upstream.wait_until_unconnected()


async def test_the_client_that_left_harms_no_other(serve, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.always(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream)
    async with gateway.reading() as stays:
        await stays.read_text("one")
        async with gateway.reading() as leaves:
            await leaves.read_text("one")
        await upstream.wait_until_left()
        gate.open()
        answer = await stays.read_to_end()
    assert answer.text == "one two three"
    assert answer.is_done


async def test_the_books_hold_what_was_emitted_never_an_errors_text(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 28."""
    upstream.script(text("one two three", usage=USAGE))
    upstream.script(text("one two three") | cut_after(3))
    upstream.script(text("one two three") | error_event("a long story " * 100, after=2))
    upstream.script(text("one two three", usage=False), overloaded())
    gateway = await serve(upstream, retries={"attempts": 1})
    for _ in range(5):
        await gateway.stream()
    await gateway.wait_until_idle()
    lines = [line for line in gateway.log_lines() if line["event"] == "request"]
    assert [(line["outcome"], line["input_tokens"], line["output_tokens"]) for line in lines] == [
        ("finished", 7, 3),
        ("cut", 0, 2),
        ("server_error", 0, 1),
        ("finished", 0, 3),
        ("overloaded", 0, 0),
    ]
    assert [line.get("estimated") for line in lines] == [None, True, True, True, None]
    said = " ".join(map(str, lines))
    assert not re.search(r"\b(one|two|three|hello|long|story)\b", said, re.I), "content stays out of the log"


async def test_a_whole_answer_is_billed_as_the_upstream_says(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 28."""
    upstream.script(text("one two three", usage=USAGE))
    gateway = await serve(upstream)
    await gateway.ask()
    line = await gateway.wait_for_line()
    assert (line["outcome"], line["input_tokens"], line["output_tokens"]) == ("finished", 7, 3)


# --- slow readers

PIECE = "x" * 16384
PIECES = 1500  # 24 MB: more than the kernel's buffers on the way hold


async def test_a_client_that_stops_reading_stops_the_upstream_and_gets_every_token_when_it_reads_again(
    serve, upstream: ScriptedUpstream
) -> None:
    """L9; and no limit between tokens runs while it is the client who is slow."""
    upstream.script(text([PIECE] * PIECES))
    gateway = await serve(upstream, timeouts={"between_tokens": 0.4}, keep_alive={"first": 0.05, "every": 0.05})
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await upstream.wait_until_blocked()
        (connection,) = _connections(gateway)
        for _ in range(2):  # the limit passes for a stream that does stall: twice, as by a clock
            upstream.script(text("one two three") | stall_after(3))
            assert (await gateway.stream()).error["code"] == "between_tokens_timeout"
            await upstream.wait_until_blocked()
            assert upstream.bytes_sent < len(PIECE) * PIECES
            assert connection.transport.get_write_buffer_size() < 1 << 20, "the gateway holds little, comments included"
        data = await client.read_until(END)
    assert text_of(data) == PIECE * PIECES
    assert data.count(b": keep-alive") < 8, "while nobody reads there are no comments either: it was time for sixteen"
    assert (await gateway.wait_for_line())["outcome"] == "finished"


async def test_a_slow_client_slows_nobody_else(serve, upstream: ScriptedUpstream) -> None:
    """L9."""
    upstream.script(text([PIECE] * PIECES))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await upstream.wait_until_blocked()
        for _ in range(3):
            assert (await gateway.stream()).is_done


async def test_a_client_that_leaves_while_the_upstream_is_stopped_for_it_frees_the_upstream(
    serve, upstream: ScriptedUpstream
) -> None:
    """FAULTS.md 26: the connection is paused, and must be closed all the same."""
    upstream.script(text([PIECE] * PIECES))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await upstream.wait_until_blocked()
        client.leave()
        await upstream.wait_until_left(timeout=1)
    assert (await gateway.wait_for_line())["outcome"] == "client_left"


async def test_the_limit_between_tokens_runs_again_once_the_client_has_caught_up(
    serve, upstream: ScriptedUpstream
) -> None:
    """R7."""
    upstream.script(text([PIECE] * PIECES) | insert_after(PIECES + 1, Stall()))
    gateway = await serve(upstream, timeouts={"between_tokens": 0.4})
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await upstream.wait_until_blocked()
        data = await client.read_until(b"\r\n0\r\n\r\n")
    assert b"no further token within 0.4 s" in data[-400:]


async def test_the_next_request_on_the_same_connection_is_not_paused(serve, upstream: ScriptedUpstream) -> None:
    """A pause belongs to one answer: the upstream's kept connection must not stay deaf."""
    upstream.script(text([PIECE] * PIECES))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await upstream.wait_until_blocked()
        await client.read_answer()
        await client.send(stream=True)
        assert await client.read_answer() == "one two three"
    assert upstream.connections == 1


async def test_a_request_that_waits_behind_a_stream_is_served_when_the_stream_is_done(
    serve, upstream: ScriptedUpstream
) -> None:
    """Pipelined requests of one client are answered in their order."""
    gate = Gate()
    upstream.script(text("one two three") | before_head(Hold(gate)), text("four five"))
    gateway = await serve(upstream)
    async with raw_client(gateway) as client:
        await client.send(stream=True)
        await client.send(stream=True)
        await gate.wait_until_reached()
        gate.open()
        assert await client.read_answer() == "one two three"
        assert await client.read_answer() == "four five"


def _connections(gateway: Served) -> list:
    """The client connections on which an answer is being sent."""
    return [connection for connection in gateway.connections if connection.on_pause is not None]
