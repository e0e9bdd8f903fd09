"""Events of any dialect as a stream and as a whole message, and the official SDK's reading of both."""

import json
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.wire.anthropic_corpus import MODEL, STREAM_ID, check_laws, events_of, told
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
from unbroken.wire.anthropic_messages.answer import relay_answer, write_answer
from unbroken.wire.anthropic_messages.events import MessageEventReader
from unbroken.wire.anthropic_messages.pieces import MAX_HELD_BYTES
from unbroken.wire.anthropic_messages.writer import MessageEventWriter
from unbroken.wire.dialects import Answering
from unbroken.wire.sse import SseReader

ANSWERING = Answering(STREAM_ID, MODEL, 1_700_000_000)
START, END = Started("chatcmpl-1", "gpt"), Finished(FinishReason.STOP)
CITATION = msgspec.Raw(
    b'{"type":"page_location","cited_text":"c","document_index":0,"document_title":null,'
    b'"start_page_number":1,"end_page_number":2,"file_id":null}'
)

_sdk_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def write(events: list[Event], *, end: bool = True) -> bytes:
    writer = MessageEventWriter(ANSWERING)
    blocks = [block for event in events for block in writer.write(event)]
    return b"".join([*blocks, *(writer.end() if end else ())])


def read(data: bytes) -> list[Event]:
    reader = MessageEventReader()
    events = [said for event in SseReader().feed(data) for said in reader.feed(event)]
    assert reader.is_complete
    return events


def accumulated(data: bytes) -> Message:
    """What the official SDK makes of a stream; every event must be valid by its types."""
    snapshot, buffers = None, dict[int, bytes]()
    for _, event in events_of(data):
        valid = _sdk_event.validate_python(event)
        snapshot = accumulate_event(event=valid, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    return snapshot


def joined(events: list[Event]) -> dict[str, Any]:
    """What was said, whatever pieces it came in."""
    calls: dict[int, list[str]] = {}
    texts = {TextDelta: "", ReasoningDelta: ""}
    rest: list[object] = []
    for event in events:
        match event:
            case TextDelta(text) | RefusalDelta(text):
                texts[TextDelta] += text
            case ReasoningDelta(text):
                texts[ReasoningDelta] += text
            case ToolCallStarted(index, id, name):
                calls[index] = [id, name, ""]
            case ToolCallDelta(index, arguments):
                calls[index][2] += arguments
            case ReasoningSigned() | ReasoningSealed():
                rest.append(event)
            case Cited(citation):
                rest.append(json.loads(bytes(citation)))
            case _:
                pass
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    return {
        "texts": list(texts.values()),
        "calls": [[*call[:2], call[2].strip() or "{}"] for call in calls.values()],
        "rest": rest,
        "finished": [event for event in events if isinstance(event, Finished)],
        "usage": usages[-1] if usages else Usage(),
    }


texts = st.text(min_size=1, max_size=12)
objects = st.dictionaries(texts, st.one_of(texts, st.integers(), st.none()), max_size=3).map(json.dumps)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Events of one answer, as any reader may give them: calls side by side, words between them."""
    pieces: list[list[Event]] = []
    for index in range(draw(st.integers(0, 3))):
        arguments = draw(objects)
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=4)))
        parts = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        deltas = [ToolCallDelta(index, part) for part in parts]
        pieces.append([ToolCallStarted(index, f"toolu_{index}", f"tool_{index}"), *deltas])
    said: list[Event] = []
    while any(pieces):
        # A call begins behind the call before it.
        open_calls = [call for at, call in enumerate(pieces) if call and (at == 0 or not _is_new(pieces[at - 1]))]
        said.append(draw(st.sampled_from(open_calls)).pop(0))
        if draw(st.booleans()):
            said.append(draw(_words))
    before = draw(st.lists(_words, max_size=5))
    reason = FinishReason.TOOL_CALLS if any(isinstance(event, ToolCallStarted) for event in said) else FinishReason.STOP
    read, written, fresh, output, reasoning = (draw(st.integers(0, 9)) for _ in range(5))
    usage = Usage(read + written + fresh, output, cached_read=read, cache_write=written, reasoning=reasoning)
    return [START, *before, *said, Finished(reason), UsageReported(usage)]


def _is_new(call: list[Event]) -> bool:
    return bool(call) and isinstance(call[0], ToolCallStarted)


_words: st.SearchStrategy[Event] = st.one_of(
    texts.map(TextDelta),
    texts.map(ReasoningDelta),
    texts.map(ReasoningSigned),
    texts.map(ReasoningSealed),
    st.just(Cited(CITATION)),
)


@given(answers())
def test_what_is_written_reads_as_what_was_said(events: list[Event]) -> None:
    written = write(events)
    check_laws(written, failed=False)
    assert joined(read(written)) == joined(events)


@given(answers())
def test_the_sdk_makes_the_same_message_of_the_stream_and_of_the_whole_answer(events: list[Event]) -> None:
    whole = Message.model_validate_json(write_answer(events, ANSWERING), strict=False)
    assert Message.model_validate(accumulated(write(events)).to_dict(), strict=False) == whole
    assert whole.id == STREAM_ID
    assert whole.model == MODEL


def test_calls_that_come_side_by_side_stand_one_behind_the_other() -> None:
    """T6."""
    writer = MessageEventWriter(ANSWERING)
    events: list[Event] = [
        START,
        ToolCallStarted(0, "call_a", "f"),
        ToolCallDelta(0, '{"x":'),
        ToolCallStarted(1, "call_b", "g"),
        ToolCallDelta(1, '{"y":'),
        ToolCallDelta(0, "1}"),
    ]
    blocks = b"".join(block for event in events for block in writer.write(event))
    assert [call[2] for call in told(blocks).tool_calls] == ['{"x":1}'], "the second waits while the first is open"
    blocks += b"".join(writer.write(ToolCallDelta(1, "2}")))
    assert [call[2] for call in told(blocks).tool_calls] == ['{"x":1}', '{"y":2}'], (
        "it goes out when the first is whole"
    )
    blocks += b"".join([*writer.write(Finished(FinishReason.TOOL_CALLS)), *writer.end()])
    check_laws(blocks, failed=False)


def test_what_waits_is_bounded() -> None:
    events: list[Event] = [START, ToolCallStarted(0, "a", "f"), ToolCallDelta(0, "{"), ToolCallStarted(1, "b", "g")]
    with pytest.raises(UpstreamFailed) as failed:
        write([*events, ToolCallDelta(1, "x" * (MAX_HELD_BYTES - 10)), TextDelta("y" * 20)])
    assert failed.value.failure.fault is Fault.TOO_LARGE
    with pytest.raises(UpstreamFailed):
        write([START, ToolCallStarted(0, "a", "f"), *[ToolCallDelta(0, "x" * (1 << 20))] * 5])


def test_a_call_that_goes_on_when_it_is_over_fails() -> None:
    events: list[Event] = [START, ToolCallStarted(0, "a", "f"), ToolCallDelta(0, "{}"), TextDelta("t")]
    assert write([*events, ToolCallDelta(0, " \n"), END])
    with pytest.raises(UpstreamFailed, match="goes on after its arguments were whole"):
        write([*events, ToolCallDelta(0, "}")])
    with pytest.raises(UpstreamFailed, match="came before its beginning"):
        write([START, ToolCallDelta(0, "{}")])


def test_the_message_begins_with_its_input_tokens_where_they_are_known() -> None:
    name, data = events_of(
        write([START, UsageReported(Usage(30, 1, cached_read=5, cache_write=2)), TextDelta("a"), END])
    )[0]
    assert name == "message_start"
    assert data["message"]["usage"] == {
        "input_tokens": 23,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 5,
        "output_tokens": 1,
    }
    assert events_of(write([START, TextDelta("a"), END]))[0][1]["message"]["usage"]["input_tokens"] == 0


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([TextDelta("a"), Finished(FinishReason.STOP)], "end_turn"),
        ([TextDelta("a"), Finished(FinishReason.LENGTH)], "max_tokens"),
        ([TextDelta("a"), Finished(FinishReason.CONTENT_FILTER)], "refusal"),
        ([RefusalDelta("no"), Finished(FinishReason.STOP)], "refusal"),
        ([ToolCallStarted(0, "a", "f"), Finished(FinishReason.STOP)], "tool_use"),
        ([ToolCallStarted(0, "a", "f"), Finished(FinishReason.LENGTH)], "max_tokens"),
        ([Finished(FinishReason.PAUSE)], "pause_turn"),
        ([Finished("tired")], "tired"),
    ],
)
def test_why_it_ended_is_said_in_this_dialects_words(events: list[Event], reason: str) -> None:
    """T4, L8."""
    assert told(write([START, *events])).stop_reason == reason
    assert json.loads(write_answer([START, *events], ANSWERING))["stop_reason"] == reason


def test_a_stop_sequence_is_named() -> None:
    events: list[Event] = [START, TextDelta("a"), Finished(FinishReason.STOP_SEQUENCE, stop_sequence="###")]
    assert told(write(events)).stop_sequence == "###"
    assert json.loads(write_answer(events, ANSWERING))["stop_sequence"] == "###"


def test_a_failure_is_the_last_word() -> None:
    """A4, FAULTS 1, 4, 24."""
    written = write([START, TextDelta("a"), Failed("Overloaded", "overloaded_error"), TextDelta("b"), END])
    name, data = events_of(written)[-1]
    assert name == "error"
    assert data == {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(UpstreamFailed, match="without a reason"):
        write([START, TextDelta("a")])
    for events in ([START, Failed("x")], [START, TextDelta("a")]):
        with pytest.raises(UpstreamFailed):
            write_answer(events, ANSWERING)


def test_nothing_goes_on_behind_the_finish() -> None:
    with pytest.raises(UpstreamFailed, match="goes on after it was finished"):
        write([START, END, TextDelta("a")])


def test_arguments_that_are_no_object_are_no_whole_answer() -> None:
    events: list[Event] = [START, ToolCallStarted(0, "a", "f"), ToolCallDelta(0, '{"x":'), Finished("length")]
    with pytest.raises(UpstreamFailed, match='arguments of the tool call "f" are not a JSON object'):
        write_answer(events, ANSWERING)


WHOLE = {
    "id": "msg_theirs",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "hi"}, {"type": "hologram", "id": "left alone"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5},
}


def test_a_whole_answer_passes_byte_for_byte_but_for_id_and_model() -> None:
    body = json.dumps(WHOLE, indent=1).encode()
    expected = body.replace(b"msg_theirs", STREAM_ID.encode()).replace(b"claude-x", MODEL.encode())
    assert relay_answer(body, STREAM_ID, MODEL) == (expected, Usage(7, 5, cached_read=4))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"stop_reason": None}, Fault.CUT),
        ({"content": None}, Fault.MALFORMED),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, Fault.OVERLOADED),
    ],
)
def test_an_answer_that_is_not_whole_fails(changes: dict[str, Any], fault: Fault) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        relay_answer(json.dumps(WHOLE | changes).encode(), STREAM_ID, MODEL)
    assert failed.value.failure.fault is fault


def test_a_whole_answer_with_a_call_ends_with_it() -> None:
    content = [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]
    body, _ = relay_answer(json.dumps(WHOLE | {"content": content}).encode(), STREAM_ID, MODEL)
    assert json.loads(body)["stop_reason"] == "tool_use"
