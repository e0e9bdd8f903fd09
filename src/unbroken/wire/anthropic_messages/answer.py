"""Whole answers: an upstream's of the same dialect on their way through, and ours from events."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.events import Event, Failed, Finished, Started, UsageReported
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.anthropic_messages.blocks import NULL, Members
from unbroken.wire.anthropic_messages.errors import read_error_event
from unbroken.wire.anthropic_messages.pieces import Piece, Pieces
from unbroken.wire.anthropic_messages.usage import read_usage
from unbroken.wire.anthropic_messages.writer import message_members, stop_members
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.envelope import replace_members
from unbroken.wire.openai_chat.surrogates import without_halves

_write = msgspec.json.Encoder().encode
_read_members = msgspec.json.Decoder(Members).decode
_read_blocks = msgspec.json.Decoder(list[Members]).decode
_read_any = msgspec.json.Decoder().decode
_read_text = msgspec.json.Decoder(str | None).decode
_read_object = msgspec.json.Decoder(Members).decode

_ERROR, _TOOL_USE, _END_TURN = Raw(b'"error"'), Raw(b'"tool_use"'), Raw(b'"end_turn"')


def relay_answer(body: bytes, stream_id: str, model: str, *, secret: str = "") -> tuple[bytes, Usage | None]:
    """The upstream's answer with the stream's id and the public model, its other bytes untouched if it is well formed.

    Raises:
        UpstreamFailed: it is an error, was broken off, or is not a message.
    """
    try:
        body.decode()
        fields = _read_members(without_halves(body) if b"\\u" in body else body)
        if fields.get("type") == _ERROR or ("content" not in fields and fields.get("error", NULL) != NULL):
            raise UpstreamFailed(read_error_event(body, secret=secret))
        content = _read_blocks(fields.get("content", NULL))
        reason = _read_text(fields.get("stop_reason", NULL))
        usage = read_usage(_read_any(fields.get("usage", NULL)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(Failure(Fault.MALFORMED, f"the answer is not a valid message: {error}")) from None
    if not reason:
        raise UpstreamFailed(Failure(Fault.CUT, "the answer has no stop_reason"))
    changes = {"id": Raw(_write(stream_id)), "model": Raw(_write(model))}
    if fields["stop_reason"] == _END_TURN and any(block.get("type") == _TOOL_USE for block in content):
        changes["stop_reason"] = _TOOL_USE
    return replace_members(body, fields, changes), usage


def write_answer(events: Sequence[Event], answering: Answering) -> bytes:
    """A whole message from all the events of one answer.

    Raises:
        UpstreamFailed: the answer failed, has no end, or calls a tool with what is not JSON.
    """
    pieces = Pieces(answering.stream_id)
    usage: Usage | None = None
    finished: Finished | None = None
    for event in events:
        match event:
            case Started():
                pass
            case UsageReported(reported):
                usage = reported
            case Failed(message, type, code):
                raise UpstreamFailed(Failure(Fault.ERROR_EVENT, message, type=type, code=code, is_quoted=True))
            case Finished():
                if event.choice == 0:
                    finished = finished or event
            case _:
                if event.choice == 0:
                    pieces.add(event)
    if finished is None:
        raise UpstreamFailed(Failure(Fault.CUT, "the answer ended without a reason"))
    content: list[object] = [_whole(piece) for piece in pieces.all]
    return _write(message_members(answering, content, usage, stop_members(finished, pieces)))


def _whole(piece: Piece) -> dict[str, Any]:
    whole: dict[str, Any] = {"type": piece.type, **piece.start}
    for delta in piece.deltas:
        match delta:
            case {"type": "text_delta", "text": text}:
                whole["text"] += text
            case {"type": "thinking_delta", "thinking": text}:
                whole["thinking"] += text
            case {"type": "signature_delta", "signature": signature}:
                whole["signature"] = signature
            case {"type": "citations_delta", "citation": citation}:
                whole.setdefault("citations", []).append(citation)
    if piece.call is not None:
        whole["input"] = _input(piece)
    return whole


def _input(piece: Piece) -> Raw:
    arguments = piece.arguments.strip() or "{}"
    try:
        _read_object(arguments)
    except (msgspec.DecodeError, RecursionError):
        problem = f'the arguments of the tool call "{piece.start["name"]}" are not a JSON object'
        raise UpstreamFailed(Failure(Fault.MALFORMED, problem)) from None
    return Raw(arguments.encode())
