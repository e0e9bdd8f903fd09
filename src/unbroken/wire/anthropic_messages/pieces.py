"""The content blocks that events make: each event belongs to one, and they stand one behind the other."""

from typing import Any, assert_never

import msgspec

from unbroken.chat.events import (
    Cited,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.anthropic_messages.open_blocks import MAX_BLOCKS, made_id
from unbroken.wire.anthropic_messages.write_parts import call_id
from unbroken.wire.sse import in_one_line

MAX_HELD_BYTES = 4 << 20  # of calls that wait for an earlier one to end; as much as one event may have

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

_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Piece:
    """One content block: how it begins, and the deltas that fill it."""

    def __init__(self, type: str, start: dict[str, Any], call: int | None = None) -> None:
        self.type = type
        self.start = start
        #: The index of the tool call that it is.
        self.call = call
        self.deltas: list[dict[str, Any]] = []
        #: How many of the deltas have been sent.
        self.sent = 0
        self.is_signed = False
        self.is_closed = False
        self.size = 0  # characters of arguments

    @property
    def is_whole(self) -> bool:
        """Whether nothing can be added to it: arguments that are an object end with it; else whatever comes next."""
        if self.call is None:
            return True
        if not self.deltas or not self.deltas[-1]["partial_json"].rstrip().endswith("}"):
            return False
        try:
            _read_object(self.arguments)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True

    @property
    def arguments(self) -> str:
        """What there is of a call's arguments."""
        return "".join(delta["partial_json"] for delta in self.deltas)


class Pieces:
    """All content blocks of one answer, in the order in which they began."""

    def __init__(self, stream_id: str) -> None:
        self.all: list[Piece] = []
        self.has_tool_calls = False
        self.has_refused = False
        self._stream_id = stream_id
        self._calls: dict[int, Piece] = {}

    def add(self, event: Said) -> Piece | None:
        """The block that an event adds to or begins; None where it says nothing.

        Raises:
            UpstreamFailed: it is a piece of a call that never began.
        """
        match event:
            case TextDelta(text) | RefusalDelta(text):
                self.has_refused |= isinstance(event, RefusalDelta)
                return self._add("text", {"text": ""}, {"type": "text_delta", "text": text}) if text else None
            case Cited(citation):
                return self._add("text", {"text": ""}, {"type": "citations_delta", "citation": in_one_line(citation)})
            case ReasoningDelta(text):
                return self._think({"type": "thinking_delta", "thinking": text}) if text else None
            case ReasoningSigned(signature):
                piece = self._think({"type": "signature_delta", "signature": signature})
                piece.is_signed = True
                return piece
            case ReasoningSealed(data):
                return self._begin(Piece("redacted_thinking", {"data": data}))
            case ToolCallStarted():
                return self._start_call(event)
            case ToolCallDelta(index, arguments):
                if (call := self._calls.get(index)) is None:
                    problem = f"a piece of tool call {index} came before its beginning"
                    raise UpstreamFailed(Failure(Fault.MALFORMED, problem))
                if not arguments:
                    return None
                call.size += len(arguments)
                if call.size > MAX_HELD_BYTES:
                    problem = f"the arguments of a tool call are larger than {MAX_HELD_BYTES} bytes"
                    raise UpstreamFailed(Failure(Fault.TOO_LARGE, problem))
                call.deltas.append({"type": "input_json_delta", "partial_json": arguments})
                return call
            case _:
                assert_never(event)

    def resume_call(self, start: dict[str, Any]) -> Piece:
        """The block of a call that was begun before, with the number that its place among the calls gives it."""
        self.has_tool_calls = True
        call = Piece("tool_use", start, len(self._calls))
        self._calls[len(self._calls)] = call
        return self._begin(call)

    def _start_call(self, event: ToolCallStarted) -> Piece:
        self.has_tool_calls = True
        id = call_id(event.id) if event.id else made_id(self._stream_id, event.index)
        call = Piece("tool_use", {"id": id, "name": event.name, "input": {}}, event.index)
        self._calls[event.index] = call
        return self._begin(call)

    def _think(self, delta: dict[str, Any]) -> Piece:
        return self._add("thinking", {"thinking": "", "signature": ""}, delta)

    def _add(self, type: str, start: dict[str, Any], delta: dict[str, Any]) -> Piece:
        last = self.all[-1] if self.all else None
        if last is None or last.type != type or last.is_signed or last.is_closed:
            last = self._begin(Piece(type, start))
        last.deltas.append(delta)
        return last

    def _begin(self, piece: Piece) -> Piece:
        if len(self.all) >= MAX_BLOCKS:
            raise UpstreamFailed(Failure(Fault.TOO_LARGE, f"the answer has more than {MAX_BLOCKS} content blocks"))
        self.all.append(piece)
        return piece
