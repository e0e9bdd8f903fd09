"""Connections to upstreams: kept, stale, encrypted, and with peculiarities of HTTP."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from unbroken.chat.fault import UpstreamFailed
from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.http import Connection, HttpClient
from unbroken.upstream.scripted import (
    Cut,
    Head,
    Script,
    ScriptedUpstream,
    SendRaw,
    before_head,
    error,
    text,
    with_headers,
)
from unbroken.upstream.sinks import WholeResponse

from .conftest import upstream_settings

pytestmark = pytest.mark.anyio

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nContent-Length: 5\r\n\r\n"


async def test_a_connection_is_kept_for_the_next_request(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    for _ in range(3):
        assert (await gateway.stream()).is_done
        assert (await gateway.ask()).status_code == 200
    assert upstream.connections == 1
    assert len(upstream.requests) == 6


async def test_an_error_response_leaves_the_connection_usable(serve, upstream: ScriptedUpstream) -> None:
    upstream.script(error(500, "hiccup"))
    gateway = await serve(upstream)
    assert (await gateway.stream()).is_done


async def test_a_kept_connection_that_the_upstream_has_closed_is_replaced_unseen(
    serve, upstream: ScriptedUpstream
) -> None:
    """FAULTS.md 8: the request has been seen by nobody, so it is no attempt; not even where one is all there may be."""
    gateway = await serve(upstream, retries={"attempts": 1, "breaker_failures": 1})
    assert (await gateway.stream()).is_done
    upstream.script(Script((Cut(),)), text("four five"))
    answer = await gateway.stream()
    assert answer.text == "four five"
    assert (await gateway.wait_for_line())["attempts"] == 1
    upstream.script(Script((Cut(),)), text("six seven"))
    assert (await gateway.ask()).json()["choices"][0]["message"]["content"] == "six seven"
    assert not [line for line in gateway.log_lines() if line["event"] == "upstream"], "nor does it count as a failure"


async def test_kept_connections_that_died_together_are_replaced_together(serve, upstream: ScriptedUpstream) -> None:
    """A server that was restarted: one request finds out, and the others need not."""
    gateway = await serve(upstream, retries={"attempts": 1})
    assert all(answer.is_done for answer in await asyncio.gather(*(gateway.stream() for _ in range(8))))
    await upstream.stop()
    await upstream.start()
    assert all(answer.is_done for answer in await asyncio.gather(*(gateway.stream() for _ in range(8))))


async def test_interim_responses_are_read_over(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(text("one two three") | before_head(SendRaw(CONTINUE), SendRaw(EARLY_HINTS)))
    gateway = await serve(upstream)
    for _ in range(2):
        assert (await gateway.stream()).text == "one two three"
    assert (await gateway.ask()).status_code == 200


async def test_an_upstream_that_closes_after_each_answer_is_fine(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(text("one two three") | with_headers({"Connection": "close"}))
    gateway = await serve(upstream)
    for _ in range(3):
        assert (await gateway.stream()).is_done
    assert upstream.connections == 3


async def test_junk_behind_a_whole_answer_does_not_spoil_it(serve, upstream: ScriptedUpstream) -> None:
    whole = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"one"},"finish_reason":"stop"}]}'
    head = Head(headers=(("Content-Type", "application/json"),), body=len(whole)).to_bytes()
    upstream.script(Script((SendRaw(head + whole + b"\x00\x00junk"), Cut())), text("two"))
    gateway = await serve(upstream)
    assert (await gateway.ask()).json()["choices"][0]["message"]["content"] == "one"
    assert (await gateway.ask()).json()["choices"][0]["message"]["content"] == "two"


async def test_what_came_before_the_http_broke_is_not_lost(serve, upstream: ScriptedUpstream) -> None:
    chunk = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"one"},"finish_reason":null}]}\n\n'
    framed = b"%x\r\n%b\r\n" % (len(chunk), chunk)
    upstream.script(Script((Head(), SendRaw(framed + b"not a chunk size\r\n"), Cut())))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one"
    assert "not HTTP" in answer.error["message"]


async def test_headers_without_end_are_bounded(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(Script((SendRaw(b"HTTP/1.1 200 OK\r\n" + b"x-much: more\r\n" * 20_000), Cut())))
    gateway = await serve(upstream, retries={"attempts": 1})
    answer = await gateway.stream()
    assert answer.status == 502
    assert answer.error["code"] in ("too_large", "malformed")


async def test_a_body_that_says_two_lengths_is_refused(serve, upstream: ScriptedUpstream) -> None:
    """Response smuggling over a kept connection."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
    upstream.always(Script((SendRaw(head + b"hello"), Cut())))
    gateway = await serve(upstream, retries={"attempts": 1})
    answer = await gateway.stream()
    assert answer.status == 502
    assert "not HTTP" in answer.error["message"]


async def test_an_upstream_that_answers_before_it_has_read_the_request_is_heard(
    serve, upstream: ScriptedUpstream
) -> None:
    """A server that is full says so at once, and may close."""
    full = b"HTTP/1.1 503 Full\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
    said = b'{"error":{"message":"too many connections","type":"server_error","param":null,"code":null}}'

    async def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(full % (len(said), said))
        await writer.drain()
        await reader.read()
        writer.close()

    async with _raw_upstream(answer_at_once) as settings:
        gateway = await serve(settings, retries={"attempts": 1})
        answer = await gateway.stream()
        assert answer.status == 503
        assert answer.error["message"].endswith("too many connections")
        assert (await gateway.ask("x" * 3_000_000)).status_code == 503


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_an_answer_that_is_there_before_the_request_is_sent_is_read(hangs_up: bool) -> None:
    """As above, but in the order that a real network hardly shows."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.1 503 Full\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull")
    if hangs_up:
        theirs.close()
    ours.setblocking(False)
    client = HttpClient("http://upstream.example/v1")
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(client), sock=ours)
    for _ in range(5):
        await asyncio.sleep(0)  # what came is read, and the end noticed
    response = WholeResponse()
    connection.send(b"POST / HTTP/1.1\r\n\r\n", response)
    async with asyncio.timeout(5):
        assert await response.complete == (503, b"full")
    theirs.close()


async def test_a_connection_that_is_closed_before_the_request_is_sent_is_a_failure_at_once() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.setblocking(False)
    client = HttpClient("http://upstream.example/v1")
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(client), sock=ours)
    for _ in range(5):
        await asyncio.sleep(0)
    response = WholeResponse()
    connection.send(b"POST / HTTP/1.1\r\n\r\n", response)
    async with asyncio.timeout(5):
        with pytest.raises(UpstreamFailed, match="before the response's headers"):
            await response.complete


async def test_an_upstream_that_hangs_up_on_everyone_is_a_502(serve) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with _raw_upstream(hang_up) as settings:
        gateway = await serve(settings)
        for status in ((await gateway.stream()).status, (await gateway.ask()).status_code):
            assert status == 502


async def test_https_with_an_authority_of_ones_own(serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with ScriptedUpstream(ssl_context=_server_context(authority)) as upstream:
        gateway = await serve(upstream_settings("up0", upstream, ca_file=str(tmp_path / "ca.pem")))
        upstream.script(text("one two three"), text("four five"))
        assert (await gateway.stream()).text == "one two three"
        assert (await gateway.stream()).text == "four five"
        assert (await gateway.ask()).status_code == 200
        assert upstream.connections == 1


async def test_a_certificate_that_nobody_trusts_is_a_clear_error(serve) -> None:
    """And it is refused before the key has been sent."""
    async with ScriptedUpstream(ssl_context=_server_context(trustme.CA())) as upstream:
        gateway = await serve(upstream_settings("up0", upstream))
        answer = await gateway.stream()
        assert answer.status == 502
        assert f"the certificate of 127.0.0.1:{upstream.port} is not trusted" in answer.error["message"]
        assert not upstream.requests


async def test_a_certificate_of_another_host_is_a_clear_error(serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with ScriptedUpstream(ssl_context=_server_context(authority, "other.example")) as upstream:
        gateway = await serve(upstream_settings("up0", upstream, ca_file=str(tmp_path / "ca.pem")))
        answer = await gateway.stream()
        assert "is not trusted" in answer.error["message"]
        assert not upstream.requests


async def test_https_asked_of_a_server_that_speaks_http_is_a_clear_error(serve) -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with _raw_upstream(speak_http) as settings:
        secure = UpstreamSettings(name="up0", base_url=settings.base_url.replace("http:", "https:"), models=("m",))
        gateway = await serve(secure, retries={"attempts": 1})
        answer = await gateway.stream()
        assert answer.status == 502
        assert "no TLS connection to" in answer.error["message"]


async def test_headers_from_the_configuration_go_up(serve, upstream: ScriptedUpstream) -> None:
    headers = {"x-team": "blue", "authorization": "Basic own-kind-of-key"}
    gateway = await serve(upstream_settings("up0", upstream, headers=headers, api_key=""))
    await gateway.ask()
    request = upstream.requests[0]
    assert request.header("x-team") == "blue"
    assert request.header_values("authorization") == ["Basic own-kind-of-key"]
    assert request.header("host") == f"127.0.0.1:{upstream.port}"


def _server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def _raw_upstream(serve_one: Callable[..., object]) -> AsyncIterator[UpstreamSettings]:
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)  # type: ignore[arg-type]
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield UpstreamSettings(name="up0", base_url=f"http://127.0.0.1:{port}/v1", models=("m",))
