"""What the status and the headers of an upstream's response say of it."""

from dataclasses import replace

from unbroken.chat.fault import Failure, Fault
from unbroken.upstream.sinks import Headers
from unbroken.wire.dialects import ErrorReader
from unbroken.wire.openai_chat.errors import without_secrets
from unbroken.wire.retry_after import read_retry_after


def why_refused(status: int, headers: Headers, body: bytes, read_error: ErrorReader, *, secret: str) -> Failure:
    """What a response says whose status is not 200."""
    said = dict(headers)
    if 300 <= status < 400:
        place = without_secrets(_text(said.get(b"location", b"")).partition("?")[0], secret)[:500]
        message = f'answered {status}, a redirect to "{place}": base_url must be the address that answers itself'
        return Failure(Fault.MALFORMED, message, status)
    failure = read_error(status, _text(said.get(b"content-type", b"")).lower(), body, secret=secret)
    return replace(failure, retry_after=read_retry_after(said))


def why_unreadable(headers: Headers, expected: str) -> Failure | None:
    """What is wrong with the body that the headers of a 200 announce; None if it is `expected`, or does not say."""
    said = dict(headers)
    if (given := said.get(b"content-encoding")) and (coding := _text(given).lower()) not in ("", "identity"):
        return Failure(Fault.MALFORMED, f'answered with content-encoding "{coding}" though "identity" was asked for')
    if expected and not (kind := _text(said.get(b"content-type", b"")).lower()).startswith(expected):
        return Failure(Fault.MALFORMED, f'answered with content-type "{kind}", expected "{expected}"')
    return None


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip()
