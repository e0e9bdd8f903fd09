"""When a reader comes back to a stream whose line dropped, and when it lets its caller see the drop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.rules.resume import (
    AskAgain,
    Refused,
    ResumePolicy,
    Setback,
    SurfaceDrop,
    Unreachable,
    Verdict,
    backoff,
    verdict,
)

POLICY = ResumePolicy()


def decide(setback: Setback, *, tries: int = 1, waited: float = 0.0) -> Verdict:
    return verdict(setback, POLICY, tries=tries, waited=waited, chance=0.5)


def test_a_drop_after_progress_is_met_at_once() -> None:
    assert decide(Unreachable(), tries=0) == AskAgain(0.0)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 0.25), (2, 0.5), (3, 1.0), (6, 8.0), (7, 8.0), (99, 8.0)])
def test_waits_double_up_to_the_most(tries: int, seconds: float) -> None:
    assert decide(Unreachable(), tries=tries) == AskAgain(seconds)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522, 529])
def test_what_passes_is_waited_for(status: int) -> None:
    assert decide(Refused(status)) == AskAgain(0.25)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 410, 416, 501])
def test_a_refusal_is_final(status: int) -> None:
    assert decide(Refused(status)) == SurfaceDrop()


def test_a_server_that_names_its_time_gets_it() -> None:
    assert decide(Refused(503, retry_after=30.0)) == AskAgain(30.0)


def test_a_time_past_the_patience_is_not_waited_for() -> None:
    assert decide(Refused(503, retry_after=30.0), waited=100.0) == SurfaceDrop()


def test_the_last_attempt_is_made_when_patience_ends() -> None:
    assert decide(Unreachable(), tries=9, waited=119.0) == AskAgain(1.0)
    assert decide(Unreachable(), tries=9, waited=120.0) == SurfaceDrop()


@given(
    st.integers(0, 10_000),
    st.floats(0, 200),
    st.floats(0, 1),
    st.one_of(st.builds(Unreachable), st.builds(Refused, st.integers(100, 599), st.floats(0, 1e6) | st.none())),
)
def test_nobody_waits_past_the_patience(tries: int, waited: float, chance: float, setback: Setback) -> None:
    match verdict(setback, POLICY, tries=tries, waited=waited, chance=chance):
        case AskAgain(seconds):
            assert seconds >= 0
            assert waited + seconds <= POLICY.patience * (1 + 1e-9)
        case SurfaceDrop():
            assert waited >= POLICY.patience or isinstance(setback, Refused)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_waits_are_bounded(tries: int, chance: float) -> None:
    assert POLICY.backoff_first / 2 <= backoff(tries, POLICY, chance) <= POLICY.backoff_most * 1.5
