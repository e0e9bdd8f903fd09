"""A whole answer (no stream): on its way between two of this dialect, and written from events."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from unbroken.chat.events import Event, Failed
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.envelope import NULL, replace_members
from unbroken.wire.openai_chat.errors import is_error, read_error_event
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_responses.errors import read_failed
from unbroken.wire.openai_responses.response import our_members
from unbroken.wire.openai_responses.usage import read_usage
from unbroken.wire.openai_responses.writer import ResponseWriter

_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_output = msgspec.json.Decoder(list[dict[str, Raw]] | None).decode
_read_any = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


def relay_answer(body: bytes, answering: Answering, *, secret: str = "") -> tuple[bytes, Usage | None]:
    """The upstream's response with the stream's id and the public model, its other bytes untouched, and its usage.

    Raises:
        UpstreamFailed: it is an error, it failed or was cancelled, or it is not a response of this dialect.
    """
    try:
        body.decode()
        try:
            fields = _read_fields(body)
        except msgspec.DecodeError:
            fields = _read_fields(without_halves(body))
        status = _read_any(fields.get("status", NULL))
        if fields.get("object") == Raw(b'"response"') and status in ("failed", "cancelled"):
            raise UpstreamFailed(read_failed(_read_any(without_halves(body)), secret=secret))
        if is_error(fields):
            raise UpstreamFailed(read_error_event(_read_any(without_halves(body)), secret=secret))
        if _read_output(fields.get("output", NULL)) is None:
            raise UpstreamFailed(Failure(Fault.MALFORMED, "the answer has no output"))
        usage = read_usage(_read_any(fields.get("usage", NULL)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(Failure(Fault.MALFORMED, f"the answer is not valid: {error}")) from None
    return replace_members(body, fields, our_members(answering)), usage


def write_answer(events: Sequence[Event], answering: Answering) -> bytes:
    """The whole response that the events make.

    Raises:
        UpstreamFailed: one of them says that the answer failed, or none that it ended.
    """
    writer = ResponseWriter(answering)
    for event in events:
        if isinstance(event, Failed):
            failure = Failure(Fault.ERROR_EVENT, event.message, type=event.type, code=event.code, is_quoted=True)
            raise UpstreamFailed(failure)
        writer.write(event)
    writer.end()
    return _write(writer.response)
