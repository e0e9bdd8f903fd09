"""While nothing comes: comments, statuses that wait for the truth, headers that let nobody hold a stream back
(FAULTS.md 31-35)."""

import asyncio

import pytest

from unbroken.upstream.scripted import (
    Gate,
    Hold,
    Script,
    ScriptedUpstream,
    Stall,
    before_head,
    error,
    error_event,
    hold_after,
    insert_after,
    rate_limited,
    text,
    with_headers,
)

pytestmark = pytest.mark.anyio

COMMENT = b": keep-alive\n"
SOON = {"first": 0.05, "every": 0.05}
NEVER = {"first": 30.0}


def comments(count: int):
    return lambda answer: answer.raw.count(COMMENT) >= count


@pytest.mark.parametrize("durable", ["false", "true"])
@pytest.mark.parametrize("first", [0.0, 1e-9, 0.0005])
async def test_a_stream_may_have_its_comments_at_once(
    serve, upstream: ScriptedUpstream, first: float, durable: str
) -> None:
    """Then the head goes out before the stream has an upstream."""
    upstream.script(text("one two three"), error(400, "no"))
    gateway = await serve(upstream, keep_alive={"first": first})
    answer = await gateway.stream(headers={"unbroken-durable": durable})
    assert (answer.status, answer.text, answer.is_done) == (200, "one two three", True)
    assert (await gateway.stream(headers={"unbroken-durable": durable})).error


@pytest.mark.parametrize("blocks", [0, 1, 2])
async def test_a_silent_stream_gets_comments_from_the_first_silent_seconds_on(
    serve, upstream: ScriptedUpstream, blocks: int
) -> None:
    """S2, FAULTS.md 31: before the headers, before the first token, between two tokens."""
    gate = Gate()
    change = before_head(Hold(gate)) if not blocks else hold_after(blocks, gate)
    upstream.script(text("one two three") | change)
    gateway = await serve(upstream, keep_alive=SOON)
    async with gateway.reading() as reading:
        await reading.read_until(comments(3))
        assert reading.answer.text == ("one" if blocks == 2 else "")
        gate.open()
        answer = await reading.read_to_end()
    assert answer.text == "one two three"
    assert answer.is_done
    assert b"id:" not in answer.raw
    assert COMMENT + b"\n" not in answer.raw, "an empty line after a comment breaks a widely used SDK"


async def test_a_request_that_waits_for_a_retry_gets_comments_too(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 31: also while queued."""
    upstream.script(rate_limited(retry_after_ms=200), text("one two three"))
    gateway = await serve(upstream, keep_alive=SOON)
    answer = await gateway.stream()
    assert answer.raw.startswith(COMMENT)
    assert answer.text == "one two three"
    assert answer.is_done


async def test_a_stream_that_flows_gets_no_comments(serve, upstream: ScriptedUpstream) -> None:
    """Also one that began late: the first comment is no habit."""
    gate, pause = Gate(), Gate()
    upstream.script(text("one two three") | before_head(Hold(gate)) | insert_after(2, Hold(pause)))
    gateway = await serve(upstream, keep_alive={"first": 0.3, "every": 30.0})
    async with gateway.reading() as reading:
        await reading.read_until(comments(1))
        gate.open()
        await reading.read_text("one")
        pause.open()
        answer = await reading.read_to_end()
    assert answer.raw.count(COMMENT) == 1


async def test_the_headers_let_nobody_hold_a_stream_back(serve, upstream: ScriptedUpstream) -> None:
    """S1, FAULTS.md 32."""
    gateway = await serve(upstream)
    answer = await gateway.stream(headers={"accept-encoding": "gzip, br, zstd"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-encoding" not in answer.headers


async def test_each_chunk_leaves_before_the_next_exists(serve, upstream: ScriptedUpstream) -> None:
    """S1, FAULTS.md 32: gates stand between the chunks, and each opens only when the client has the one before."""
    words = ["one", "two", "three", "four"]
    gates = [Gate() for _ in words]
    answer = text([f"{word} " for word in words])
    for at, gate in enumerate(gates):
        answer |= hold_after(at + 2, gate)
    upstream.script(answer)
    gateway = await serve(upstream, keep_alive=NEVER)
    async with gateway.reading() as reading:
        so_far = ""
        for word, gate in zip(words, gates, strict=True):
            so_far += f"{word} "
            assert (await reading.read_text(so_far)).text == so_far
            gate.open()
        assert (await reading.read_to_end()).is_done


async def test_an_error_before_the_first_token_keeps_its_status_however_long_the_role_has_been_there(
    serve, upstream: ScriptedUpstream
) -> None:
    """C8, FAULTS.md 33: 200 is sent with the first words, not before."""
    gate = Gate()
    upstream.always(text("x") | insert_after(1, Hold(gate)) | error_event("no", after=1))
    gateway = await serve(upstream, keep_alive=NEVER, retries={"attempts": 1})
    asking = asyncio.ensure_future(gateway.stream())
    await upstream.wait_for_requests(1)
    gate.open()
    answer = await asking
    assert answer.status == 502
    assert answer.headers["content-type"] == "application/json"


async def test_an_error_after_comments_had_to_be_sent_comes_in_the_stream(serve, upstream: ScriptedUpstream) -> None:
    """C8, FAULTS.md 33."""
    gate = Gate()
    upstream.always(error(429, "slow down") | before_head(Hold(gate)))
    gateway = await serve(upstream, keep_alive=SOON, retries={"attempts": 1})
    async with gateway.reading() as reading:
        await reading.read_until(comments(1))
        gate.open()
        answer = await reading.read_to_end()
    assert answer.status == 200
    assert answer.error["message"] == 'upstream "up0": slow down'
    assert answer.error["code"] == "rate_limited"
    assert b"[DONE]" not in answer.raw
    line = await gateway.wait_for_line()
    assert (line["status"], line["outcome"]) == (200, "rate_limited")


async def test_failing_over_goes_on_after_comments_had_to_be_sent(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """FAULTS.md 33: they are not content."""
    upstream.always(Script((Stall(),)))
    gateway = await serve(upstream, other, keep_alive=SOON, timeouts={"headers": 0.3})
    answer = await gateway.stream()
    assert answer.raw.startswith(COMMENT)
    assert answer.text == "one two three"
    assert answer.is_done


async def test_a_whole_answer_waits_without_comments(serve, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two three") | before_head(Hold(gate)))
    gateway = await serve(upstream, keep_alive=SOON)
    asking = asyncio.ensure_future(gateway.ask())
    await gate.wait_until_reached()
    for _ in range(20):
        await gateway.turn()
    gate.open()
    response = await asking
    assert response.json()["choices"][0]["message"]["content"] == "one two three"


async def test_every_response_says_which_request_it_answers(serve, upstream: ScriptedUpstream) -> None:
    """H4, FAULTS.md 34: headers are complete before the stream begins, on streams and errors alike."""
    upstream.script(text("one"), error(400, "no"))
    gateway = await serve(upstream)
    for _ in range(2):
        answer = await gateway.stream(headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"


async def test_a_large_request_holds_up_no_stream_for_good(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 35: megabytes in, megabytes out, and the others go on beside them."""
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream)
    async with gateway.reading() as reading:
        await reading.read_text("one")
        large = "x" * (8 << 20)
        responses = await asyncio.gather(*(gateway.ask(large) for _ in range(3)))
        assert {response.status_code for response in responses} == {200}
        assert upstream.requests[-1].json()["messages"][0]["content"] == large
        gate.open()
        assert (await reading.read_to_end()).is_done


@pytest.mark.parametrize("stream", [True, False])
async def test_an_upstreams_rate_limits_are_told_to_a_client_of_its_dialect(serve, upstream, stream: bool) -> None:
    upstream.always(text("one two") | with_headers({"x-ratelimit-remaining-requests": "59", "x-internal": "no"}))
    gateway = await serve(upstream)
    answer = await (gateway.stream() if stream else gateway.ask())
    assert answer.headers["x-ratelimit-remaining-requests"] == "59"
    assert "x-internal" not in answer.headers
