"""How long an upstream asks us to wait: in seconds, in milliseconds, or until a date (RFC 9110, 5.6.7 and 10.2.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.wire.retry_after import read_retry_after

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"

CASES: dict[str, tuple[dict[bytes, bytes], float | None]] = {
    "nothing": ({}, None),
    "seconds": ({b"retry-after": b"7"}, 7),
    "seconds without a date, and with one": ({b"retry-after": b"7", b"date": DATE}, 7),
    "parts of a second": ({b"retry-after": b"0.5"}, 0.5),
    "milliseconds first": ({b"retry-after-ms": b"20", b"retry-after": b"7"}, 0.02),
    "milliseconds that are none": ({b"retry-after-ms": b"soon", b"retry-after": b"7"}, 7),
    "less than nothing": ({b"retry-after": b"-1", b"date": DATE}, None),
    "for ever": ({b"retry-after": b"1e12"}, None),
    "no number": ({b"retry-after": b"nan"}, None),
    "a word": ({b"retry-after": b"later", b"date": DATE}, None),
    "until a date": ({b"retry-after": b"Sun, 06 Nov 1994 08:50:07 GMT", b"date": DATE}, 30),
    "RFC 850's form": ({b"retry-after": b"Sunday, 06-Nov-94 08:50:07 GMT", b"date": DATE}, 30),
    "asctime's form": ({b"retry-after": b"Sun Nov  6 08:50:07 1994", b"date": DATE}, 30),
    "over the end of a year": (
        {b"retry-after": b"Sat, 01 Jan 2000 00:00:01 GMT", b"date": b"Fri, 31 Dec 1999 23:59:59 GMT"},
        2,
    ),
    "now": ({b"retry-after": DATE, b"date": DATE}, 0),
    "a date that has passed": ({b"retry-after": DATE, b"date": b"Sun, 06 Nov 1994 08:50:07 GMT"}, 0),
    "a date, but nobody says when it is now": ({b"retry-after": DATE}, None),
    "a date, and now is none": ({b"retry-after": DATE, b"date": b"today"}, None),
    "a date without end": ({b"retry-after": b"Sun, 06 Nov 9994 08:50:07 GMT", b"date": DATE}, None),
    "a year that is none": ({b"retry-after": b"Sun, 06 Nov 99999 08:50:07 GMT", b"date": DATE}, None),
    "a year beyond all numbers": (
        {b"retry-after": b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT", b"date": DATE},
        None,
    ),
    "a date, and milliseconds that are none": (
        {b"retry-after-ms": b"", b"retry-after": b"Sun, 06 Nov 1994 08:49:40 GMT", b"date": DATE},
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_how_long_to_wait_is_read(name: str) -> None:
    headers, seconds = CASES[name]
    assert read_retry_after(headers) == seconds


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_whatever_a_server_says_is_a_time_to_wait_or_nothing(said: bytes, date: bytes) -> None:
    seconds = read_retry_after({b"retry-after": said, b"date": date})
    assert seconds is None or 0 <= seconds <= 1e9


@given(st.text("0123456789 :,-+GMTSunNovJan", max_size=40))
def test_what_is_nearly_a_date_is_no_error(said: str) -> None:
    read_retry_after({b"retry-after": said.encode(), b"date": said.encode()[::-1]})
