"""The logs that the contract suite runs over: a new implementation needs one entry in `LOGS`, and no new test."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pytest

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import MAX_STREAM_BYTES, Follower, OnLost, StreamLog, say_nothing
from unbroken.store.memory import MemoryStreamLog
from unbroken.store.sqlite import SqliteStorage

Result = TypeVar("Result")


@dataclass
class LogUnderTest:
    """A log on a loop of its own, without the awaiting: the suite and its model say what happens in which order.

    `append` is as in the log; what it appends is committed and delivered when `settle` returns.
    """

    log: StreamLog
    #: What followers have raised, as the log told it.
    errors: list[Exception] = field(default_factory=list)
    #: Whether blocks that a follower has had can be dropped.
    may_drop: bool = False
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    surroundings: ExitStack = field(default_factory=ExitStack)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def settle(self) -> None:
        """Waits until what has been appended is committed and delivered."""

        async def settle() -> None:
            if isinstance(self.log, DurableStreamLog):
                await self.log.settle()
            await asyncio.sleep(0)  # what was promised for the next turn of the loop

        self.run(settle())

    def close(self) -> None:
        """Ends the log and removes what it wrote."""
        if isinstance(self.log, DurableStreamLog):
            self.run(self.log.close())
        self.runner.close()
        self.surroundings.close()

    def create(self, stream: StreamId, *, keep: bool, on_lost: OnLost = say_nothing) -> Epoch:
        return self.run(self.log.create(stream, keep=keep, on_lost=on_lost))

    def claim(self, stream: StreamId, *, on_lost: OnLost = say_nothing) -> Epoch:
        return self.run(self.log.claim(stream, on_lost=on_lost))

    def append(self, stream: StreamId, epoch: Epoch, blocks: Sequence[Block], *, ends: bool = False) -> None:
        self.log.append(stream, epoch, blocks, ends=ends)

    def read(self, stream: StreamId, after: Offset) -> list[Entry]:
        return self.run(self.log.read(stream, after))

    def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        return self.run(self.log.follow(stream, after, follower))

    def forget(self, stream: StreamId) -> None:
        self.run(self.log.forget(stream))


class LogFactory(Protocol):
    def __call__(self, *, max_stream_bytes: int = MAX_STREAM_BYTES) -> LogUnderTest: ...


def _memory(*, max_stream_bytes: int = MAX_STREAM_BYTES) -> LogUnderTest:
    errors: list[Exception] = []
    return LogUnderTest(MemoryStreamLog(max_stream_bytes, on_follower_error=errors.append), errors, may_drop=True)


def _sqlite(*, max_stream_bytes: int = MAX_STREAM_BYTES) -> LogUnderTest:
    surroundings = ExitStack()
    folder = surroundings.enter_context(tempfile.TemporaryDirectory())
    return _durable(SqliteStorage(f"{folder}/streams.db"), max_stream_bytes, surroundings)


def _valkey(*, max_stream_bytes: int = MAX_STREAM_BYTES) -> LogUnderTest:
    from tests.store.valkey_server import skip_without_server, valkey_url
    from unbroken.store.valkey import ValkeyStorage

    skip_without_server()
    surroundings = ExitStack()
    url = surroundings.enter_context(valkey_url())
    storage = ValkeyStorage(url, lease=3600.0, retention=3600.0, max_live_bytes=1 << 30)
    return _durable(storage, max_stream_bytes, surroundings)


def _durable(storage: Any, max_stream_bytes: int, surroundings: ExitStack) -> LogUnderTest:
    errors: list[Exception] = []
    log = DurableStreamLog(storage, max_stream_bytes=max_stream_bytes, on_follower_error=errors.append)
    made = LogUnderTest(log, errors, surroundings=surroundings)
    made.run(log.start())
    return made


LOGS: dict[str, LogFactory] = {"memory": _memory, "sqlite": _sqlite, "valkey": _valkey}


@pytest.fixture(params=LOGS)
def new_log(request: pytest.FixtureRequest) -> LogFactory:
    """Makes a log; for tests that need several, or one with a bound."""
    return LOGS[request.param]


@pytest.fixture
def log(new_log: LogFactory) -> Iterator[LogUnderTest]:
    """One log."""
    made = new_log()
    yield made
    made.close()


@pytest.fixture
def dropping_log() -> Iterator[LogUnderTest]:
    """One that can drop what a follower has had."""
    made = _memory()
    yield made
    made.close()
