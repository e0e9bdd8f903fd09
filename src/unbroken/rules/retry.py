"""What to do when an attempt failed before the first token: the same upstream again, the next one, or give up.

FAULTS.md 7-9, 15. Once content has been sent these rules no longer apply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unbroken.chat.fault import Failure, Fault


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Ask the same upstream again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class TryNext:
    """Go on to the next candidate at once."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the client."""


Verdict = RetryAfter | TryNext | GiveUp


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The bounds; see the settings of the same names."""

    attempts: int = 4
    backoff_first: float = 0.25
    backoff_most: float = 4.0
    retry_after_most: float = 10.0


MAX_STALE = 3  # kept connections that an answer may find closed before that counts as an attempt
LEAST_WAIT = 0.05  # seconds before an upstream that says it is busy is asked again, even if it says "at once"


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a fault is met: retries on the same upstream while there is another, and where there is none."""

    here: int
    alone: int
    #: False where no upstream would answer otherwise.
    next: bool = True


STOP = Treatment(0, 0, next=False)

TREATMENT: Mapping[Fault, Treatment] = {
    Fault.CONNECT: Treatment(0, 3),
    Fault.CONNECT_TIMEOUT: Treatment(0, 0),
    Fault.RESET: Treatment(1, 2),
    Fault.STALE: Treatment(1, 1),
    Fault.HEADERS_TIMEOUT: Treatment(0, 0),  # never the same silent upstream again
    Fault.FIRST_TOKEN_TIMEOUT: Treatment(0, 0),
    Fault.BETWEEN_TOKENS_TIMEOUT: Treatment(0, 0),
    Fault.WHOLE_TIMEOUT: Treatment(0, 0),
    Fault.TOTAL_TIMEOUT: STOP,
    Fault.RATE_LIMITED: Treatment(0, 3),
    Fault.OVERLOADED: Treatment(1, 3),
    Fault.SERVER_ERROR: Treatment(1, 1),
    Fault.UNAUTHORIZED: Treatment(0, 0),
    Fault.MODEL_NOT_FOUND: Treatment(0, 0),
    Fault.CONTEXT_LENGTH: Treatment(0, 0),
    Fault.CONTENT_POLICY: STOP,
    Fault.BAD_REQUEST: STOP,
    Fault.UNTRANSLATABLE: Treatment(0, 0),
    Fault.ERROR_EVENT: Treatment(0, 1),
    Fault.CUT: Treatment(1, 2),
    Fault.MALFORMED: Treatment(0, 1),
    Fault.TOO_LARGE: Treatment(0, 0),
    Fault.DIFFERS: Treatment(0, 0),
    Fault.NO_UPSTREAM: Treatment(0, 0),
    Fault.CLIENT_LEFT: STOP,
    Fault.CANCELLED: STOP,
    Fault.STORE_UNAVAILABLE: STOP,
    Fault.SHUTTING_DOWN: STOP,
    Fault.INTERNAL: STOP,
}

# Asking these again at once makes it worse.
BUSY = (Fault.RATE_LIMITED, Fault.OVERLOADED)

# What tells the caller most comes first; among equals the latest.
TELLING: Mapping[Fault, int] = {
    Fault.BAD_REQUEST: 3,
    Fault.CONTENT_POLICY: 3,
    Fault.CONTEXT_LENGTH: 3,
    Fault.UNTRANSLATABLE: 3,
    Fault.RATE_LIMITED: 2,
    Fault.OVERLOADED: 1,
    Fault.SERVER_ERROR: 1,
}


def verdict(
    failure: Failure, policy: RetryPolicy, *, attempts: int, tries_here: int, has_next: bool, chance: float
) -> Verdict:
    """What to do after `failure`.

    Args:
        failure: how the latest attempt ended.
        policy: the bounds.
        attempts: attempts made so far in all, this one included.
        tries_here: attempts made at this upstream, this one included.
        has_next: whether there is a candidate that has not failed for good.
        chance: a random number from 0 to 1, for the jitter.
    """
    if attempts >= policy.attempts:
        return GiveUp()
    if failure.fault is Fault.STALE:
        return RetryAfter(0.0)  # the pool has forgotten its other old connections
    treatment = TREATMENT[failure.fault]
    waits = failure.retry_after or 0.0
    # With another upstream at hand nobody waits for a rate limit to pass, or longer than for a backoff.
    longest = policy.backoff_most if has_next else policy.retry_after_most
    if tries_here <= (treatment.here if has_next else treatment.alone) and waits <= longest:
        least = LEAST_WAIT if failure.fault in BUSY else 0.0
        return RetryAfter(max(waits, backoff(tries_here, policy, chance), least))
    return TryNext() if has_next and treatment.next else GiveUp()


def counts(failures: Sequence[Failure]) -> bool:
    """Whether the latest of an answer's failures was an attempt: nobody has seen a request that met a closed line.

    An upstream that closes every line that it has kept is not asked for ever, so after a few it counts.
    """
    stale = sum(failure.fault is Fault.STALE for failure in failures)
    return failures[-1].fault is not Fault.STALE or stale > MAX_STALE


def whole_patience(most: float, *, left: float, others: int) -> float:
    """Seconds that an upstream has for a whole answer, of which nothing is heard while it is made.

    Args:
        most: the setting.
        left: what is left of the time for the answer; each upstream has a share of it.
        others: how many could still be asked; without them there is nothing to gain by giving up.
    """
    return min(most, left / (others + 1))


def backoff(retry: int, policy: RetryPolicy, chance: float) -> float:
    """Seconds before the n-th retry (from 1): doubling, bounded, ± half so that clients do not march in step."""
    doubled = policy.backoff_first * 2.0 ** min(retry - 1, 64)
    return min(doubled, policy.backoff_most) * (0.5 + chance)


def most_telling(failures: Sequence[Failure]) -> Failure:
    """The one of several failures to tell the caller: what it can mend itself before what it cannot."""
    return max(enumerate(failures), key=lambda pair: (TELLING.get(pair[1].fault, 0), pair[0]))[1]
