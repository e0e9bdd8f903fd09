"""Going on with a stream of this dialect behind the events that were sent."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.error import invalid
from unbroken.chat.events import Event, Finished, RefusalDelta
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.blocks import MESSAGE_STOP
from unbroken.wire.anthropic_messages.pieces import Piece
from unbroken.wire.anthropic_messages.writer import MessageEventWriter
from unbroken.wire.continuing_blocks import events_in
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.surrogates import without_halves


class _Sent(Struct):
    """An event that was sent, as far as it tells where the answer stands; of types unknown all may be anything."""

    type: str = ""
    index: Any = 0
    message: Any = None
    content_block: Any = None
    delta: Any = None


_read = msgspec.json.Decoder(_Sent).decode
_read_messages = msgspec.json.Decoder(list[Raw]).decode
_read_message = msgspec.json.Decoder(dict[str, Raw]).decode
_read_content = msgspec.json.Decoder(str | list[dict[str, Raw]]).decode
_write = msgspec.json.Encoder().encode

#: The blocks that our own writer makes, and so can go on with or behind.
_KNOWN = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})


class ContinuingWriter(MessageEventWriter):
    """Writes the events behind those that were sent; an open content block is gone on with, a closed one is not."""

    def __init__(self, answering: Answering) -> None:
        super().__init__(answering)
        self._has_stopped = False
        self._explanation = ""

    def write(self, event: Event) -> list[Block]:
        if isinstance(event, RefusalDelta):
            self._explanation += event.text  # a client of this dialect has read it in `stop_details`
            return []
        return super().write(event)

    def take(self, event: _Sent) -> None:
        """Takes in an event that was sent.

        Raises:
            UpstreamFailed: it is about a block that nobody here could go on with.
        """
        pieces = self._pieces.all
        match event.type:
            case "message_start":
                self._is_begun = True
            case "content_block_start":
                self._take_start(event)
            case "content_block_delta":
                self._take_delta(pieces[event.index], event.delta)
            case "content_block_stop":
                pieces[event.index].is_closed = True
                pieces[event.index].deltas.clear()
                self._index, self._is_open = event.index + 1, False
            case "message_delta" if isinstance(event.delta, dict) and event.delta.get("stop_reason"):
                self._finished, self._has_stopped = Finished(event.delta["stop_reason"]), True
            case "message_stop":
                self._is_over = True

    def end(self) -> list[Block]:
        if self._has_stopped and not self._is_over:
            self._is_over = True
            return [MESSAGE_STOP]
        return super().end()

    def _stop_members(self, finished: Finished) -> dict[str, object]:
        members = super()._stop_members(finished)
        if not self._explanation:
            return members
        details = {"type": "refusal", "category": None, "explanation": self._explanation}
        return {**members, "stop_details": details}

    def _take_delta(self, piece: Piece, delta: dict[str, Any]) -> None:
        piece.is_signed |= bool(delta.get("signature"))
        if piece.call is not None and (arguments := delta.get("partial_json")):
            piece.size += len(arguments)
            piece.deltas.append({"type": "input_json_delta", "partial_json": arguments})
            piece.sent += 1

    def _take_start(self, event: _Sent) -> None:
        block, pieces = event.content_block, self._pieces
        if event.index != len(pieces.all) or self._is_open or block.get("type") not in _KNOWN:
            problem = f"content block {event.index} of what was sent is none that could be gone on behind"
            raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, problem))
        start = {name: value for name, value in block.items() if name != "type"}
        if block["type"] == "tool_use":
            pieces.resume_call(start)
        else:
            pieces.all.append(Piece(block["type"], start))
        self._index, self._is_open = event.index, True

    def _finish(self, event: Finished) -> list[Block]:
        if self._index < len(self._pieces.all):
            return super()._finish(event)
        self._finished = event  # all blocks were closed by what was sent
        return []


def continuing_writer(answering: Answering, blocks: Sequence[Block]) -> MessageEventWriter:
    """A writer that goes on where `blocks` end.

    Raises:
        UpstreamFailed: there is something in them that has no word outside of this dialect.
    """
    sent = [_read(without_halves(event.data)) for event in events_in(blocks)]
    writer = ContinuingWriter(answering)
    for event in sent:
        writer.take(event)
    return writer


def with_partial(request: ChatRequest, text: str) -> ChatRequest:
    """The request with `text` as the assistant's last words, behind those that the caller itself has put there.

    Raises:
        RequestRefused: the caller's own last message is one that no text can be added to.
    """
    messages = [*_read_messages(request.fields["messages"])]
    last = _read_message(messages[-1])
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if last.get("role") == Raw(b'"assistant"'):
        match _read_content(last["content"]):
            case str(before):
                message = {**last, "content": before + text}
            case [*blocks, {"type": kind, "text": before}] if kind == Raw(b'"text"'):
                joined = {"type": "text", "text": msgspec.json.decode(before, type=str) + text}
                message = {**last, "content": [*blocks, joined]}
            case _:
                raise invalid("messages: the last one is the assistant's, and no text that could be gone on with")
        messages.pop()
    return replace(request, fields={**request.fields, "messages": Raw(_write([*messages, message]))})
