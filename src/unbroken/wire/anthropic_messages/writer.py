"""Writing: events that no dialect owns as a stream of this one."""

import msgspec

from unbroken.chat.error import ApiError
from unbroken.chat.events import Event, Failed, Finished, Started, TextDelta, UsageReported
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.anthropic_messages.blocks import MESSAGE_STOP, write_own
from unbroken.wire.anthropic_messages.errors import write_error_event
from unbroken.wire.anthropic_messages.finish import write_stop_reason
from unbroken.wire.anthropic_messages.pieces import MAX_HELD_BYTES, Piece, Pieces, Said
from unbroken.wire.anthropic_messages.usage import write_usage
from unbroken.wire.dialects import Answering

_write = msgspec.json.Encoder().encode

_TEXT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":'
)

_AFTER_TEXT = b"}}\n\n"


class MessageEventWriter:
    """Writes the stream of one answer: one message, and its content blocks one behind the other.

    Tool calls that come side by side wait for each other: the first goes out as it comes, the others once its
    arguments are a whole object, or the answer ends. Answers other than the first are nobody's: none were asked for.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._usage: Usage | None = None
        self._is_begun = False
        self._is_over = False
        self._finished: Finished | None = None
        self._pieces = Pieces(answering.stream_id)
        self._index = 0  # of the piece that is open, or will be next
        self._is_open = False
        self._held = 0  # bytes of deltas that wait
        self._text_head = b""  # of a delta for the text that is open; it is the last piece, or it would be closed

    def write(self, event: Event) -> list[Block]:
        """The blocks of one event.

        The message begins with what follows `Started` and its usage, so that its input tokens can be said at once.

        Raises:
            UpstreamFailed: it goes on with what is over, or too much has to wait.
        """
        if type(event) is TextDelta and self._text_head and event.text and event.choice == 0:
            return [Block(b"%b%b%b" % (self._text_head, _write(event.text), _AFTER_TEXT))]
        match event:
            case Started():
                return []
            case UsageReported(usage):
                self._usage = usage
                return []
            case Failed():
                return self._fail(event)
            case _ if self._is_over or event.choice != 0:
                return []
            case Finished():
                return [] if self._finished else [*self._begin(), *self._finish(event)]
            case _:
                return self._say(event)

    def around_text(self, choice: int) -> tuple[bytes, bytes] | None:
        """What stands around the JSON string in the event of a text."""
        return (self._text_head, _AFTER_TEXT) if self._text_head and choice == 0 else None

    def end(self) -> list[Block]:
        """The blocks of a good end: why it ended, its usage, and `message_stop`.

        Raises:
            UpstreamFailed: nobody said that the answer was finished.
        """
        if self._is_over:
            return []
        if self._finished is None:
            raise UpstreamFailed(Failure(Fault.CUT, "the answer ended without a reason"))
        self._is_over = True
        delta = self._stop_members(self._finished)
        return [write_own("message_delta", delta=delta, usage=write_usage(self._usage)), MESSAGE_STOP]

    def _stop_members(self, finished: Finished) -> dict[str, object]:
        return {**stop_members(finished, self._pieces)}

    def _fail(self, event: Failed) -> list[Block]:
        if self._is_over:
            return []
        self._is_over, self._text_head = True, b""
        return [write_error_event(ApiError(500, event.message, event.type or "api_error", event.code))]

    def _begin(self) -> list[Block]:
        if self._is_begun:
            return []
        self._is_begun = True
        return [write_own("message_start", message=message_members(self._answering, [], self._usage, None))]

    def _say(self, event: Said) -> list[Block]:
        if self._finished is not None:
            problem = f"the answer goes on after it was finished: {self._finished.reason}"
            raise UpstreamFailed(Failure(Fault.MALFORMED, problem))
        pieces = self._pieces.all
        piece = self._pieces.add(event)
        if piece is None:
            return []
        if piece is pieces[self._index]:
            return [*self._begin(), *self._send()]
        if piece.is_closed:
            return self._say_late(piece)
        if piece.deltas:
            self._held += len(_write(piece.deltas[-1]))
        if self._held > MAX_HELD_BYTES:
            problem = f"more than {MAX_HELD_BYTES} bytes of a tool call wait for another one to end"
            raise UpstreamFailed(Failure(Fault.TOO_LARGE, problem))
        return self._advance()

    def _say_late(self, piece: Piece) -> list[Block]:
        if piece.deltas.pop()["partial_json"].strip():
            problem = f"tool call {piece.call} goes on after its arguments were whole"
            raise UpstreamFailed(Failure(Fault.MALFORMED, problem))
        return []

    def _advance(self) -> list[Block]:
        """Closes what nothing can be added to any more, and opens what comes next."""
        blocks: list[Block] = []
        pieces = self._pieces.all
        while self._index < len(pieces) - 1 and (self._finished or pieces[self._index].is_whole):
            blocks += [*self._send(), self._close()]
            blocks += self._send()
        if self._index == len(pieces) - 1:
            self._held = 0
        return blocks

    def _send(self) -> list[Block]:
        """What of the piece that is open, or has to be opened, has not been sent."""
        piece, blocks = self._pieces.all[self._index], []
        if not self._is_open:
            self._is_open = True
            start = {"type": piece.type, **piece.start}
            blocks.append(write_own("content_block_start", index=self._index, content_block=start))
            self._text_head = _TEXT % self._index if piece.type == "text" else b""
        for delta in piece.deltas[piece.sent :]:
            blocks.append(write_own("content_block_delta", index=self._index, delta=delta))
        if piece.call is None:
            piece.deltas.clear()  # only a call's are looked at again
        piece.sent = len(piece.deltas)
        return blocks

    def _close(self) -> Block:
        piece = self._pieces.all[self._index]
        piece.is_closed = True
        piece.deltas.clear()
        block = write_own("content_block_stop", index=self._index)
        self._index += 1
        self._is_open, self._text_head = False, b""
        return block

    def _finish(self, event: Finished) -> list[Block]:
        self._finished = event
        if not self._pieces.all:
            return []
        return [*self._advance(), *self._send(), self._close()]


def stop_members(finished: Finished, pieces: Pieces) -> dict[str, str | None]:
    """Why the answer ended, as `message_delta` and a whole message say it."""
    reason = write_stop_reason(finished.reason, has_tool_calls=pieces.has_tool_calls, has_refused=pieces.has_refused)
    is_sequence = finished.reason == FinishReason.STOP_SEQUENCE
    return {"stop_reason": reason, "stop_sequence": finished.stop_sequence if is_sequence else None}


def message_members(
    answering: Answering, content: list[object], usage: Usage | None, stop: dict[str, str | None] | None
) -> dict[str, object]:
    """A message, as it begins or whole."""
    return {
        "id": answering.stream_id,
        "type": "message",
        "role": "assistant",
        "model": answering.model,
        "content": content,
        **(stop or {"stop_reason": None, "stop_sequence": None}),
        "usage": write_usage(usage),
    }
