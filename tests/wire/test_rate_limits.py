"""Rate limits in the other API's words (H9)."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.wire.rate_limits import (
    KINDS,
    MAX_WAIT,
    RateLimit,
    RateLimitWords,
    rate_limits_in,
    read_duration,
    read_rate_limits,
    read_time,
    write_duration,
    write_rate_limits,
    write_time,
)

OPENAI, ANTHROPIC = RateLimitWords.OPENAI, RateLimitWords.ANTHROPIC
NOW = datetime(2026, 2, 28, 23, 59, 30, tzinfo=UTC).timestamp()


def test_openais_limits_are_told_as_anthropics() -> None:
    headers = (
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"150000"),
        (b"x-ratelimit-remaining-tokens", b"149984"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
        (b"x-ratelimit-limit-project-tokens", b"9"),
        (b"content-type", b"application/json"),
    )
    assert rate_limits_in(ANTHROPIC, headers, now=NOW) == (
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"59"),
        (b"anthropic-ratelimit-requests-reset", b"2026-02-28T23:59:31Z"),
        (b"anthropic-ratelimit-tokens-limit", b"150000"),
        (b"anthropic-ratelimit-tokens-remaining", b"149984"),
        (b"anthropic-ratelimit-tokens-reset", b"2026-03-01T00:05:30Z"),
    )


def test_anthropics_limits_are_told_as_openais() -> None:
    headers = (
        (b"anthropic-ratelimit-requests-limit", b"50"),
        (b"anthropic-ratelimit-requests-remaining", b"0"),
        (b"anthropic-ratelimit-requests-reset", b"2026-03-01T01:00:00Z"),
        (b"anthropic-ratelimit-tokens-reset", b"2026-01-01T00:00:00Z"),
        (b"anthropic-ratelimit-input-tokens-limit", b"40000"),
        (b"retry-after", b"3"),
    )
    assert rate_limits_in(OPENAI, headers, now=NOW) == (
        (b"x-ratelimit-limit-requests", b"50"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-reset-requests", b"1h0m30s"),
        (b"x-ratelimit-reset-tokens", b"0s"),
    )


@pytest.mark.parametrize("words", RateLimitWords)
def test_headers_in_the_words_that_are_wanted_stay_as_they_are(words: RateLimitWords) -> None:
    own = ((words.value + b"odd", b"whatever"), (words.value + b"reset-requests", b"soon"))
    both = ((b"x-internal", b"no"), *own)
    assert rate_limits_in(words, both, now=NOW) == own


@pytest.mark.parametrize("value", [b"", b"many", b"-1", b"1.5", b"1\xff", b"9" * 19])
def test_a_number_that_is_none_is_left_out(value: bytes) -> None:
    assert rate_limits_in(ANTHROPIC, ((b"x-ratelimit-limit-tokens", value),), now=NOW) == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("1s", 1),
        ("0s", 0),
        ("20ms", 0.02),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h2m3.5s", 3723.5),
        ("24h0m0s", 86400),
        ("1m", 60),
        ("", None),
        ("60", None),
        ("1740000000", None),
        ("s", None),
        ("1s1m", None),
        ("-1s", None),
        ("1e3s", None),
        ("9999999h", None),
        ("1s" + "0" * 100, None),
        ("٣s", None),
    ],
)
def test_a_duration_is_read_where_it_is_one(text: str, seconds: float | None) -> None:
    assert read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(360, "6m0s"), (0, "0s"), (0.0004, "1ms"), (0.007, "7ms"), (59.9999, "1m0s"), (3600, "1h0m0s"), (61.5, "1m1.5s")],
)
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert write_duration(seconds) == text


@given(st.integers(0, 10**12 - 1))
def test_a_duration_that_is_written_is_read_again(thousandths: int) -> None:
    assert read_duration(write_duration(thousandths / 1000)) == pytest.approx(thousandths / 1000, abs=1e-6)


@given(st.floats(0, MAX_WAIT - 1))
def test_a_duration_is_never_told_too_short(seconds: float) -> None:
    told = read_duration(write_duration(seconds))
    assert told is not None
    assert seconds - 1e-6 <= told <= seconds + 0.0011


@given(st.datetimes(datetime(1600, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 - hypothesis wants them so
def test_a_time_that_is_written_is_read_again(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    text = write_time(moment.timestamp())
    assert text == moment.isoformat().replace("+00:00", "Z")
    assert read_time(text) == moment.timestamp()


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_a_time_elsewhere_on_earth_is_the_same_time(moment: datetime, minutes: int) -> None:
    local = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert read_time(local.isoformat()) == pytest.approx(local.timestamp(), abs=1e-5)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "1740000000"],
)
def test_what_is_no_time_is_left_out(text: str) -> None:
    assert read_time(text) is None


COUNTS = st.none() | st.integers(0, 10**9).map(lambda number: b"%d" % number)
LIMITS = st.lists(
    st.builds(RateLimit, st.sampled_from(KINDS), COUNTS, COUNTS, st.none() | st.integers(0, 10**7).map(float)),
    max_size=2,
    unique_by=lambda limit: limit.kind,
).map(lambda limits: tuple(sorted((limit for limit in limits if limit != RateLimit(limit.kind)), key=by_kind)))


def by_kind(limit: RateLimit) -> int:
    return KINDS.index(limit.kind)


@given(LIMITS, st.sampled_from(RateLimitWords), st.integers(0, 4 * 10**9))
def test_limits_that_are_written_are_read_again(limits: tuple[RateLimit, ...], words: RateLimitWords, now: int) -> None:
    assert read_rate_limits(dict(write_rate_limits(limits, words, now=now)), words, now=now) == limits


@given(st.binary(max_size=70), st.sampled_from(RateLimitWords), st.sampled_from(["limit", "remaining", "reset"]))
def test_any_value_is_told_or_left_out(value: bytes, words: RateLimitWords, what: str) -> None:
    other = ANTHROPIC if words is OPENAI else OPENAI
    name = f"{what}-tokens" if words is OPENAI else f"tokens-{what}"
    for told, said in rate_limits_in(other, ((words.value + name.encode(), value),), now=NOW):
        assert told.startswith(other.value)
        assert said.isascii()
        assert said.decode().isprintable()
