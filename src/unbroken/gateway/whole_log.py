"""A whole answer from the log of its stream, and what is said of one that is not whole yet."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from unbroken.chat.events import Event
from unbroken.chat.stream import Block, StreamRecord, StreamStatus
from unbroken.gateway.production import Asked
from unbroken.gateway.records import asked_again
from unbroken.gateway.stream_account import StreamAccount
from unbroken.wire.dialects import Answering, Dialect
from unbroken.wire.openai_chat.assemble import AnswerAssembler
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.usage import write_usage
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.openai_responses.response import ResponseObject
from unbroken.wire.sse import SseReader


class _WithResponse(msgspec.Struct):
    response: Raw


_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_with_response = msgspec.json.Decoder(_WithResponse).decode
_write = msgspec.json.Encoder().encode


def whole_answer(record: StreamRecord, account: StreamAccount, blocks: Sequence[Block]) -> bytes:
    """The body that a client gets who asked for no stream."""
    asked = asked_again(record)
    if asked.dialect is OPENAI_CHAT:
        return _whole_completion(account, blocks)
    if asked.dialect is OPENAI_RESPONSES and (response := last_response(blocks)) is not None:
        return response
    return asked.dialect.write_answer(read_events(asked.dialect, blocks), answering(asked, account.model))


def answering(asked: Asked, model: str) -> Answering:
    """What a writer of this answer has to know."""
    request = asked.request
    return Answering(asked.stream, model, asked.created, request.choices, request.include_usage, asked.echo)


def read_events(dialect: Dialect, blocks: Sequence[Block]) -> list[Event]:
    """The events in the blocks of a stream that we have written."""
    reader, lines = dialect.event_reader(), SseReader()
    return [event for block in blocks for line in lines.feed(block) for event in reader.feed(line)]


def last_response(blocks: Sequence[Block]) -> bytes | None:
    """The response object in the last event of a stream of Responses; None where it holds none."""
    try:
        found = [_read_with_response(event.data).response for event in SseReader().feed(blocks[-1] if blocks else b"")]
    except msgspec.DecodeError:
        return None
    return bytes(found[0]) if found else None


_STATES = {"finished": "completed", "failed": "failed", "cancelled": "cancelled"}


def response_now(status: StreamStatus, account: StreamAccount, blocks: Sequence[Block]) -> bytes:
    """The response object of a durable answer as it stands: whole, broken off, or with no more than its state."""
    if status.has_ended and (whole := last_response(blocks)) is not None:
        if account.state != "cancelled":
            return whole
        # In its events there is no other word for that than failed.
        return _write({**_read_fields(whole), "status": "cancelled", "error": None})
    asked = asked_again(status.record)
    said = _STATES.get(account.state, "in_progress") if blocks else "queued"
    return _response_so_far(asked, account.model or asked.request.model, said, blocks)


def queued_answer(asked: Asked) -> bytes:
    """What a client is told of work in the background that has just been accepted."""
    return _response_so_far(asked, asked.request.model, "queued", ())


def _response_so_far(asked: Asked, model: str, status: str, blocks: Sequence[Block]) -> bytes:
    """The response object of an answer that is not whole, with its status and without output."""
    begun = last_response(blocks[:1])
    if begun is not None:
        return _write({**_read_fields(begun), "status": status})
    asked = msgspec.structs.replace(asked, echo={**asked.echo, "background": Raw(b"true")})
    return _write(ResponseObject(answering(asked, model)).state(status, []))


def _whole_completion(account: StreamAccount, blocks: Sequence[Block]) -> bytes:
    assembler = AnswerAssembler()
    assembler.feed(blocks)
    whole = assembler.whole()
    fields = _read_fields(whole)
    if fields.get("usage", Raw(b"null")) != Raw(b"null") or account.usage is None:
        return whole
    return _write({**fields, "usage": write_usage(account.usage)})
