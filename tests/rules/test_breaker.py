"""The circuit breaker: opens after failures in a row, lets one request probe, and is never stuck open (FAULTS 16)."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from unbroken.rules.breaker import Breaker, Circuit

NEW = Breaker(failures_to_open=3, cooldown=10.0)


def failed(breaker: Breaker, *times: float) -> Breaker:
    for now in times:
        breaker = breaker.after_failure(now)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    """R5."""
    assert failed(NEW, 1.0, 2.0).circuit(2.0) is Circuit.CLOSED
    opened = failed(NEW, 1.0, 2.0, 3.0)
    assert opened.circuit(3.0) is Circuit.OPEN
    assert not opened.allows(12.9)


def test_a_success_in_between_begins_the_count_again() -> None:
    breaker = failed(failed(NEW, 1.0, 2.0).after_success(), 3.0, 4.0)
    assert breaker.allows(4.0)


def test_a_request_that_may_be_at_fault_counts_once() -> None:
    breaker = NEW
    for now in range(10):
        breaker = breaker.after_failure(float(now), request=1)
    assert breaker.failures == 1
    breaker = breaker.after_failure(11.0, request=2).after_failure(12.0, request=1)
    assert breaker.allows(12.0)
    assert not breaker.after_failure(13.0).allows(13.0)
    assert not breaker.after_failure(13.0, request=3).allows(13.0)


def test_a_success_forgets_which_requests_have_failed() -> None:
    breaker = NEW.after_failure(1.0, request=1).after_success()
    assert breaker == NEW
    assert breaker.after_failure(2.0, request=1).failures == 1


def test_a_probe_that_fails_again_keeps_it_open_whichever_request_it_was() -> None:
    breaker = NEW
    for request in (1, 2, 3):
        breaker = breaker.after_failure(1.0, request)
    assert not breaker.after_start(11.0).after_failure(12.0, request=1).allows(21.0)


def test_after_the_cooldown_one_request_probes() -> None:
    """R5."""
    breaker = failed(NEW, 1.0, 2.0, 3.0)
    assert breaker.circuit(13.0) is Circuit.PROBING
    probing = breaker.after_start(13.0)
    assert not probing.allows(13.0)
    assert not probing.allows(22.9)


def test_it_tells_how_long_it_is_closed_to_requests() -> None:
    breaker = failed(NEW, 1.0, 2.0, 3.0)
    assert (NEW.wait(1.0), breaker.wait(3.0), breaker.wait(9.5), breaker.wait(13.0)) == (0.0, 10.0, 3.5, 0.0)
    assert breaker.after_start(14.0).wait(15.0) == 9.0


def test_a_probe_that_fails_opens_it_for_another_cooldown() -> None:
    breaker = failed(NEW, 1.0, 2.0, 3.0).after_start(13.0).after_failure(14.0)
    assert not breaker.allows(23.9)
    assert breaker.allows(24.0)


def test_a_request_that_is_known_to_fail_keeps_nothing_open() -> None:
    """R5: SDKs come back just when it is probed."""
    opened = failed(NEW, 1.0, 2.0, 3.0)
    assert opened.allows(13.0)
    probed = opened.after_start(13.0).after_failure(14.0, request=1)
    assert not probed.allows(23.9)
    again = probed.after_start(24.0).after_failure(25.0, request=1)
    assert again.allows(25.0)  # the next request is the probe


def test_a_probe_that_succeeds_closes_it_and_the_count_begins_again() -> None:
    breaker = failed(NEW, 1.0, 2.0, 3.0).after_start(13.0).after_success()
    assert breaker == NEW
    assert failed(breaker, 14.0, 15.0).allows(15.0)


def test_a_success_that_began_before_closes_it_at_once() -> None:
    """R5."""
    begun_long_ago = failed(NEW, 1.0, 2.0, 3.0).after_success()
    assert begun_long_ago.circuit(3.1) is Circuit.CLOSED
    also_while_another_probes = failed(NEW, 1.0, 2.0, 3.0).after_start(13.0).after_success()
    assert also_while_another_probes.circuit(13.1) is Circuit.CLOSED


def test_a_probe_that_is_never_heard_of_again_does_not_leave_it_open() -> None:
    breaker = failed(NEW, 1.0, 2.0, 3.0).after_start(13.0)
    assert breaker.allows(23.0)
    assert not breaker.after_start(23.0).allows(23.0)


def test_a_request_begun_while_it_is_closed_is_no_probe() -> None:
    assert NEW.after_start(1.0) == NEW


@given(st.lists(st.sampled_from(["start", "success", "failure"])), st.integers(1, 5), st.floats(0, 100))
def test_any_history_lets_a_request_pass_after_a_cooldown_of_quiet(
    history: list[str], failures: int, cooldown: float
) -> None:
    breaker, now = Breaker(failures, cooldown), 0.0
    for step in history:
        now += 1.0
        match step:
            case "start":
                breaker = breaker.after_start(now)
            case "success":
                breaker = breaker.after_success()
                assert breaker.circuit(now) is Circuit.CLOSED
            case _:
                breaker = breaker.after_failure(now)
    assert breaker.allows(now + cooldown + 1e-6 * (now + cooldown))


class BreakerMachine(RuleBasedStateMachine):
    """Requests that begin only when they are let through, and end in any order, against a count of our own."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(failures_to_open=3, cooldown=10.0)
        self.now = 0.0
        self.running: list[bool] = []  # whether each is a probe
        self.in_a_row = 0
        self.opened_at: float | None = None
        self.probed_at: float | None = None

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 10.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def begin(self) -> None:
        is_probe = self.opened_at is not None
        if is_probe:
            assert self.opened_at is not None
            assert self.now >= self.opened_at + 10.0
            assert self.probed_at is None or self.now >= self.probed_at + 10.0
            self.probed_at = self.now
        self.breaker = self.breaker.after_start(self.now)
        self.running.append(is_probe)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: Any) -> None:
        self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.breaker = self.breaker.after_success()
        self.in_a_row, self.opened_at, self.probed_at = 0, None, None

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.breaker = self.breaker.after_failure(self.now)
        self.in_a_row += 1
        if self.opened_at is not None or self.in_a_row >= 3:
            self.opened_at, self.probed_at = self.now, None

    @precondition(lambda self: self.running)
    @rule()
    def vanish(self) -> None:
        """A client leaves: nothing is learnt of the upstream."""
        self.running.pop()

    @invariant()
    def it_is_closed_or_open_as_counted(self) -> None:
        if self.opened_at is None:
            assert self.breaker.circuit(self.now) is Circuit.CLOSED
        else:
            since = self.opened_at if self.probed_at is None else self.probed_at
            assert self.breaker.allows(self.now) == (self.now - since >= 10.0)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
