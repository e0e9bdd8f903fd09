"""`/v1/messages`: what is Anthropic's own in it, over upstreams of its dialect and of others."""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import msgspec
import pytest

from unbroken.chat.error import ApiError
from unbroken.chat.events import (
    Event,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    Started,
    TextDelta,
    UsageReported,
)
from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    Hold,
    Script,
    ScriptedUpstream,
    Stall,
    before_head,
    blocks,
    body,
    error,
    hold_after,
    rate_limited,
    text,
    with_headers,
)
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering, Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.sse import SseReader

from .conftest import UPSTREAM_KEY, Served, upstream_settings

pytestmark = pytest.mark.anyio

KEY = "sk-of-the-client"
VERSION = {"anthropic-version": "2023-06-01"}
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"

START = Started("upstream-1", "m")
STOP = Finished(FinishReason.STOP)


@pytest.fixture
async def claude() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that speaks the dialect itself."""
    async with ScriptedUpstream(paths=(MESSAGES, f"{MESSAGES}/count_tokens")) as scripted:
        yield scripted


def speaking(scripted: ScriptedUpstream, dialect: str = "anthropic-messages", **fields: Any) -> Any:
    return upstream_settings("up0", scripted, dialect=dialect, **fields)


def question(**fields: Any) -> dict[str, Any]:
    asked = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}], **fields}
    return {name: value for name, value in asked.items() if value is not ...}


async def ask(gateway: Served, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return await gateway.client.post("/messages", json=question(**fields), headers=headers)


def streamed(dialect: Dialect, events: Sequence[Event]) -> Answer:
    writer = dialect.event_writer(Answering("upstream-1", "m", 1, include_usage=True))
    said = [block for event in events for block in writer.write(event)]
    return blocks(*said, *writer.end())


def whole(dialect: Dialect, events: Sequence[Event]) -> Answer:
    return body(dialect.write_answer(events, Answering("upstream-1", "m", 1)))


def events_of(raw: bytes) -> list[Any]:
    return [msgspec.json.decode(event.data) for event in SseReader().feed(raw)]


def check_error(response: httpx2.Response, status: int, type: str) -> str:
    """The message of an error in Anthropic's envelope."""
    assert response.status_code == status, response.text
    said = response.json()
    assert set(said) == {"type", "error", "request_id"}
    assert said["type"] == "error"
    assert said["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert set(said["error"]) == {"type", "message"}
    assert said["error"]["type"] == type
    return said["error"]["message"]


# --- errors

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": ...}, "model: Field required"),
    "no max_tokens": ({"max_tokens": ...}, "max_tokens: Field required"),
    "no messages": ({"messages": ...}, "messages: Field required"),
    "empty messages": ({"messages": []}, "messages: at least one message is required"),
    "a role of its own": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: "),
    "temperature": ({"temperature": 2}, "temperature: Input should be less than or equal to 1"),
    "stop": ({"stop_sequences": "x"}, "stop_sequences: Input should be a valid list, found string"),
    "tools": ({"tools": {"name": "f"}}, "tools: Input should be a valid list, found object"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_field_is_named(serve, upstream: ScriptedUpstream, name: str) -> None:
    """A5."""
    gateway = await serve(upstream)
    fields, message = WRONG[name]
    said = check_error(await ask(gateway, **fields), 400, "invalid_request_error")
    assert said.startswith(message)
    assert not upstream.requests


async def test_a_body_that_is_no_json_is_refused(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    response = await gateway.client.post("/messages", content=b"{", headers={"content-type": "application/json"})
    assert "not valid JSON" in check_error(response, 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY, "authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": "sk-wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer sk-wrong"}, 401),
        ({}, 401),
    ],
)
async def test_the_key_may_come_in_either_header(
    serve, claude: ScriptedUpstream, headers: dict[str, str], status: int
) -> None:
    """A1, A9."""
    gateway = await serve(speaking(claude), keys={"alice": KEY})
    claude.always(whole(ANTHROPIC_MESSAGES, [START, TextDelta("Hi"), STOP]))
    async with httpx2.AsyncClient(base_url=gateway.base_url, trust_env=False) as client:
        response = await client.post("/messages", json=question(), headers=headers)
    assert response.status_code == status
    if status == 200:
        assert claude.requests[0].header_values("x-api-key") == [UPSTREAM_KEY]
        assert (await gateway.wait_for_line())["key"] == "alice"
    else:
        message = check_error(response, 401, "authentication_error")
        assert "sk-wrong" not in message
        assert not claude.requests


async def test_an_unknown_model_and_an_unknown_path_are_not_found(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    assert "'other' does not exist" in check_error(await ask(gateway, model="other"), 404, "not_found_error")
    response = await gateway.client.post("/messages/batches", json={})
    assert "/v1/messages/batches" in check_error(response, 404, "not_found_error")


async def test_a_body_beyond_the_limit_is_too_large(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"body_limit": 200})
    response = await ask(gateway, system="x" * 200)
    assert "larger than 200 bytes" in check_error(response, 413, "request_too_large")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("path", ["/messages", "/messages/count_tokens"])
async def test_other_methods_are_told_which_one(serve, upstream: ScriptedUpstream, path: str, method: str) -> None:
    gateway = await serve(upstream)
    response = await gateway.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")
    if method != "HEAD":
        check_error(response, 405, "invalid_request_error")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_rate_limit_says_when_to_come_again(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    gateway = await serve(upstream)
    upstream.always(rate_limited(99))
    response = await ask(gateway, stream=stream)
    check_error(response, 429, "rate_limit_error")
    assert response.headers["retry-after"] == "99"


@pytest.mark.parametrize("stream", [True, False])
async def test_overloaded_is_529(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    """A5."""
    gateway = await serve(upstream, retries={"attempts": 1})
    upstream.always(error(503, "too busy", type="server_error"))
    response = await ask(gateway, stream=stream)
    check_error(response, 529, "overloaded_error")
    assert response.reason_phrase == "Overloaded"
    assert (await gateway.wait_for_line())["status"] == 529


async def test_an_upstream_that_is_left_alone_is_529(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, retries={"attempts": 1, "breaker_failures": 1})
    upstream.always(error(500, "broken"))
    await ask(gateway)
    check_error(await ask(gateway), 529, "overloaded_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_own_rate_limits_are_told(serve, claude: ScriptedUpstream, stream: bool) -> None:
    """H9"""
    events = [START, TextDelta("one"), STOP]
    limits = with_headers({"anthropic-ratelimit-requests-remaining": "59", "x-internal": "no"})
    claude.script((streamed if stream else whole)(ANTHROPIC_MESSAGES, events) | limits)
    response = await ask(await serve(speaking(claude)), stream=stream)
    assert response.headers["anthropic-ratelimit-requests-remaining"] == "59"
    assert "x-internal" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_another_dialects_rate_limits_are_told_in_this_ones_words(
    serve, upstream: ScriptedUpstream, stream: bool
) -> None:
    """H9"""
    limits = {
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-tokens": "6m0s",
        "x-ratelimit-limit-project-tokens": "9",
    }
    upstream.script(text("one") | with_headers(limits))
    response = await ask(await serve(upstream), stream=stream)
    told = {name: value for name, value in response.headers.items() if "ratelimit" in name}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("anthropic-ratelimit-tokens-reset"))
    assert told == {"anthropic-ratelimit-requests-remaining": "59"}


async def test_openai_clients_are_told_this_dialects_limits_in_their_words(serve, claude: ScriptedUpstream) -> None:
    """H9"""
    limits = {"anthropic-ratelimit-tokens-limit": "40000", "anthropic-ratelimit-input-tokens-limit": "30000"}
    claude.script(streamed(ANTHROPIC_MESSAGES, [START, TextDelta("one"), STOP]) | with_headers(limits))
    answer = await (await serve(speaking(claude))).stream()
    told = {name: value for name, value in answer.headers.items() if "ratelimit" in name}
    assert told == {"x-ratelimit-limit-tokens": "40000"}


@pytest.mark.parametrize("stream", [True, False])
async def test_every_answer_has_its_request_id(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    """A5."""
    gateway = await serve(upstream)
    response = await ask(gateway, {"x-request-id": "mine-1"}, stream=stream)
    assert response.headers["request-id"] == response.headers["x-request-id"] == "mine-1"
    assert (await gateway.wait_for_line())["id"] == "mine-1"


# --- keep-alive


@pytest.mark.parametrize("is_diagonal", [True, False])
async def test_pings_come_into_silence_before_and_between_content(
    serve, upstream: ScriptedUpstream, claude: ScriptedUpstream, is_diagonal: bool
) -> None:
    """A6."""
    dialect, asked = (ANTHROPIC_MESSAGES, claude) if is_diagonal else (OPENAI_CHAT, upstream)
    gateway = await serve(speaking(asked, dialect.name), keep_alive={"first": 0.01, "every": 0.05})
    before, between = Gate(), Gate()
    writer = dialect.event_writer(Answering("upstream-1", "m", 1))
    head = b"".join(block for event in (START, TextDelta("Once")) for block in writer.write(event))
    rest = b"".join([*writer.write(TextDelta(" upon")), *writer.write(STOP), *writer.end()])
    asked.script(blocks(head, rest) | before_head(Hold(before)) | hold_after(1, between))
    raw = b""
    async with gateway.client.stream("POST", "/messages", json=question(stream=True)) as response:
        pieces = response.aiter_raw()
        while b"event: ping\n" not in raw:
            raw += await anext(pieces)
        assert b"message_start" not in raw
        before.open()
        while b"ping" not in raw.partition(b"Once")[2]:
            raw += await anext(pieces)
        between.open()
        async for piece in pieces:
            raw += piece
    said = events_of(raw)
    assert {"type": "ping"} in said
    assert b": keep-alive" not in raw
    assert [event["type"] for event in said if event["type"] != "ping"] == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]


async def test_an_error_behind_a_ping_is_an_error_event(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keep_alive={"first": 0.01, "every": 0.05}, retries={"attempts": 1})
    gate = Gate()
    upstream.script(error(503, "too busy") | before_head(Hold(gate)))
    raw = b""
    async with gateway.client.stream("POST", "/messages", json=question(stream=True)) as response:
        pieces = response.aiter_raw()
        while b"ping" not in raw:
            raw += await anext(pieces)
        gate.open()
        async for piece in pieces:
            raw += piece
    *pings, last = events_of(raw)
    assert all(event == {"type": "ping"} for event in pings)
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")


# --- what has no word


@pytest.mark.parametrize("stream", [True, False])
async def test_settings_without_a_word_are_told_in_a_header(
    serve, upstream: ScriptedUpstream, claude: ScriptedUpstream, stream: bool
) -> None:
    """T2."""
    gateway = await serve(upstream)
    response = await ask(gateway, stream=stream, top_k=5)
    assert response.headers["unbroken-dropped"] == "top_k"
    assert "top_k" not in upstream.requests[0].json()
    response = await ask(gateway, stream=stream)
    assert "unbroken-dropped" not in response.headers


@pytest.mark.parametrize("stream", [True, False])
async def test_a_name_of_the_clients_own_cannot_break_the_header(
    serve, upstream: ScriptedUpstream, stream: bool
) -> None:
    gateway = await serve(upstream)
    named = {"odd\r\nx-injected: yes\u2028": 1, "x" * 10_000: 1}
    response = await ask(gateway, stream=stream, output_config=named)
    assert response.status_code == 200, response.text
    assert "x-injected" not in response.headers
    assert response.headers["unbroken-dropped"].startswith("output_config.odd??x-injected: yes?")
    assert len(response.headers["unbroken-dropped"]) <= 4000


async def test_nothing_is_dropped_on_the_diagonal(serve, claude: ScriptedUpstream) -> None:
    gateway = await serve(speaking(claude))
    claude.script(whole(ANTHROPIC_MESSAGES, [START, TextDelta("Hi"), STOP]))
    response = await ask(gateway, top_k=5, container="c")
    assert "unbroken-dropped" not in response.headers
    sent = claude.requests[0].json()
    assert (sent["top_k"], sent["container"]) == (5, "c")


async def test_what_was_dropped_for_one_upstream_is_not_told_of_another(
    serve, upstream: ScriptedUpstream, claude: ScriptedUpstream
) -> None:
    second = upstream_settings("up1", claude, dialect="anthropic-messages")
    gateway = await serve(upstream, second, route=[{"model": "m", "upstreams": ["up0", "up1"]}])
    upstream.script(error(401, "no"))
    claude.script(whole(ANTHROPIC_MESSAGES, [START, TextDelta("Hi"), STOP]))
    response = await ask(gateway, top_k=5)
    assert response.status_code == 200
    assert "unbroken-dropped" not in response.headers


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_tool_is_refused_by_name_where_nobody_can_run_it(
    serve, upstream: ScriptedUpstream, claude: ScriptedUpstream, stream: bool
) -> None:
    """T2."""
    tool = {"type": "web_search_20250305", "name": "web_search"}
    gateway = await serve(upstream)
    message = check_error(await ask(gateway, stream=stream, tools=[tool]), 400, "invalid_request_error")
    assert "tools.0" in message
    assert not upstream.requests
    line = await gateway.wait_for_line()
    assert (line["outcome"], line["status"]) == ("unsupported", 400)


async def test_a_server_tool_goes_to_an_upstream_that_can_run_it(
    serve, upstream: ScriptedUpstream, claude: ScriptedUpstream
) -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    second = upstream_settings("up1", claude, dialect="anthropic-messages")
    gateway = await serve(upstream, second, route=[{"model": "m", "upstreams": ["up0", "up1"]}])
    claude.script(whole(ANTHROPIC_MESSAGES, [START, TextDelta("Hi"), STOP]))
    response = await ask(gateway, tools=[tool])
    assert response.status_code == 200
    assert claude.requests[0].json()["tools"] == [tool]
    assert not upstream.requests


# --- counting


async def test_an_upstream_of_the_dialect_counts(serve, claude: ScriptedUpstream) -> None:
    """A7, A9."""
    gateway = await serve(speaking(claude, models=("m = theirs",)), keys={"alice": KEY})
    claude.script(body(b'{"input_tokens": 2095}'))
    asked = question(max_tokens=..., system="Be brief.")
    headers = {"anthropic-beta": "one"}
    response = await gateway.client.post("/messages/count_tokens", json=asked, headers=headers)
    assert (response.status_code, response.json()) == (200, {"input_tokens": 2095})
    assert "unbroken-estimated" not in response.headers
    (request,) = claude.requests
    assert request.path == "/v1/messages/count_tokens"
    assert request.json() == {**asked, "model": "theirs"}
    assert request.header("x-api-key") == UPSTREAM_KEY
    assert request.header("anthropic-version") == "2023-06-01"
    assert request.header("anthropic-beta") == "one"


@pytest.mark.parametrize("more", [{}, {"max_tokens": ...}])
async def test_other_upstreams_counts_are_estimated(serve, upstream: ScriptedUpstream, more: dict[str, Any]) -> None:
    """A7."""
    gateway = await serve(upstream)
    long, short = [
        await gateway.client.post("/messages/count_tokens", json=question(system="word " * size, **more))
        for size in (1000, 1)
    ]
    for response in (long, short):
        assert response.status_code == 200
        assert response.headers["unbroken-estimated"] == "true"
    assert 500 < long.json()["input_tokens"] < 5000
    assert 0 < short.json()["input_tokens"] < 100
    assert not upstream.requests


async def test_a_count_that_does_not_come_is_an_error(serve, claude: ScriptedUpstream) -> None:
    claude.always(Script((Stall(),)))
    gateway = await serve(speaking(claude), timeouts={"headers": 0.1})
    response = await gateway.client.post("/messages/count_tokens", json=question())
    assert "no response within 0.1 s" in check_error(response, 504, "timeout_error")
    await claude.wait_until_left()


async def test_a_count_that_fails_is_an_error(serve, claude: ScriptedUpstream) -> None:
    gateway = await serve(speaking(claude))
    refused = ANTHROPIC_MESSAGES.write_error(ApiError(400, "messages: too odd"), "req_1")
    claude.script(body(refused, status=400), body(b"{}"))
    response = await gateway.client.post("/messages/count_tokens", json=question())
    assert check_error(response, 400, "invalid_request_error") == "messages: too odd"
    response = await gateway.client.post("/messages/count_tokens", json=question())
    assert "not a count" in check_error(response, 502, "api_error")
    response = await gateway.client.post("/messages/count_tokens", json=question(messages=...))
    assert check_error(response, 400, "invalid_request_error") == "messages: Field required"
    response = await gateway.client.post("/messages/count_tokens", json=question(model="other"))
    check_error(response, 404, "not_found_error")


# --- models


async def test_models_have_the_shape_that_the_client_knows(serve, upstream: ScriptedUpstream) -> None:
    """A1."""
    gateway = await serve(upstream)
    listed = (await gateway.client.get("/models", headers=VERSION)).json()
    assert set(listed) == {"data", "has_more", "first_id", "last_id"}
    (model,) = listed["data"]
    assert (model["type"], model["id"], model["display_name"]) == ("model", "m", "m")
    assert (await gateway.client.get("/models/m", headers=VERSION)).json() == model
    assert (await gateway.client.get("/models")).json()["object"] == "list"
    assert (await gateway.client.get("/models/m")).json()["object"] == "model"
    check_error(await gateway.client.get("/models/other", headers=VERSION), 404, "not_found_error")


# --- thinking

SIGNATURE, REDACTED = "c2VhbCBvZiB0aG91Z2h0cw==", "cmVkYWN0ZWQ="
THOUGHTS = [
    *(START, ReasoningDelta("Hm"), ReasoningDelta("m"), ReasoningSigned(SIGNATURE), ReasoningSealed(REDACTED)),
    *(TextDelta("Yes"), STOP),
]
THINKING = {"type": "thinking", "thinking": "Hmm", "signature": SIGNATURE}
REDACTED_THINKING = {"type": "redacted_thinking", "data": REDACTED}


@pytest.mark.parametrize("stream", [True, False])
async def test_an_openai_client_gets_thinking_sealed_and_gives_it_back(
    serve, claude: ScriptedUpstream, stream: bool
) -> None:
    """T7, FAULTS.md 36: the signature and what is redacted go back to the provider as they came."""
    gateway = await serve(speaking(claude))
    claude.script(streamed(ANTHROPIC_MESSAGES, THOUGHTS), streamed(ANTHROPIC_MESSAGES, THOUGHTS))
    if stream:
        deltas = (await gateway.stream()).deltas
        pieces = [block for delta in deltas for block in delta.get("thinking_blocks") or ()]
        kept = [{name: value for name, value in piece.items() if name != "index"} for piece in pieces]
        reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    else:
        message = (await gateway.ask()).json()["choices"][0]["message"]
        kept, reasoning = message["thinking_blocks"], message["reasoning_content"]
    assert reasoning == "Hmm"
    assert kept == [THINKING, REDACTED_THINKING]
    said = {"role": "assistant", "content": "Yes", "reasoning_content": reasoning, "thinking_blocks": kept}
    turns = [{"role": "user", "content": "hello"}, said, {"role": "user", "content": "and?"}]
    response = await gateway.client.post("/chat/completions", json={"model": "m", "messages": turns})
    assert response.status_code == 200, response.text
    back = claude.requests[-1].json()["messages"][1]
    assert back["role"] == "assistant"
    assert back["content"][:2] == [THINKING, REDACTED_THINKING]
    assert back["content"][2]["text"] == "Yes"


async def test_thinking_passes_the_diagonal_untouched(serve, claude: ScriptedUpstream) -> None:
    gateway = await serve(speaking(claude))
    claude.script(whole(ANTHROPIC_MESSAGES, THOUGHTS), streamed(ANTHROPIC_MESSAGES, THOUGHTS))
    content = (await ask(gateway)).json()["content"]
    assert content == [THINKING, REDACTED_THINKING, {"type": "text", "text": "Yes"}]
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": "and?"},
    ]
    response = await ask(gateway, stream=True, messages=turns, thinking={"type": "enabled", "budget_tokens": 2000})
    sent = claude.requests[-1].json()
    assert (sent["messages"], sent["thinking"]) == (turns, {"type": "enabled", "budget_tokens": 2000})
    deltas = [event["delta"] for event in events_of(response.content) if event["type"] == "content_block_delta"]
    assert {"type": "signature_delta", "signature": SIGNATURE} in deltas


# --- usage

CACHED = UsageReported(Usage(input=100, output=7, cached_read=60, cache_write=30))


@pytest.mark.parametrize("stream", [True, False])
async def test_cached_tokens_are_counted_once(
    serve, upstream: ScriptedUpstream, claude: ScriptedUpstream, stream: bool
) -> None:
    """A8, FAULTS.md 39: Anthropic counts them beside the input, OpenAI within it."""
    said = [START, TextDelta("Hi"), STOP, CACHED]
    counted = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 60,
        "output_tokens": 7,
    }
    for asked, dialect in ((claude, ANTHROPIC_MESSAGES), (upstream, OPENAI_CHAT)):
        gateway = await serve(speaking(asked, dialect.name))
        is_whole = dialect is ANTHROPIC_MESSAGES and not stream
        asked.script((whole if is_whole else streamed)(dialect, said))
        response = await ask(gateway, stream=stream)
        if stream:
            usage = next(event for event in events_of(response.content) if event["type"] == "message_delta")["usage"]
        else:
            usage = response.json()["usage"]
        assert {name: usage[name] for name in counted} == counted, dialect.name
        line = await gateway.wait_for_line()
        assert (line["input_tokens"], line["output_tokens"]) == (100, 7)
        metrics = await gateway.metrics()
        assert metrics['unbroken_tokens_total{direction="input",model="m",upstream="up0"}'] == 100


async def test_cached_tokens_are_part_of_an_openai_clients_input(serve, claude: ScriptedUpstream) -> None:
    gateway = await serve(speaking(claude))
    claude.script(streamed(ANTHROPIC_MESSAGES, [START, TextDelta("Hi"), STOP, CACHED]))
    usage = (await gateway.ask()).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (100, 7, 107)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 60


async def test_an_upstream_that_counts_nothing_is_estimated_in_the_log(serve, upstream: ScriptedUpstream) -> None:
    """C3."""
    gateway = await serve(upstream)
    upstream.script(text("one two three", usage=False))
    response = await ask(gateway, stream=True)
    assert events_of(response.content)[-1] == {"type": "message_stop"}
    line = await gateway.wait_for_line()
    assert (line["estimated"], line["output_tokens"]) == (True, 3)


async def test_the_version_of_the_client_goes_up(serve, claude: ScriptedUpstream) -> None:
    """A1, A9."""
    gateway = await serve(speaking(claude))
    claude.script(whole(ANTHROPIC_MESSAGES, [START, TextDelta("Hi"), STOP]))
    await ask(gateway, {"anthropic-version": "2099-01-01"})
    assert claude.requests[0].header("anthropic-version") == "2099-01-01"
