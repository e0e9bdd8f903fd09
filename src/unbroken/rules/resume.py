"""What a reader does when its line drops: come back at once, wait, or let its caller see the drop.

D3 says how a reader comes back; here is only when, and for how long. Used at the other end, by the resuming client.
"""

from collections.abc import Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No response: refused, reset, silent, or not from the server that was asked."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A response that is not the stream."""

    status: int
    #: Seconds that the server asks to wait, None where it says nothing.
    retry_after: float | None = None


Setback = Unreachable | Refused


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Ask the server again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SurfaceDrop:
    """Let the caller see the drop as if nobody had tried to mend it."""


Verdict = AskAgain | SurfaceDrop


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """The bounds, in seconds."""

    #: From a drop to the next progress of the stream, however many attempts that takes.
    patience: float = 120.0
    backoff_first: float = 0.25
    backoff_most: float = 8.0
    #: A line that brings nothing for so long is a drop: four heartbeats of a server as it comes.
    silence: float = 45.0


# What passes: a server that is busy or starting, a balancer that has none to ask, an edge that lost its origin. 529 is
# 503 to clients of Anthropic Messages (A5).
PASSING: Set[int] = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 528), 529})


def verdict(setback: Setback, policy: ResumePolicy, *, tries: int, waited: float, chance: float) -> Verdict:
    """What to do after `setback`.

    Args:
        setback: what the latest attempt met; the drop itself is `Unreachable`.
        policy: the bounds.
        tries: attempts to come back since the stream last made progress.
        waited: seconds since the drop.
        chance: a random number from 0 to 1, for the jitter.
    """
    asked = 0.0
    if isinstance(setback, Refused):
        if setback.status not in PASSING:
            return SurfaceDrop()  # 404: forgotten, or another's; 416: not the stream that we read; 401: not any more
        asked = setback.retry_after or 0.0
    left = policy.patience - waited
    if left <= 0 or asked > left:
        return SurfaceDrop()
    return AskAgain(min(max(asked, backoff(tries, policy, chance)), left))


def backoff(tries: int, policy: ResumePolicy, chance: float) -> float:
    """Seconds before the next attempt: none, then doubling, bounded, ± half so that readers do not march in step."""
    if tries == 0:
        return 0.0
    doubled = policy.backoff_first * 2.0 ** min(tries - 1, 64)
    return min(doubled, policy.backoff_most) * (0.5 + chance)
