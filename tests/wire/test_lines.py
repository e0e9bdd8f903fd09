"""JSON of several lines: an event may hold it on several `data:` lines; what we write ourselves has one."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Raw

from tests.wire.continuing_answers import CREATED, DIALECTS, answering, continuing, heard, new_relay, relayed, spoken
from tests.wire.matrix_events import CALLS, START, STOP, USAGE, words
from unbroken.chat.error import ApiError
from unbroken.chat.events import (
    Cited,
    Event,
    ReasoningDelta,
    ReasoningSigned,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering, Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.openai_responses.relay import ResponseRelay
from unbroken.wire.sse import SseEvent, SseReader, in_one_line, write_data
from unbroken.wire.translate import relay_between

PAIRS = [pytest.param(a, b, id=f"{a.name} to {b.name}") for a in DIALECTS for b in DIALECTS]
dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
line_ends = pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"], ids=repr)

TEXT = "two\nlines, \r\n data: {}\n\n"

ANSWER: list[Event] = [
    START,
    ReasoningDelta(TEXT),
    ReasoningSigned("c2VhbA=="),
    TextDelta(TEXT),
    Cited(Raw(b'{"type":"url_citation","url":"https://a/","title":"two\\nlines","at":[1,2]}')),
    Cited(Raw(b'{"type":"char_location","cited_text":"two\\nlines","at":{"start":1,"end":2}}')),
    TextDelta(TEXT),
    ToolCallStarted(0, "call_1", "f"),
    ToolCallDelta(0, '{"a":\n1}'),
    CALLS,
    USAGE,
]

REQUEST: dict[str, Any] = {
    "model": "m",
    "input": "Hi",
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "text"}},
    "metadata": {"a": "two\nlines", "b": "\r\n"},
}


def over_lines(events: Sequence[SseEvent]) -> bytes:
    """The events, their JSON spread over as many lines as it may be."""
    stream = b""
    for type, data in events:
        spread = data if data == b"[DONE]" else json.dumps(json.loads(data), indent=1).encode()
        stream += (b"event: %b\n" % type if type else b"") + write_data(spread)
    return stream


def check_lines(blocks: Sequence[Block]) -> None:
    """Each block has one line of data: there are clients that take each line for an event."""
    for block in blocks:
        *head, data, end, rest = block.split(b"\n")
        assert (end, rest) == (b"", b"")
        assert block.count(b"\r") == 0
        assert all(line.startswith(b"event: ") for line in head)
        assert data == b"data: [DONE]" or json.loads(data.removeprefix(b"data: "))


def values(events: Sequence[Event]) -> list[object]:
    """What is said, sources by their values."""
    return [json.loads(bytes(said.citation)) if isinstance(said, Cited) else said for said in words(events)]


@line_ends
@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_an_answer_in_another_dialect_has_one_line_for_each_event(
    upstream: Dialect, client: Dialect, line_end: str
) -> None:
    tight = spoken(upstream, ANSWER)
    spread = SseReader().feed(over_lines(tight).replace(b"\n", line_end.encode()))
    assert sum(event.data.count(b"\n") for event in spread) > 100
    said = []
    for events in (tight, spread):
        blocks, failure = relayed(relay_between(upstream, client, answering(client), secret=""), events)
        assert failure is None
        check_lines(blocks)
        read, is_complete = heard(client, blocks)
        assert is_complete
        said.append(values(read))
    assert said[1] == said[0]
    cited = [one["type"] for one in said[1] if isinstance(one, dict)]
    assert cited == ["url_citation", "char_location"]


@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_an_answer_that_is_gone_on_with_has_one_line_for_each_event(upstream: Dialect, client: Dialect) -> None:
    """On the diagonal an attempt's blocks keep their lines; but they are read, and written anew."""
    first, _ = relayed(new_relay(client, upstream), spoken(upstream, ANSWER[:4], end=False))
    again = SseReader().feed(over_lines(spoken(upstream, ANSWER)))
    rest, failure = relayed(continuing(client, upstream, first), again)
    assert failure is None
    check_lines(rest)
    whole, _ = relayed(new_relay(client, upstream), spoken(upstream, ANSWER))
    assert values(heard(client, [*first, *rest])[0]) == values(heard(client, whole)[0])


@dialects
def test_on_the_diagonal_events_keep_their_lines(dialect: Dialect) -> None:
    """But for the id and the model, which are ours here from the beginning."""
    ours = dialect.event_writer(answering(dialect))
    stream = b"".join([*(block for event in ANSWER for block in ours.write(event)), *ours.end()])
    spread = over_lines(SseReader().feed(stream))
    relay = dialect.relay(answering(dialect), secret="", ours=None)
    blocks, failure = relayed(relay, SseReader().feed(spread))
    assert failure is None
    assert b"".join(blocks) == spread


def asked(line_end: str) -> Answering:
    """A request whose JSON is written as for a reader."""
    body = json.dumps(REQUEST, indent=2).replace("\n", line_end)
    return Answering("resp_1", "public", CREATED, request=OPENAI_RESPONSES.read_request(body.encode()).fields)


@line_ends
@dialects
def test_a_response_repeats_a_request_of_several_lines_in_one(dialect: Dialect, line_end: str) -> None:
    relay = relay_between(dialect, OPENAI_RESPONSES, asked(line_end), secret="")
    blocks, failure = relayed(relay, spoken(dialect, [START, TextDelta("a"), STOP]))
    assert failure is None
    check_lines(blocks)
    said = [json.loads(event.data) for event in SseReader().feed(b"".join(blocks))]
    responses = [event["response"] for event in said if "response" in event]
    assert len(responses) == 3
    for response in responses:
        assert response["tools"] == [{"description": None, "strict": None, **REQUEST["tools"][0]}]
        assert {name: response[name] for name in ("tool_choice", "text", "metadata")} == {
            name: REQUEST[name] for name in ("tool_choice", "text", "metadata")
        }


@pytest.mark.parametrize("begun", [0, 1, 5])
@line_ends
def test_a_response_that_fails_says_it_in_one_line(begun: int, line_end: str) -> None:
    """With nothing from the upstream it repeats the request, else what the upstream said of the response."""
    relay = ResponseRelay(asked(line_end))
    upstream = relay_between(OPENAI_CHAT, OPENAI_RESPONSES, asked(line_end), secret="")
    blocks, _ = relayed(upstream, spoken(OPENAI_CHAT, [START, TextDelta("a")], end=False))
    for event in SseReader().feed(over_lines(SseReader().feed(b"".join(blocks[:begun])))):
        relay.feed(event)
    failed = relay.fail(ApiError(502, "gone", "server_error", "cut"))
    check_lines(failed)
    (said,) = [json.loads(event.data) for event in SseReader().feed(b"".join(failed))]
    assert (said["sequence_number"], said["response"]["status"]) == (begun, "failed")
    assert said["response"]["metadata"] == REQUEST["metadata"]


MESSAGE_WITH_INPUT = [
    b'{"type":"message_start","message":{"id":"m","model":"x","content":[],"usage":{"input_tokens":3}}}',
    b'{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{\n"a":1}}}',
    b'{"type":"content_block_stop","index":0}',
    b'{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":5}}',
    b'{"type":"message_stop"}',
]
CHUNKS_WITH_AN_OBJECT = [
    b'{"id":"c","model":"x","choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f","arguments":{\n"a":1}}}]}}]}',
    b'{"id":"c","model":"x","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}',
    b"[DONE]",
]


@dialects
@pytest.mark.parametrize(
    ("upstream", "data"), [(OPENAI_CHAT, CHUNKS_WITH_AN_OBJECT), (ANTHROPIC_MESSAGES, MESSAGE_WITH_INPUT)]
)
def test_arguments_of_several_lines_are_text_like_any(upstream: Dialect, data: list[bytes], dialect: Dialect) -> None:
    events = [SseEvent(b"", one) for one in data]
    blocks, failure = relayed(relay_between(upstream, dialect, answering(dialect), secret=""), events)
    assert failure is None
    check_lines(blocks)
    (arguments,) = [said.arguments for said in words(heard(dialect, blocks)[0]) if isinstance(said, ToolCallDelta)]
    assert arguments == '{\n"a":1}'


@pytest.mark.parametrize("wide", [b'{"a":"\\n"}', b'{\n"a":\r\n1\r}', b"[1,\n2]", b"null"])
def test_json_in_one_line_says_the_same(wide: bytes) -> None:
    one = bytes(in_one_line(Raw(wide)))
    assert json.loads(one) == json.loads(wide)
    assert len(one) == len(wide), "every byte stays where it was"
    assert not {*b"\r\n"} & {*one}


def test_json_that_is_in_one_line_stays_the_same_object() -> None:
    tight = Raw(b'{"a": "\\n"}')
    assert in_one_line(tight) is tight
