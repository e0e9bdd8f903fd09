"""Durable streams: they outlive their reader's line, and whoever comes back gets the rest (D1 to D11, D14, D15)."""

import asyncio
from typing import Any

import msgspec
import pytest

from unbroken.upstream.scripted import (
    Answer,
    Gate,
    Hold,
    ScriptedUpstream,
    before_head,
    hold_after,
    overloaded,
    text,
)
from unbroken.wire.sse import SseReader

from .conftest import Serve, Served

pytestmark = pytest.mark.anyio

DURABLE = {"unbroken-durable": "true"}
WORDS = "one two three four five six"


async def events_of(gateway: Served, stream: str, after: int | None = None) -> list[bytes]:
    """The blocks of a stream from an offset on, as a reader gets them who comes back."""
    headers = {"accept": "text/event-stream"}
    if after is not None:
        headers["last-event-id"] = str(after)
    response = await gateway.client.get(f"/streams/{stream}", headers=headers)
    assert response.status_code == 200, response.text
    return blocks_of(response.content)


def blocks_of(raw: bytes) -> list[bytes]:
    """The data of the events, whose ids must count on."""
    blocks = [event.data for event in SseReader().feed(raw)]
    ids = [int(line[4:]) for line in raw.split(b"\n") if line.startswith(b"id: ")]
    assert ids in ([], list(range(ids[0] if ids else 1, (ids[0] if ids else 1) + len(blocks))))
    return blocks


async def status_of(gateway: Served, stream: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    response = await gateway.client.get(f"/streams/{stream}", headers=headers)
    assert response.status_code == 200, response.text
    status: dict[str, Any] = response.json()
    return status


async def wait_for_state(gateway: Served, stream: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (status := await status_of(gateway, stream))["state"] != state:
            await gateway.turn()
    return status


def text_in(blocks: list[bytes]) -> str:
    chunks = [msgspec.json.decode(block) for block in blocks if block != b"[DONE]"]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices", ()))


async def test_plain_answer_is_no_stream_to_come_back_to(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert "unbroken-stream" not in answer.headers
    assert b"id: " not in answer.raw
    response = await gateway.client.get(f"/streams/{answer.chunks[0]['id']}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "stream_not_found"


async def test_durable_answer_can_be_read_again_byte_for_byte(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS))
    gateway = await serve(upstream)
    answer = await gateway.stream(headers=DURABLE)
    stream = answer.headers["unbroken-stream"]
    assert stream == answer.chunks[0]["id"]
    assert answer.text == WORDS
    assert answer.is_done
    assert await events_of(gateway, stream) == answer.blocks
    assert await events_of(gateway, stream, after=len(answer.blocks)) == []
    for after in range(len(answer.blocks)):
        assert await events_of(gateway, stream, after) == answer.blocks[after:]
        by_query = await gateway.client.get(f"/streams/{stream}?after={after}", headers={"accept": "text/event-stream"})
        assert blocks_of(by_query.content) == answer.blocks[after:]
    assert len(upstream.requests) == 1


async def test_only_who_asks_for_ids_gets_them(serve: Serve, upstream: ScriptedUpstream) -> None:
    """D7, S3."""
    gateway = await serve(upstream)
    keyed = await gateway.stream(headers={"idempotency-key": "k"})
    assert b"id: " not in keyed.raw
    durable = await gateway.stream(headers=DURABLE)
    assert durable.raw.startswith(b"id: 1\ndata: ")


async def test_reader_who_left_misses_nothing(serve: Serve, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(4, gate))
    gateway = await serve(upstream)
    async with gateway.reading(headers=DURABLE) as reading:
        seen = (await reading.read_text("one two three")).blocks
        stream = reading.answer.headers["unbroken-stream"]
    await gateway.wait_until_connections(0)
    gate.open()
    rest = await events_of(gateway, stream, after=len(seen))
    assert text_in(seen + rest) == WORDS
    assert rest[-1] == b"[DONE]"
    assert len(upstream.requests) == 1


async def test_stream_can_be_read_before_its_first_token(serve: Serve, upstream: ScriptedUpstream) -> None:
    """D2, FAULTS.md 30."""
    gate = Gate()
    upstream.script(text(WORDS) | before_head(Hold(gate)))
    gateway = await serve(upstream, keep_alive={"first": 0.02})
    async with gateway.reading(headers=DURABLE) as reading:  # the keep-alive is what makes the headers go out
        stream = reading.answer.headers["unbroken-stream"]
        status = await status_of(gateway, stream)
        assert (status["state"], status["model"]) == ("running", "m")
        coming = asyncio.create_task(events_of(gateway, stream))
        await gate.wait_until_reached()
        gate.open()
        answer = await reading.read_to_end()
    assert await coming == answer.blocks


async def test_many_read_one_stream_at_once(serve: Serve, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(3, gate))
    gateway = await serve(upstream)
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
        others = [asyncio.create_task(events_of(gateway, stream, after)) for after in (0, 1, 2, 3, 0)]
        await gateway.wait_until_connections(len(others) + 1)
        gate.open()
        blocks = (await reading.read_to_end()).blocks
    for after, other in zip((0, 1, 2, 3, 0), await asyncio.gather(*others), strict=True):
        assert other == blocks[after:]


async def test_offset_that_was_not_reached_is_refused(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    stream = (await gateway.stream(headers=DURABLE)).headers["unbroken-stream"]
    for given, status in (("99", 416), ("-1", 400), ("x", 400), ("\u0661", 400)):
        response = await gateway.client.get(
            f"/streams/{stream}", headers={"accept": "text/event-stream"}, params={"after": given}
        )
        assert response.status_code == status, given
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("after", "offset_unknown" if status == 416 else "invalid_value")


async def test_status_tells_how_the_answer_came_about(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS))
    gateway = await serve(upstream)
    answer = await gateway.stream(headers=DURABLE)
    status = await status_of(gateway, answer.headers["unbroken-stream"])
    assert status == {
        "id": answer.headers["unbroken-stream"],
        "object": "stream",
        "state": "finished",
        "model": "m",
        "created": status["created"],
        "offset": len(answer.blocks),
        "usage": status["usage"],
        "upstream": "up0",
        "attempts": 1,
        "tier": None,
        "continuations": [],
        "orphan_grace": 60.0,
        "error": None,
    }
    assert status["usage"]["output"] == 6


# cancelling


async def test_cancel_closes_the_upstream_and_keeps_the_partial(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | hold_after(3, Gate()))
    gateway = await serve(upstream)
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
        response = await gateway.client.delete(f"/streams/{stream}")
        assert response.status_code == 200
        assert response.json()["state"] == "cancelled"
        answer = await reading.read_to_end()
    assert answer.error is not None
    assert answer.error["code"] == "cancelled"
    assert not answer.is_done
    await upstream.wait_until_left()
    assert await events_of(gateway, stream) == answer.blocks
    again = await gateway.client.delete(f"/streams/{stream}")
    assert again.json()["offset"] == len(answer.blocks)
    whole = await gateway.client.get(f"/chat/completions/{stream}")
    assert (whole.status_code, whole.reason_phrase) == (499, "Client Closed Request")


async def test_stream_that_nobody_reads_is_cancelled_after_its_grace(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | hold_after(3, Gate()))
    gateway = await serve(upstream)
    async with gateway.reading(headers={**DURABLE, "unbroken-orphan-grace": "0.05"}) as reading:
        await reading.read_text("one two")
        stream = reading.answer.headers["unbroken-stream"]
    status = await wait_for_state(gateway, stream, "cancelled")
    assert "nobody" in status["error"]["message"]
    assert text_in(await events_of(gateway, stream)) == "one two"


@pytest.mark.parametrize(
    ("asked", "counts"), [(None, 45.0), ("0", 0.0), ("7.5", 7.5), ("90", 90.0), ("91", 90.0), ("100000", 90.0)]
)
async def test_status_tells_the_grace_that_counts(
    serve: Serve, upstream: ScriptedUpstream, asked: str | None, counts: float
) -> None:
    """D4, D9: what a request asks for beyond the most that it may is cut to that."""
    gateway = await serve(upstream, store={"orphan_grace": 45.0, "orphan_grace_most": 90.0})
    grace = {} if asked is None else {"unbroken-orphan-grace": asked}
    answer = await gateway.stream(headers={**DURABLE, **grace})
    assert (await status_of(gateway, answer.headers["unbroken-stream"]))["orphan_grace"] == counts


async def test_work_in_the_background_has_no_grace_to_tell(serve: Serve, upstream: ScriptedUpstream) -> None:
    """D4, D9: it goes on without limit."""
    gateway = await serve(upstream)
    body = {"model": "m", "input": "hello", "background": True}
    stream = (await gateway.client.post("/responses", json=body)).json()["id"]
    assert (await status_of(gateway, stream))["orphan_grace"] is None


async def test_key_has_a_grace_of_its_own(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.always(text(WORDS) | hold_after(3, Gate()))
    gateway = await serve(
        upstream, keys={"a": "key-of-a-1", "b": "key-of-b-1"}, store={"orphan_grace_of": ["b = 0.02"]}
    )
    streams = {}
    for name in "ab":
        headers = {**DURABLE, "authorization": f"Bearer key-of-{name}-1"}
        async with gateway.reading(headers=headers) as reading:
            await reading.read_text("one two")
            streams[name] = reading.answer.headers["unbroken-stream"]
    gateway.client.headers["authorization"] = "Bearer key-of-b-1"
    await wait_for_state(gateway, streams["b"], "cancelled")
    gateway.client.headers["authorization"] = "Bearer key-of-a-1"
    assert (await status_of(gateway, streams["a"]))["state"] == "running"


async def test_reader_keeps_a_stream_from_being_an_orphan(serve: Serve, upstream: ScriptedUpstream) -> None:
    gate, second = Gate(), Gate()
    upstream.script(text(WORDS) | hold_after(3, gate))
    upstream.script(text("x y") | hold_after(2, second))
    gateway = await serve(upstream, store={"orphan_grace": 0.05})
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one two")
        # An orphan of the same age has been cancelled by the time that the first one goes on.
        async with gateway.reading(headers=DURABLE) as other:
            await other.read_text("x")
            orphan = other.answer.headers["unbroken-stream"]
        await wait_for_state(gateway, orphan, "cancelled")
        gate.open()
        assert (await reading.read_to_end()).text == WORDS


# idempotency


async def test_same_key_and_request_is_the_same_answer(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS))
    gateway = await serve(upstream)
    key = {"idempotency-key": "order-1"}
    first = await gateway.stream(headers=key)
    again = await gateway.stream(headers=key)
    assert again.raw == first.raw
    assert again.headers["unbroken-replayed"] == "true"
    assert "unbroken-replayed" not in first.headers
    assert again.headers["unbroken-stream"] == first.headers["unbroken-stream"]
    assert len(upstream.requests) == 1
    await gateway.wait_until_idle()
    booked = [line for line in gateway.log_lines() if line.get("output_tokens")]
    assert len(booked) == 1


async def test_other_request_under_a_key_is_refused(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    key = {"idempotency-key": "order-1"}
    await gateway.stream(headers=key)
    response = await gateway.ask("something else", headers=key)
    assert response.status_code == 409
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["code"] == "idempotency_key_reused"
    assert len(upstream.requests) == 1


async def test_whole_answer_that_is_asked_for_again_while_it_is_made_is_made_once(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(3, gate))
    gateway = await serve(upstream)
    key = {"idempotency-key": "order-1"}
    asking = [asyncio.create_task(gateway.ask(headers=key)) for _ in range(4)]
    await gate.wait_until_reached()
    await gateway.wait_until_connections(4)
    asking[0].cancel()  # whoever asked first may leave
    gate.open()
    answers = await asyncio.gather(*asking[1:])
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {WORDS}
    assert len({answer.content for answer in answers}) == 1
    assert len(upstream.requests) == 1
    stream = answers[0].headers["unbroken-stream"]
    whole = await gateway.client.get(f"/chat/completions/{stream}")
    assert whole.content == answers[0].content
    assert whole.json()["usage"]["completion_tokens"] == 6


async def test_key_is_free_again_when_nothing_came_of_it(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(*[overloaded()] * 4)
    gateway = await serve(upstream)
    key = {"idempotency-key": "order-1"}
    failed = await gateway.ask(headers=key)
    assert failed.status_code == 503
    await gateway.wait_until_idle()
    async with asyncio.timeout(10):
        while (answer := await gateway.ask(headers=key)).status_code == 503:
            await gateway.turn()
    assert answer.json()["choices"][0]["message"]["content"] == "one two three"


async def test_header_that_says_nothing_is_refused_by_name(serve: Serve, upstream: ScriptedUpstream) -> None:
    """H5, D8, D9."""
    gateway = await serve(upstream)
    for headers, param in (
        ({"idempotency-key": ""}, "Idempotency-Key"),
        ({"idempotency-key": "x" * 256}, "Idempotency-Key"),
        ({"unbroken-durable": "perhaps"}, "Unbroken-Durable"),
        ({**DURABLE, "unbroken-orphan-grace": "soon"}, "Unbroken-Orphan-Grace"),
        ({**DURABLE, "unbroken-orphan-grace": "-1"}, "Unbroken-Orphan-Grace"),
    ):
        response = await gateway.ask(headers=headers)
        assert response.status_code == 400, headers
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, "invalid_value")
    assert not upstream.requests


# who may


async def test_stream_is_its_own_keys_alone(serve: Serve, upstream: ScriptedUpstream) -> None:
    """D6."""
    gateway = await serve(upstream, keys={"a": "key-of-a-1", "b": "key-of-b-1"})
    a, b = ({"authorization": f"Bearer key-of-{name}-1"} for name in "ab")
    key = {"idempotency-key": "order-1"}
    answer = await gateway.stream(headers={**a, **key})
    path = f"/streams/{answer.headers['unbroken-stream']}"
    assert (await gateway.client.get(path, headers=a)).status_code == 200
    events = {**b, "accept": "text/event-stream"}
    for response in (
        await gateway.client.get(path, headers=b),
        await gateway.client.get(path, headers=events),
        await gateway.client.delete(path, headers=b),
        await gateway.client.get(path.replace("streams", "chat/completions"), headers=b),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "stream_not_found"
    other = await gateway.stream(headers={**b, **key})
    assert other.headers["unbroken-stream"] != answer.headers["unbroken-stream"]


async def test_live_streams_are_listed_to_their_key(serve: Serve, upstream: ScriptedUpstream) -> None:
    """D15: each as its status has it, oldest first."""
    gate, other_gate = Gate(), Gate()
    upstream.script(text(WORDS) | hold_after(3, gate), text(WORDS) | hold_after(3, other_gate))
    gateway = await serve(upstream, keys={"a": "key-of-a-1", "b": "key-of-b-1"})
    a, b = ({"authorization": f"Bearer key-of-{name}-1"} for name in "ab")
    headers = {**a, **DURABLE}
    async with gateway.reading(headers=headers) as reading, gateway.reading(headers=headers) as other:
        await reading.read_text("one two")
        await other.read_text("one two")
        streams = [one.answer.headers["unbroken-stream"] for one in (reading, other)]
        statuses = [(await gateway.client.get(f"/streams/{stream}", headers=a)).json() for stream in streams]
        listed = (await gateway.client.get("/streams", headers=a)).json()
        assert listed == {"object": "list", "data": statuses}
        assert [row["state"] for row in listed["data"]] == ["running", "running"]
        assert (await gateway.client.get("/streams", headers=b)).json()["data"] == []
        gate.open()
        other_gate.open()
        await reading.read_to_end()
        await other.read_to_end()
    await gateway.wait_until_idle()
    assert (await gateway.client.get("/streams", headers=a)).json()["data"] == []


# the pace of a reader


async def test_slow_reader_of_a_durable_stream_does_not_slow_the_upstream(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    pieces = ["x" * 10_000] * 1000
    upstream.script(text(pieces))
    gateway = await serve(upstream)
    async with gateway.reading(headers=DURABLE) as reading:
        stream = reading.answer.headers["unbroken-stream"]
        await wait_for_state(gateway, stream, "finished")  # though nothing has been read yet
        assert max(c.transport.get_write_buffer_size() for c in gateway.connections) < 1_000_000
        answer = await reading.read_to_end()
    assert answer.text == "".join(pieces)
    assert await events_of(gateway, stream) == answer.blocks


# the other dialects


async def test_messages_are_durable_too(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS))
    gateway = await serve(upstream)
    body = {**gateway.body(), "max_tokens": 100}
    response = await gateway.client.post("/messages", json={**body, "stream": True}, headers=DURABLE)
    stream = response.headers["unbroken-stream"]
    assert stream.startswith("msg_")
    assert await events_of(gateway, stream) == blocks_of(response.content)
    whole = await gateway.client.post("/messages", json=body, headers={"idempotency-key": "k"})
    assert whole.json()["content"] == [{"type": "text", "text": "one two three"}]
    again = await gateway.client.post("/messages", json=body, headers={"idempotency-key": "k"})
    assert again.content == whole.content


async def wait_for_response(gateway: Served, id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (response := (await gateway.client.get(f"/responses/{id}")).json())["status"] != status:
            await gateway.turn()
    found: dict[str, Any] = response
    return found


async def test_response_in_the_background_can_be_asked_for_until_it_is_there(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    """D11, O1."""
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(3, gate))
    gateway = await serve(upstream, store={"orphan_grace": 0.01})
    body = {"model": "m", "input": "hello", "background": True}
    queued = (await gateway.client.post("/responses", json=body)).json()
    assert queued["status"] == "queued"
    assert queued["background"] is True
    await wait_for_response(gateway, queued["id"], "in_progress")
    assert "background" not in upstream.requests[0].json()
    gate.open()
    whole = await wait_for_response(gateway, queued["id"], "completed")
    assert whole["output"][0]["content"][0]["text"] == WORDS
    items = (await gateway.client.get(f"/responses/{queued['id']}/input_items")).json()["data"]
    assert items[0]["content"][0]["text"] == "hello"


async def test_response_in_the_background_that_is_asked_for_again_is_the_same_one(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    gateway = await serve(upstream)
    body, key = {"model": "m", "input": "hello", "background": True}, {"idempotency-key": "one"}
    first = await gateway.client.post("/responses", json=body, headers=key)
    again = await gateway.client.post("/responses", json=body, headers=key)
    assert again.headers["unbroken-replayed"] == "true"
    assert again.headers["unbroken-stream"] == again.json()["id"] == first.json()["id"]
    whole = await wait_for_response(gateway, first.json()["id"], "completed")
    assert (await gateway.client.post("/responses", json=body, headers=key)).json() == whole
    assert len(upstream.requests) == 1


async def test_cancelled_response_keeps_what_was_said(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | hold_after(3, gate := Gate()))
    gateway = await serve(upstream)
    body = {"model": "m", "input": "hello", "background": True}
    id = (await gateway.client.post("/responses", json=body)).json()["id"]
    await gate.wait_until_reached()
    cancelled = (await gateway.client.post(f"/responses/{id}/cancel")).json()
    assert cancelled["output"][0]["content"][0]["text"] == "one two"
    assert cancelled["error"] is None
    beyond = await gateway.client.get(f"/responses/{id}", params={"stream": "true", "starting_after": "999"})
    assert beyond.status_code == 416


async def test_events_of_a_response_go_on_behind_a_sequence_number(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    body = {"model": "m", "input": "hello", "background": True, "stream": True}
    response = await gateway.client.post("/responses", json=body)
    blocks = [msgspec.json.decode(block) for block in blocks_of(response.content)]
    assert [block["sequence_number"] for block in blocks] == list(range(len(blocks)))
    id = blocks[0]["response"]["id"]
    for after in range(-1, len(blocks)):
        rest = await gateway.client.get(f"/responses/{id}", params={"stream": "true", "starting_after": str(after)})
        assert [msgspec.json.decode(block) for block in blocks_of(rest.content)] == blocks[after + 1 :]
    assert b"id: " not in response.content


async def test_response_can_be_cancelled(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | hold_after(3, Gate()))
    gateway = await serve(upstream)
    body = {"model": "m", "input": "hello", "background": True}
    id = (await gateway.client.post("/responses", json=body)).json()["id"]
    await wait_for_response(gateway, id, "in_progress")
    cancelled = await gateway.client.post(f"/responses/{id}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert (await gateway.client.get(f"/responses/{id}")).json()["status"] == "cancelled"
    await upstream.wait_until_left()
    assert (await gateway.client.delete(f"/responses/{id}")).json()["deleted"] is True
    assert (await gateway.client.get(f"/responses/{id}")).status_code == 404


async def test_background_without_store_is_refused(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    body = {"model": "m", "input": "hello", "background": True, "store": False}
    assert (await gateway.client.post("/responses", json=body)).status_code == 400


async def test_dropped_line_is_not_a_left_stream(serve: Serve, upstream: ScriptedUpstream) -> None:
    """A hundred readers come and go; each gets all of it."""
    gates = [Gate() for _ in range(5)]
    answer: Answer = text(WORDS)
    for at, gate in enumerate(gates):
        answer = answer | hold_after(2 + at, gate)
    upstream.script(answer)
    gateway = await serve(upstream)
    seen: list[bytes] = []
    async with gateway.reading(headers=DURABLE) as reading:
        await reading.read_text("one")
        seen += reading.answer.blocks
        stream = reading.answer.headers["unbroken-stream"]
    for gate in gates:
        gate.open()
        headers = {"accept": "text/event-stream", "last-event-id": str(len(seen))}
        async with gateway.client.stream("GET", f"/streams/{stream}", headers=headers) as response:
            reader = SseReader()
            async for piece in response.aiter_raw():
                if events := reader.feed(piece):
                    seen += [event.data for event in events]
                    break
    seen += await events_of(gateway, stream, after=len(seen))
    assert text_in(seen) == WORDS
    assert seen == await events_of(gateway, stream)
