"""What llama.cpp makes of a Chat Completions request: the facts that the gateway builds on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine import Engine

pytestmark = pytest.mark.anyio

SECONDS = 60.0  # for what takes a fraction of one on a quiet machine


@asynccontextmanager
async def engine_running(path: Path, **wishes: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a running engine."""
    engine = Engine("local", EngineSettings(path=str(path), **wishes))
    await engine.start()
    try:
        address = await engine.wait_until_ready(SECONDS)
        headers = {"authorization": f"Bearer {address.key}"}
        transport = httpx2.AsyncHTTPTransport(uds=address.path, limits=httpx2.Limits(max_keepalive_connections=0))
        async with httpx2.AsyncClient(
            transport=transport, base_url=address.base_url, headers=headers, timeout=SECONDS
        ) as client:
            yield client
    finally:
        await engine.stop()


@pytest.fixture
async def client(model: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with engine_running(model) as client:
        yield client


def request(text: str, **fields: Any) -> dict[str, Any]:
    """A request with one user message; the last token of `text` decides what the model says."""
    return {"messages": [{"role": "user", "content": text}], **fields}


async def ask(client: httpx2.AsyncClient, text: str, **fields: Any) -> Any:
    """The reply to a request that is not streamed."""
    reply = await client.post("/chat/completions", json=request(text, **fields))
    assert reply.status_code == 200, reply.text
    return reply.json()


async def refusal(client: httpx2.AsyncClient, text: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    """The status and the error of a refused request."""
    reply = await client.post("/chat/completions", json=request(text, **fields))
    return reply.status_code, reply.json()["error"]


async def streamed(client: httpx2.AsyncClient, text: str, **fields: Any) -> list[str]:
    """The data of every event of a streamed reply."""
    async with client.stream("POST", "/chat/completions", json=request(text, stream=True, **fields)) as reply:
        assert reply.status_code == 200
        return [line.removeprefix("data: ") async for line in reply.aiter_lines() if line]


def pieces(events: list[str]) -> list[str]:
    """The content of each event that has some."""
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition that is asked over the network."""
    async with asyncio.timeout(SECONDS):
        while not await condition():
            pass


async def busy_slots(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """The slots that work."""
    slots = (await client.get("/../slots")).json()
    return [slot for slot in slots if slot["is_processing"]]


async def test_stream_has_role_then_content_then_finish_then_done(client: httpx2.AsyncClient) -> None:
    *events, done = await streamed(client, "<greet>")
    first, *_, last = map(json.loads, events)
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert {json.loads(event)["id"] for event in events} == {first["id"]}
    assert first["model"] == "successor"
    assert "timings" in last
    assert not any("usage" in json.loads(event) for event in events)


async def test_characters_that_tokens_split_arrive_whole(client: httpx2.AsyncClient) -> None:
    assert pieces(await streamed(client, "<greet>")) == ["he", " é ", "🌊", " ok"]


async def test_usage_comes_in_an_event_of_its_own_when_asked_for(client: httpx2.AsyncClient) -> None:
    events = await streamed(client, "<greet>", stream_options={"include_usage": True})
    usage = json.loads(events[-2])
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 7  # with the end token
    assert json.loads(events[-3])["choices"][0]["finish_reason"] == "stop"


async def test_limits_of_tokens(client: httpx2.AsyncClient) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3}):
        choice = (await ask(client, "<count>", **limit))["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (" 1 2 3", "length")


async def test_stop_is_left_out_also_when_streamed(client: httpx2.AsyncClient) -> None:
    choice = (await ask(client, "<count>", stop=[" 4"]))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (" 1 2 3", "stop")
    assert pieces(await streamed(client, "<count>", stop="3 4")) == [" 1", " 2", " "]


async def test_seed_decides(client: httpx2.AsyncClient) -> None:
    chance = {"temperature": 100.0, "top_k": 200, "top_p": 1.0, "min_p": 0.0, "max_tokens": 20}
    said = [
        (await ask(client, "<count>", seed=seed, **chance))["choices"][0]["message"]["content"] for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


async def test_choices_are_interleaved_and_usage_counts_the_first_only(client: httpx2.AsyncClient) -> None:
    reply = await ask(client, "<greet>", n=2)
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["he é 🌊 ok"] * 2
    assert reply["usage"]["completion_tokens"] == 7
    events = await streamed(client, "<greet>", n=2)
    assert sorted(json.loads(event)["choices"][0]["index"] for event in events[:2]) in ([0, 0], [1, 1], [0, 1])
    assert len(pieces(events)) == 8
    status, error = await refusal(client, "<greet>", n=5)  # more than there are slots
    assert (status, error["type"]) == (400, "invalid_request_error")


async def test_json_schema_is_enforced(client: httpx2.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"enum": ["yes"]}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    reply = await ask(client, "<greet>", response_format=wanted, temperature=0, max_tokens=300)
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"ok": "yes"}


async def test_logprobs_are_given_for_each_piece(client: httpx2.AsyncClient) -> None:
    reply = await ask(client, "<count>", logprobs=True, top_logprobs=2, max_tokens=2)
    entries = reply["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == [" 1", " 2"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2, 2]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": "hot"}, "Field 'temperature': "),
        ({"max_tokens": -5}, "Field 'max_tokens': Value must be between"),
        ({"messages": "hello"}, "Expected 'messages' to be an array"),
        ({"tools": [], "tool_choice": "perhaps"}, "Invalid tool_choice: perhaps"),
    ],
)
async def test_wrong_field_is_a_400_that_names_it(
    client: httpx2.AsyncClient, fields: dict[str, Any], words: str
) -> None:
    status, error = await refusal(client, "<greet>", **fields)
    assert (status, error["code"], error["type"]) == (400, 400, "invalid_request_error")
    assert words in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_beyond_the_context_is_a_400_before_any_event(client: httpx2.AsyncClient, stream: bool) -> None:
    status, error = await refusal(client, "<count>" * 5000, stream=stream)
    assert (status, error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (5000, 4096)


async def test_context_size_is_for_each_conversation(model: Path) -> None:
    async with engine_running(model, context_size=512, slots=3) as client:
        assert (await refusal(client, "<count>" * 600))[1]["n_ctx"] == 512
        choice = (await ask(client, "<count>" * 500))["choices"][0]
        assert choice["finish_reason"] == "length"


async def test_token_ids_go_in_and_come_out(client: httpx2.AsyncClient) -> None:
    tokens = (await client.post("/../tokenize", json={"content": "<count>"})).json()["tokens"]
    wish = {"prompt": tokens, "return_tokens": True, "n_predict": 3}
    said = (await client.post("/../completion", json=wish)).json()
    further = (await client.post("/../completion", json=wish | {"prompt": tokens + said["tokens"]})).json()
    assert (said["content"], further["content"]) == (" 1 2 3", " 4 1 2")


async def test_slots_answer_in_parallel_and_one_that_is_left_serves_the_next(slow_model: Path) -> None:
    async with engine_running(slow_model, slots=2) as client:
        endless = request("<count>", stream=True, max_tokens=100_000)
        async with client.stream("POST", "/chat/completions", json=endless) as first:
            from_first = first.aiter_lines()
            await anext(from_first)
            async with client.stream("POST", "/chat/completions", json=endless) as second:
                from_second = second.aiter_lines()  # its end would end the request
                await anext(from_second)
                for _ in range(9):
                    assert await anext(from_first) is not None
                assert len(await busy_slots(client)) == 2
                waiting = asyncio.create_task(ask(client, "<greet>"))
            assert (await asyncio.wait_for(waiting, SECONDS))["choices"][0]["message"]["content"] == "he é 🌊 ok"
            assert len(await busy_slots(client)) == 1


async def test_leaving_before_the_first_token_frees_the_slot(slow_model: Path) -> None:
    async with engine_running(slow_model, slots=1, batch_size=32) as client:
        long = request("<count>" * 4000, stream=True, max_tokens=8000)
        async with client.stream("POST", "/chat/completions", json=long) as reply:
            assert reply.status_code == 200  # said when the slot takes the request, before its prompt is computed
            slot = (await busy_slots(client))[0]
            assert slot["n_prompt_tokens_processed"] < 4000

        async def is_free() -> bool:
            return not await busy_slots(client)

        await until(is_free)
        assert (await ask(client, "<greet>"))["choices"][0]["message"]["content"] == "he é 🌊 ok"
