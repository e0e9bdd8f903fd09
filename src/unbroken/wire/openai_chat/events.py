"""Reading: a stream of this dialect as events that no dialect owns; what a client does with our blocks."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

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
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.openai_chat.errors import read_error_event
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_chat.usage import read_usage
from unbroken.wire.sse import SseEvent


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    object: Any = None
    type: Any = None
    usage: Any = None
    error: Any = None


_read = msgspec.json.Decoder(_Chunk).decode


class EventReader:
    """Gives the events of one answer; `is_complete` says whether its terminal event has been seen."""

    def __init__(self) -> None:
        self.is_complete = False
        self._is_started = False
        self._calls: set[tuple[int, int]] = set()

    def feed(self, event: SseEvent) -> list[Event]:
        """The events in one SSE event.

        Raises:
            UpstreamFailed: it is not a chunk of this dialect.
        """
        data = event.data.strip()
        if self.is_complete or not data or event.type == b"ping":
            return []
        if data == b"[DONE]":
            self.is_complete = True
            return []
        try:
            try:
                chunk = _read(data)
            except msgspec.DecodeError:
                data = without_halves(data)
                chunk = _read(data)
            if event.type == b"error" or chunk.error or "error" in (chunk.object, chunk.type):
                self.is_complete = True
                failure = read_error_event(msgspec.json.decode(data))
                return [Failed(failure.message, failure.type, failure.code)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"not a chunk: {error}")) from None
        return list(self._events(chunk))

    def _events(self, chunk: _Chunk) -> Iterator[Event]:
        if not self._is_started:
            self._is_started = True
            yield Started(chunk.id or "", chunk.model or "")
        for choice in chunk.choices or ():
            index = choice.index or 0
            if choice.delta is not None:
                yield from self._delta_events(choice.delta, index)
            if choice.finish_reason:
                yield Finished(choice.finish_reason, index)
        if usage := read_usage(chunk.usage):
            yield UsageReported(usage)

    def _delta_events(self, delta: _Delta, choice: int) -> Iterator[Event]:
        if reasoning := delta.reasoning_content or delta.reasoning:
            yield ReasoningDelta(reasoning, choice)
        for text in (delta.content, delta.refusal):
            if text:
                yield TextDelta(text, choice)
        for call in delta.tool_calls or ():
            index = call.index or 0
            if (choice, index) not in self._calls:
                self._calls.add((choice, index))
                name = call.function.name if call.function else None
                yield ToolCallStarted(index, call.id or "", name or "", choice)
            if call.function and call.function.arguments:
                yield ToolCallDelta(index, call.function.arguments, choice)
