"""The logs that the contract suite runs over: a new implementation needs one entry in `LOGS`, and no new test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from unbroken.store.log import MAX_STREAM_BYTES, StreamLog
from unbroken.store.memory import MemoryStreamLog


@dataclass
class LogUnderTest:
    """A log, and what a test needs to know of it.

    The suite is synchronous: an implementation that lives on an event loop brings the loop, and turns it in `settle`.
    """

    log: StreamLog
    #: What followers have raised, as the log told it.
    errors: list[Exception] = field(default_factory=list)
    #: Waits until what has been appended is committed and delivered.
    settle: Callable[[], None] = lambda: None
    #: Ends the log and removes what it wrote.
    close: Callable[[], None] = lambda: None


class LogFactory(Protocol):
    def __call__(self, *, max_stream_bytes: int = MAX_STREAM_BYTES) -> LogUnderTest: ...


def _memory(*, max_stream_bytes: int = MAX_STREAM_BYTES) -> LogUnderTest:
    errors: list[Exception] = []
    return LogUnderTest(MemoryStreamLog(max_stream_bytes, on_follower_error=errors.append), errors)


LOGS: dict[str, LogFactory] = {"memory": _memory}


@pytest.fixture(params=LOGS)
def new_log(request: pytest.FixtureRequest) -> LogFactory:
    """Makes a log; for tests that need several, or one with a bound."""
    return LOGS[request.param]


@pytest.fixture
def made(new_log: LogFactory) -> Iterator[LogUnderTest]:
    """One log and its surroundings."""
    made = new_log()
    yield made
    made.close()


@pytest.fixture
def log(made: LogUnderTest) -> StreamLog:
    """One log."""
    return made.log
