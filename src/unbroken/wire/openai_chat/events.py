"""Reading: a stream of this dialect as events that no dialect owns."""

import re
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Raw, Struct

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
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.openai_chat.choice import BROKEN_OFF
from unbroken.wire.openai_chat.envelope import NULL
from unbroken.wire.openai_chat.errors import BY_CODE, read_error_event
from unbroken.wire.openai_chat.finish import read_finish_reason
from unbroken.wire.openai_chat.request import MAX_CHOICES
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_chat.tool_calls import ToolCalls
from unbroken.wire.openai_chat.usage import read_usage
from unbroken.wire.sse import SseEvent


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class ThinkingBlock(Struct, omit_defaults=True):
    """One of the `thinking_blocks` of a message or a delta, our word for reasoning that is sealed."""

    type: str
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _Piece(Struct):
    """A piece of content where it is a list (Mistral's reasoning models)."""

    type: str
    text: str | None = None
    thinking: "str | list[_Piece] | None" = None


class _Delta(Struct):
    content: str | list[_Piece] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[ThinkingBlock] | None = None
    tool_calls: Raw = NULL
    annotations: list[Raw] | None = None
    citations: list[Raw] | None = None
    function_call: Any = None
    audio: Any = None


class _Choice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    message: Any = None
    text: Any = None


class _Chunk(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    object: Any = None
    type: Any = None
    usage: Any = None
    error: Any = None


_read = msgspec.json.Decoder(_Chunk).decode
_read_calls = msgspec.json.Decoder(list[_ToolCall]).decode

# Put there by our writer, for an SDK that needs it; who passes it on may have spaced it.
_INDEX = re.compile(rb'\{\s*"index"\s*:\s*\d+\s*(?:,\s*|(?=\}))')
_NO_CALLS = (NULL, Raw(b"[]"))


class _Said:
    """What one choice has said, as far as it tells what comes after."""

    def __init__(self, seed: str, index: int) -> None:
        self.index = index
        self.calls = ToolCalls(seed, index)
        self.has_refused = False
        #: Whether reasoning was said that no seal has followed.
        self.has_reasoned = False
        #: Ids of calls whose name has not come.
        self._nameless: dict[int, str] = {}
        self._begun: set[int] = set()

    def call(self, piece: _ToolCall, events: list[Event]) -> None:
        """Adds the events of one piece of a tool call."""
        index, function = piece.index, piece.function or _Function()
        if index not in self._begun:
            id = self._nameless.setdefault(index, piece.id or "")
            if not (function.name or function.arguments):
                return
            self._begun.add(index)
            events.append(ToolCallStarted(index, id, function.name or "", self.index))
        if function.arguments:
            events.append(ToolCallDelta(index, function.arguments, self.index))


class EventReader:
    """Gives the events of one answer; `is_complete` says whether its terminal event has been seen.

    A reader that shows the answer wants a refusal as text (`refusals_as_text`); one that hands it on wants it apart.
    """

    def __init__(self, *, refusals_as_text: bool = True) -> None:
        self.is_complete = False
        self.text_names: Collection[bytes] = (b"content",)
        self._refusals_as_text = refusals_as_text
        self._seed: str | None = None
        self._choices: dict[int, _Said] = {}

    def feed(self, event: SseEvent) -> list[Event]:
        """The events in one SSE event.

        Raises:
            UpstreamFailed: it is not a chunk of this dialect.
        """
        type, data = event
        if self.is_complete or not data or data.isspace() or type == b"ping":
            return []
        if data.strip() == b"[DONE]":
            self.is_complete = True
            return []
        try:
            if not data.isascii():
                data.decode()  # strings that are not read, too
            try:
                chunk = _read(data)
            except msgspec.DecodeError:
                data = without_halves(data)
                chunk = _read(data)
            if chunk.error or type == b"error" or "error" in (chunk.object, chunk.type):
                return [self._failed(read_error_event(msgspec.json.decode(data)))]
            return self._events(chunk)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"not a chunk: {error}")) from None

    def _failed(self, failure: Failure) -> Failed:
        self.is_complete = True
        code = failure.code
        said = BY_CODE.get(code or "") or BY_CODE.get(failure.type or "") or Fault.ERROR_EVENT
        if failure.fault is not said:
            code = failure.fault.value  # it was said by a number, or in the message
        return Failed(failure.message, failure.type, code)

    def _events(self, chunk: _Chunk) -> list[Event]:
        events: list[Event] = []
        if self._seed is None:
            self._seed = chunk.id or ""
            events.append(Started(self._seed, chunk.model or ""))
        for choice in chunk.choices or ():
            index = choice.index or 0
            if not 0 <= index < MAX_CHOICES:
                raise _malformed(f"choice {index} of the stream is out of bounds")
            if choice.delta is None and (choice.message is not None or choice.text is not None):
                raise _malformed(f"choice {index} of the stream has a message or text where a delta was expected")
            if choice.delta is not None:
                self._add_delta(choice.delta, index, events)
            if choice.finish_reason:
                self._add_finish(choice, choice.finish_reason, index, events)
            if self.is_complete:
                return events
        if chunk.usage is not None and (usage := read_usage(chunk.usage)):
            events.append(UsageReported(usage))
        return events

    def _choice(self, index: int) -> _Said:
        said = self._choices.get(index)
        if said is None:
            said = self._choices[index] = _Said(self._seed or "", index)
        return said

    def _add_delta(self, delta: _Delta, index: int, events: list[Event]) -> None:
        if reasoning := delta.reasoning_content or delta.reasoning:
            self._choice(index).has_reasoned = True
            events.append(ReasoningDelta(reasoning, index))
        for block in delta.thinking_blocks or ():
            self._add_thinking(block, index, events)
        if delta.content:
            if isinstance(delta.content, str):
                events.append(TextDelta(delta.content, index))
            else:
                self._add_pieces(delta.content, index, events)
        if delta.refusal:
            if not self._refusals_as_text:
                self._choice(index).has_refused = True
            events.append((TextDelta if self._refusals_as_text else RefusalDelta)(delta.refusal, index))
        if delta.annotations or delta.citations:
            for source in (*(delta.annotations or ()), *(delta.citations or ())):
                events.append(Cited(_without_index(source), index))
        if delta.tool_calls not in _NO_CALLS:
            said = self._choice(index)
            for call in _read_calls(said.calls.mend(delta.tool_calls)):
                said.call(call, events)
        if (delta.function_call or delta.audio) and not self._refusals_as_text:
            word = "function_call" if delta.function_call else "audio"
            raise _malformed(f'the answer has "{word}", which cannot be translated')

    def _add_pieces(self, pieces: list[_Piece], index: int, events: list[Event]) -> None:
        for piece in pieces:
            if piece.type == "text":
                if piece.text:
                    events.append(TextDelta(piece.text, index))
            elif piece.type == "thinking" and piece.thinking is not None:
                thinking = piece.thinking
                text = thinking if isinstance(thinking, str) else "".join(part.text or "" for part in thinking)
                if text:
                    self._choice(index).has_reasoned = True
                    events.append(ReasoningDelta(text, index))
            elif not self._refusals_as_text:
                raise _malformed(f'the answer has content of the type "{piece.type}", which cannot be translated')

    def _add_thinking(self, block: ThinkingBlock, index: int, events: list[Event]) -> None:
        said = self._choice(index)
        if block.type == "redacted_thinking" and block.data is not None:
            events.append(ReasoningSealed(block.data, index))
            return
        if block.thinking and not said.has_reasoned:
            said.has_reasoned = True
            events.append(ReasoningDelta(block.thinking, index))
        if block.signature:
            said.has_reasoned = False
            events.append(ReasoningSigned(block.signature, index))

    def _add_finish(self, choice: _Choice, reason: str, index: int, events: list[Event]) -> None:
        if reason in BROKEN_OFF:
            message = f'choice {index} of the stream was broken off with finish_reason "{reason}"'
            events.append(self._failed(Failure(Fault.ERROR_EVENT, message)))
            return
        said = self._choice(index)
        for without in said.calls.without_arguments():
            for call in _read_calls(said.calls.mend(without)):
                said.call(call, events)
        stop_sequence = choice.stop_reason if isinstance(choice.stop_reason, str) else None
        word = read_finish_reason(
            reason, stop_sequence=stop_sequence, has_calls=said.calls.begun > 0, has_refused=said.has_refused
        )
        events.append(Finished(word, index, stop_sequence if word == "stop_sequence" else None))


def _malformed(problem: str) -> UpstreamFailed:
    return UpstreamFailed(Failure(Fault.MALFORMED, problem))


def _without_index(source: Raw) -> Raw:
    data = bytes(source)
    found = _INDEX.match(data)
    return Raw(b"{" + data[found.end() :]) if found else Raw(data)
