"""The circuit breaker of one upstream: after enough failures in a row it is left alone for a while."""

from dataclasses import dataclass, replace
from enum import Enum


class Circuit(Enum):
    """What the breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    PROBING = "half_open"  # one request, whose outcome decides


@dataclass(frozen=True, slots=True)
class Breaker:
    """Frozen: each event gives the breaker after it. Times are seconds of any one clock that never goes back."""

    failures_to_open: int
    cooldown: float
    failures: int = 0
    opened_at: float | None = None
    probe_at: float | None = None
    #: The requests among the failures in a row, as far as their failures may have been their own.
    requests: frozenset[int] = frozenset()

    @property
    def is_untroubled(self) -> bool:
        """Whether a request that ends well changes nothing: the last one did too."""
        return not self.failures and self.opened_at is None

    def circuit(self, now: float) -> Circuit:
        """What is let through at `now`."""
        if self.opened_at is None:
            return Circuit.CLOSED
        since = self.opened_at if self.probe_at is None else self.probe_at
        return Circuit.PROBING if now - since >= self.cooldown else Circuit.OPEN

    def wait(self, now: float) -> float:
        """Seconds from `now` until a request may go to the upstream, unless a probe ends well before."""
        if self.allows(now) or self.opened_at is None:
            return 0.0
        return (self.opened_at if self.probe_at is None else self.probe_at) + self.cooldown - now

    def allows(self, now: float) -> bool:
        """Whether a request may go to the upstream at `now`."""
        return self.circuit(now) is not Circuit.OPEN

    def after_start(self, now: float) -> "Breaker":
        """A request has begun; while probing it is the probe, the only one until the cooldown has passed again."""
        return replace(self, probe_at=now) if self.circuit(now) is Circuit.PROBING else self

    def after_success(self) -> "Breaker":
        """An upstream that has answered is well, whenever that request began (FAULTS.md 16)."""
        if self.is_untroubled:
            return self
        return replace(self, failures=0, opened_at=None, probe_at=None, requests=frozenset())

    def after_failure(self, now: float, request: int | None = None) -> "Breaker":
        """One more failure in a row; given a `request`, one that may be that request's own, and counts once for it."""
        if request in self.requests:  # nothing new; where it was the probe, the next request is one
            return replace(self, probe_at=None)
        failures, own = self.failures + 1, frozenset(() if request is None else (request,))
        if self.opened_at is not None or failures >= self.failures_to_open:
            return replace(self, failures=failures, opened_at=now, probe_at=None, requests=own)
        return replace(self, failures=failures, requests=self.requests | own)
