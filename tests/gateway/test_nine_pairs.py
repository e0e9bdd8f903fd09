"""Any client over any upstream: each of the three dialects on both sides, through the real gateway."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
import pytest

from tests.wire.matrix_events import ANSWERS, PARTIAL, START, STOP, USAGE, text, words
from unbroken.chat.error import ApiError
from unbroken.chat.events import Event, Failed, Finished, TextDelta, ToolCallDelta, ToolCallStarted, UsageReported
from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage
from unbroken.gateway.questions import DIALECTS
from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.scripted import (
    Answer,
    Change,
    Gate,
    ScriptedUpstream,
    blocks,
    body,
    cut_after,
    eof_after,
    hold_after,
    reset_after,
    stall_after,
)
from unbroken.wire.dialects import Answering, Dialect
from unbroken.wire.sse import SseEvent, SseReader

from .conftest import UPSTREAM_KEY, Served, upstream_settings

pytestmark = pytest.mark.anyio

NAMES = tuple(DIALECTS)
PATHS = tuple(f"/v1{dialect.path}" for dialect in DIALECTS.values())
PAIRS = [(client, upstream) for client in NAMES for upstream in NAMES]
CHAT, RESPONSES, MESSAGES = "openai-chat", "openai-responses", "anthropic-messages"

CLIENT_KEY = "sk-of-the-client"
KEYS = {"keys": {"alice": CLIENT_KEY}}

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {}}, "required": ["z"]}
SYSTEM, ASKED, SAID, ASKED_AGAIN = "Be brief.", "Hello?", "Yes.", "日本語 🙂?"

#: The same conversation in each dialect.
QUESTIONS: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": "m",
        "max_tokens": 100,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "f", "description": "does", "parameters": SCHEMA}}],
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": SAID},
            {"role": "user", "content": ASKED_AGAIN},
        ],
    },
    RESPONSES: {
        "model": "m",
        "max_output_tokens": 100,
        "instructions": SYSTEM,
        "tools": [{"type": "function", "name": "f", "description": "does", "parameters": SCHEMA, "strict": False}],
        "input": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": SAID},
            {"role": "user", "content": ASKED_AGAIN},
        ],
    },
    MESSAGES: {
        "model": "m",
        "max_tokens": 100,
        "system": SYSTEM,
        "tools": [{"name": "f", "description": "does", "input_schema": SCHEMA}],
        "messages": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": SAID},
            {"role": "user", "content": ASKED_AGAIN},
        ],
    },
}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(paths=PATHS) as scripted:
        yield scripted


@pytest.fixture
async def other() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(paths=PATHS) as scripted:
        yield scripted


def speaking(name: str, scripted: ScriptedUpstream, dialect: str, **fields: Any) -> UpstreamSettings:
    return upstream_settings(name, scripted, dialect=dialect, models=("m = theirs",), **fields)


@dataclass(frozen=True)
class Told:
    """What a client was told: the events of its stream, or its whole answer."""

    dialect: Dialect
    status: int
    headers: httpx2.Headers
    raw: bytes

    @property
    def sse(self) -> list[SseEvent]:
        return SseReader().feed(self.raw)

    @property
    def said(self) -> list[Any]:
        return [msgspec.json.decode(event.data) for event in self.sse if event.data != b"[DONE]"]

    @property
    def events(self) -> list[Event]:
        reader = self.dialect.event_reader()
        return [event for sse in self.sse for event in reader.feed(sse)]

    @property
    def usage(self) -> Usage | None:
        return next((event.usage for event in reversed(self.events) if isinstance(event, UsageReported)), None)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.raw)


async def ask(gateway: Served, dialect: str, *, stream: bool, **fields: Any) -> Told:
    spoken = DIALECTS[dialect]
    question = {**QUESTIONS[dialect], "stream": stream, **fields}
    if not stream:
        question.pop("stream_options", None)
    response = await gateway.client.post(spoken.path, json=question)
    return Told(spoken, response.status_code, response.headers, response.content)


def written(dialect: str, events: Sequence[Event], *, end: bool = True) -> list[bytes]:
    """The blocks of an upstream that says this."""
    writer = DIALECTS[dialect].event_writer(Answering("upstream-1", "theirs", 1, include_usage=True))
    said = [block for event in events for block in writer.write(event)]
    return [block for block in [*said, *(writer.end() if end else [])] if block]


def streamed(dialect: str, events: Sequence[Event], *, end: bool = True) -> Answer:
    return blocks(*written(dialect, events, end=end))


def answering(dialect: str, events: Sequence[Event]) -> Callable[[Any], Answer]:
    """Answers with this, streamed or whole, as it is asked."""
    whole = DIALECTS[dialect].write_answer(events, Answering("upstream-1", "theirs", 1))
    return lambda request: streamed(dialect, events) if request.wants_stream() else body(whole)


# --- the laws of each dialect


def check_stream(told: Told) -> None:
    """What must be true of every stream that ends well."""
    assert told.status == 200
    assert told.headers["content-type"].startswith("text/event-stream")
    assert b'"upstream-1"' not in told.raw
    assert b"theirs" not in told.raw
    assert UPSTREAM_KEY.encode() not in told.raw
    check_order(told)
    assert has_succeeded(told)
    assert not failures(told)


def check_order(told: Told) -> None:
    {CHAT: check_chunks, RESPONSES: check_numbers, MESSAGES: check_blocks}[told.dialect.name](told)


def check_chunks(told: Told) -> None:
    chunks = [chunk for chunk in told.said if "error" not in chunk]
    assert {chunk["model"] for chunk in chunks} <= {"m"}
    assert len({chunk["id"] for chunk in chunks}) <= 1
    assert all(chunk["id"].startswith("chatcmpl-") for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) <= 1
    assert sum(choice["finish_reason"] is not None for choice in choices) <= 1
    assert all(event.data != b"[DONE]" for event in told.sse[:-1])


def check_numbers(told: Told) -> None:
    said = told.said
    types = [event["type"] for event in said]
    assert [event.type.decode() for event in told.sse] == types
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    if len(said) > 1:
        assert types[:2] == ["response.created", "response.in_progress"]
    responses = [event["response"] for event in said if "response" in event]
    assert {response["model"] for response in responses} <= {"m"}
    assert len({response["id"] for response in responses}) <= 1
    ends = {"response.completed", "response.incomplete", "response.failed", "error"}
    assert not ends.intersection(types[:-1]), "one terminal, and nothing behind it"
    assert types[-1] in ends
    added = [event["output_index"] for event in said if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in said if event["type"] == "response.output_item.done"]
    assert added == list(range(len(added)))
    if types[-1] in ("response.completed", "response.incomplete"):
        assert sorted(done) == added
        assert len(said[-1]["response"]["output"]) == len(added)


def check_blocks(told: Told) -> None:
    said = [event for event in told.said if event["type"] != "ping"]
    types = [event["type"] for event in said]
    assert [event.type.decode() for event in told.sse if event.type != b"ping"] == types
    if types[0] != "error":
        assert types[0] == "message_start"
        message = said[0]["message"]
        assert message["model"] == "m"
        assert message["id"].startswith("msg_")
        assert message["content"] == []
    assert types.count("message_start") <= 1
    opened, is_open = -1, False
    for event in said:
        match event["type"]:
            case "content_block_start":
                opened += 1
                assert (is_open, event["index"]) == (False, opened)
                is_open = True
            case "content_block_delta":
                assert (is_open, event["index"]) == (True, opened)
            case "content_block_stop":
                assert (is_open, event["index"]) == (True, opened)
                is_open = False
            case "message_delta":
                assert not is_open
    assert types.count("message_stop") + types.count("error") == 1
    assert types[-1] in ("message_stop", "error")
    if types[-1] == "message_stop":
        assert types[-2] == "message_delta"
        assert types.count("message_delta") == 1


def has_succeeded(told: Told) -> bool:
    """Whether the client was told that the answer is whole."""
    match told.dialect.name:
        case "openai-chat":
            return told.sse[-1].data == b"[DONE]"
        case "openai-responses":
            return told.said[-1]["type"] in ("response.completed", "response.incomplete")
        case _:
            return b"message_stop" in told.raw or b"message_delta" in told.raw


def failures(told: Told) -> list[Failed]:
    return [event for event in told.events if isinstance(event, Failed)]


# --- what is answered

TOLD = {**ANSWERS, **PARTIAL}


@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_a_stream_says_what_the_upstream_said(serve, upstream: ScriptedUpstream, client: str, asked: str) -> None:
    """A1, O1, T1."""
    gateway = await serve(speaking("up0", upstream, asked))
    for name, said in TOLD.items():
        upstream.script(streamed(asked, [START, *said, USAGE]))
        told = await ask(gateway, client, stream=True)
        check_stream(told)
        assert text(told.events) == text(said), name
        if name in ANSWERS:
            assert words(told.events) == words(said), name
        assert told.usage == USAGE.usage, name
        line = await gateway.wait_for_line()
        assert line["outcome"] == "finished"
        assert (line["model"], line["upstream"], line["stream"]) == ("m", "up0", True)
        assert (line["input_tokens"], line["output_tokens"]) == (20, 9), name


def whole_of(dialect: str, answer: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """The text, the calls and the reason of a whole answer, the reason in the word of its dialect."""
    if dialect == CHAT:
        message = answer["choices"][0]["message"]
        calls = [
            (call["id"], msgspec.json.decode(call["function"]["arguments"])) for call in message.get("tool_calls") or ()
        ]
        return (message["content"] or message.get("refusal") or ""), calls, answer["choices"][0]["finish_reason"]
    if dialect == MESSAGES:
        content = answer["content"]
        said = "".join(block["text"] for block in content if block["type"] == "text")
        calls = [(block["id"], block["input"]) for block in content if block["type"] == "tool_use"]
        return said, calls, answer["stop_reason"]
    parts = [part for item in answer["output"] if item["type"] == "message" for part in item["content"]]
    said = "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    calls = [
        (item["call_id"], msgspec.json.decode(item["arguments"]))
        for item in answer["output"]
        if item["type"] == "function_call"
    ]
    return said, calls, (answer["incomplete_details"] or {}).get("reason") or answer["status"]


def calls_of(said: Sequence[Event]) -> list[tuple[str, Any]]:
    joined = words(said)
    arguments = {event.index: msgspec.json.decode(event.arguments) for event in joined if type(event) is ToolCallDelta}
    return [(event.id, arguments[event.index]) for event in joined if type(event) is ToolCallStarted]


REASONS = {
    CHAT: {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.TOOL_CALLS: "tool_calls"},
    RESPONSES: {
        FinishReason.STOP: "completed",
        FinishReason.LENGTH: "max_output_tokens",
        FinishReason.TOOL_CALLS: "completed",
    },
    MESSAGES: {
        FinishReason.STOP: "end_turn",
        FinishReason.LENGTH: "max_tokens",
        FinishReason.TOOL_CALLS: "tool_use",
        FinishReason.REFUSAL: "refusal",
    },
}


@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_a_whole_answer_says_what_the_upstream_said(
    serve, upstream: ScriptedUpstream, client: str, asked: str
) -> None:
    """A1, O1, T4, T6."""
    gateway = await serve(speaking("up0", upstream, asked))
    for name, said in TOLD.items():
        upstream.answer_with(answering(asked, [START, *said, USAGE]))
        told = await ask(gateway, client, stream=False)
        assert told.status == 200, told.raw
        assert told.json["id"].startswith(told.dialect.id_prefix)
        assert told.json["model"] == "m"
        answer, calls, reason = whole_of(client, told.json)
        assert (answer, calls) == (text(said), calls_of(said)), name
        if name in ANSWERS and isinstance(said[-1], Finished):
            assert reason == REASONS[client][said[-1].reason], name
        line = await gateway.wait_for_line()
        assert (line["outcome"], line["stream"]) == ("finished", False)
        assert (line["input_tokens"], line["output_tokens"]) == (20, 9), name
    metrics = await gateway.metrics()
    counted = 'unbroken_requests_total{model="m",outcome="finished",upstream="up0"}'
    assert metrics[counted] == len(TOLD), [name for name in metrics if "requests" in name]


# --- what is asked


def said_to(dialect: str, asked: Any) -> tuple[str, list[tuple[str, str]], list[tuple[str, Any]]]:
    """The system prompt, the turns and the tools in a request's body."""
    if dialect == CHAT:
        first, *turns = asked["messages"]
        assert first["role"] in ("system", "developer")
        tools = [(tool["function"]["name"], tool["function"]["parameters"]) for tool in asked["tools"]]
        return _text(first["content"]), [(turn["role"], _text(turn["content"])) for turn in turns], tools
    if dialect == MESSAGES:
        tools = [(tool["name"], tool["input_schema"]) for tool in asked["tools"]]
        turns = [(turn["role"], _text(turn["content"])) for turn in asked["messages"]]
        return _text(asked["system"]), turns, tools
    tools = [(tool["name"], tool["parameters"]) for tool in asked["tools"]]
    turns = [(turn["role"], _text(turn["content"])) for turn in asked["input"]]
    return asked["instructions"], turns, tools


def _text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_the_upstream_is_asked_in_its_own_dialect(
    serve, upstream: ScriptedUpstream, client: str, asked: str, stream: bool
) -> None:
    """T1, T3, A9."""
    gateway = await serve(speaking("up0", upstream, asked), **KEYS)
    upstream.answer_with(answering(asked, [START, TextDelta("Hi"), STOP, USAGE]))
    headers = {"anthropic-beta": "one-2025,two-2025"}
    question = {**QUESTIONS[client], "stream": stream}
    if not stream:
        question.pop("stream_options", None)
    response = await gateway.client.post(DIALECTS[client].path, json=question, headers=headers)
    assert response.status_code == 200, response.text
    (request,) = upstream.requests
    sent = request.json()
    assert request.path == f"/v1{DIALECTS[asked].path}"
    assert sent["model"] == "theirs"
    assert said_to(asked, sent) == (
        SYSTEM,
        [("user", ASKED), ("assistant", SAID), ("user", ASKED_AGAIN)],
        [("f", SCHEMA)],
    )
    assert request.wants_stream() is (stream or client != asked), "what is translated is gathered from a stream"
    if asked == CHAT and request.wants_stream():
        assert request.wants_usage()
    limit = {CHAT: "max_tokens", RESPONSES: "max_output_tokens", MESSAGES: "max_tokens"}[asked]
    assert sent[limit] == 100
    assert b'"z":{"type":"integer"},"a"' in request.body.replace(b" ", b""), "schemas keep their order"
    assert not any(CLIENT_KEY in value for _, value in request.headers)
    if asked == MESSAGES:
        assert request.header("x-api-key") == UPSTREAM_KEY
        assert request.header("authorization") is None
        assert request.header("anthropic-version") == "2023-06-01"
        assert request.header("anthropic-beta") == "one-2025,two-2025"
    else:
        assert request.header("authorization") == f"Bearer {UPSTREAM_KEY}"
        assert request.header("x-api-key") is None
        assert request.header("anthropic-beta") is None


# --- what fails


def refused(dialect: str, error: ApiError) -> Answer:
    """An upstream's error response."""
    return body(DIALECTS[dialect].write_error(error, "req_theirs"), status=error.status, headers=dict(error.headers))


def check_envelope(told: Told) -> tuple[str, str]:
    """The type and the message of an error response, which must be in its dialect's envelope."""
    error = told.json["error"]
    if told.dialect.name == MESSAGES:
        assert set(told.json) == {"type", "error", "request_id"}
        assert told.json["type"] == "error"
        assert told.json["request_id"] == told.headers["request-id"] == told.headers["x-request-id"]
        assert set(error) == {"type", "message"}
    else:
        assert set(error) == {"message", "type", "param", "code"}
    return error["type"], error["message"]


REFUSALS = {
    "too long": (ApiError(400, "maximum context length is 9 tokens", code="context_length_exceeded"), 400),
    "bad": (ApiError(400, "this is wrong"), 400),
    "busy": (ApiError(429, "slow down", "rate_limit_error", "rate_limit_exceeded", None, {"retry-after": "99"}), 429),
    "full": (ApiError(503, "busy", "overloaded_error", "overloaded"), 503),
    "broken": (ApiError(500, "it broke", "server_error"), 500),
    "our key": (ApiError(401, "bad key"), 502),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_an_error_before_the_first_words_has_the_clients_status_and_envelope(
    serve, upstream: ScriptedUpstream, client: str, asked: str, stream: bool
) -> None:
    """T5, A5, O1."""
    gateway = await serve(speaking("up0", upstream, asked), retries={"attempts": 1, "breaker_failures": 100})
    for name, (error, status) in REFUSALS.items():
        upstream.script(refused(asked, error))
        told = await ask(gateway, client, stream=stream)
        expected = 529 if (status, client) == (503, MESSAGES) else status
        assert told.status == expected, (name, told.raw)
        type, message = check_envelope(told)
        if name != "our key":
            assert error.message in message
        if name == "busy":
            assert told.headers["retry-after"] == "99"
            assert type == "rate_limit_error"
        if name in ("too long", "bad"):
            assert type == "invalid_request_error"
        line = await gateway.wait_for_line()
        assert (line["status"], line["attempts"]) == (expected, 1)
        assert line["outcome"] not in ("finished", "internal")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_an_error_event_before_the_first_words_is_a_status_too(
    serve, upstream: ScriptedUpstream, client: str, asked: str, stream: bool
) -> None:
    gateway = await serve(speaking("up0", upstream, asked), retries={"attempts": 1})
    said = streamed(asked, [START, Failed("too busy now", "overloaded_error", "overloaded")], end=False)
    upstream.answer_with(
        lambda request: said if request.wants_stream() else refused(asked, ApiError(503, "too busy now"))
    )
    told = await ask(gateway, client, stream=stream)
    assert told.status >= 500, told.raw
    assert "too busy now" in check_envelope(told)[1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", NAMES)
@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
async def test_an_upstream_of_another_dialect_answers_where_the_first_fails(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, client: str, first: str, second: str, stream: bool
) -> None:
    gateway = await serve(
        speaking("up0", upstream, first),
        speaking("up1", other, second),
        route=[{"model": "m", "upstreams": ["up0", "up1"]}],
    )
    upstream.always(refused(first, ApiError(401, "no")))
    other.answer_with(answering(second, [START, *ANSWERS["parallel tools"], USAGE]))
    told = await ask(gateway, client, stream=stream)
    if stream:
        check_stream(told)
        assert words(told.events) == words(ANSWERS["parallel tools"])
    else:
        assert whole_of(client, told.json)[1] == calls_of(ANSWERS["parallel tools"])
    assert [len(upstream.requests), len(other.requests)] == [1, 1]
    assert (await gateway.wait_for_line())["upstream"] == "up1"


BROKEN: dict[str, tuple[Sequence[Event], Change | None, str]] = {
    "an error": ([TextDelta("Once"), Failed("it broke", "server_error", "server_error")], None, "it broke"),
    "an error inside a call": (
        [TextDelta("Once"), ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a"'), Failed("it broke")],
        None,
        "it broke",
    ),
    "a cut": ([TextDelta("Once"), TextDelta(" upon")], cut_after(99), ""),
    "an end without its marker": ([TextDelta("Once"), TextDelta(" upon")], eof_after(99), ""),
    "a reset": ([TextDelta("Once"), TextDelta(" upon")], reset_after(99), ""),
    "silence": ([TextDelta("Once"), TextDelta(" upon")], stall_after(99), ""),
}


@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_what_breaks_in_mid_stream_ends_in_the_clients_own_error_and_no_success(
    serve, upstream: ScriptedUpstream, client: str, asked: str
) -> None:
    """L1, C8, A4, O4, FAULTS.md 1-4."""
    retries = {"attempts": 1, "breaker_failures": 100}
    patient = await serve(speaking("up0", upstream, asked), retries=retries)
    impatient = await serve(speaking("up0", upstream, asked), retries=retries, timeouts={"between_tokens": 0.1})
    for name, (said, change, message) in BROKEN.items():
        gateway = impatient if name == "silence" else patient
        answer = streamed(asked, [START, *said], end=False)
        upstream.script(answer if change is None else answer | change)
        told = await ask(gateway, client, stream=True)
        if told.status != 200:  # a reset may overtake the first words
            assert name == "a reset"
            continue
        check_order(told)
        assert not has_succeeded(told), name
        assert len(failures(told)) == 1, name
        assert message in failures(told)[0].message
        if name != "a reset":
            assert text(told.events) == text(said), name
        line = await gateway.wait_for_line()
        assert line["outcome"] not in ("finished", "client_left"), name
        assert line["status"] == 200


@pytest.mark.parametrize(("client", "asked"), [(client, asked) for client, asked in PAIRS if client != asked])
async def test_what_breaks_is_no_whole_answer(serve, upstream: ScriptedUpstream, client: str, asked: str) -> None:
    """T3."""
    gateway = await serve(speaking("up0", upstream, asked), retries={"attempts": 1, "breaker_failures": 100})
    for said, change, message in BROKEN.values():
        if change is not None and message == "":
            change = cut_after(99)
        answer = streamed(asked, [START, *said], end=False)
        upstream.script(answer if change is None else answer | change)
        told = await ask(gateway, client, stream=False)
        assert told.status >= 500
        assert message in check_envelope(told)[1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("client", "asked"), PAIRS)
async def test_a_client_that_leaves_closes_the_upstream(
    serve, upstream: ScriptedUpstream, client: str, asked: str, stream: bool
) -> None:
    """L7, T3, FAULTS.md 26: in mid-stream, and while nothing has been said."""
    gateway = await serve(speaking("up0", upstream, asked))
    said = written(asked, [START, TextDelta("Once"), TextDelta(" upon"), STOP])
    for left, held in enumerate((0, len(said) - 4), start=1):
        gate = Gate()
        upstream.script(blocks(*said) | hold_after(held, gate))
        question = {**QUESTIONS[client], "stream": stream}
        if not stream:
            question.pop("stream_options", None)
        request = gateway.client.build_request("POST", DIALECTS[client].path, json=question)
        if stream and held:
            response = await gateway.client.send(request, stream=True)
            await gate.wait_until_reached()
            await response.aclose()
        else:
            await leave(gateway, DIALECTS[client].path, question, gate)
        await upstream.wait_until_left(left)
        line = await gateway.wait_for_line()
        assert line["outcome"] == "client_left"
        assert not gateway.gateway.productions


async def leave(gateway: Served, path: str, question: dict[str, Any], gate: Gate) -> None:
    """Asks on a connection of its own, and goes away once the upstream has heard of it."""
    async with httpx2.AsyncClient(base_url=gateway.base_url, trust_env=False) as client:
        asking = asyncio.create_task(client.post(path, json=question))
        await gate.wait_until_reached()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
