"""Going on with a stream of this dialect behind the events that were sent."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.events import Event, ReasoningDelta, ReasoningSealed
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.wire.continuing_blocks import events_in
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_responses.output import FunctionCallItem, MessageItem, Piece, ReasoningItem
from unbroken.wire.openai_responses.response import ResponseObject
from unbroken.wire.openai_responses.sent_items import SentItem, SentReasoning
from unbroken.wire.openai_responses.stored import input_items
from unbroken.wire.openai_responses.writer import ResponseWriter, Said


class _Sent(Struct):
    """An event that was sent, as far as it tells where the answer stands; of types unknown all may be anything."""

    type: str = ""
    sequence_number: int = 0
    output_index: Any = 0
    content_index: Any = 0
    summary_index: Any = 0
    item: Any = None
    part: Any = None
    delta: Any = None
    annotation: Any = None
    response: Any = None


_read = msgspec.json.Decoder(_Sent).decode
_write = msgspec.json.Encoder().encode

#: The items that our own writer makes, and so can go on with or behind.
_KNOWN = frozenset({"message", "reasoning", "function_call"})

#: Where the deltas of each type add to, and the type of the part that they fill.
_DELTAS: Mapping[str, tuple[str, str]] = {
    "output_text.delta": ("content", "output_text"),
    "refusal.delta": ("content", "refusal"),
    "reasoning_text.delta": ("content", "reasoning_text"),
    "reasoning_summary_text.delta": ("summary", "summary_text"),
    "function_call_arguments.delta": ("arguments", ""),
}

_CLOSING = frozenset(
    {
        *("output_text.done", "refusal.done", "reasoning_text.done", "content_part.done"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "function_call_arguments.done"),
    }
)

#: Events in which the response object stands whole.
_LIFECYCLE = frozenset({"created", "queued", "in_progress", "completed", "incomplete", "failed"})

#: The members of a response that say how far it is.
_STATE = frozenset({"status", "error", "incomplete_details", "output", "usage", "output_text", "completed_at"})


class _SentResponse(ResponseObject):
    """The response object as it was last sent, with what has come since."""

    def __init__(self, answering: Answering, sent: Mapping[str, Any]) -> None:
        super().__init__(answering)
        self._sent = sent

    def state(self, status: str, output: list[dict[str, Any]], **more: object) -> dict[str, object]:
        fresh = super().state(status, output, **more)
        stays = {name: value for name, value in self._sent.items() if name not in _STATE}
        return {**fresh, **stays, **more}


class ContinuingWriter(ResponseWriter):
    """Writes the events behind those that were sent: numbers, items and parts go on as they were."""

    def __init__(self, answering: Answering, sent: Sequence[_Sent]) -> None:
        super().__init__(answering)
        self._answering = answering
        self._sent: list[SentItem] = []
        self._is_begun = not sent
        self._whole_calls: set[int] = set()
        for event in sent:
            self._take(event)
        calls = 0
        for item in self._sent:
            self._resume(item, calls)
            calls += item.type == "function_call"

    def write(self, event: Event) -> list[Block]:
        blocks: list[Block] = []
        if isinstance(event, ReasoningDelta) and isinstance(self._open, SentReasoning) and self._open.has_whole_summary:
            blocks = self._blocks(self._close([]))
        return blocks + super().write(event)

    def _begin(self) -> list[Block]:
        if self._is_begun:
            return super()._begin()
        self._is_begun = True
        return self._blocks([Piece("in_progress", {"response": self._object.state("in_progress", [])})])

    def _say(self, event: Said) -> list[Piece]:
        if isinstance(event, ReasoningSealed) and isinstance(self._open, SentReasoning) and self._open.is_empty:
            self._open.seal(event.data)  # it has begun, and this is all of it
            return self._close([])
        return super()._say(event)

    def _call(self, index: int, pieces: list[Piece], id: str = "", name: str = "") -> FunctionCallItem:
        if index in self._whole_calls:
            problem = f"tool call {index} goes on after its arguments were whole"
            raise UpstreamFailed(Failure(Fault.DIFFERS, problem))
        return super()._call(index, pieces, id, name)

    def _take(self, event: _Sent) -> None:
        self._next = event.sequence_number + 1
        type = event.type.removeprefix("response.")
        if isinstance(event.response, dict) and type in _LIFECYCLE:
            self._object = _SentResponse(self._answering, event.response)
        match type:
            case "completed" | "incomplete" | "failed" | "error":
                self._is_over = True
            case "in_progress":
                self._is_begun = True
            case "output_item.added" if isinstance(event.item, dict):
                self._add(event.output_index, event.item)
            case "output_item.done" if isinstance(event.item, dict):
                self._item(event).end(event.item)
            case "content_part.added" if isinstance(event.part, dict):
                self._item(event).begin(("content", event.content_index), event.part)
            case "reasoning_summary_part.added" if isinstance(event.part, dict):
                self._item(event).begin(("summary", event.summary_index), event.part)
            case "output_text.annotation.added":
                self._item(event).cite(("content", event.content_index), event.annotation)
            case _ if type in _DELTAS and isinstance(event.delta, str):
                name, part_type = _DELTAS[type]
                index = {"content": event.content_index, "summary": event.summary_index}.get(name, 0)
                self._item(event).say((name, index), part_type, event.delta)
            case _ if type in _CLOSING:
                self._item(event).close(type)

    def _add(self, place: int, item: dict[str, Any]) -> None:
        self._is_begun = True
        if place != len(self._sent) or item.get("type") not in _KNOWN:
            problem = f"item {place} of what was sent, of the type {item.get('type')!r}, has no word of ours"
            raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, problem))
        self._sent.append(SentItem(place, item))

    def _item(self, event: _Sent) -> SentItem:
        """The item of an event; some servers do not say that it begins."""
        if event.output_index >= len(self._sent):
            self._add(event.output_index, event.item or {"type": "message", "role": "assistant"})
        place: int = event.output_index
        return self._sent[place]

    def _resume(self, sent: SentItem, calls: int) -> None:
        item = sent.resumed()
        self._items.append(item)
        if sent.type == "function_call":
            if sent.closing or sent.is_done:
                self._whole_calls.add(calls)
            if isinstance(item, FunctionCallItem):
                self._calls[calls] = item
        elif isinstance(item, MessageItem | ReasoningItem):
            if self._open is not None:
                problem = f"items {self._open.place} and {item.place} of what was sent are both open"
                raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, problem))
            self._open = item


def continuing_writer(answering: Answering, blocks: Sequence[Block]) -> ResponseWriter:
    """A writer that goes on where `blocks` end.

    Raises:
        UpstreamFailed: there is something in them that has no word outside of this dialect.
    """
    events = events_in(blocks)
    return ContinuingWriter(answering, [_read(without_halves(event.data)) for event in events])


def with_partial(request: ChatRequest, text: str) -> ChatRequest:
    """The request with `text` as the assistant's last words."""
    message = Raw(_write({"type": "message", "role": "assistant", "content": text}))
    return replace(request, fields={**request.fields, "input": Raw(_write([*input_items(request), message]))})
