"""What llama.cpp makes of a Chat Completions request: the facts that the gateway builds on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from unbroken.chat.fault import Fault
from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine import Engine, EngineAddress
from unbroken.wire.llama_cpp.errors import read_error

pytestmark = pytest.mark.anyio

SECONDS = 60.0  # for what takes a fraction of one on a quiet machine


@asynccontextmanager
async def engine_running(path: Path, **wishes: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, EngineAddress]]:
    """A client of a running engine, and the address that it calls."""
    engine = Engine("local", EngineSettings(path=str(path), **wishes))
    await engine.start()
    try:
        address = await engine.wait_until_ready(SECONDS)
        headers = {"authorization": f"Bearer {address.key}"}
        transport = httpx2.AsyncHTTPTransport(uds=address.path, limits=httpx2.Limits(max_keepalive_connections=0))
        async with httpx2.AsyncClient(
            transport=transport, base_url=address.base_url, headers=headers, timeout=SECONDS
        ) as client:
            yield client, address
    finally:
        await engine.stop()


@pytest.fixture
async def client(model: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with engine_running(model) as (client, _):
        yield client


def request(text: Any, **fields: Any) -> dict[str, Any]:
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
    async with engine_running(model, context_size=512, slots=3) as (client, _):
        assert (await refusal(client, "<count>" * 600))[1]["n_ctx"] == 512
        choice = (await ask(client, "<count>" * 500))["choices"][0]
        assert choice["finish_reason"] == "length"


async def test_token_ids_go_in_and_come_out(client: httpx2.AsyncClient) -> None:
    tokens = (await client.post("/../tokenize", json={"content": "<count>"})).json()["tokens"]
    wish = {"prompt": tokens, "return_tokens": True, "n_predict": 3}
    said = (await client.post("/../completion", json=wish)).json()
    further = (await client.post("/../completion", json=wish | {"prompt": tokens + said["tokens"]})).json()
    assert (said["content"], further["content"]) == (" 1 2 3", " 4 1 2")


@asynccontextmanager
async def call(address: EngineAddress, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """What comes back for a request; at the end the connection is closed, whatever is still to come."""
    assert address.path
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_unix_connection(address.path)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: engine\r\nAuthorization: Bearer {address.key}\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    try:
        yield reader
    finally:
        writer.close()


async def until_busy(client: httpx2.AsyncClient) -> None:
    """Waits until a slot works."""
    async with asyncio.timeout(SECONDS):
        while not await busy_slots(client):
            pass


async def test_slots_answer_in_parallel_and_one_that_is_left_serves_the_next(slow_model: Path) -> None:
    async with engine_running(slow_model, slots=2) as (client, address):
        endless = request("<count>", stream=True, max_tokens=100_000)
        async with call(address, endless) as first:
            await first.readuntil(b'"content":" 1"')
            async with call(address, endless) as second:
                await second.readuntil(b'"content":" 1"')
                await first.readuntil(b'"content":" 4"')
                assert len(await busy_slots(client)) == 2
                waiting = asyncio.create_task(ask(client, "<greet>"))
            assert (await waiting)["choices"][0]["message"]["content"] == "he é 🌊 ok"
            assert len(await busy_slots(client)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token_frees_the_slot(slow_model: Path, stream: bool) -> None:
    async with engine_running(slow_model, slots=1) as (client, address):
        async with call(address, request("<count>" * 2000, stream=stream, max_tokens=9000)):
            await until_busy(client)
        assert (await ask(client, "<greet>"))["choices"][0]["message"]["content"] == "he é 🌊 ok"


async def test_leaving_beside_a_busy_stream_is_noticed_with_progress(slow_model: Path) -> None:
    """llama.cpp looks for leavers in quiet seconds only; `return_progress` makes it write, and a write finds out."""
    async with engine_running(slow_model, slots=2) as (client, address):
        async with call(address, request("<count>", stream=True, max_tokens=100_000)) as other:
            draining = asyncio.create_task(other.read())
            long = request("<count>" * 4000, stream=True, max_tokens=9000, return_progress=True)
            async with call(address, long) as reply:
                await reply.readuntil(b'"prompt_progress":{"total":4000')
            assert (await ask(client, "<greet>"))["choices"][0]["message"]["content"] == "he é 🌊 ok"
            assert not draining.done()
        await draining


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"city": "Par'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ASKED, ANSWERED = {"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "a", "content": "x"}

# What llama.cpp answers 500 to, and which fault it is (docs/engine.md).
NOT_READ: dict[str, tuple[dict[str, Any], Fault]] = {
    "image": (
        request([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]),
        Fault.UNTRANSLATABLE,
    ),
    "audio": (
        request([{"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}]),
        Fault.UNTRANSLATABLE,
    ),
    "video": (request([{"type": "video_url", "video_url": {"url": "x"}}]), Fault.UNTRANSLATABLE),
    "no role": ({"messages": [{"content": "x"}]}, Fault.BAD_REQUEST),
    "text that is none": (request([{"type": "text", "text": 5}]), Fault.BAD_REQUEST),
    "a call of no type": (
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [{}]}, ANSWERED]},
        Fault.BAD_REQUEST,
    ),
    "tools that are none": (request("x", tools=[5]), Fault.BAD_REQUEST),
    "a schema and a grammar": (
        request("x", json_schema={"type": "object"}, grammar='root ::= "a"'),
        Fault.BAD_REQUEST,
    ),
    "reasoning in no known format": (request("x", reasoning_format="zz"), Fault.BAD_REQUEST),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_what_llama_cpp_cannot_read_is_the_callers_fault(client: httpx2.AsyncClient, stream: bool) -> None:
    for name, (asked, fault) in NOT_READ.items():
        reply = await client.post("/chat/completions", json={**asked, "stream": stream})
        assert reply.status_code == 500, name
        failure = read_error(500, reply.headers["content-type"], reply.content)
        assert (failure.fault, failure.status) == (fault, 400), name


async def test_arguments_that_are_cut_are_the_callers_fault(write_model: Callable[..., Path]) -> None:
    """Where the chat template says them as an object."""
    template = (
        "{% for message in messages %}{% for call in message.tool_calls or [] %}"
        "{% for name, value in call.function.arguments.items() %}{{ name }}{{ value }}{% endfor %}{% endfor %}"
        "{{ message['content'] }}{% endfor %}"
    )
    async with engine_running(write_model(**{"tokenizer.chat_template": template})) as (client, _):
        asked = {"messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}, ANSWERED], "tools": [TOOL]}
        reply = await client.post("/chat/completions", json=asked)
        assert reply.status_code == 500
        failure = read_error(500, "application/json", reply.content)
        assert failure.fault is Fault.BAD_REQUEST
        assert "Failed to parse tool call arguments" in failure.message
