"""Streams that we write: the grammar for any events, and what the official SDK makes of them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from openai import APIError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.wire.openai_responses_corpus import (
    ANSWERING,
    CREATED,
    MODEL,
    STREAM_ID,
    blocks,
    check_laws,
    check_nesting,
    told,
)
from tests.wire.responses_sdk import client_of
from unbroken.chat.error import ApiError
from unbroken.chat.events import (
    Cited,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_responses.answer import write_answer
from unbroken.wire.openai_responses.errors import write_error_event
from unbroken.wire.openai_responses.events import ResponseReader
from unbroken.wire.openai_responses.writer import ResponseWriter
from unbroken.wire.sse import SseReader

EVENT = TypeAdapter[Any](ResponseStreamEvent)
STARTED = Started("chatcmpl-1", "theirs")
CITATION = Raw(b'{"type":"url_citation","url":"https://example.org","title":"T","start_index":0,"end_index":2}')

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
TOOLS = st.integers(0, 2)
PIECES = st.one_of(
    TEXT.map(TextDelta),
    TEXT.map(ReasoningDelta),
    TEXT.map(RefusalDelta),
    TEXT.map(ReasoningSigned),
    TEXT.map(ReasoningSealed),
    st.just(Cited(CITATION)),
    st.builds(ToolCallDelta, TOOLS, TEXT),
    TOOLS.map(lambda index: ToolCallStarted(index, f"call_{index}", f"tool{index}")),
)
REASONS = st.sampled_from([*FinishReason, "steered"])
USAGES = st.builds(Usage, *[st.integers(0, 9)] * 5)


def written(events: Sequence[Event], *, end: bool = True) -> bytes:
    writer = ResponseWriter(ANSWERING)
    sent = b"".join(block for event in events for block in writer.write(event))
    return sent + b"".join(writer.end()) if end else sent


def read(data: bytes) -> list[Event]:
    reader = ResponseReader()
    events = [said for event in SseReader().feed(data) for said in reader.feed(event)]
    assert reader.is_complete
    return events


def check_shapes(events: list[dict[str, Any]]) -> None:
    for event in events:
        EVENT.validate_python(event, strict=False)


def sensible(pieces: list[Event]) -> list[Event]:
    """What a reader gives: a call begins before its arguments, and once."""
    begun: set[int] = set()
    kept: list[Event] = []
    for piece in pieces:
        if isinstance(piece, ToolCallStarted):
            if piece.index in begun:
                continue
            begun.add(piece.index)
        if isinstance(piece, ToolCallDelta) and piece.index not in begun:
            begun.add(piece.index)
            kept.append(ToolCallStarted(piece.index, f"call_{piece.index}", f"tool{piece.index}"))
        kept.append(piece)
    return kept


@given(st.lists(PIECES, max_size=12), REASONS, st.none() | USAGES)
def test_any_events_make_a_stream_that_keeps_the_laws(
    pieces: list[Event], reason: FinishReason | str, usage: Usage | None
) -> None:
    last = [] if usage is None else [UsageReported(usage)]
    client = written([STARTED, *pieces, Finished(reason), *last])
    events = check_laws(client, failed=False)
    check_nesting(events)
    if reason not in ("steered", FinishReason.PAUSE):
        check_shapes(events)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    end = events[-1]
    assert [item["id"] for item in end["response"]["output"]] == [
        event["item"]["id"] for event in events if event["type"] == "response.output_item.added"
    ]


@given(st.lists(PIECES, max_size=12).map(sensible), REASONS, USAGES)
def test_what_is_written_is_read_again(pieces: list[Event], reason: FinishReason | str, usage: Usage) -> None:
    client = written([STARTED, *pieces, UsageReported(usage), Finished(reason)])
    again = read(client)
    assert again[0] == Started(STREAM_ID, MODEL)
    assert [_said(again, kind) for kind in _KINDS] == [_said(pieces, kind) for kind in _KINDS]
    assert _calls(again) == _calls(pieces)
    assert again[-2] == UsageReported(usage)
    refused = any(isinstance(piece, RefusalDelta) for piece in pieces)
    calls = any(isinstance(piece, ToolCallStarted) for piece in pieces)
    good = FinishReason.TOOL_CALLS if calls else FinishReason.REFUSAL if refused else FinishReason.STOP
    expected = {
        FinishReason.STOP: good,
        FinishReason.TOOL_CALLS: good,
        FinishReason.STOP_SEQUENCE: good,
        FinishReason.REFUSAL: good if refused else FinishReason.CONTENT_FILTER,
    }
    assert again[-1] == Finished(expected.get(reason, reason))  # type: ignore[call-overload]


@settings(deadline=None)  # the SDK takes its time when it is used first
@given(st.lists(PIECES, max_size=8).map(sensible), USAGES)
def test_the_sdk_puts_together_what_was_said(pieces: list[Event], usage: Usage) -> None:
    events = [STARTED, *pieces, Finished(FinishReason.STOP), UsageReported(usage)]
    with client_of(written(events)).responses.stream(model="m", input="q") as stream:
        response = stream.get_final_response()
    assert response.output_text == _said(pieces, TextDelta)
    assert response.usage is not None
    assert response.usage.total_tokens == usage.input + usage.output
    assert response.id == STREAM_ID
    whole = Response.model_validate(json.loads(write_answer(events, ANSWERING)))
    assert whole.output_text == response.output_text
    assert [item.id for item in whole.output] == [item.id for item in response.output]


def test_every_event_of_an_answer_comes_in_its_order() -> None:
    """O3."""
    pieces = [ReasoningDelta("Hm"), ReasoningSigned("seal"), TextDelta("Hi"), RefusalDelta("No"), *_two_calls()]
    events = blocks(written([STARTED, *pieces, Finished(FinishReason.TOOL_CALLS)]))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("content_part.added", "refusal.delta", "refusal.done", "content_part.done", "output_item.done"),
        *("output_item.added", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.delta"),  # of the second
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def _two_calls() -> list[Event]:
    return [
        ToolCallStarted(0, "call_a", "a"),
        ToolCallStarted(1, "call_b", "b"),
        ToolCallDelta(1, '{"x"'),
        ToolCallDelta(1, ":1}"),
    ]


def test_a_call_without_arguments_is_given_an_empty_object() -> None:
    client = written([STARTED, ToolCallStarted(0, "call_a", "f"), Finished(FinishReason.TOOL_CALLS)])
    assert told(client).tool_calls == [["call_a", "f", "{}"]]


def test_a_call_without_an_id_gets_one_that_is_always_the_same() -> None:
    events = [STARTED, ToolCallStarted(0, "", "f"), Finished(FinishReason.TOOL_CALLS)]
    assert told(written(events)).tool_calls == [["call_unbroken_0", "f", "{}"]]


@pytest.mark.parametrize(
    ("reason", "type", "why"),
    [
        (FinishReason.STOP, "completed", None),
        (FinishReason.STOP_SEQUENCE, "completed", None),
        (FinishReason.LENGTH, "incomplete", "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "incomplete", "content_filter"),
        (FinishReason.REFUSAL, "incomplete", "content_filter"),
        (FinishReason.PAUSE, "incomplete", "pause_turn"),
        ("steered", "incomplete", "steered"),
    ],
)
def test_the_reason_of_the_end_is_told(reason: FinishReason | str, type: str, why: str | None) -> None:
    """T4, L8."""
    *_, item, end = blocks(written([STARTED, TextDelta("a"), Finished(reason)]))
    assert end["type"] == f"response.{type}"
    assert end["response"]["status"] == type
    assert end["response"]["incomplete_details"] == (None if why is None else {"reason": why})
    assert item["item"]["status"] == ("incomplete" if reason == FinishReason.LENGTH else "completed")


def test_a_response_repeats_what_its_request_said() -> None:
    said = {
        "temperature": Raw(b"0.5"),
        "tools": Raw(b'[{"type":"function","name":"f"},{"type":"web_search"}]'),
        "text": Raw(b'{"verbosity":"low"}'),
        "instructions": Raw(b"null"),
        "metadata": Raw(b'{"a":"b"}'),
        "input": Raw(b'"never repeated"'),
    }
    response = json.loads(write_answer([STARTED, Finished("stop")], Answering(STREAM_ID, MODEL, CREATED, request=said)))
    assert response["temperature"] == 0.5
    assert response["tools"] == [
        {"description": None, "parameters": None, "strict": None, "type": "function", "name": "f"},
        {"type": "web_search"},
    ]
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["metadata"] == {"a": "b"}
    assert response["instructions"] is None
    assert response["truncation"] == "disabled"
    assert "input" not in response
    Response.model_validate(response)


ERROR = ApiError(502, 'upstream "a": gone', "server_error", "cut")


def test_a_failure_in_mid_stream_is_the_last_event_and_keeps_what_was_said() -> None:
    writer = ResponseWriter(ANSWERING)
    sent = b"".join(b for event in (STARTED, TextDelta("Half")) for b in writer.write(event))
    sent += b"".join(writer.fail(ERROR))
    assert writer.fail(ERROR) == writer.end() == writer.write(TextDelta("more")) == []
    events = check_laws(sent, failed=False)
    check_shapes(events)
    end = events[-1]
    assert end["type"] == "response.failed"
    assert end["response"]["status"] == "failed"
    assert end["response"]["error"]["code"] == "server_error"
    assert end["response"]["error"]["message"] == ERROR.message
    assert end["response"]["output"][0]["content"][0]["text"] == "Half"
    assert end["response"]["output"][0]["status"] == "incomplete"
    assert read(sent)[-1] == Failed(ERROR.message, "server_error", "cut")


@pytest.mark.parametrize("begun", [True, False])
def test_the_sdk_raises_an_error_for_a_failure(begun: bool) -> None:
    """O4."""
    writer = ResponseWriter(ANSWERING)
    pieces = [STARTED, TextDelta("Half")] if begun else []
    sent = b"".join(b for event in pieces for b in writer.write(event)) + b"".join(writer.fail(ERROR))
    _check_raises(client_of(sent))
    _check_raises(client_of(bytes(write_error_event(ERROR))))


def _check_raises(client: OpenAI) -> None:
    with pytest.raises(APIError) as raised, client.responses.stream(model="m", input="q") as stream:
        stream.get_final_response()
    assert raised.value.message == ERROR.message
    assert raised.value.code == "cut"
    with pytest.raises(APIError):
        list(client.responses.create(model="m", input="q", stream=True))


def test_an_error_event_has_the_words_that_the_api_describes() -> None:
    (event,) = blocks(write_error_event(ERROR, sequence_number=7))
    EVENT.validate_python(event)
    assert event["sequence_number"] == 7
    assert event["message"] == ERROR.message


def test_a_failed_answer_is_none() -> None:
    with pytest.raises(UpstreamFailed) as failed:
        write_answer([STARTED, TextDelta("Half"), Failed("gone")], ANSWERING)
    assert failed.value.failure.message == "gone"
    with pytest.raises(UpstreamFailed) as failed:
        write_answer([STARTED, TextDelta("Half")], ANSWERING)
    assert failed.value.failure.fault is Fault.CUT


_KINDS = (TextDelta, ReasoningDelta, RefusalDelta, ReasoningSigned, ReasoningSealed, Cited)


def _said(events: Sequence[Event], kind: type) -> str:
    said = [event for event in events if isinstance(event, kind)]
    if kind is Cited:
        return str(len(said))
    return "".join(getattr(event, type(event).__match_args__[0]) for event in said)


def _calls(events: Sequence[Event]) -> list[list[str]]:
    calls = {event.index: [event.id, event.name, ""] for event in events if isinstance(event, ToolCallStarted)}
    for event in events:
        if isinstance(event, ToolCallDelta):
            calls[event.index][2] += event.arguments
    return [[id, name, arguments or "{}"] for id, name, arguments in calls.values()]
