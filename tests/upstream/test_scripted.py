"""The scripted upstream, judged on the wire by plain sockets."""

import asyncio
import gc
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from unbroken.upstream import scripted
from unbroken.upstream.scripted import (
    Answer,
    Change,
    Cut,
    End,
    Gate,
    Head,
    Hold,
    Pause,
    ReadNothing,
    Reset,
    Script,
    ScriptedUpstream,
    ScriptError,
    Send,
    SendRaw,
    Split,
    Stall,
    Step,
    cut_after,
    eof_after,
    error_event,
    hold_after,
    reset_after,
    stall_after,
    text,
)
from unbroken.upstream.scripted.connection import Connection

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = b'{"stream": true, "model": "m", "messages": [{"role": "user", "content": "say three words"}]}'
STREAM_WITH_USAGE = b'{"stream": true, "stream_options": {"include_usage": true}, "messages": []}'
WHOLE = b'{"model": "m", "messages": [{"role": "user", "content": "say three words"}]}'


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run everything on both loops: they write, close and abort in their own ways."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


class Never:
    """What `Hold` waits for in vain, on whatever loop."""

    async def wait(self) -> None:
        await asyncio.get_running_loop().create_future()


class Reader:
    """One client connection, with nothing between the test and the bytes."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._reader, self._writer = streams

    def ask(self, body: bytes = STREAM, *, line: str = "POST /v1/chat/completions HTTP/1.1", headers: str = "") -> None:
        self.send(f"{line}\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def read_until(self, mark: bytes) -> bytes:
        return await self._reader.readuntil(mark)

    async def read_answer(self) -> bytes:
        """Give one chunked answer's body, unframed."""
        assert b"chunked" in await self.read_until(b"\r\n\r\n")
        body = b""
        while size := int(await self.read_until(b"\r\n"), 16):
            body += await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
        assert await self._reader.readexactly(2) == b"\r\n"
        return body

    async def read_to_end(self) -> bytes:
        return await self._reader.read()

    def leave(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


async def connect(upstream: ScriptedUpstream, **options: object) -> Reader:
    return Reader(await asyncio.open_connection("127.0.0.1", upstream.port, **options))  # type: ignore[arg-type]


async def stream_of(upstream: ScriptedUpstream, answer: Answer, body: bytes = STREAM) -> bytes:
    upstream.script(answer)
    reader = await connect(upstream)
    reader.ask(body)
    answered = await reader.read_answer()
    reader.leave()
    return answered


async def events_of(upstream: ScriptedUpstream, answer: Answer, body: bytes = STREAM) -> list[dict]:
    blocks = (await stream_of(upstream, answer, body)).decode().split("\n\n")
    return [json.loads(block.removeprefix("data: ")) for block in blocks if block.startswith("data: {")]


def deltas(events: list[dict]) -> list[dict]:
    return [event["choices"][0]["delta"] for event in events if event["choices"]]


# --- steps ---------------------------------------------------------------------------------------------------------

WIRES: dict[str, tuple[list[Step], bytes]] = {
    "each send is a chunk": ([Head(), Send(b"one"), Send(b"two"), Cut()], HEAD + b"3\r\none\r\n3\r\ntwo\r\n"),
    "a clean end has the last chunk": ([Head(), Send(b"one"), End(), Cut()], HEAD + b"3\r\none\r\n0\r\n\r\n"),
    "raw bytes are not framed": ([Head(), SendRaw(b"5\r\nhel"), Cut()], HEAD + b"5\r\nhel"),
    "nothing but raw": ([SendRaw(b"SSH-2.0-nonsense\r\n"), Cut()], b"SSH-2.0-nonsense\r\n"),
    "a length": ([Head(201, (), body=3), Send(b"one"), Cut()], b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\none"),
    "ended by closing": ([Head(200, (), body="close"), Send(b"one"), End()], b"HTTP/1.1 200 OK\r\n\r\none"),
    "HTTP/1.0": ([Head(200, (), body="close", version="1.0"), End()], b"HTTP/1.0 200 OK\r\n\r\n"),
    "1.0 with a length closes": (
        [Head(200, (), body=1, version="1.0"), Send(b"a"), End()],
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
    ),
    "told to close": (
        [Head(529, (("Connection", "close"),)), End()],
        b"HTTP/1.1 529 Scripted\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a reason of its own": ([Head(500, (), body="close", reason=""), End()], b"HTTP/1.1 500 \r\n\r\n"),
    "split changes no byte": ([Split(1), Head(), Send(b"one"), Cut()], HEAD + b"3\r\none\r\n"),
    "no answer at all": ([Cut()], b""),
}


@pytest.mark.parametrize(("steps", "wire"), WIRES.values(), ids=WIRES.keys())
async def test_steps_are_on_the_wire_to_the_byte(upstream: ScriptedUpstream, steps: list[Step], wire: bytes) -> None:
    upstream.script(*steps)
    reader = await connect(upstream)
    reader.ask()
    assert await reader.read_to_end() == wire


async def test_first_chunk_arrives_before_the_second_exists(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(Head(), Send(b"one"), Hold(gate), Send(b"two"), End())
    reader = await connect(upstream)
    reader.ask()
    assert await reader.read_until(b"one\r\n") == HEAD + b"3\r\none\r\n"
    await gate.wait_until_reached()
    assert upstream.bytes_sent == len(HEAD) + 8
    gate.open()
    assert await reader.read_until(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_plain_event_holds_too(upstream: ScriptedUpstream) -> None:
    event = asyncio.Event()
    upstream.script(Hold(event), Head(), End())
    reader = await connect(upstream)
    reader.ask()
    await upstream.wait_for_requests(1)
    event.set()
    assert await reader.read_answer() == b""


class Recorder(asyncio.Protocol):
    """Keeps what each single read gave."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.reads.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def test_every_write_is_a_read_of_its_own(upstream: ScriptedUpstream) -> None:
    upstream.script(SendRaw(b"one"), SendRaw(b"two"), Split(4), SendRaw(b"0123456789"), Cut())
    transport, recorder = await asyncio.get_running_loop().create_connection(Recorder, "127.0.0.1", upstream.port)
    transport.write(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
    await recorder.lost.wait()
    assert recorder.reads == [b"one", b"two", b"0123", b"4567", b"89"]


async def test_pause_asks_the_given_clock() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with ScriptedUpstream(sleep=sleep) as upstream:
        upstream.script(Pause(3600), Head(), Pause(0.5), End())
        reader = await connect(upstream)
        reader.ask()
        await reader.read_answer()
    assert slept == [3600, 0.5]


async def test_reset_is_an_rst(upstream: ScriptedUpstream) -> None:
    upstream.script(Head(), Send(b"one"), Reset())
    reader = await connect(upstream)
    reader.ask()
    assert await reader.read_until(b"one\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read_to_end()


async def test_cut_is_a_fin_without_the_last_chunk(upstream: ScriptedUpstream) -> None:
    upstream.script(Head(), Send(b"one"), Cut())
    reader = await connect(upstream)
    reader.ask()
    assert await reader.read_to_end() == HEAD + b"3\r\none\r\n"
    await upstream.wait_until_unconnected()
    assert upstream.left == 0


@pytest.mark.parametrize(
    "steps",
    [
        [Stall()],
        [Head(), Send(b"one"), Stall()],
        [Head(), Hold(Never()), End()],
        [Pause(3600), Cut()],
        [Head(), Send(b"x" * (16 << 20)), End()],
    ],
    ids=["before the head", "stall", "hold", "pause", "while it cannot write"],
)
@pytest.mark.parametrize("how", ["leave", "abort"])
async def test_a_reader_who_leaves_is_noticed(upstream: ScriptedUpstream, steps: list[Step], how: str) -> None:
    upstream.script(*steps)
    reader = await connect(upstream)
    reader.ask()
    await upstream.wait_for_requests(1)
    assert upstream.open_answers == 1
    getattr(reader, how)()
    await upstream.wait_until_left()
    await upstream.wait_until_unconnected()
    assert upstream.open_answers == 0


async def test_leaving_after_the_end_is_not_leaving(upstream: ScriptedUpstream) -> None:
    for _ in range(50):
        await stream_of(upstream, text("one"))
    await upstream.wait_until_unconnected()
    assert upstream.left == 0


async def test_read_nothing_takes_a_connection_before_its_request(upstream: ScriptedUpstream) -> None:
    upstream.script(ReadNothing())
    reader = await connect(upstream)
    reader.ask()
    await upstream.wait_for_connections(1)
    assert (upstream.requests, upstream.open_answers, upstream.unplayed) == ([], 1, 0)
    assert await stream_of(upstream, text("next"))
    assert len(upstream.requests) == 1


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="an unread hang-up is seen with epoll only")
@pytest.mark.parametrize("steps", [[ReadNothing()], [Head(), ReadNothing()]], ids=["at once", "later"])
async def test_read_nothing_still_notices_a_reader_who_leaves(upstream: ScriptedUpstream, steps: list[Step]) -> None:
    upstream.script(*steps)
    reader = await connect(upstream)
    reader.ask()
    if len(steps) > 1:
        await reader.read_until(b"\r\n\r\n")
    await upstream.wait_for_connections(1)
    reader.ask()  # bytes that stay unread in front of the FIN
    reader.leave()
    await upstream.wait_until_left()
    await upstream.wait_until_unconnected()


async def test_a_reader_who_does_not_read_blocks_the_answer(upstream: ScriptedUpstream) -> None:
    piece = b"x" * 65536
    upstream.script(Head(), *[Send(piece)] * 300, End())
    sock = socket.create_connection(("127.0.0.1", upstream.port))
    sock.setblocking(False)
    reader = Reader(await asyncio.open_connection(sock=sock))
    reader.ask()
    await upstream.wait_until_blocked()
    sent = upstream.bytes_sent
    assert sent < 299 * len(piece)
    assert await reader.read_answer() == piece * 300
    await upstream.wait_until_idle()
    assert upstream.counters.blocked_answers == 0


# --- connections ---------------------------------------------------------------------------------------------------


async def test_a_clean_end_keeps_the_connection(upstream: ScriptedUpstream) -> None:
    reader = await connect(upstream)
    for word in ("one", "two"):
        upstream.script(text(word))
        reader.ask()
        assert word.encode() in await reader.read_answer()
    assert [request.connection for request in upstream.requests] == [1, 1]
    assert (upstream.connections, upstream.open_connections, upstream.open_answers) == (1, 1, 0)


async def test_pipelined_requests_are_answered_in_turn(upstream: ScriptedUpstream) -> None:
    upstream.script(text("first"), text("second"))
    reader = await connect(upstream)
    reader.ask()
    reader.ask()
    await upstream.wait_for_requests(2)
    await upstream.wait_until_idle()
    assert b"first" in await reader.read_answer()
    assert b"second" in await reader.read_answer()


async def test_a_reader_who_asks_to_close_is_closed(upstream: ScriptedUpstream) -> None:
    reader = await connect(upstream)
    reader.ask(headers="Connection: close\r\n")
    assert (await reader.read_to_end()).endswith(b"0\r\n\r\n")


async def test_a_kept_connection_can_be_cut_or_reset_after_the_end(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(Head(), End(), Hold(gate), Reset())
    reader = await connect(upstream)
    reader.ask()
    await reader.read_answer()
    gate.open()
    with pytest.raises(ConnectionResetError):
        await reader.read_to_end()


async def test_requests_are_kept_as_they_came(upstream: ScriptedUpstream) -> None:
    reader = await connect(upstream)
    reader.send(
        b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: a\r\nX-Two: 1\r\nx-two:2 \r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5;e=1\r\n"
    )
    reader.send(b'{"a":\r\n3\r\n 1}\r\n0\r\n\r\n')
    await reader.read_until(b"\r\n\r\n")
    (request,) = upstream.requests
    assert (request.number, request.method, request.path) == (1, "POST", "/v1/chat/completions")
    assert request.target == "/v1/chat/completions?x=1"
    assert request.headers[1:3] == (("X-Two", "1"), ("x-two", "2"))
    assert request.header_values("X-TWO") == ["1", "2"]
    assert request.header("none") is None
    assert (request.body, request.json()) == (b'{"a": 1}', {"a": 1})


async def test_a_server_that_dies_comes_back_on_its_port(upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two") | stall_after(1))
    reader = await connect(upstream)
    reader.ask()
    await reader.read_until(b"\r\n\r\n")
    port = upstream.port
    await upstream.stop()
    with pytest.raises(ConnectionResetError):
        await reader.read_to_end()
    with pytest.raises(ConnectionRefusedError):
        await connect(upstream)
    await upstream.start()
    assert upstream.port == port
    assert upstream.left == 0
    assert await stream_of(upstream, text("again"))


async def test_over_tls() -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with ScriptedUpstream(ssl_context=server) as upstream:
        assert upstream.base_url == f"https://127.0.0.1:{upstream.port}/v1"
        upstream.script(text("one") | stall_after(1))
        reader = await connect(upstream, ssl=client)
        reader.ask()
        await reader.read_until(b"\n\n")
        reader.leave()
        await upstream.wait_until_left()
        upstream.script(text("one") | reset_after(1))
        reader = await connect(upstream, ssl=client)
        reader.ask()
        await reader.read_until(b"\n\n")
        with pytest.raises(ConnectionResetError):
            await reader.read_to_end()


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "upstream.sock")
    async with ScriptedUpstream(unix_path=path) as upstream:
        upstream.script(Head(), Reset())
        reader = Reader(await asyncio.open_unix_connection(path))
        reader.ask()
        assert await reader.read_to_end() == HEAD


async def test_thousands_of_requests_leave_nothing_behind(upstream: ScriptedUpstream) -> None:
    upstream.always(text("one"))
    tasks = len(asyncio.all_tasks())

    async def read_on_one_connection() -> None:
        reader = await connect(upstream)
        for _ in range(200):
            reader.ask()
            await reader.read_answer()
        reader.leave()

    async def read_and_leave() -> None:
        reader = await connect(upstream)
        reader.ask()
        await reader.read_until(b"\r\n\r\n")
        reader.abort()

    await asyncio.gather(*(read_on_one_connection() for _ in range(10)))
    await asyncio.gather(*(read_and_leave() for _ in range(500)))
    await upstream.wait_for_requests(2500)
    await upstream.wait_until_unconnected()
    assert (upstream.connections, upstream.open_answers, len(asyncio.all_tasks())) == (510, 0, tasks)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Connection)]


# --- mistakes ------------------------------------------------------------------------------------------------------


async def test_a_wait_in_vain_says_what_was_found(upstream: ScriptedUpstream) -> None:
    await stream_of(upstream, text("one"))
    await upstream.wait_until_unconnected()
    with pytest.raises(
        TimeoutError, match=r"waited 0.01 s for 2 requests; found 1 requests on 1 connections \(0 open\)"
    ):
        await upstream.wait_for_requests(2, timeout=0.01)
    with pytest.raises(TimeoutError, match="an answer to reach the gate"):
        await Gate().wait_until_reached(timeout=0.01)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([Send(b"one"), End()], r"Send\(\) before any Head"),
        ([End()], r"End\(\) before any Head"),
        ([Head(body=5), Send(b"one"), End()], "3 body bytes where 5 were promised"),
    ],
)
async def test_a_script_that_makes_no_sense_fails_the_test(steps: list[Step], told: str) -> None:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.script(*steps)
    reader = await connect(upstream)
    reader.ask()
    with pytest.raises(ConnectionResetError):
        await reader.read_to_end()
    with pytest.raises(ScriptError, match=told):
        await upstream.wait_for_requests(2)  # a wait does not go on where a mistake is known
    with pytest.raises(ScriptError, match=told):
        await upstream.__aexit__(None, None, None)


def test_a_script_must_end() -> None:
    with pytest.raises(ScriptError, match="must end in"):
        Script((Head(), Send(b"one")))
    with pytest.raises(ScriptError, match="would end the body"):
        Send(b"")


def test_steps_and_answers_do_not_mix() -> None:
    with pytest.raises(ScriptError, match="steps and answers in one call"):
        ScriptedUpstream().script(text("one"), Cut())


BAD_REQUESTS = [
    b"NONSENSE\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd",
]


@pytest.mark.parametrize("request_bytes", BAD_REQUESTS)
async def test_a_client_that_speaks_bad_http_fails_the_test(request_bytes: bytes) -> None:
    upstream = ScriptedUpstream()
    await upstream.start()
    reader = await connect(upstream)
    reader.send(request_bytes)
    with pytest.raises(ConnectionResetError):
        await reader.read_to_end()
    with pytest.raises(ScriptError):
        await upstream.__aexit__(None, None, None)


# --- answers -------------------------------------------------------------------------------------------------------


async def test_text_streams_a_chunk_per_word(upstream: ScriptedUpstream) -> None:
    raw = await stream_of(upstream, text("one two  three"))
    assert raw.endswith(b"data: [DONE]\n\n")
    events = [json.loads(block[6:]) for block in raw.split(b"\n\n")[:-2]]
    assert deltas(events) == [
        {"role": "assistant", "content": ""},
        {"content": "one"},
        {"content": " two"},
        {"content": "  three"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 4 + ["stop"]
    assert {(event["id"], event["model"], event["object"]) for event in events} == {
        ("chatcmpl-1", "m", "chat.completion.chunk")
    }
    assert not any("usage" in event for event in events)


async def test_text_is_whole_where_no_stream_was_asked_for(upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two three", reasoning="hm", model="other", id="x", usage=True))
    reader = await connect(upstream)
    reader.ask(WHOLE, headers="Connection: close\r\n")
    head, _, body = (await reader.read_to_end()).partition(b"\r\n\r\n")
    assert head.endswith(b"Content-Length: %d" % len(body))
    answer = json.loads(body)
    assert (answer["id"], answer["model"], answer["object"]) == ("x", "other", "chat.completion")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two three", "reasoning_content": "hm"},
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


async def test_usage_comes_where_it_was_asked_for(upstream: ScriptedUpstream) -> None:
    events = await events_of(upstream, text("one two"), STREAM_WITH_USAGE)
    assert [event["usage"] for event in events[:-1]] == [None] * 4
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}
    silent = await events_of(upstream, text("one", usage=False), STREAM_WITH_USAGE)
    assert not any("usage" in event for event in silent)
    own = await events_of(upstream, text("one", usage={"total_tokens": 9}), STREAM_WITH_USAGE)
    assert own[-1]["usage"] == {"total_tokens": 9}


async def test_text_takes_its_options(upstream: ScriptedUpstream) -> None:
    answer = text(["he", "llo"], reasoning="hm hm", role=False, finish_reason="length", done=False)
    events = await events_of(upstream, answer)
    assert deltas(events) == [
        {"reasoning_content": "hm"},
        {"reasoning_content": " hm"},
        {"content": "he"},
        {"content": "llo"},
        {},
    ]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert deltas(await events_of(upstream, text("", finish_reason=None))) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize("pieces", [0, 1, 3, 100])
async def test_tool_call_arguments_come_in_pieces(upstream: ScriptedUpstream, pieces: int) -> None:
    events = await events_of(upstream, scripted.tool_call("get_weather", {"location": "Berlin"}, pieces=pieces))
    calls = [delta["tool_calls"][0] for delta in deltas(events) if "tool_calls" in delta]
    assert calls[0]["function"]["name"] == "get_weather"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"location":"Berlin"}'
    assert len(calls) == 1 + min(pieces, 21)
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_parallel_tool_calls_have_the_indices_that_servers_get_wrong(upstream: ScriptedUpstream) -> None:
    calls = (("a", {"x": 1}), ("b", "{}"))

    async def first_deltas(answer: Answer) -> list[tuple[object, object]]:
        found = [d["tool_calls"][0] for d in deltas(await events_of(upstream, answer)) if "tool_calls" in d]
        return [(call.get("index"), call.get("id")) for call in found if "name" in call["function"]]

    assert await first_deltas(scripted.parallel_tool_calls(*calls)) == [(0, "call_1"), (1, "call_2")]
    zero = scripted.parallel_tool_calls(*calls, indices="all-zero", ids=("p", "q"))
    assert await first_deltas(zero) == [(0, "p"), (0, "q")]
    missing = scripted.parallel_tool_calls(*calls, indices="missing", ids="missing", pieces=0)
    assert await first_deltas(missing) == [(None, None), (None, None)]


ERRORS: dict[str, tuple[Answer, int, bytes, bytes]] = {
    "error": (
        scripted.error(400, "no", type="t", code="c", param="p", headers={"X-A": "1"}),
        400,
        b"X-A: 1",
        b'{"error":{"message":"no","type":"t","param":"p","code":"c"}}',
    ),
    "rate limited": (scripted.rate_limited(2), 429, b"Retry-After: 2\r\n", b"rate_limit_exceeded"),
    "rate limited, in parts": (scripted.rate_limited(0.5, retry_after_ms=500), 429, b"Retry-After: 0.5\r\n", b"Rate"),
    "overloaded": (scripted.overloaded(529), 529, b"HTTP/1.1 529", b"overloaded"),
    "html": (scripted.html_error(), 502, b"Content-Type: text/html", b"<html>"),
    "too long": (scripted.context_length_exceeded(), 400, b"application/json", b"context_length_exceeded"),
    "policy": (scripted.content_policy_violation(), 400, b"application/json", b"content_policy_violation"),
}


@pytest.mark.parametrize(("answer", "status", "in_head", "in_body"), ERRORS.values(), ids=ERRORS.keys())
async def test_errors_are_whole_answers_even_to_a_stream(
    upstream: ScriptedUpstream, answer: Answer, status: int, in_head: bytes, in_body: bytes
) -> None:
    upstream.script(answer)
    reader = await connect(upstream)
    reader.ask(headers="Connection: close\r\n")
    head, _, body = (await reader.read_to_end()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert in_head in head + b"\r\n"
    assert in_body in body


async def test_other_builders(upstream: ScriptedUpstream) -> None:
    assert await stream_of(upstream, scripted.events({"a": 1}, "[DONE]")) == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert await stream_of(upstream, scripted.blocks(b": hi\n\n", b"data: x\n\n")) == b": hi\n\ndata: x\n\n"
    assert {"refusal": " not"} in deltas(await events_of(upstream, scripted.refusal("will not")))


async def test_models_are_listed_and_other_paths_are_unknown(upstream: ScriptedUpstream) -> None:
    upstream.script(text("still there"))
    for line, status, word in [
        ("GET /v1/models HTTP/1.1", b"200", b'"id":"scripted"'),
        ("GET /v1/other HTTP/1.1", b"404", b"Unknown path: GET /v1/other"),
        ("GET /v1/chat/completions HTTP/1.1", b"404", b"unknown_url"),
    ]:
        reader = await connect(upstream)
        reader.ask(b"", line=line, headers="Connection: close\r\n")
        answer = await reader.read_to_end()
        assert status in answer.split(b"\r\n")[0]
        assert word in answer
    assert upstream.unplayed == 1


async def test_answers_queue_then_the_default_comes_and_a_rule_goes_before_both(upstream: ScriptedUpstream) -> None:
    upstream.script(text("first"), text("second"))
    upstream.always(text("always"))
    upstream.answer_with(lambda request: text("special") if request.header("x-special") else None)
    reader = await connect(upstream)
    said = []
    for headers in ("", "X-Special: 1\r\n", "", "", ""):
        reader.ask(headers=headers)
        said.append(await reader.read_answer())
    words = (b"first", b"special", b"second", b"always", b"always")
    assert [word in answer for word, answer in zip(words, said, strict=True)] == [True] * 5


# --- changes -------------------------------------------------------------------------------------------------------


async def raw_of(upstream: ScriptedUpstream, answer: Answer, body: bytes = STREAM) -> bytes:
    """Give everything up to the close, which the answer must bring about."""
    upstream.script(answer)
    reader = await connect(upstream)
    reader.ask(body)
    return await reader.read_to_end()


async def test_cut_after_counts_blocks_as_a_reader_does(upstream: ScriptedUpstream) -> None:
    raw = await raw_of(upstream, text("one two three") | cut_after(2))
    assert raw.count(b"data: ") == 2
    assert b'"one"' in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert await raw_of(upstream, text("one") | cut_after(0)) == HEAD
    assert b"[DONE]" in await raw_of(upstream, text("one") | cut_after(99))
    with_comments = await raw_of(upstream, text("one two three") | scripted.with_comments() | cut_after(2))
    assert with_comments.count(b"data: ") == 2


async def test_cut_after_cuts_a_whole_body_in_proportion(upstream: ScriptedUpstream) -> None:
    head, _, body = (await raw_of(upstream, text("one two three") | cut_after(3), WHOLE)).partition(b"\r\n\r\n")
    length = int(head.rpartition(b": ")[2])
    assert 0 < len(body) <= length / 6 * 3 + 3


async def test_eof_after_is_a_clean_end_without_a_finish(upstream: ScriptedUpstream) -> None:
    raw = await stream_of(upstream, text("one two three") | eof_after(2))
    assert raw.count(b"data: ") == 2
    assert b"stop" not in raw
    assert not (await raw_of(upstream, text("one") | eof_after(1), WHOLE)).endswith(b"}")


async def test_reset_after_and_stall_after(upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two three") | reset_after(2), text("one two three") | stall_after(2))
    reader = await connect(upstream)
    reader.ask()
    await reader.read_until(b'"one"')
    with pytest.raises(ConnectionResetError):
        await reader.read_to_end()
    reader = await connect(upstream)
    reader.ask()
    await reader.read_until(b'"one"')
    reader.leave()
    await upstream.wait_until_left()


async def test_hold_after_proves_that_the_rest_does_not_exist_yet(upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two") | hold_after(2, gate := Gate()))
    reader = await connect(upstream)
    reader.ask()
    assert b'"one"' in await reader.read_until(b'"one"')
    await gate.wait_until_reached()
    gate.open()
    assert b'" two"' in await reader.read_until(b"0\r\n\r\n")


async def test_error_event_comes_in_band(upstream: ScriptedUpstream) -> None:
    raw = await stream_of(upstream, text("one two") | error_event("boom", code="c", after=2))
    assert raw.endswith(b'\n\ndata: {"error":{"message":"boom","type":"server_error","param":null,"code":"c"}}\n\n')
    assert raw.count(b"data: ") == 3
    upstream.script(text("one") | error_event("boom", after=1))
    reader = await connect(upstream)
    reader.ask(WHOLE, headers="Connection: close\r\n")
    assert (await reader.read_to_end()).startswith(b"HTTP/1.1 500 ")


STYLES: dict[str, tuple[Change, bytes]] = {
    "as it is": (scripted.insert_after(0), b'data: {"a":1}\n\ndata: [DONE]\n\n'),
    "crlf": (scripted.line_ends("\r\n"), b'data: {"a":1}\r\n\r\ndata: [DONE]\r\n\r\n'),
    "no space": (scripted.no_space_after_colon(), b'data:{"a":1}\n\ndata:[DONE]\n\n'),
    "many lines": (scripted.data_on_many_lines(), b'data: {\ndata:   "a": 1\ndata: }\n\ndata: [DONE]\n\n'),
    "bom": (scripted.with_bom(), b'\xef\xbb\xbfdata: {"a":1}\n\ndata: [DONE]\n\n'),
    "fields": (
        scripted.with_fields("event: x", "id: 1"),
        b'event: x\nid: 1\ndata: {"a":1}\n\nevent: x\nid: 1\ndata: [DONE]\n\n',
    ),
    "comments": (scripted.with_comments("c"), b': c\n\ndata: {"a":1}\n\n: c\n\ndata: [DONE]\n\n'),
    "no done": (scripted.no_done(), b'data: {"a":1}\n\n'),
    "inserted": (
        scripted.insert_after(1, b": x\n", {"b": 2}),
        b'data: {"a":1}\n\n: x\ndata: {"b":2}\n\ndata: [DONE]\n\n',
    ),
    "malformed": (
        scripted.malformed_after(1),
        b'data: {"a":1}\n\ndata: {"choices": [{"delta": {"content": \n\ndata: [DONE]\n\n',
    ),
    "split": (scripted.split_writes(3), b'data: {"a":1}\n\ndata: [DONE]\n\n'),
}


@pytest.mark.parametrize(("change", "body"), STYLES.values(), ids=STYLES.keys())
async def test_changes_of_the_bytes(upstream: ScriptedUpstream, change: Change, body: bytes) -> None:
    assert await stream_of(upstream, scripted.events({"a": 1}, "[DONE]") | change) == body


async def test_one_byte_at_a_time_is_a_chunk_per_byte(upstream: ScriptedUpstream) -> None:
    raw = await raw_of(upstream, scripted.events("é") | scripted.one_byte_at_a_time() | scripted.ends_after(1, Cut()))
    assert raw == HEAD + b"".join(b"1\r\n%c\r\n" % byte for byte in "data: é\n\n".encode())
    once = await raw_of(upstream, scripted.events("a", "b") | scripted.all_at_once() | cut_after(2))
    assert once == HEAD + b"12\r\ndata: a\n\ndata: b\n\n\r\n"


async def test_changes_of_the_framing(upstream: ScriptedUpstream) -> None:
    closed = await raw_of(upstream, scripted.events("a") | scripted.close_delimited())
    assert closed.endswith(b"charset=utf-8\r\n\r\ndata: a\n\n")
    old = await raw_of(upstream, scripted.events("a") | scripted.http_1_0() | scripted.with_headers({"X-A": "1"}))
    assert old.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"\r\nX-A: 1\r\n\r\n" in old


async def test_gap_pauses_between_blocks() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with ScriptedUpstream(sleep=sleep) as upstream:
        await stream_of(upstream, text("one two") | scripted.gap(7) | scripted.before_head(Pause(1)))
    assert slept == [1, 7, 7, 7, 7]


async def test_changes_of_the_words(upstream: ScriptedUpstream) -> None:
    answer = text("one")
    assert deltas(await events_of(upstream, answer | scripted.without_role())) == [{"content": "one"}, {}]
    roles = deltas(await events_of(upstream, answer | scripted.role_in_every_chunk()))
    assert [delta["role"] for delta in roles] == ["assistant"] * 3
    empty = await events_of(upstream, answer | scripted.finish_empty_string(), STREAM_WITH_USAGE)
    assert [event["choices"][0]["finish_reason"] for event in empty[:-1]] == ["", "", "stop"]
    null = await events_of(upstream, answer | scripted.usage_null_everywhere())
    assert [event["usage"] for event in null] == [None] * 3
    unfinished = await stream_of(upstream, answer | scripted.no_finish())
    assert b"stop" not in unfinished
    assert b"[DONE]" in unfinished
    beside = await events_of(upstream, answer | scripted.usage_beside_finish({"total_tokens": 1}), STREAM_WITH_USAGE)
    assert [event.get("usage") for event in beside] == [None, None, {"total_tokens": 1}]


async def test_stays_open_says_all_and_does_not_end(upstream: ScriptedUpstream) -> None:
    upstream.script(text("one") | scripted.stays_open())
    reader = await connect(upstream)
    reader.ask()
    await reader.read_until(b"[DONE]\n\n\r\n")
    assert upstream.open_answers == 1
    reader.leave()
    await upstream.wait_until_left()


# --- by hand -------------------------------------------------------------------------------------------------------


async def test_it_runs_by_hand() -> None:
    command = [sys.executable, "-m", "unbroken.upstream.scripted"]
    scripts = ["--words", "30", "--script", "rate_limited=2", "--script", "cut_after=20"]
    process = await asyncio.create_subprocess_exec(*command, *scripts, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    port = int(url.removeprefix("http://127.0.0.1:").removesuffix("/v1"))
    answers = []
    for _ in range(3):
        reader = Reader(await asyncio.open_connection("127.0.0.1", port))
        reader.ask(headers="Connection: close\r\n")
        answers.append(await reader.read_to_end())
    process.send_signal(signal.SIGTERM)
    _, told = await process.communicate()
    assert b"Retry-After: 2" in answers[0]
    assert [answer.count(b"data: ") for answer in answers[1:]] == [20, 20]
    assert told.decode().splitlines()[0].startswith("1 POST /v1/chat/completions")
    assert process.returncode == os.EX_OK


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nonsense", "'nonsense' is not known"),
        ("cut_after", "at 'cut_after'"),
        ("line_ends=x", "at 'line_ends=x'"),
        ("silent,cut_after=2", "cannot change what stands before it"),
    ],
)
def test_the_command_line_names_the_word_that_is_wrong(words: str, told: str) -> None:
    command = [sys.executable, "-m", "unbroken.upstream.scripted", "--script", words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr
