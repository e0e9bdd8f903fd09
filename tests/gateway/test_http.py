"""HTTP as hostile, broken and merely unusual clients speak it, over bare sockets."""

import asyncio

import msgspec
import pytest

from unbroken.upstream.scripted import Gate, ScriptedUpstream, hold_after, text
from unbroken.wire.sse import SseReader

pytestmark = pytest.mark.anyio

HOST = b"host: gateway\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
QUESTION = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
STREAMED = msgspec.json.encode({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]})
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


def text_of(body: bytes) -> str:
    """The text of a stream that must have come whole."""
    *chunks, done = [event.data for event in SseReader().feed(body)]
    assert done == b"[DONE]"
    deltas = (choice["delta"] for chunk in chunks for choice in msgspec.json.decode(chunk)["choices"])
    return "".join(delta.get("content", "") for delta in deltas)


async def is_well(gateway, dial) -> bool:
    """Whether the gateway serves a good request after all that."""
    line = await dial(gateway)
    line.post(QUESTION)
    return (await line.read_response()).status == 200


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        pytest.param(status, request, id=name)
        for name, status, request in [
            ("length and chunked", 400, POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            ("chunked and length", 400, POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"),
            ("two lengths", 400, POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc"),
            ("the same length twice", 400, POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
            ("a list of lengths", 400, POST + b"content-length: 3, 3\r\n\r\nabc"),
            ("a negative length", 400, POST + b"content-length: -3\r\n\r\nabc"),
            ("a signed length", 400, POST + b"content-length: +3\r\n\r\nabc"),
            ("an overflowing length", 400, POST + b"content-length: 99999999999999999999999\r\n\r\nabc"),
            ("an empty length", 400, POST + b"content-length:\r\n\r\nabc"),
            ("a hexadecimal length", 400, POST + b"content-length: 0x3\r\n\r\nabc"),
            ("xchunked", 501, POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
            ("chunked, identity", 400, POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
            ("identity, chunked", 501, POST + b"transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
            ("gzip, chunked", 501, POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            ("chunked twice", 400, CHUNKED[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            ("chunked in HTTP/1.0", 501, CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n"),
            ("a folded header", 400, b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nx: a\r\n b\r\n\r\n"),
            ("a folded first header", 400, b"GET /healthz HTTP/1.1\r\n host: gateway\r\n\r\n"),
            ("a space before the colon", 400, b"GET /healthz HTTP/1.1\r\nhost : gateway\r\n\r\n"),
            ("a header without a colon", 400, b"GET /healthz HTTP/1.1\r\nhost\r\n\r\n"),
            ("a header without a name", 400, b"GET /healthz HTTP/1.1\r\n: gateway\r\n\r\n"),
            ("bare LF", 400, b"GET /healthz HTTP/1.1\nhost: gateway\n\n"),
            ("one bare LF", 400, b"GET /healthz HTTP/1.1\r\nhost: gateway\nx: y\r\n\r\n"),
            ("bare CR", 400, b"GET /healthz HTTP/1.1\r\nhost: gateway\rx: y\r\n\r\n"),
            ("NUL in a header", 400, b"GET /healthz HTTP/1.1\r\nhost: gate\x00way\r\n\r\n"),
            ("a control character in a header", 400, b"GET /healthz HTTP/1.1\r\nhost: gate\x01way\r\n\r\n"),
            ("two hosts", 400, b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nhost: other\r\n\r\n"),
            ("no host", 400, b"GET /healthz HTTP/1.1\r\n\r\n"),
            (
                "two keys",
                400,
                POST + b"authorization: Bearer a\r\nauthorization: Bearer b\r\ncontent-length: 0\r\n\r\n",
            ),
            ("a bad chunk size", 400, CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n"),
            ("a chunk size with 0x", 400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
            ("a negative chunk size", 400, CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"),
            ("an overflowing chunk size", 400, CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
            ("a chunk size with LF", 400, CHUNKED + b"3\nabc\n0\n\n"),
            ("a chunk longer than its size", 400, CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n"),
            ("authority form", 400, b"GET gateway:80 HTTP/1.1\r\nhost: gateway\r\n\r\n"),
            ("a path without a slash", 400, b"GET healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"),
            ("CONNECT", 405, b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n"),
            ("TRACE", 405, b"TRACE /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"),
            ("an unknown method", 400, b"BREW /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"),
            ("a method in small letters", 400, b"get /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"),
            ("HTTP/0.9", 505, b"GET /healthz\r\n\r\n"),
            ("HTTP/1.2", 400, b"GET /healthz HTTP/1.2\r\nhost: gateway\r\n\r\n"),
            ("HTTP/2 in words", 505, b"GET /healthz HTTP/2.0\r\nhost: gateway\r\n\r\n"),
            ("HTTP/2's preface", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
            ("TLS", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256))),
            ("RTSP", 405, b"DESCRIBE /healthz RTSP/1.0\r\nhost: gateway\r\n\r\n"),
            ("bytes beyond ASCII in the path", 400, b"GET /v1/models/\xff\xfe HTTP/1.1\r\nhost: gateway\r\n\r\n"),
            ("a stray asterisk", 404, b"GET * HTTP/1.1\r\nhost: gateway\r\n\r\n"),
        ]
    ],
)
async def test_what_is_no_clear_request_is_refused_in_our_envelope(
    serve, upstream: ScriptedUpstream, dial, status: int, request_bytes: bytes
) -> None:
    """H2."""
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(request_bytes)
    response = await line.read_response()
    assert response.status == status
    assert response.error["message"]
    assert response.header("x-request-id")
    assert not upstream.requests
    assert await is_well(gateway, dial)


UNCLEAR = {
    "length and chunked": POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "an unknown coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"GET /healthz HTTP/1.1\nhost: gateway\n\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nx: a\r\n b\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nhost : gateway\r\n\r\n",
}


@pytest.mark.parametrize("name", UNCLEAR)
async def test_where_it_is_unclear_what_comes_next_nothing_does(
    serve, upstream: ScriptedUpstream, dial, name: str
) -> None:
    """H2: the connection is closed, whatever stands behind the request."""
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(UNCLEAR[name] + b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n")
    response = await line.read_response()
    assert response.status == (501 if name == "an unknown coding" else 400)
    assert response.header("connection") == "close"
    assert await line.read_to_end() == b""


@pytest.mark.parametrize("hosts", [b"", b"host: gateway\r\nhost: other\r\n"])
async def test_a_host_that_is_missing_or_there_twice_costs_no_connection(
    serve, upstream: ScriptedUpstream, dial, hosts: bytes
) -> None:
    """H2: where the request ends is clear."""
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
    assert (await line.read_response()).status == 400
    line.get()
    assert (await line.read_response()).status == 200


async def test_a_request_hidden_in_a_body_is_never_answered(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    hidden = b"GET /v1/models HTTP/1.1\r\nhost: gateway\r\n\r\n"
    line.send(POST + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
    assert (await line.read_response()).status == 400
    assert await line.read_to_end() == b""


async def test_a_trailer_is_no_header(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"app": "sk-secret-key"})
    line = await dial(gateway)
    chunk = b"%x\r\n%b\r\n" % (len(QUESTION), QUESTION)
    line.send(CHUNKED + chunk + b"0\r\nauthorization: Bearer sk-secret-key\r\n\r\n")
    assert (await line.read_response()).status == 401


async def test_a_chunked_body_in_crumbs_is_a_body(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(CHUNKED)
    for byte in QUESTION:
        line.send(b"1;some=extension\r\n%c\r\n" % byte)
        await line.sent()
    line.send(b"0\r\nsome: trailer\r\n\r\n")
    assert (await line.read_response()).status == 200


async def test_a_body_that_is_all_framing_is_refused(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, server={"header_limit": 4096})
    line = await dial(gateway)
    line.send(CHUNKED + b"1\r\n{\r\n0\r\nt: ")
    for _ in range(100):
        line.send(b"x" * 1000)
        await line.sent()
    assert (await line.read_response()).status in (400, 408)
    assert await is_well(gateway, dial)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST, id="a long URL"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 9000 + b"\r\n" + HOST, id="a long header"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 2000 + HOST, id="many headers"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n" + b"x" * 9000 + b": y\r\n" + HOST, id="a long name"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
async def test_headers_beyond_their_limit_are_refused(
    serve, upstream: ScriptedUpstream, dial, head: bytes, is_whole: bool
) -> None:
    """H3."""
    gateway = await serve(upstream, server={"header_limit": 8192})
    line = await dial(gateway)
    line.send(head + (b"\r\n" if is_whole else b""))
    response = await line.read_response()
    assert response.status == 431
    assert response.error["code"] == "headers_too_large"
    assert response.header("connection") == "close"
    assert await line.read_to_end() == b""
    assert await is_well(gateway, dial)


async def test_headers_within_their_limit_may_come_in_crumbs(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    for byte in b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nx: y\r\n\r\n":
        line.send(bytes([byte]))
        await line.sent()
    assert (await line.read_response()).status == 200


async def test_slow_headers_are_given_up(serve, upstream: ScriptedUpstream, dial) -> None:
    """H3."""
    gateway = await serve(upstream, server={"header_timeout": 0.05})
    line = await dial(gateway)
    line.send(b"GET /healthz HTTP/1.1\r\nhost: gate")
    response = await line.read_response()
    assert response.status == 408
    assert response.error["code"] == "request_timeout"
    assert await line.read_to_end() == b""


async def test_a_slow_body_is_given_up(serve, upstream: ScriptedUpstream, dial) -> None:
    """H3."""
    gateway = await serve(upstream, server={"body_timeout": 0.05})
    line = await dial(gateway)
    line.send(POST + b"content-length: 100\r\n\r\n{")
    response = await line.read_response()
    assert response.status == 408
    assert await line.read_to_end() == b""
    assert gateway.log_lines()[-1]["status"] == 408


async def test_a_half_sent_chunked_body_is_given_up(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, server={"body_timeout": 0.05})
    line = await dial(gateway)
    line.send(CHUNKED + b"64\r\n{")
    assert (await line.read_response()).status == 408


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_who_asks_nothing_is_let_go_without_a_word(serve, upstream: ScriptedUpstream, dial, sent: bytes) -> None:
    gateway = await serve(upstream, server={"header_timeout": 0.05})
    line = await dial(gateway)
    line.send(sent)
    assert await line.read_to_end() == b""


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_an_idle_connection_is_closed(serve, upstream: ScriptedUpstream, dial, sent: bytes) -> None:
    gateway = await serve(upstream, server={"idle_timeout": 0.05, "header_timeout": 0.05})
    line = await dial(gateway)
    line.get()
    assert (await line.read_response()).status == 200
    line.send(sent)
    assert await line.read_to_end() == b""


async def test_no_limit_of_the_next_request_ends_the_answer_to_this_one(
    serve, upstream: ScriptedUpstream, dial
) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    limits = {"header_timeout": 0.05, "body_timeout": 0.05, "idle_timeout": 0.05}
    gateway = await serve(upstream, server=limits)
    line = await dial(gateway)
    line.post(STREAMED)
    await gate.wait_until_reached()
    line.send(POST + b"content-length: 100\r\n\r\n{")
    other = await dial(gateway)
    assert await other.read_to_end() == b""  # the same limits have passed for it
    gate.open()
    assert text_of((await line.read_response()).body) == "one two three"
    assert (await line.read_response()).status == 408


@pytest.mark.parametrize("garbage", [b"\x00\xff garbage \r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 200_000])
@pytest.mark.parametrize("together", [True, False])
async def test_garbage_behind_a_request_lands_behind_its_answer(
    serve, upstream: ScriptedUpstream, dial, garbage: bytes, together: bool
) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.post(STREAMED)
    if not together:
        await gate.wait_until_reached()
    line.send(garbage)
    await gate.wait_until_reached()
    gate.open()
    assert text_of((await line.read_response()).body) == "one two three"
    assert (await line.read_response()).status == 400
    assert await line.read_to_end() == b""
    assert await is_well(gateway, dial)


async def test_pipelined_requests_are_answered_in_order_and_whole(serve, upstream: ScriptedUpstream, dial) -> None:
    """H1."""
    upstream.answer_with(lambda request: text(request.json()["messages"][0]["content"]) if request.body else None)
    gateway = await serve(upstream)
    line = await dial(gateway)
    for number in range(6):
        line.post(gateway.body(f"answer {number}", stream=number % 2 == 0))
        line.get("/v1/models/m")
    for number in range(6):
        response = await line.read_response()
        if number % 2 == 0:
            assert text_of(response.body) == f"answer {number}"
        else:
            assert msgspec.json.decode(response.body)["choices"][0]["message"]["content"] == f"answer {number}"
        assert msgspec.json.decode((await line.read_response()).body)["id"] == "m"


async def test_a_pipelined_body_may_come_later(serve, upstream: ScriptedUpstream, dial) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate), text("four"))
    gateway = await serve(upstream)
    line = await dial(gateway)
    big = msgspec.json.encode(gateway.body("x" * 300_000, stream=True))
    line.post(STREAMED)
    line.send(POST + b"content-length: %d\r\n\r\n" % len(big) + big[:1000])
    await gate.wait_until_reached()
    line.send(big[1000:])
    gate.open()
    assert text_of((await line.read_response()).body) == "one two three"
    assert text_of((await line.read_response()).body) == "four"


@pytest.mark.parametrize("cut", [0, 1, len(POST) - 20, len(POST) + 20, len(POST) + 60, None])
async def test_a_request_that_comes_with_one_for_a_stream_may_be_cut_anywhere(
    serve, upstream: ScriptedUpstream, dial, cut: int | None
) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate), text("four"))
    gateway = await serve(upstream)
    line = await dial(gateway)
    requests = [POST + b"content-length: %d\r\n\r\n%b" % (len(body), body) for body in (STREAMED, STREAMED)]
    line.send(requests[0] + requests[1][:cut])
    await gate.wait_until_reached()
    line.send(requests[1][cut:] if cut is not None else b"")
    gate.open()
    assert text_of((await line.read_response()).body) == "one two three"
    assert text_of((await line.read_response()).body) == "four"


async def test_there_is_an_end_to_pipelining(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n" * 1000)
    statuses = []
    while not statuses or statuses[-1] == 200:
        statuses.append((await line.read_response()).status)
    assert statuses[-1] == 400
    assert await line.read_to_end() == b""


@pytest.mark.parametrize("size", [10, 300_000])
async def test_who_pipelines_and_leaves_stops_the_upstream(serve, upstream: ScriptedUpstream, dial, size: int) -> None:
    upstream.script(text("one two three") | hold_after(2, Gate()))
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n")
    body = msgspec.json.encode(gateway.body("x" * size, stream=True))
    line.send(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    line.get("/v1/models")
    await line.read_head()
    line.reset()
    await upstream.wait_until_left()


async def test_who_leaves_behind_a_large_body_stops_the_upstream(serve, upstream: ScriptedUpstream, dial) -> None:
    upstream.script(text("one two three") | hold_after(2, Gate()))
    gateway = await serve(upstream)
    line = await dial(gateway)
    body = msgspec.json.encode(gateway.body("x" * 200_000, stream=True))
    line.send(POST + b"content-length: %d\r\n\r\n" % len(body) + body[:10])
    await line.sent()
    line.send(body[10:])
    await line.read_head()
    await line.close()
    await upstream.wait_until_left()


async def test_head_has_the_headers_of_get_and_no_body(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    for path in ("/v1/models", "/healthz", "/nowhere", "/v1/chat/completions"):
        line.send(f"HEAD {path} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode())
        head = await line.read_response(to="HEAD")
        line.get(path)
        got = await line.read_response()
        assert head.status == got.status
        assert head.header("x-request-id")
        if got.status == 200:
            assert head.header("content-length") == got.header("content-length")


async def test_options_says_what_may_be_done(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"app": "sk-secret-key"})
    line = await dial(gateway)
    for path, allowed in (("/v1/chat/completions", "POST, OPTIONS"), ("/v1/models", "GET, HEAD, OPTIONS")):
        line.send(f"OPTIONS {path} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode())
        response = await line.read_response()
        assert (response.status, response.header("allow")) == (204, allowed)
        assert response.header("content-length") is None


async def test_expect_100_continue_is_met(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(QUESTION))
    assert (await line.read_head()).status == 100
    line.send(QUESTION)
    assert (await line.read_response()).status == 200


async def test_who_expects_100_is_told_at_once_that_it_may_not(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"app": "sk-secret-key"})
    line = await dial(gateway)
    line.send(POST + b"expect: 100-continue\r\ncontent-length: 9999999\r\n\r\n")
    response = await line.read_response()
    assert response.status == 401
    assert response.header("connection") == "close"


@pytest.mark.parametrize("together", [True, False])
async def test_an_offer_of_http2_is_answered_in_http1(serve, upstream: ScriptedUpstream, dial, together: bool) -> None:
    """H1."""
    gateway = await serve(upstream)
    line = await dial(gateway)
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
    for body in (QUESTION, STREAMED):
        line.send(POST + offer + b"content-length: %d\r\n\r\n" % len(body))
        if not together:
            await line.sent()
        line.send(body)
        assert (await line.read_response()).status == 200


async def test_two_offers_of_http2_in_one_packet_are_two_requests(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    offer = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: upgrade%b\r\nupgrade: h2c\r\n\r\n"
    line.send(offer % b"" + offer % b", close")
    assert (await line.read_response()).status == 200
    last = await line.read_response()
    assert (last.status, last.header("connection")) == (200, "close")
    assert await line.read_to_end() == b""


async def test_a_websocket_is_not_spoken(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    offer = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n"
    line.get("/v1/models", offer)
    assert (await line.read_response()).status == 200
    line.get("/v1/realtime", offer)
    assert (await line.read_response()).status == 404


async def test_absolute_form_is_served(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(b"GET http://gateway/v1/models?x=y HTTP/1.1\r\nhost: gateway\r\n\r\n")
    assert (await line.read_response()).status == 200


async def test_a_connection_is_used_again_after_errors(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    for _ in range(3):
        line.post(b"{")
        assert (await line.read_response()).status == 400
        line.get("/nowhere")
        assert (await line.read_response()).status == 404
        line.post(gateway.body(model="unknown"))
        assert (await line.read_response()).status == 404
        line.post(QUESTION)
        assert (await line.read_response()).status == 200


async def test_the_body_behind_an_early_refusal_is_passed_over(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"app": "sk-secret-key"}, server={"idle_timeout": 60})
    line = await dial(gateway)
    line.send(POST + b"content-length: %d\r\n\r\n" % len(QUESTION))
    assert (await line.read_response()).status == 401
    line.send(QUESTION)
    line.post(QUESTION, "authorization: Bearer sk-secret-key\r\n")
    assert (await line.read_response()).status == 200


async def test_an_early_refusal_is_not_followed_by_a_second_one(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"app": "sk-secret-key"}, server={"body_timeout": 0.05})
    line = await dial(gateway)
    line.send(CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: 100") + b"{")
    assert (await line.read_response()).status == 401
    assert await line.read_to_end() == b""


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_refusal_is_read_before_the_rest_of_a_large_body_is_sent(
    serve, upstream: ScriptedUpstream, dial, is_chunked: bool
) -> None:
    gateway = await serve(upstream, keys={"app": "sk-secret-key"})
    line = await dial(gateway)
    size = 8 << 20
    line.send(CHUNKED + b"%x\r\n" % size if is_chunked else POST + b"content-length: %d\r\n\r\n" % size)
    line.send(b" " * size)
    response = await line.read_response()
    assert response.status == 401
    assert response.header("connection") == "close"
    assert await line.read_to_end() == b""


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_connection_close_is_obeyed(serve, upstream: ScriptedUpstream, dial, version: str) -> None:
    """H1."""
    gateway = await serve(upstream)
    for body in (QUESTION, STREAMED, b"{"):
        line = await dial(gateway)
        line.post(body, "connection: close\r\n" if version == "1.1" else "", version)
        response = await line.read_response()
        assert response.header("connection") == "close"
        assert await line.read_to_end() == b""


async def test_a_stream_to_an_http_1_0_client_is_not_chunked(serve, upstream: ScriptedUpstream, dial) -> None:
    """H1."""
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.post(STREAMED, version="1.0")
    response = await line.read_response()
    assert response.header("transfer-encoding") is None
    assert response.body.startswith(b"data: {")
    assert text_of(response.body) == "one two three"


async def test_too_many_connections_are_told_so(serve, upstream: ScriptedUpstream, dial) -> None:
    """H3."""
    gateway = await serve(upstream, server={"connections": 2})
    kept = [await dial(gateway) for _ in range(2)]
    for line in kept:
        line.get()
        assert (await line.read_response()).status == 200
    one_more = await dial(gateway)
    one_more.get()
    response = await one_more.read_response()
    assert response.status == 503
    assert response.error["code"] == "too_busy"
    assert await one_more.read_to_end() == b""
    for line in kept:
        line.get()
        assert (await line.read_response()).status == 200
        await line.close()
    await gateway.wait_until_connections(0)
    assert await is_well(gateway, dial)


JSON_BOMBS = {
    "deep arrays": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 200_000,
    "deep and well formed": b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":%b}'
    % (b"[" * 100_000 + b"]" * 100_000),
    "a million keys": b'{"model":"m",%b"messages":[]}' % b"".join(b'"k%d":0,' % n for n in range(1_000_000)),
    "a huge number": b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":%b}' % (b"9" * 1_000_000),
    "a huge exponent": b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999999}',
    "invalid UTF-8": b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "half a surrogate": b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}]}',
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "NaN": b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "a bare string": b'"model"',
    "nothing": b"",
    "NULs": b"\x00" * 1000,
}


@pytest.mark.parametrize("name", JSON_BOMBS)
async def test_json_that_is_a_bomb_is_refused(serve, upstream: ScriptedUpstream, dial, name: str) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.post(JSON_BOMBS[name])
    response = await line.read_response()
    assert response.status == 400
    assert len(response.error["message"]) < 500
    assert not upstream.requests
    assert await is_well(gateway, dial)


async def test_a_client_that_resets_anywhere_in_its_request_does_no_harm(
    serve, upstream: ScriptedUpstream, dial
) -> None:
    gateway = await serve(upstream)
    whole = POST + b"content-length: %d\r\n\r\n" % len(STREAMED) + STREAMED
    for at in range(0, len(whole), 7):
        line = await dial(gateway)
        line.send(whole[:at])
        line.reset()
    assert await is_well(gateway, dial)
    await gateway.wait_until_connections(1)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_requests_cut_anywhere_are_read(serve, upstream: ScriptedUpstream, dial, size: int) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    whole = (POST + b"content-length: %d\r\n\r\n" % len(QUESTION) + QUESTION) * 2
    for start in range(0, len(whole), size):
        line.send(whole[start : start + size])
        await asyncio.sleep(0)
    for _ in range(2):
        assert (await line.read_response()).status == 200
