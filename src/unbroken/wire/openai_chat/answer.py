"""A whole answer (no stream) on its way from an upstream to a client of the same dialect."""

from typing import NamedTuple

import msgspec
from msgspec import Raw

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.openai_chat.choice import BROKEN_OFF, Members
from unbroken.wire.openai_chat.envelope import NULL, replace_members
from unbroken.wire.openai_chat.errors import is_error, read_error_event
from unbroken.wire.openai_chat.plain_answer import relay_plain_answer
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_chat.tool_calls import mend_whole_calls
from unbroken.wire.openai_chat.usage import read_usage

_write = msgspec.json.Encoder().encode
_read_any = msgspec.json.Decoder().decode
_read_fields = msgspec.json.Decoder(Members).decode
_read_choices = msgspec.json.Decoder(list[Members] | None).decode
_read_members = msgspec.json.Decoder(Members | None).decode
_read_text = msgspec.json.Decoder(str | None).decode

_STOP, _EMPTY_TEXT, _TOOL_CALLS = Raw(b'"stop"'), Raw(b'""'), Raw(b'"tool_calls"')


class Answer(NamedTuple):
    """The body to send, and what the log wants to know of it."""

    body: bytes
    usage: Usage | None
    finish_reasons: tuple[str, ...]


def relay_answer(body: bytes, stream_id: str, model: str, *, created: int, secret: str = "") -> Answer:
    """The upstream's answer with the stream's id and the public model, its other bytes untouched if it is well formed.

    Raises:
        UpstreamFailed: it is an error, was broken off, or is not an answer of this dialect.
    """
    if (plain := relay_plain_answer(body, stream_id, model)) is not None:
        return Answer(*plain)
    try:
        body.decode()
        try:
            fields = _read_fields(body)
        except msgspec.DecodeError:
            fields = _read_fields(without_halves(body))
        if is_error(fields):
            raise UpstreamFailed(read_error_event(_read_any(without_halves(body)), secret=secret))
        choices = _read_choices(fields.get("choices", NULL)) or []
        mended = [_mend(choice, at, stream_id) for at, choice in enumerate(choices)]
        found = tuple(_read_text(choice.get("finish_reason", NULL)) or "" for choice in mended)
        tokens = read_usage(_read_any(fields.get("usage", NULL)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(Failure(Fault.MALFORMED, f"the answer is not valid: {error}")) from None
    if not choices:
        raise UpstreamFailed(Failure(Fault.MALFORMED, "the answer has no choices"))
    if broken := BROKEN_OFF.intersection(found):
        raise UpstreamFailed(
            Failure(Fault.ERROR_EVENT, f'the answer was broken off with finish_reason "{min(broken)}"')
        )
    changes = {"id": Raw(_write(stream_id)), "model": Raw(_write(model))}
    if fields.get("object", NULL) == NULL:
        changes["object"] = Raw(b'"chat.completion"')
    if fields.get("created", NULL) == NULL:
        changes["created"] = Raw(_write(created))
    if any(new is not old for new, old in zip(mended, choices, strict=True)):
        changes["choices"] = Raw(_write(mended))
    return Answer(replace_members(body, fields, changes), tokens, found)


def _mend(choice: Members, at: int, stream_id: str) -> Members:
    """The choice with an index, right tool calls and `finish_reason`; the same object where it was right."""
    message = _read_members(choice.get("message", NULL))
    if message is None:
        raise UpstreamFailed(Failure(Fault.MALFORMED, f"choice {at} of the answer has no message"))
    changes: Members = {}
    if choice.get("index", NULL) == NULL:
        changes["index"] = Raw(b"%d" % at)
    calls = message.get("tool_calls", NULL)
    mended = mend_whole_calls(calls, f"{stream_id}/{at}")
    if mended is not None:
        if mended is not calls:
            changes["message"] = Raw(_write({**message, "tool_calls": mended}))
        if choice.get("finish_reason") in (_STOP, _EMPTY_TEXT):
            changes["finish_reason"] = _TOOL_CALLS
    return {**choice, **changes} if changes else choice
