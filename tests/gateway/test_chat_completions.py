"""`POST /v1/chat/completions` through a real gateway, in front of a scripted upstream."""

import asyncio

import pytest

from unbroken.upstream.scripted import ScriptedUpstream, cut_after, error, hold_after, text

pytestmark = pytest.mark.anyio


async def test_a_whole_answer_comes_with_our_id_and_the_public_model(serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two three", model="theirs", id="chatcmpl-theirs"))
    gateway = await serve(upstream)
    response = await gateway.ask()
    assert response.status_code == 200
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == "one two three"
    assert answer["model"] == "m"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["id"] != "chatcmpl-theirs"
    assert answer["usage"]["completion_tokens"] > 0


async def test_a_stream_arrives_whole(serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two three"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert answer.is_done
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    assert answer.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in answer.chunks if c["choices"]][-1] == "stop"


async def test_a_cut_stream_ends_with_an_error_and_no_success_marker(serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two three") | cut_after(2))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text
    assert "one two three".startswith(answer.text)
    assert answer.error is not None
    assert not answer.is_done


async def test_the_first_chunk_leaves_before_the_second_exists(serve, upstream: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    upstream.script(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream)
    async with gateway.client.stream("POST", "/chat/completions", json=gateway.body(stream=True)) as response:
        seen = b""
        async for piece in response.aiter_raw():
            seen += piece
            if b"one" in seen:
                break
        assert b"two" not in seen
        gate.set()


async def test_an_upstreams_error_keeps_its_status(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(error(400, "bad temperature"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.status == 400
    assert answer.error["message"] == "bad temperature"
    assert set(answer.error) == {"message", "type", "param", "code"}
