"""`Retry-After` and its relatives: how long an upstream asks us to wait. Source: RFC 9110, 10.2.3; OpenAI's headers."""

from calendar import timegm
from collections.abc import Mapping
from email.utils import parsedate_tz

MOST = 1e9  # seconds; more is no wait


def read_retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds to wait, None where nothing is said; names of headers are in lower case.

    A date is measured from the response's own `Date`, by the clock that both are of; without one it says nothing.
    """
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < MOST:
            return seconds
    until, now = _read_date(headers.get(b"retry-after", b"")), _read_date(headers.get(b"date", b""))
    if until is None or now is None or until - now >= MOST:
        return None
    return float(max(0, until - now))


def _read_date(text: bytes) -> int | None:
    """The seconds since 1970 of an HTTP date, in any of its three forms; None if it is none."""
    date = parsedate_tz(text.decode("latin-1"))
    if date is None:
        return None
    try:
        return timegm(date[:6]) - (date[9] or 0)  # asctime's form names no zone, and means GMT
    except (ValueError, OverflowError):  # no such year
        return None
