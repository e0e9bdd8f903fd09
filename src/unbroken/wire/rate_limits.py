"""Rate-limit headers: how much more an account may ask of its provider, in the words of one API or the other.

Both APIs tell of requests and of tokens three things each: the limit, what remains of it, when it is full again.
OpenAI gives the last as a duration (`6m0s`), Anthropic as a time (RFC 3339). What only one of them has (limits of input
tokens, of a project) is left out in the other's words: headers are no part of the answer. Source: both APIs'
descriptions.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

Headers = tuple[tuple[bytes, bytes], ...]

KINDS = ("requests", "tokens")
"""What both APIs have limits of."""

MAX_WAIT = 1e9  # seconds, some thirty years: a longer one is a mistake, and its date would have five digits

_COUNT = re.compile(rb"\d{1,18}")
_DURATION = re.compile(
    r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+(?:\.\d+)?)ms)?", re.ASCII
)
_SECONDS: Mapping[str, float] = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
_TIME = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)[Tt ](?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d(?:\.\d+)?)"
    r"(?:[Zz]|(?P<sign>[+-])(?P<offset_hour>\d\d):(?P<offset_minute>\d\d))",
    re.ASCII,
)
_MAX_TEXT = 64  # characters that a duration or a time is looked for in; either has far fewer


class RateLimitWords(Enum):
    """Whose names the headers have; the value is what they begin with."""

    OPENAI = b"x-ratelimit-"
    ANTHROPIC = b"anthropic-ratelimit-"


_ALL_WORDS = tuple(words.value for words in RateLimitWords)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit, of requests or of tokens; None is "not said"."""

    kind: str
    limit: bytes | None = None
    remaining: bytes | None = None
    #: Seconds until all of it is there again.
    reset: float | None = None


def rate_limit_names() -> tuple[bytes, ...]:
    """The names of the headers that both APIs have a word for, in either's words."""
    return tuple(
        _name(words, kind, what)
        for words in RateLimitWords
        for kind in KINDS
        for what in ("limit", "remaining", "reset")
    )


def rate_limits_in(words: RateLimitWords, headers: Sequence[tuple[bytes, bytes]], *, now: float) -> Headers:
    """An upstream's rate-limit headers in these words: its own untouched where it uses them, else translated.

    `now` is in seconds since 1970; names of headers are in lower case.
    """
    for name, _ in headers:
        if name.startswith(_ALL_WORDS):
            break
    else:
        return ()  # most upstreams have none, and every answer is looked at
    own = tuple(header for header in headers if header[0].startswith(words.value))
    if own:
        return own
    other = RateLimitWords.ANTHROPIC if words is RateLimitWords.OPENAI else RateLimitWords.OPENAI
    return write_rate_limits(read_rate_limits(dict(headers), other, now=now), words, now=now)


def read_rate_limits(headers: Mapping[bytes, bytes], words: RateLimitWords, *, now: float) -> tuple[RateLimit, ...]:
    """The limits that the headers tell in these words; a value that is none of its kind is taken for not said."""
    limits = (_read_limit(kind, headers, words, now) for kind in KINDS)
    return tuple(limit for limit in limits if limit != RateLimit(limit.kind))


def write_rate_limits(limits: Sequence[RateLimit], words: RateLimitWords, *, now: float) -> Headers:
    """The headers that tell the limits in these words."""
    return tuple(
        (_name(words, limit.kind, what), value)
        for limit in limits
        for what, value in (
            ("limit", limit.limit),
            ("remaining", limit.remaining),
            ("reset", _write_reset(limit.reset, words, now)),
        )
        if value is not None
    )


def read_duration(text: str) -> float | None:
    """Seconds in a duration such as `1h2m3.5s` or `20ms`; None for what is none, or has no unit."""
    found = _DURATION.fullmatch(text, 0, _MAX_TEXT)
    if found is None or not text:
        return None
    seconds = sum(float(number) * _SECONDS[unit] for unit, number in found.groupdict().items() if number is not None)
    return seconds if seconds < MAX_WAIT else None


def write_duration(seconds: float) -> str:
    """A duration as OpenAI writes it, to the millisecond and never too short."""
    # Rounded before the ceiling: 0.007 s are 7.000000000000001 ms.
    thousandths = math.ceil(round(seconds * 1000, 3))
    if thousandths < 1000:
        return f"{thousandths}ms" if thousandths > 0 else "0s"
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def read_time(text: str) -> float | None:
    """Seconds since 1970 of a time by RFC 3339; None for what is none."""
    found = _TIME.fullmatch(text, 0, _MAX_TEXT)
    if found is None:
        return None
    year, month, day, hour, minute = (int(found[name]) for name in ("year", "month", "day", "hour", "minute"))
    # 60 is a leap second; a day that its month does not have counts on into the next.
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and float(found["second"]) < 61):
        return None
    seconds = 86400 * _day_of(year, month, day) + 3600 * hour + 60 * minute + float(found["second"])
    if found["sign"] is None:
        return seconds
    offset = 3600 * int(found["offset_hour"]) + 60 * int(found["offset_minute"])
    return seconds + offset if found["sign"] == "-" else seconds - offset


def write_time(seconds: float) -> str:
    """A time since 1970 by RFC 3339, in whole seconds and never too early."""
    days, rest = divmod(math.ceil(seconds), 86400)
    year, month, day = _date_of(days)
    return f"{year:04}-{month:02}-{day:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"


def _name(words: RateLimitWords, kind: str, what: str) -> bytes:
    inner = f"{what}-{kind}" if words is RateLimitWords.OPENAI else f"{kind}-{what}"
    return words.value + inner.encode()


def _read_limit(kind: str, headers: Mapping[bytes, bytes], words: RateLimitWords, now: float) -> RateLimit:
    limit, remaining, reset = (headers.get(_name(words, kind, what), b"") for what in ("limit", "remaining", "reset"))
    return RateLimit(kind, _count(limit), _count(remaining), _read_reset(reset.decode("latin-1"), words, now))


def _count(value: bytes) -> bytes | None:
    return value if _COUNT.fullmatch(value) else None


def _read_reset(text: str, words: RateLimitWords, now: float) -> float | None:
    if words is RateLimitWords.OPENAI:
        return read_duration(text)
    at = read_time(text)
    return None if at is None or at - now >= MAX_WAIT else max(0.0, at - now)


def _write_reset(seconds: float | None, words: RateLimitWords, now: float) -> bytes | None:
    if seconds is None:
        return None
    return (write_duration(seconds) if words is RateLimitWords.OPENAI else write_time(now + seconds)).encode()


# A pure module has no `datetime`. Years begin in March here, so that the leap day is the last of its year; 400 of them
# have 146,097 days. 719,468 lie between the first of March of year 0 and 1970.


def _day_of(year: int, month: int, day: int) -> int:
    years = year if month > 2 else year - 1
    return years * 365 + years // 4 - years // 100 + years // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719_469


def _date_of(days: int) -> tuple[int, int, int]:
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * day_of_year + 2) // 153
    month = from_march + 3 if from_march < 10 else from_march - 9
    return era * 400 + year_of_era + (month <= 2), month, day_of_year - (153 * from_march + 2) // 5 + 1
