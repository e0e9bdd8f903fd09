"""Answers as events: what every pair of dialects has to carry from one side to the other."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from hypothesis import strategies as st

from unbroken.chat.events import (
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
from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage

START = Started("upstream-1", "model")
USAGE = UsageReported(Usage(input=20, output=9, cached_read=4))
STOP = Finished(FinishReason.STOP)
CALLS = Finished(FinishReason.TOOL_CALLS)

ANSWERS: dict[str, list[Event]] = {
    "text": [TextDelta("Hello"), TextDelta(", world"), STOP],
    "long text": [*(TextDelta(f"word{number} ") for number in range(300)), STOP],
    "scripts and controls": [TextDelta('日本語 🙂 \u2028\u0085 "\\ \n\n'), TextDelta("data: [DONE]\n\n"), STOP],
    "a tool": [ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a"'), ToolCallDelta(0, ":1}"), CALLS],
    "a tool after text": [TextDelta("Let me"), ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a":1}'), CALLS],
    "a tool without arguments": [ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, "{}"), CALLS],
    "parallel tools": [
        ToolCallStarted(0, "call_1", "f"),
        ToolCallDelta(0, '{"a":1}'),
        ToolCallStarted(1, "call_2", "f"),
        ToolCallDelta(1, '{"a":2}'),
        CALLS,
    ],
    "sealed reasoning": [
        ReasoningDelta("Hm"),
        ReasoningDelta("m"),
        ReasoningSigned("c2VhbA=="),
        TextDelta("Yes"),
        STOP,
    ],
    "length": [TextDelta("Once upon"), Finished(FinishReason.LENGTH)],
}
"""Answers that every dialect can say in full."""

PARTIAL: dict[str, list[Event]] = {
    "reasoning": [ReasoningDelta("Hm"), TextDelta("Yes"), STOP],
    "reasoning that is only sealed": [ReasoningSealed("c2VhbA=="), TextDelta("Yes"), STOP],
    "refusal": [RefusalDelta("I will"), RefusalDelta(" not"), Finished(FinishReason.REFUSAL)],
    "content filter": [TextDelta("Once"), Finished(FinishReason.CONTENT_FILTER)],
    "pause": [TextDelta("Once"), Finished(FinishReason.PAUSE)],
    "stop sequence": [TextDelta("one two"), Finished(FinishReason.STOP_SEQUENCE, stop_sequence=" three")],
    "a word that only one has": [TextDelta("one two"), Finished("exhausted")],
}
"""Answers of which some dialects can say only a part: their text must arrive, and they must end well."""

FAILURES: dict[str, list[Event]] = {
    "before the first token": [Failed("overloaded", "overloaded_error")],
    "in mid-stream": [TextDelta("Once"), Failed("it broke", "server_error", "server_error")],
    "inside a call": [ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a"'), Failed("it broke", "server_error")],
    "after the finish": [TextDelta("Once"), STOP, Failed("it broke", "server_error")],
}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)

PIECES = st.lists(
    st.builds(TextDelta, text=TEXTS)
    | st.builds(ReasoningDelta, text=TEXTS)
    | st.builds(RefusalDelta, text=TEXTS)
    | TEXTS.map(ReasoningSigned)
    | TEXTS.map(ReasoningSealed)
    | st.just("call"),
    max_size=12,
)

REASONS = st.sampled_from(
    [FinishReason.LENGTH, FinishReason.CONTENT_FILTER, FinishReason.PAUSE, FinishReason.STOP_SEQUENCE, "odd"]
)


def numbered(pieces: Sequence[Event | str]) -> list[Event]:
    """Pieces with calls of different tools, one after the other, in the places of the words."""
    events: list[Event] = []
    calls = 0
    for piece in pieces:
        if isinstance(piece, str):
            events += [ToolCallStarted(calls, f"call_{calls}", f"f{calls}"), ToolCallDelta(calls, '{"a":1}')]
            calls += 1
        else:
            events.append(piece)
    return events


def words(events: Sequence[Event]) -> list[Event]:
    """What the events say, however it was cut: neighbouring pieces joined, no envelope and no usage."""
    said = [event for event in events if not isinstance(event, Started | UsageReported)]
    joined: list[Event] = []
    for _, run in groupby(said, _kind):
        group = list(run)
        first = group[0]
        if isinstance(first, TextDelta | ReasoningDelta | RefusalDelta):
            joined.append(replace(first, text="".join(getattr(event, "text", "") for event in group)))
        elif isinstance(first, ToolCallDelta):
            joined.append(replace(first, arguments="".join(getattr(event, "arguments", "") for event in group)))
        else:
            joined += group
    return joined


def _kind(event: Event) -> tuple[type, int, int]:
    return type(event), getattr(event, "choice", 0), getattr(event, "index", 0)


def text(events: Sequence[Event]) -> str:
    """All that a reader is shown as the answer, refusals among it."""
    return "".join(event.text for event in events if isinstance(event, TextDelta | RefusalDelta))
