"""Retries: every fault has its treatment, waiting and attempts are bounded, and the caller is told what helps it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.fault import Failure, Fault
from unbroken.rules.retry import (
    BUSY,
    LEAST_WAIT,
    MAX_STALE,
    TELLING,
    TREATMENT,
    GiveUp,
    RetryAfter,
    RetryPolicy,
    TryNext,
    Verdict,
    backoff,
    counts,
    most_telling,
    verdict,
    whole_patience,
)

POLICY = RetryPolicy(attempts=4, backoff_first=0.25, backoff_most=4.0, retry_after_most=10.0)
AGAIN = RetryAfter(0.25)  # what the first backoff is by an even chance
NEXT, STOP = TryNext(), GiveUp()

# fault: (first failure and another upstream at hand, first failure and none, second failure and none, third and none)
FIRST_VERDICTS: dict[Fault, tuple[Verdict, Verdict, Verdict, Verdict]] = {
    Fault.CONNECT: (NEXT, AGAIN, RetryAfter(0.5), RetryAfter(1.0)),
    Fault.CONNECT_TIMEOUT: (NEXT, STOP, STOP, STOP),
    Fault.RESET: (AGAIN, AGAIN, RetryAfter(0.5), STOP),
    Fault.STALE: (RetryAfter(0.0), RetryAfter(0.0), RetryAfter(0.0), RetryAfter(0.0)),
    Fault.HEADERS_TIMEOUT: (NEXT, STOP, STOP, STOP),
    Fault.FIRST_TOKEN_TIMEOUT: (NEXT, STOP, STOP, STOP),
    Fault.BETWEEN_TOKENS_TIMEOUT: (NEXT, STOP, STOP, STOP),
    Fault.WHOLE_TIMEOUT: (NEXT, STOP, STOP, STOP),
    Fault.TOTAL_TIMEOUT: (STOP, STOP, STOP, STOP),
    Fault.RATE_LIMITED: (NEXT, AGAIN, RetryAfter(0.5), RetryAfter(1.0)),
    Fault.OVERLOADED: (AGAIN, AGAIN, RetryAfter(0.5), RetryAfter(1.0)),
    Fault.SERVER_ERROR: (AGAIN, AGAIN, STOP, STOP),
    Fault.UNAUTHORIZED: (NEXT, STOP, STOP, STOP),
    Fault.MODEL_NOT_FOUND: (NEXT, STOP, STOP, STOP),
    Fault.CONTEXT_LENGTH: (NEXT, STOP, STOP, STOP),
    Fault.CONTENT_POLICY: (STOP, STOP, STOP, STOP),
    Fault.BAD_REQUEST: (STOP, STOP, STOP, STOP),
    Fault.UNTRANSLATABLE: (NEXT, STOP, STOP, STOP),
    Fault.ERROR_EVENT: (NEXT, AGAIN, STOP, STOP),
    Fault.CUT: (AGAIN, AGAIN, RetryAfter(0.5), STOP),
    Fault.MALFORMED: (NEXT, AGAIN, STOP, STOP),
    Fault.TOO_LARGE: (NEXT, STOP, STOP, STOP),
    Fault.NO_UPSTREAM: (NEXT, STOP, STOP, STOP),
    Fault.CLIENT_LEFT: (STOP, STOP, STOP, STOP),
    Fault.DIFFERS: (NEXT, STOP, STOP, STOP),
    Fault.CANCELLED: (STOP, STOP, STOP, STOP),
    Fault.STORE_UNAVAILABLE: (STOP, STOP, STOP, STOP),
    Fault.SHUTTING_DOWN: (STOP, STOP, STOP, STOP),
    Fault.INTERNAL: (STOP, STOP, STOP, STOP),
}


def test_every_fault_is_treated_and_tested() -> None:
    assert set(TREATMENT) == set(Fault)
    assert set(FIRST_VERDICTS) == set(Fault)
    assert set(TELLING) <= set(Fault)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_each_fault_has_its_verdicts(fault: Fault) -> None:
    """R2, R3."""
    given = [
        verdict(Failure(fault, ""), POLICY, attempts=tries, tries_here=tries, has_next=has_next, chance=0.5)
        for tries, has_next in ((1, True), (1, False), (2, False), (3, False))
    ]
    assert given == list(FIRST_VERDICTS[fault])


def test_the_last_attempt_is_the_last_whatever_is_at_hand() -> None:
    for fault in Fault:
        for has_next in (True, False):
            said = verdict(Failure(fault, ""), POLICY, attempts=4, tries_here=1, has_next=has_next, chance=0.5)
            assert said == GiveUp(), fault


# Retry-After in seconds: (with another upstream, alone), for a rate limit
RETRY_AFTER = {
    None: (NEXT, AGAIN),
    0.0: (NEXT, AGAIN),
    0.1: (NEXT, AGAIN),
    3.0: (NEXT, RetryAfter(3.0)),
    10.0: (NEXT, RetryAfter(10.0)),
    10.1: (NEXT, STOP),
    1e8: (NEXT, STOP),
}


@pytest.mark.parametrize("seconds", RETRY_AFTER)
def test_retry_after_is_honoured_to_its_cap(seconds: float | None) -> None:
    failure = Failure(Fault.RATE_LIMITED, "", 429, seconds)
    given = [
        verdict(failure, POLICY, attempts=1, tries_here=1, has_next=has_next, chance=0.5) for has_next in (True, False)
    ]
    assert given == list(RETRY_AFTER[seconds])


def test_a_wait_that_is_too_long_goes_on_to_the_next_at_once() -> None:
    failure = Failure(Fault.OVERLOADED, "", 503, 60.0)
    assert verdict(failure, POLICY, attempts=1, tries_here=1, has_next=True, chance=0.5) == TryNext()


FAULTS = st.sampled_from(list(Fault))
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 20),
    backoff_first=st.just(0.0) | st.floats(0.001, 100),
    backoff_most=st.floats(0, 100),
    retry_after_most=st.floats(0, 100),
)
FAILURES = st.builds(Failure, fault=FAULTS, message=st.just(""), retry_after=st.none() | st.floats(0, 1e9))
CHANCES = st.floats(0, 1)


@given(FAILURES, POLICIES, st.integers(0, 30), st.integers(1, 30), st.booleans(), CHANCES)
def test_no_wait_is_without_bound_and_none_on_a_busy_upstream_is_nothing(
    failure: Failure, policy: RetryPolicy, attempts: int, tries_here: int, has_next: bool, chance: float
) -> None:
    said = verdict(failure, policy, attempts=attempts, tries_here=tries_here, has_next=has_next, chance=chance)
    if isinstance(said, RetryAfter):
        assert 0 <= said.seconds <= max(policy.retry_after_most, policy.backoff_most * 1.5, LEAST_WAIT)
        if failure.fault in BUSY:
            assert said.seconds >= LEAST_WAIT > 0
            assert said.seconds >= (failure.retry_after or 0)
        if failure.fault is not Fault.STALE:
            assert said.seconds >= min(policy.backoff_first, policy.backoff_most) * 0.5


@dataclass
class Run:
    """An answer that fails again and again, as the producer counts it."""

    asked: list[int]
    waited: float
    failures: list[Failure]


def run(script: list[Failure], policy: RetryPolicy, upstreams: int, chance: float) -> Run:
    done = Run([], 0.0, [])
    at = tries_here = attempts = 0
    while True:
        done.asked.append(at)
        attempts, tries_here = attempts + 1, tries_here + 1
        failure = script[(len(done.asked) - 1) % len(script)]
        done.failures.append(failure)
        if not counts(done.failures):
            attempts, tries_here = attempts - 1, tries_here - 1
        has_next = at + 1 < upstreams
        match verdict(failure, policy, attempts=attempts, tries_here=tries_here, has_next=has_next, chance=chance):
            case RetryAfter(seconds):
                done.waited += seconds
            case TryNext():
                assert has_next
                at, tries_here = at + 1, 0
            case GiveUp():
                return done


@given(st.lists(FAILURES, min_size=1, max_size=30), POLICIES, st.integers(1, 5), CHANCES)
def test_attempts_are_bounded_for_any_sequence_of_faults(
    script: list[Failure], policy: RetryPolicy, upstreams: int, chance: float
) -> None:
    """R2."""
    done = run(script, policy, upstreams, chance)
    assert sum(failure.fault is not Fault.STALE for failure in done.failures) <= policy.attempts
    assert len(done.asked) <= policy.attempts + MAX_STALE
    assert done.asked == sorted(done.asked)  # no upstream is gone back to
    longest = max(policy.retry_after_most, policy.backoff_most * 1.5, LEAST_WAIT)
    assert done.waited <= policy.attempts * longest


@pytest.mark.parametrize("attempts", [1, 4])
def test_a_closed_line_is_no_attempt_but_not_for_ever(attempts: int) -> None:
    """R2."""
    policy = RetryPolicy(attempts=attempts)
    assert len(run([Failure(Fault.STALE, "")], policy, 1, 0.5).asked) == attempts + MAX_STALE
    ends_well = run([Failure(Fault.STALE, ""), Failure(Fault.BAD_REQUEST, "")], policy, 1, 0.5)
    assert [failure.fault for failure in ends_well.failures] == [Fault.STALE, Fault.BAD_REQUEST]


# FAULTS.md: (the faults in their order, over and over; upstreams; which are asked)
JOURNEYS: dict[str, tuple[list[Fault], int, list[int]]] = {
    "7: a rate limit goes on to the next": ([Fault.RATE_LIMITED], 2, [0, 1, 1, 1]),
    "8: a server error is tried once more, and then the next": ([Fault.SERVER_ERROR], 2, [0, 0, 1, 1]),
    "8: 503 for ever goes on to the next": ([Fault.OVERLOADED], 3, [0, 0, 1, 1]),
    "8: a reset is tried again": ([Fault.RESET], 1, [0, 0, 0]),
    "9: a silent upstream is not asked again": ([Fault.HEADERS_TIMEOUT], 3, [0, 1, 2]),
    "9: a slow first token goes on": ([Fault.FIRST_TOKEN_TIMEOUT], 2, [0, 1]),
    "15: too long a context tries the others once": ([Fault.CONTEXT_LENGTH], 3, [0, 1, 2]),
    "15: a content policy is final": ([Fault.CONTENT_POLICY], 3, [0]),
    "a bad request is final": ([Fault.BAD_REQUEST], 3, [0]),
}


@pytest.mark.parametrize("name", JOURNEYS)
def test_whom_a_fault_leads_to(name: str) -> None:
    faults, upstreams, asked = JOURNEYS[name]
    assert run([Failure(fault, "") for fault in faults], POLICY, upstreams, 0.5).asked == asked


@given(st.integers(1, 10_000), POLICIES, CHANCES)
def test_backoff_is_within_half_of_its_doubling(retry: int, policy: RetryPolicy, chance: float) -> None:
    middle = min(policy.backoff_first * 2.0 ** min(retry - 1, 200), policy.backoff_most)
    assert middle * 0.5 <= backoff(retry, policy, chance) <= middle * 1.5


def test_backoff_doubles_to_its_cap_and_is_spread_by_chance() -> None:
    assert [backoff(retry, POLICY, 0.5) for retry in range(1, 8)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert [backoff(1, POLICY, chance) for chance in (0.0, 0.25, 1.0)] == [0.125, 0.1875, 0.375]


# (faults in their order, which of them the caller is told)
MOST_TELLING = [
    ([Fault.CONNECT], 0),
    ([Fault.CONNECT, Fault.RESET], 1),
    ([Fault.BAD_REQUEST, Fault.CONNECT], 0),
    ([Fault.CONTEXT_LENGTH, Fault.RATE_LIMITED, Fault.CUT], 0),
    ([Fault.RATE_LIMITED, Fault.SERVER_ERROR, Fault.CONNECT], 0),
    ([Fault.SERVER_ERROR, Fault.OVERLOADED, Fault.CONNECT_TIMEOUT], 1),
    ([Fault.STALE, Fault.UNAUTHORIZED], 1),
]


@pytest.mark.parametrize(("faults", "told"), MOST_TELLING)
def test_the_caller_is_told_what_it_can_mend_before_what_it_cannot(faults: list[Fault], told: int) -> None:
    """R4."""
    failures = [Failure(fault, str(place)) for place, fault in enumerate(faults)]
    assert most_telling(failures) is failures[told]


@pytest.mark.parametrize(
    ("most", "left", "others", "seconds"),
    [(180, 600, 1, 180), (180, 6, 1, 3), (180, 6, 2, 2), (180, 0, 1, 0)],
)
def test_an_upstream_has_its_share_of_the_time_for_a_whole_answer(
    most: float, left: float, others: int, seconds: float
) -> None:
    assert whole_patience(most, left=left, others=others) == seconds
