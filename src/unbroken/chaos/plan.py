"""What a run does, decided before it begins: from a seed the questions, the faults, and what is killed when. Pure.

All chance of a run is here. What the machine makes of a plan differs from run to run; what is done does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")

WORDS = (
    *("river", "stone", "lantern", "orchard", "harbour", "window", "winter", "copper", "meadow", "signal"),
    *("paper", "garden", "mirror", "thunder", "velvet", "anchor", "bridge", "candle", "desert", "engine"),
    *("falcon", "glacier", "hollow", "island", "juniper", "kettle", "ladder", "marble", "needle", "ocean"),
)

ENGINE_PROMPTS = (
    "Tell me what you know of streams, at length.",
    "Tell me a story about a river.",
    "Explain what a gateway does, in many words.",
    "What is a good day? Take your time.",
)


class Reader(Enum):
    """How a question is asked and its answer read."""

    RAW = "raw"  # checks the offset of every block, and comes back by itself
    TWINS = "twins"  # two of those with one key
    RESUMING = "resuming"  # as an SDK does that was given our transport
    WHOLE = "whole"  # the same, for an answer in one piece
    BACKGROUND = "background"  # asked for and left; looked at until it is done
    LEAVING = "leaving"  # cancels in mid-answer


DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages")


class FaultKind(Enum):
    """How an upstream breaks off."""

    CUT = "cut"
    RESET = "reset"
    EOF = "eof"
    STALL = "stall"
    ERROR = "error"
    GARBAGE = "garbage"


@dataclass(frozen=True, slots=True)
class UpstreamFault:
    """An answer of an upstream breaks off behind so many blocks."""

    kind: FaultKind
    after: int


@dataclass(frozen=True, slots=True)
class Question:
    """One question, and the answer that has to arrive."""

    number: int
    reader: Reader
    dialect: str
    prompt: str
    #: The whole answer; empty where only the engine knows it.
    text: str
    #: Seconds between two words of the upstream.
    gap: float
    #: Seconds from the beginning of the round.
    delay: float
    #: What befalls the first asking, the second, …; the following ones are answered well.
    faults: tuple[UpstreamFault, ...] = ()
    is_for_engine: bool = False
    #: Of a reader that leaves: behind how many blocks.
    leaves_after: int = 0

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is asked for in pieces."""
        return self.reader not in (Reader.WHOLE, Reader.BACKGROUND)


@dataclass(frozen=True, slots=True)
class KillGateway:
    """SIGKILL, and a new process after some seconds."""

    at: float
    gateway: int
    down: float


@dataclass(frozen=True, slots=True)
class FreezeGateway:
    """SIGSTOP, and SIGCONT after some seconds, which are longer than the lease."""

    at: float
    gateway: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestartGateway:
    """SIGTERM, and a new process when the old one has drained."""

    at: float
    gateway: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """SIGKILL for one of a gateway's workers; `chance` from 0 to 1 says which."""

    at: float
    gateway: int
    chance: float


@dataclass(frozen=True, slots=True)
class KillEngine:
    """SIGKILL for the engine's process of a gateway."""

    at: float
    gateway: int


@dataclass(frozen=True, slots=True)
class KillStore:
    """SIGKILL for the store's server, and a new process on the same data after some seconds."""

    at: float
    down: float


@dataclass(frozen=True, slots=True)
class LockStore:
    """Somebody else holds the write lock of the store's file for some seconds."""

    at: float
    seconds: float


Disturbance = KillGateway | FreezeGateway | RestartGateway | KillWorker | KillEngine | KillStore | LockStore


class StoreKind(Enum):
    """What keeps the streams."""

    SQLITE = "sqlite"
    VALKEY = "valkey"  # a server of our own, which can be killed
    FOREIGN = "url"  # somebody's server


@dataclass(frozen=True, slots=True)
class Wishes:
    """What whoever starts a run decides."""

    seed: int = 1
    rounds: int = 5
    #: Questions in each round.
    streams: int = 12
    gateways: int = 1
    workers: int = 1
    store: StoreKind = StoreKind.SQLITE
    has_engine: bool = False
    #: Seconds after which a process that does not say that it lives loses its streams.
    lease: float = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """What happens in one round."""

    number: int
    questions: tuple[Question, ...]
    disturbances: tuple[Disturbance, ...]


@dataclass(frozen=True, slots=True)
class LineCut:
    """A line is cut behind so many bytes of one of its directions."""

    is_request: bool
    after: int
    is_reset: bool


class Chance:
    """Chance that is the same for the same words, on every machine and version of Python."""

    def __init__(self, *words: object) -> None:
        self._words = "/".join(map(str, words))
        self._drawn = 0

    def number(self) -> float:
        """A number from 0 to 1, without 1."""
        self._drawn += 1
        digest = sha256(f"{self._words}#{self._drawn}".encode()).digest()
        return int.from_bytes(digest[:7], "big") / (1 << 56)

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`, to the thousandth."""
        return round(low + (high - low) * self.number(), 3)

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int((high - low + 1) * self.number())

    def one_of(self, choices: Sequence[T]) -> T:
        """One of several."""
        return choices[int(len(choices) * self.number())]


MOST_FAULTS = 2  # of one question: an answer has four attempts in each process
CUT_SHARE = 0.6  # of the lines
LONGEST_UNCUT = 12_000  # bytes of a line that is cut
LATEST_QUESTION = 1.5  # s
LATEST_DISTURBANCE = 3.0  # s


def plan_round(wishes: Wishes, number: int) -> Round:
    """The plan of one round."""
    chance = Chance(wishes.seed, "round", number)
    first = (number - 1) * wishes.streams + 1
    questions = tuple(_question(wishes, chance, first + place) for place in range(wishes.streams))
    kinds = [kind for kind, is_possible in _POSSIBLE.items() if is_possible(wishes)]
    disturbances = [_DISTURBANCES[chance.one_of(kinds)](wishes, chance) for _ in range(chance.whole(1, 3))]
    return Round(number, questions, tuple(sorted(disturbances, key=lambda disturbance: disturbance.at)))


def _question(wishes: Wishes, chance: Chance, number: int) -> Question:
    reader = chance.one_of(tuple(Reader))
    dialect = "openai-responses" if reader is Reader.BACKGROUND else chance.one_of(DIALECTS)
    delay = chance.between(0, LATEST_QUESTION)
    count = chance.whole(30, 120)
    words = [chance.one_of(WORDS) for _ in range(count)]
    faults = tuple(
        UpstreamFault(chance.one_of(tuple(FaultKind)), chance.whole(0, count))
        for _ in range(max(0, chance.whole(-1, MOST_FAULTS)))
    )
    leaves_after = chance.whole(1, count // 2) if reader is Reader.LEAVING else 0
    gap = chance.between(0.005, 0.03)
    if wishes.has_engine and chance.number() < 0.4:
        prompt = chance.one_of(ENGINE_PROMPTS)
        return Question(number, reader, dialect, prompt, "", 0.0, delay, is_for_engine=True, leaves_after=leaves_after)
    prompt = f"Question {number} of seed {wishes.seed}."
    return Question(number, reader, dialect, prompt, " ".join(words), gap, delay, faults, leaves_after=leaves_after)


_POSSIBLE: Mapping[type[Disturbance], Callable[[Wishes], bool]] = {
    KillGateway: lambda _: True,
    FreezeGateway: lambda _: True,
    RestartGateway: lambda _: True,
    KillWorker: lambda wishes: wishes.workers > 1,
    KillEngine: lambda wishes: wishes.has_engine,
    KillStore: lambda wishes: wishes.store is StoreKind.VALKEY,
    LockStore: lambda wishes: wishes.store is StoreKind.SQLITE,
}


def _when(chance: Chance) -> float:
    return chance.between(0.2, LATEST_DISTURBANCE)


def _which(wishes: Wishes, chance: Chance) -> int:
    return chance.whole(0, wishes.gateways - 1)


_DISTURBANCES: Mapping[type[Disturbance], Callable[[Wishes, Chance], Disturbance]] = {
    KillGateway: lambda wishes, chance: KillGateway(_when(chance), _which(wishes, chance), chance.between(0, 1.5)),
    FreezeGateway: lambda wishes, chance: FreezeGateway(
        _when(chance), _which(wishes, chance), chance.between(1.5 * wishes.lease, 3 * wishes.lease)
    ),
    RestartGateway: lambda wishes, chance: RestartGateway(_when(chance), _which(wishes, chance)),
    KillWorker: lambda wishes, chance: KillWorker(_when(chance), _which(wishes, chance), chance.number()),
    KillEngine: lambda wishes, chance: KillEngine(_when(chance), _which(wishes, chance)),
    KillStore: lambda wishes, chance: KillStore(_when(chance), chance.between(0, 2)),
    LockStore: lambda wishes, chance: LockStore(_when(chance), chance.between(0.3, 3)),
}


def fate_of_line(seed: int, number: int) -> LineCut | None:
    """What befalls a client's line, by its number in the run; None: nothing."""
    chance = Chance(seed, "line", number)
    if chance.number() >= CUT_SHARE:
        return None
    is_request = chance.number() < 0.1
    # Most within the answer, some within its head, evenly over the magnitudes.
    after = int(LONGEST_UNCUT ** chance.number()) if not is_request else chance.whole(1, 600)
    return LineCut(is_request, after, is_reset=chance.number() < 0.5)
