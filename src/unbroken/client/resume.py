"""The words between a durable answer and the line that it is read from: what is to be done, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from unbroken.rules.resume import AskAgain, Refused, ResumePolicy, Setback, SurfaceDrop, verdict


@dataclass(frozen=True, slots=True)
class Post:
    """Send the caller's request, under its one key."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Ask for the blocks of a stream behind an offset (D3)."""

    stream: str
    offset: int


@dataclass(frozen=True, slots=True)
class ReadOn:
    """Read the next piece of the response's body."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the response; nothing more is wanted of its line."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let so many seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give:
    """Hand these bytes to the SDK."""

    data: bytes


Step = Post | Resume | ReadOn | HangUp | Pause | Give


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of a response."""

    status: int
    #: Which stream it is of; None where the server is not Unbroken, or the answer is plain.
    stream: str | None
    is_event_stream: bool
    retry_after: float | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this is the answer of a durable stream."""
        return self.stream is not None and self.status == 200


@dataclass(frozen=True, slots=True)
class Dropped:
    """The line is gone, with the error that the SDK would have seen."""

    error: Exception
    #: Whether the caller has to be told at once: it set this limit, or never came as far as the network.
    is_callers: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The step is done, and there is nothing to tell of it."""


#: What came of a step; bytes are a piece of the body, empty bytes its end.
Outcome = Reply | Dropped | Done | bytes


@dataclass(frozen=True, slots=True)
class Resumed:
    """An answer goes on after its line had dropped."""

    stream: str
    #: The block behind which it goes on; 0: from its beginning.
    offset: int
    #: Attempts that it took.
    attempts: int
    #: What the drop was.
    cause: Exception
    #: Seconds from the drop.
    waited: float


@dataclass(frozen=True, slots=True)
class Means:
    """What an effort needs of the world."""

    policy: ResumePolicy
    clock: Callable[[], float]
    chance: Callable[[], float]
    #: Makes the error for a stream that ends without its end.
    broken: Callable[[str], Exception]
    tell: Callable[[Resumed], None]


class Effort:
    """The effort to get over one drop: what it was, when, and how often was tried."""

    def __init__(self, means: Means, cause: Exception, since: float) -> None:
        self.cause = cause
        self.tries = 0
        self._means = means
        self._since = since

    def pause(self, setback: Setback) -> Pause:
        """How long to wait before the next attempt; raises the cause where there shall be none."""
        waited = self._means.clock() - self._since
        match verdict(setback, self._means.policy, tries=self.tries, waited=waited, chance=self._means.chance()):
            case AskAgain(seconds):
                self.tries += 1
                return Pause(seconds)
            case SurfaceDrop():
                said = f"answered {setback.status}" if isinstance(setback, Refused) else "cannot be reached"
                self.cause.add_note(f"Unbroken tried {self.tries} times in {waited:.1f} s to go on: the server {said}.")
                raise self.cause
            case unknown:
                assert_never(unknown)

    def tell(self, stream: str, offset: int) -> None:
        """Tell that it was worth it."""
        waited = self._means.clock() - self._since
        self._means.tell(Resumed(stream, offset, self.tries, self.cause, waited))
