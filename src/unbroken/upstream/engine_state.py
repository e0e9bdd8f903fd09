"""What is known of an engine, and the rule by which a dead one is started again."""

from dataclasses import dataclass, field
from enum import Enum

FIRST_RESTART_SECONDS = 0.2
LONGEST_RESTART_SECONDS = 30.0
HEALTHY_SECONDS = 60.0  # an engine that has been ready this long begins with a clean record
MOST_FAILED_LOADS = 5  # in a row
LOOKS = 3  # at a silent child until it is taken for hung, behind the one that notes what it has spent


class EngineFailed(Exception):
    """The engine cannot run its model; the message says why and what to do."""


class EnginePhase(Enum):
    """Where an engine is in its life."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine's phase with a sentence for people; `progress` is the loaded share, None where it cannot be told."""

    phase: EnginePhase
    sentence: str
    progress: float | None = None


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a ready engine answers: the unix socket at `path`, or without one a loopback port; `key` is its bearer key.

    The path stays the same over restarts, a port may change; `life` counts them, from 1.
    """

    path: str | None
    host: str
    port: int
    key: str = field(repr=False)
    life: int = 1

    @property
    def base_url(self) -> str:
        """The URL up to and with `/v1`; over a unix socket its host is a mere name."""
        return f"http://{self.host}:{self.port}/v1" if self.path is None else f"http://{self.host}/v1"


@dataclass(frozen=True, slots=True)
class RestartRecord:
    """How an engine fared so far: `deaths` since it last was healthy, `failed_loads` in a row."""

    was_ready: bool = False
    deaths: int = 0
    failed_loads: int = 0

    def after_death(self, ready_seconds: float | None) -> "RestartRecord":
        """The record after a death, `ready_seconds` after the engine was ready, None if it never was."""
        if ready_seconds is None:
            return RestartRecord(self.was_ready, self.deaths + 1, self.failed_loads + 1)
        return RestartRecord(True, 1 if ready_seconds >= HEALTHY_SECONDS else self.deaths + 1, 0)

    def restart_delay(self, chance: float, *, is_hopeless: bool = False) -> float | None:
        """Seconds until the next start, doubling, less up to half by `chance` (0 to 1); None: give up.

        What `is_hopeless` by nature (a broken file) is tried again only where the engine once ran: a file may be in
        the middle of its replacement.
        """
        if self.failed_loads >= MOST_FAILED_LOADS or (is_hopeless and not self.was_ready):
            return None
        whole = min(LONGEST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2.0 ** min(self.deaths - 1, 16))
        return whole * (1 - chance / 2)


@dataclass(frozen=True, slots=True)
class SignsOfLife:
    """What a child has shown while it was looked at: silent `looks` in a row in which it spent no time computing.

    A child that does not answer is not dead: more connections than it has threads for wait until one is free. One
    that does not compute either is frozen. Several looks are needed as the gateway itself may have been held up.
    """

    looks: int = 0
    spent: str | None = None

    def after_look(self, answers: bool, spent: str | None) -> "SignsOfLife":
        """The signs after another look; `spent` tells its computing time, None where that cannot be told."""
        if answers or spent is None:
            return SignsOfLife()
        return SignsOfLife(self.looks + 1, spent) if spent == self.spent else SignsOfLife(0, spent)

    @property
    def is_hung(self) -> bool:
        """Whether it is frozen."""
        return self.looks >= LOOKS
