"""Reading: a stream of this dialect as events that no dialect owns."""

from collections.abc import Collection, Iterator
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
from unbroken.wire.anthropic_messages.blocks import NULL
from unbroken.wire.anthropic_messages.errors import read_error_event
from unbroken.wire.anthropic_messages.finish import read_stop_reason
from unbroken.wire.anthropic_messages.usage import UsageSum
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.sse import SseEvent


class _Message(Struct):
    id: str | None = None
    model: str | None = None
    usage: Any = None


class _Block(Struct):
    type: str
    text: str | None = None
    citations: list[Raw] | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = NULL


class _StopDetails(Struct):
    explanation: str | None = None


class _Delta(Struct):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Raw = NULL
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None


class _Event(Struct):
    type: str | None = None
    index: int | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


class _Call:
    """A tool call whose block is open."""

    def __init__(self, index: int, input: Raw) -> None:
        self.index = index
        #: Arguments that were said all at once, where no pieces follow.
        self.input = "" if input in (NULL, Raw(b"{}")) else bytes(input).decode()
        self.has_pieces = False


_read = msgspec.json.Decoder(_Event).decode

#: Blocks that are no piece of the answer, or that have been told whole when they begin.
_PLAIN = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})


class MessageEventReader:
    """Gives the events of one answer; `is_complete` says whether its terminal event has been seen.

    What only this dialect can say, such as the blocks of its server tools, is refused (law 8); event types that
    nobody knows are read over, as the API asks of its clients.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.text_names: Collection[bytes] = (b"text",)
        self._is_started = False
        self._usage = UsageSum()
        self._calls: dict[int, _Call] = {}  # by the index of their open block
        self._begun = 0
        self._blocks = 0
        self._last = 0

    def feed(self, event: SseEvent) -> list[Event]:
        """The events in one SSE event.

        Raises:
            UpstreamFailed: it is not of this dialect, or says what has no word outside of it.
        """
        if self.is_complete or not event.data.strip() or event.type == b"ping":
            return []
        data = without_halves(event.data) if b"\\u" in event.data else event.data
        try:
            known = _read(data)
            type = known.type or event.type.decode()
            if "error" in (type, event.type.decode()) or (known.type is None and known.error):
                self.is_complete = True
                failure = read_error_event(data)
                return [Failed(failure.message, failure.type, failure.code)]
            return list(self._events(type, known))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"not an event of a message: {error}")) from None

    def _events(self, type: str, event: _Event) -> Iterator[Event]:
        if type == "message_start" and not self._is_started:
            self._is_started = True
            message = event.message or _Message()
            yield Started(message.id or "", message.model or "")
            yield from self._usage_events(message.usage)
        elif type == "content_block_start" and event.content_block is not None:
            self._last = self._blocks if event.index is None else event.index
            self._blocks += 1
            yield from self._block_events(self._last, event.content_block)
        elif type == "content_block_delta" and event.delta is not None:
            yield from self._delta_events(self._last if event.index is None else event.index, event.delta)
        elif type == "content_block_stop":
            yield from self._close(self._last if event.index is None else event.index)
        elif type == "message_delta":
            yield from self._end_events(event)
        elif type == "message_stop":
            self.is_complete = True

    def _block_events(self, index: int, block: _Block) -> Iterator[Event]:
        if block.type not in _PLAIN:
            raise _no_word(f'content of the type "{block.type}"')
        if block.text:
            yield TextDelta(block.text)
        for citation in block.citations or ():
            yield Cited(citation)
        if block.thinking:
            yield ReasoningDelta(block.thinking)
        if block.signature:
            yield ReasoningSigned(block.signature)
        if block.type == "redacted_thinking":
            yield ReasoningSealed(block.data or "")
        if block.type == "tool_use":
            self._calls[index] = _Call(self._begun, block.input)
            yield ToolCallStarted(self._begun, block.id or "", block.name or "")
            self._begun += 1

    def _delta_events(self, index: int, delta: _Delta) -> Iterator[Event]:
        match delta.type:
            case "text_delta":
                if delta.text:
                    yield TextDelta(delta.text)
            case "thinking_delta":
                if delta.thinking:
                    yield ReasoningDelta(delta.thinking)
            case "signature_delta":
                if delta.signature:
                    yield ReasoningSigned(delta.signature)
            case "citations_delta":
                yield Cited(delta.citation)
            case "input_json_delta":
                if (call := self._calls.get(index)) is None:
                    raise UpstreamFailed(Failure(Fault.MALFORMED, f"block {index} of the stream is no open tool_use"))
                if delta.partial_json:
                    call.has_pieces = True
                    yield ToolCallDelta(call.index, delta.partial_json)
            case other:
                raise _no_word(f'a piece of the type "{other}"')

    def _close(self, index: int) -> Iterator[Event]:
        call = self._calls.pop(index, None)
        if call is not None and not call.has_pieces:
            yield ToolCallDelta(call.index, call.input or "{}")

    def _end_events(self, event: _Event) -> Iterator[Event]:
        delta = event.delta or _Delta()
        if delta.stop_reason:
            for index in list(self._calls):
                yield from self._close(index)
            if delta.stop_details is not None and delta.stop_details.explanation:
                yield RefusalDelta(delta.stop_details.explanation)
            reason = read_stop_reason(delta.stop_reason, has_tool_calls=self._begun > 0)
            yield Finished(reason, stop_sequence=delta.stop_sequence)
        yield from self._usage_events(event.usage)

    def _usage_events(self, said: object) -> Iterator[Event]:
        usage = self._usage.add(said)
        if said is not None and usage is not None:
            yield UsageReported(usage)


def _no_word(what: str) -> UpstreamFailed:
    problem = f"the answer has {what}, which can only be told to a client that speaks Anthropic's Messages API"
    return UpstreamFailed(Failure(Fault.MALFORMED, problem))
