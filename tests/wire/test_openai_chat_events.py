"""Reading our own blocks: what a client does with them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

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
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.sse import SseEvent


def chunk(choices: str, more: str = "") -> str:
    return f'{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{choices}]{more}}}'


def read(*data: str) -> list[Event]:
    reader = EventReader()
    return [event for one in data for event in reader.feed(SseEvent(b"", one.encode()))]


def read_apart(*data: str) -> list[Event]:
    """What a reader sees that hands the answer on to another dialect."""
    reader = EventReader(refusals_as_text=False)
    return [event for one in data for event in reader.feed(SseEvent(b"", one.encode()))]


START = Started("c", "m")

SAID: dict[str, tuple[str, list[Event]]] = {
    "role": (chunk('{"index":0,"delta":{"role":"assistant","content":""}}'), []),
    "text": (chunk('{"index":0,"delta":{"content":"Hi"},"finish_reason":null}'), [TextDelta("Hi")]),
    "text of another choice": (chunk('{"index":3,"delta":{"content":"Hi"}}'), [TextDelta("Hi", 3)]),
    "refusal": (chunk('{"index":0,"delta":{"refusal":"No"}}'), [TextDelta("No")]),
    "text and refusal": (chunk('{"index":0,"delta":{"content":"a","refusal":"b"}}'), [TextDelta("a"), TextDelta("b")]),
    "reasoning_content": (chunk('{"index":0,"delta":{"reasoning_content":"Hm"}}'), [ReasoningDelta("Hm")]),
    "reasoning": (chunk('{"index":0,"delta":{"reasoning":"Hm"}}'), [ReasoningDelta("Hm")]),
    "a call": (
        chunk('{"index":0,"delta":{"tool_calls":[{"index":0,"id":"i","function":{"name":"f","arguments":"{"}}]}}'),
        [ToolCallStarted(0, "i", "f"), ToolCallDelta(0, "{")],
    ),
    "a finish with text": (
        chunk('{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}'),
        [TextDelta("Hi"), Finished("stop")],
    ),
    "usage": (chunk("", ',"usage":{"prompt_tokens":1,"completion_tokens":2}'), [UsageReported(Usage(1, 2))]),
    "usage of the cache": (
        chunk(
            "",
            ',"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":'
            '{"cached_tokens":4,"cache_write_tokens":3},"completion_tokens_details":{"reasoning_tokens":1}}',
        ),
        [UsageReported(Usage(9, 2, cached_read=4, cache_write=3, reasoning=1))],
    ),
    "a seal": (
        chunk(
            '{"index":0,"delta":{"thinking_blocks":[{"type":"thinking","thinking":"Hm","signature":"s"},'
            '{"type":"redacted_thinking","data":"d"}]}}'
        ),
        [ReasoningDelta("Hm"), ReasoningSigned("s"), ReasoningSealed("d")],
    ),
    "a seal with the text beside it": (
        chunk(
            '{"index":0,"delta":{"reasoning_content":"Hm","thinking_blocks":'
            '[{"type":"thinking","thinking":"Hm","signature":"s"}]}}'
        ),
        [ReasoningDelta("Hm"), ReasoningSigned("s")],
    ),
    "a source": (
        chunk('{"index":0,"delta":{"annotations":[{"index":3,"type":"url_citation"}],"citations":["https://a"]}}'),
        [Cited(Raw(b'{"type":"url_citation"}')), Cited(Raw(b'"https://a"'))],
    ),
    "a source that somebody has spaced": (
        chunk('{"index":0,"delta":{"annotations":[{ "index" : 3 , "type": "url_citation"},{"index": 4 }]}}'),
        [Cited(Raw(b'{"type": "url_citation"}')), Cited(Raw(b"{}"))],
    ),
    "a source with a number of its own": (
        chunk('{"index":0,"delta":{"annotations":[{"index":0.5,"type":"x"},{"index":1e3},{"index":"2"}]}}'),
        [Cited(Raw(source)) for source in (b'{"index":0.5,"type":"x"}', b'{"index":1e3}', b'{"index":"2"}')],
    ),
    "a stop sequence": (
        chunk('{"index":0,"delta":{},"finish_reason":"stop","stop_reason":"END"}'),
        [Finished(FinishReason.STOP_SEQUENCE, stop_sequence="END")],
    ),
    "a stop token": (
        chunk('{"index":0,"delta":{},"finish_reason":"stop","stop_reason":128009}'),
        [Finished(FinishReason.STOP)],
    ),
    "a reason that we do not know": (
        chunk('{"index":0,"delta":{},"finish_reason":"exhausted"}'),
        [Finished("exhausted")],
    ),
    "a reason that says that it is none": (
        chunk('{"index":0,"delta":{},"finish_reason":"abort"}', ',"usage":{"prompt_tokens":1}'),
        [Failed('choice 0 of the stream was broken off with finish_reason "abort"')],
    ),
    "usage null": (chunk("", ',"usage":null'), []),
    "no choices": ('{"id":"c","model":"m"}', []),
    "delta null": (chunk('{"index":0,"delta":null}'), []),
    "error null": (chunk('{"index":0,"delta":{"content":"Hi"}}', ',"error":null'), [TextDelta("Hi")]),
    "half a surrogate pair": (chunk(r'{"index":0,"delta":{"content":"\ud83c!"}}'), [TextDelta("\ufffd!")]),
}


@pytest.mark.parametrize("name", SAID)
def test_a_chunk_says(name: str) -> None:
    data, events = SAID[name]
    assert read(data) == [START, *events]


def test_a_refusal_is_told_apart_where_it_is_handed_on() -> None:
    said = [chunk('{"index":0,"delta":{"refusal":"No"}}'), chunk('{"index":0,"delta":{},"finish_reason":"stop"}')]
    assert read_apart(*said) == [START, RefusalDelta("No"), Finished(FinishReason.REFUSAL)]


@pytest.mark.parametrize("word", ["function_call", "audio"])
def test_what_cannot_be_handed_on_is_refused(word: str) -> None:
    data = chunk(f'{{"index":0,"delta":{{"{word}":{{"name":"f"}}}}}}')
    with pytest.raises(UpstreamFailed, match=f'the answer has "{word}"'):
        read_apart(data)
    assert read(data) == [START]


def calls(*pieces: str) -> str:
    return chunk(f'{{"index":0,"delta":{{"tool_calls":[{",".join(pieces)}]}}}}')


STOPPED = chunk('{"index":0,"delta":{},"finish_reason":"stop"}')


def test_calls_that_are_all_index_0_are_told_apart() -> None:
    one = '{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}'
    two = '{"index":0,"id":"b","function":{"name":"g","arguments":"{}"}}'
    assert read(calls(one), calls(two), STOPPED)[1:] == [
        ToolCallStarted(0, "a", "f"),
        ToolCallDelta(0, "{}"),
        ToolCallStarted(1, "b", "g"),
        ToolCallDelta(1, "{}"),
        Finished(FinishReason.TOOL_CALLS),
    ]


def test_a_call_without_id_or_arguments_gets_them() -> None:
    started, arguments, finished = read(calls('{"index":0,"function":{"name":"f"}}'), STOPPED)[1:]
    assert isinstance(started, ToolCallStarted)
    assert started.id.startswith("call_")
    assert arguments == ToolCallDelta(0, "{}")
    assert finished == Finished(FinishReason.TOOL_CALLS)


def test_a_call_begins_with_its_name() -> None:
    pieces = [calls('{"index":0,"id":"a"}'), calls('{"index":0,"function":{"name":"f"}}')]
    assert read(*pieces) == [START, ToolCallStarted(0, "a", "f")]


def test_a_number_for_a_code_is_kept_as_the_fault_that_it_is() -> None:
    assert read('{"error":{"message":"m","code":429}}') == [Failed("m", code="rate_limited")]


def test_a_call_is_begun_once() -> None:
    pieces = [
        chunk('{"index":0,"delta":{"tool_calls":[{"index":0,"id":"i","function":{"name":"f"}}]}}'),
        chunk('{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}'),
        chunk('{"index":1,"delta":{"tool_calls":[{"index":0,"id":"j","function":{"name":"g"}}]}}'),
    ]
    assert read(*pieces) == [
        START,
        ToolCallStarted(0, "i", "f"),
        ToolCallDelta(0, "{}"),
        ToolCallStarted(0, "j", "g", choice=1),
    ]


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        (SseEvent(b"", b'{"error":{"message":"m","type":"t","code":"c"}}'), Failed("m", "t", "c")),
        (SseEvent(b"", b'{"error":"m"}'), Failed("m")),
        (SseEvent(b"", b'{"object":"error","message":"m"}'), Failed("m")),
        (SseEvent(b"error", b'{"message":"m"}'), Failed("m")),
    ],
)
def test_an_error_is_the_terminal_event(event: SseEvent, failed: Failed) -> None:
    reader = EventReader()
    assert reader.feed(event) == [failed]
    assert reader.is_complete
    assert reader.feed(SseEvent(b"", chunk('{"index":0,"delta":{"content":"x"}}').encode())) == []


def test_done_completes_and_nothing_else_does() -> None:
    reader = EventReader()
    for data in (chunk('{"index":0,"delta":{},"finish_reason":"stop"}'), "", " "):
        reader.feed(SseEvent(b"", data.encode()))
    assert not reader.is_complete
    assert reader.feed(SseEvent(b"", b"[DONE]")) == []
    assert reader.is_complete


def test_a_ping_says_nothing() -> None:
    assert EventReader().feed(SseEvent(b"ping", b'{"type":"ping"}')) == []


@pytest.mark.parametrize("data", [b"x", b"[]", b'{"choices":{}}', b'{"id":5}', b'{"id":"\xff"}', b"[" * 100_000])
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="not a chunk"):
        EventReader().feed(SseEvent(b"", data))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 200) | st.sampled_from(["", "a", "stop", "error", "thinking"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "delta", "index", "content", "refusal", "tool_calls", "function", "name", "arguments"),
                    *(
                        "finish_reason",
                        "usage",
                        "thinking_blocks",
                        "type",
                        "signature",
                        "annotations",
                        "error",
                        "message",
                    ),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)
DELTAS = st.dictionaries(st.sampled_from(["content", "tool_calls", "thinking_blocks", "citations", "refusal"]), VALUES)
CHUNKS = VALUES | st.builds(
    lambda delta, more: {"choices": [{"delta": delta, **more}]},
    DELTAS,
    st.dictionaries(st.sampled_from(["index", "finish_reason", "stop_reason", "message"]), VALUES, max_size=2),
)


@settings(deadline=None)
@given(st.lists(CHUNKS, max_size=4), st.booleans())
def test_any_json_is_read_or_refused(said: list[object], refusals_as_text: bool) -> None:
    reader = EventReader(refusals_as_text=refusals_as_text)
    for one in said:
        fault = Fault.MALFORMED
        try:
            reader.feed(SseEvent(b"", json.dumps(one).encode()))
        except UpstreamFailed as failed:
            fault = failed.failure.fault
        assert fault is Fault.MALFORMED
