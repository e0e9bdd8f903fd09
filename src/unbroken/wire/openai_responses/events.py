"""Reading: a stream of this dialect as events that no dialect owns; what a client does with our blocks."""

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
from unbroken.chat.finish import FinishReason
from unbroken.wire.openai_chat.envelope import NULL
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_responses.errors import read_failed, read_stream_error
from unbroken.wire.openai_responses.finish import read_incomplete
from unbroken.wire.openai_responses.usage import read_usage
from unbroken.wire.sse import SseEvent

PARAGRAPH = "\n\n"
"""What stands between the parts of a summary that are made one text."""


class _Part(Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    encrypted_content: str | None = None
    summary: list[_Part] | None = None
    content: list[_Part] | None = None


class _Event(Struct):
    """What is typed Any has other types in events that are none of ours."""

    type: str = ""
    delta: Any = None
    output_index: Any = 0
    content_index: Any = 0
    summary_index: Any = 0
    item: Raw = NULL
    annotation: Raw = NULL
    response: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    error: Any = None


class _Kind(Struct):
    type: str = ""


_read = msgspec.json.Decoder(_Event).decode
_read_kind = msgspec.json.Decoder(_Kind).decode
_read_item = msgspec.json.Decoder(_Item).decode
_read_output = msgspec.json.Decoder(list[Raw]).decode
_read_any = msgspec.json.Decoder().decode

_write = msgspec.json.Encoder().encode

_TERMINAL = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "response.cancelled"})


class ResponseReader:
    """Gives the events of one answer; `is_complete` says whether its terminal event has been seen.

    What a server says only when it is done (a part's `done`, an item's) is given then, so far as it was not said in
    pieces before.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.text_names: Collection[bytes] = ()
        self._is_started = False
        self._has_refused = False
        self._calls: dict[int, int] = {}  # their places in the output, and their own numbers
        self._said: dict[tuple[int, str], dict[int, list[str]]] = {}  # by place and kind: each part, in pieces
        self._ended: set[int] = set()

    def feed(self, event: SseEvent) -> list[Event]:
        data = event.data.strip()
        if self.is_complete or not data or data == b"[DONE]":
            return []
        try:
            try:
                said = _read(data)
            except msgspec.DecodeError:
                data = without_halves(data)
                said = _read(data)
            type = said.type or event.type.decode()
            if type == "error" or said.error:
                self.is_complete = True
                return [_failed(read_stream_error(_read_any(data)))]
            events = list(self._events(type, said))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"not an event of a response: {error}")) from None
        if not self._is_started and (events or isinstance(said.response, dict)):
            self._is_started = True
            of: dict[str, Any] = said.response if isinstance(said.response, dict) else {}
            events.insert(0, Started(str(of.get("id") or ""), str(of.get("model") or "")))
        return events

    def _events(self, type: str, event: _Event) -> Iterator[Event]:
        response = event.response if isinstance(event.response, dict) else {}
        if type in _FAILED:
            self.is_complete = True
            yield _failed(read_failed(response))
        elif type in _TERMINAL:
            yield from self._end(response)
        elif type == "response.output_item.added" and (item := _known_item(event.item)) is not None:
            yield from self._begin_call(event.output_index, item)
        elif type == "response.output_item.done" and (item := _known_item(event.item)) is not None:
            yield from self._end_item(event.output_index, item)
        elif type == "response.output_text.annotation.added" and event.annotation != NULL:
            yield Cited(event.annotation.copy())
        elif (piece := _PIECES.get(type)) is not None:
            yield from self._piece(piece, event)

    def _piece(self, piece: tuple[str, bool], event: _Event) -> Iterator[Event]:
        kind, is_whole = piece
        index = event.summary_index if kind == "summary" else event.content_index
        if is_whole:
            text = getattr(event, _WHOLE.get(kind, "text"))
        else:
            text = event.delta
        if isinstance(text, str):
            yield from self._say(event.output_index, kind, index, text, is_whole=is_whole)

    def _say(self, place: int, kind: str, index: int, text: str, *, is_whole: bool) -> Iterator[Event]:
        before = self._said.setdefault((place, kind), {}).setdefault(index, [])
        if is_whole:
            # Only what follows on what was said: other words for the same would be said twice.
            said = "".join(before)
            text = text[len(said) :] if text.startswith(said) else ""
        if not text:
            return
        is_next_part = not before and len(self._said[place, kind]) > 1
        before.append(text)
        if kind == "text":
            yield TextDelta(text)
        elif kind == "refusal":
            self._has_refused = True
            yield RefusalDelta(text)
        elif kind != "arguments":
            yield ReasoningDelta(PARAGRAPH + text if is_next_part else text)
        elif place in self._calls:
            yield ToolCallDelta(self._calls[place], text)
        else:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"item {place} has arguments before it has begun"))

    def _begin_call(self, place: int, item: _Item) -> Iterator[Event]:
        if item.type == "function_call" and place not in self._calls:
            call = self._calls[place] = len(self._calls)
            yield ToolCallStarted(call, item.call_id or "", item.name or "")

    def _end_item(self, place: int, item: _Item) -> Iterator[Event]:
        if place in self._ended:
            return
        self._ended.add(place)
        if item.type == "function_call":
            yield from self._begin_call(place, item)
            yield from self._say(place, "arguments", 0, item.arguments or "", is_whole=True)
        elif item.type == "message":
            for index, part in enumerate(item.content or ()):
                kind, text = ("refusal", part.refusal) if part.type == "refusal" else ("text", part.text)
                yield from self._say(place, kind, index, text or "", is_whole=True)
        elif item.type == "reasoning":
            for kind, parts in (("summary", item.summary), ("reasoning", item.content)):
                for index, part in enumerate(parts or ()):
                    yield from self._say(place, kind, index, part.text or "", is_whole=True)
            if item.encrypted_content:
                has_words = bool(item.summary or item.content)
                yield (ReasoningSigned if has_words else ReasoningSealed)(item.encrypted_content)

    def _end(self, response: dict[str, Any]) -> Iterator[Event]:
        self.is_complete = True
        if response.get("error") or response.get("status") in ("failed", "cancelled"):
            yield _failed(read_failed(response))
            return
        if not (self._said or self._calls or self._ended):  # a server that says all at once
            for place, raw in enumerate(_read_output(_write(response.get("output") or []))):
                if (item := _known_item(raw)) is not None:
                    yield from self._end_item(place, item)
        if (usage := read_usage(response.get("usage"))) is not None:
            yield UsageReported(usage)
        details = response.get("incomplete_details")
        if response.get("status") == "incomplete" or details:
            why = details.get("reason") if isinstance(details, dict) else None
            yield Finished(read_incomplete(why if isinstance(why, str) else "incomplete"))
        elif self._calls:
            yield Finished(FinishReason.TOOL_CALLS)
        else:
            yield Finished(FinishReason.REFUSAL if self._has_refused else FinishReason.STOP)


#: What kind of part an event says, and whether it says the whole of it.
_PIECES = {
    "response.output_text.delta": ("text", False),
    "response.output_text.done": ("text", True),
    "response.refusal.delta": ("refusal", False),
    "response.refusal.done": ("refusal", True),
    "response.function_call_arguments.delta": ("arguments", False),
    "response.function_call_arguments.done": ("arguments", True),
    "response.reasoning_summary_text.delta": ("summary", False),
    "response.reasoning_summary_text.done": ("summary", True),
    "response.reasoning_text.delta": ("reasoning", False),
    "response.reasoning_text.done": ("reasoning", True),
}


#: Where a whole part stands in the event that says it, if not in `text`.
_WHOLE = {"refusal": "refusal", "arguments": "arguments"}

_KNOWN_ITEMS = frozenset({"message", "reasoning", "function_call"})


def _known_item(raw: Raw) -> _Item | None:
    """The item, None for one of a kind that we have no words for."""
    return None if raw == NULL or _read_kind(raw).type not in _KNOWN_ITEMS else _read_item(raw)


def _failed(failure: Failure) -> Failed:
    is_callers = failure.fault in (Fault.BAD_REQUEST, Fault.CONTENT_POLICY)
    type = failure.type or ("invalid_request_error" if is_callers else None)
    return Failed(failure.message, type, failure.code)
