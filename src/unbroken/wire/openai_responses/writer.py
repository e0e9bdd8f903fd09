"""Writing: events of any upstream as a stream of this dialect."""

from collections.abc import Mapping
from typing import TypeVar, assert_never

import msgspec

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
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_responses.errors import error_object
from unbroken.wire.openai_responses.finish import incomplete_reason
from unbroken.wire.openai_responses.output import FunctionCallItem, Item, MessageItem, Piece, ReasoningItem
from unbroken.wire.openai_responses.response import ResponseObject
from unbroken.wire.openai_responses.usage import usage_object

AnyItem = TypeVar("AnyItem", bound=Item)

Said = (
    TextDelta
    | ReasoningDelta
    | ReasoningSigned
    | ReasoningSealed
    | RefusalDelta
    | Cited
    | ToolCallStarted
    | ToolCallDelta
)

_write = msgspec.json.Encoder().encode

_TEXT_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,%b%b%b}\n\n'
)


def write_block(type: str, members: Mapping[str, object]) -> Block:
    """The block of one event, whose type is said in a line of its own and in the data."""
    return Block(b"event: %b\ndata: %b\n\n" % (type.encode(), _write(members)))


class ResponseWriter:
    """Writes one answer; every response object in it repeats the fields of the request."""

    def __init__(self, answering: Answering) -> None:
        self._object = ResponseObject(answering)
        self._suffix = answering.stream_id.removeprefix("resp_")
        self._next = 0
        self._items: list[Item] = []
        self._open: MessageItem | ReasoningItem | None = None
        self._calls: dict[int, FunctionCallItem] = {}
        self._reason: FinishReason | str | None = None
        self._usage: Usage | None = None
        self._is_over = False
        self._text_ends: tuple[bytes, bytes] | None = None  # while a part of text is open
        #: The response object of the terminal event, None before it.
        self.response: dict[str, object] | None = None

    def write(self, event: Event) -> list[Block]:
        if type(event) is TextDelta and self._text_ends is not None and event.text and event.choice == 0:
            return [self._write_text(self._text_ends, event.text)]  # nearly every event
        self._text_ends = None
        if self._is_over:
            return []
        blocks = self._begin()
        if isinstance(event, UsageReported):
            self._usage = event.usage
        elif isinstance(event, Failed):
            # Whose fault it was is said by the words; the status is that of a broken upstream.
            return blocks + self.fail(ApiError(502, event.message, event.type or "server_error", event.code))
        elif isinstance(event, Finished):
            if event.choice == 0 and self._reason is None:
                self._reason = event.reason
                blocks += self._close_all()
        elif not isinstance(event, Started) and event.choice == 0 and self._reason is None:
            blocks += self._blocks(self._say(event))
            if isinstance(self._open, MessageItem):
                self._text_ends = self._open.ends_of_text()
        return blocks

    def around_text(self, choice: int) -> None:
        """Every event has a number of its own, and its text is said once more at the end."""

    def end(self) -> list[Block]:
        if self._is_over:
            return []
        if self._reason is None:
            raise UpstreamFailed(Failure(Fault.CUT, "the answer ended without a reason"))
        has_refused = any(item.has_refused for item in self._items)
        why = incomplete_reason(self._reason, has_refused=has_refused)
        if why is None:
            return self._terminate("completed")
        return self._terminate("incomplete", incomplete_details={"reason": why})

    def fail(self, error: ApiError) -> list[Block]:
        """The blocks that end the stream with an error.

        They say it twice: in the response, as the API does, and in a member `error`, for which the official SDKs
        raise an error; by itself they take `response.failed` for one more event, and an answer in part for a whole.
        """
        if self._is_over:
            return []
        blocks = self._begin()
        said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        return blocks + self._terminate("failed", {"error": said}, error=error_object(error))

    def _write_text(self, ends: tuple[bytes, bytes], text: str) -> Block:
        assert isinstance(self._open, MessageItem)
        self._open.keep(text)
        number = self._next
        self._next += 1
        return Block(_TEXT_DELTA % (number, ends[0], _write(text), ends[1]))

    def _begin(self) -> list[Block]:
        if self._next:
            return []
        response = self._object.state("in_progress", [])
        return self._blocks([Piece(type, {"response": response}) for type in ("created", "in_progress")])

    def _say(self, event: Said) -> list[Piece]:
        pieces: list[Piece] = []
        match event:
            case TextDelta(text) if text:
                self._message(pieces).add_text(text, pieces)
            case RefusalDelta(text) if text:
                self._message(pieces).add_refusal(text, pieces)
            case ReasoningDelta(text) if text:
                self._reasoning(pieces).add(text, pieces)
            case TextDelta() | RefusalDelta() | ReasoningDelta():
                pass  # says nothing
            case Cited(citation):
                self._message(pieces).cite(citation, pieces)
            case ReasoningSigned(signature):
                self._reasoning(pieces).sign(signature, pieces)
                self._close(pieces)
            case ReasoningSealed(data):
                self._close(pieces)
                self._reasoning(pieces).seal(data)
                self._close(pieces)
            case ToolCallStarted(index, id, name):
                self._call(index, pieces, id, name)
            case ToolCallDelta(index, arguments):
                call = self._call(index, pieces)
                if arguments:
                    call.add(arguments, pieces)
            case _:
                assert_never(event)
        return pieces

    def _message(self, pieces: list[Piece]) -> MessageItem:
        if isinstance(self._open, MessageItem):
            return self._open
        self._close(pieces)
        item = self._open = MessageItem(*self._place("msg"))
        return self._added(item, pieces)

    def _reasoning(self, pieces: list[Piece]) -> ReasoningItem:
        if isinstance(self._open, ReasoningItem):
            return self._open
        self._close(pieces)
        item = self._open = ReasoningItem(*self._place("rs"))
        return self._added(item, pieces)

    def _call(self, index: int, pieces: list[Piece], id: str = "", name: str = "") -> FunctionCallItem:
        if (call := self._calls.get(index)) is not None:
            return call
        self._close(pieces)
        item_id, place = self._place("fc")
        call = self._calls[index] = FunctionCallItem(item_id, place, id or f"call_{item_id[3:]}", name)
        return self._added(call, pieces)

    def _place(self, prefix: str) -> tuple[str, int]:
        place = len(self._items)
        return f"{prefix}_{self._suffix}_{place}", place

    def _added(self, item: AnyItem, pieces: list[Piece]) -> AnyItem:
        self._items.append(item)
        pieces.append(Piece("output_item.added", {"output_index": item.place, "item": item.whole("in_progress")}))
        return item

    def _close(self, pieces: list[Piece], status: str = "completed") -> list[Piece]:
        """Ends the message or the reasoning that is open. Calls stay open to the end: their pieces may be mixed."""
        if self._open is not None:
            _end(self._open, pieces, status)
            self._open = None
        return pieces

    def _close_all(self) -> list[Block]:
        # What was cut short is the piece that was being said.
        status = "incomplete" if self._reason == FinishReason.LENGTH else "completed"
        last = self._items[-1] if self._items else None
        pieces = self._close([], status)
        for call in self._calls.values():
            _end(call, pieces, status if call is last else "completed")
        return self._blocks(pieces)

    def _terminate(self, status: str, beside: Mapping[str, object] | None = None, **more: object) -> list[Block]:
        self._is_over, self._text_ends = True, None
        output = [item.whole(item.status or "incomplete") for item in self._items]
        self.response = self._object.state(status, output, usage=usage_object(self._usage), **more)
        return self._blocks([Piece(status, {"response": self.response, **(beside or {})})])

    def _blocks(self, pieces: list[Piece]) -> list[Block]:
        blocks = []
        for piece in pieces:
            type = f"response.{piece.type}"
            blocks.append(write_block(type, {"type": type, "sequence_number": self._next, **piece.members}))
            self._next += 1
        return blocks


def _end(item: Item, pieces: list[Piece], status: str) -> None:
    item.end(pieces)
    item.status = status
    pieces.append(Piece("output_item.done", {"output_index": item.place, "item": item.whole(status)}))
