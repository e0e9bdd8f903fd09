"""Reading our own blocks: what a client does with them."""

import pytest

from unbroken.chat.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.fault import UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.sse import SseEvent


def chunk(choices: str, more: str = "") -> str:
    return f'{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{choices}]{more}}}'


def read(*data: str) -> list[Event]:
    reader = EventReader()
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
