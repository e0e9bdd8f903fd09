"""Logs that count what goes through lanes to them, and a store that works in the loop."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from unbroken.chat.stream import Epoch, StreamId, StreamRecord, StreamStatus
from unbroken.store.durable import DurableStreamLog
from unbroken.store.held import Run
from unbroken.store.log import LogError, StoreUnavailable, TextWriter
from unbroken.store.memory import MemoryStreamLog
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_database import DatabaseThread


class CountingLog(MemoryStreamLog):
    """Knows the runs that it has begun; without `has_lanes` it begins none, and so there are no lanes."""

    def __init__(self, *args: Any, has_lanes: bool, **bounds: Any) -> None:
        super().__init__(*args, **bounds)
        self.runs: list[Run] = []
        self._has_lanes = has_lanes

    def begin_run(self, stream: StreamId, epoch: Epoch, run: Run, **bounds: Any) -> bool:
        if not self._has_lanes or not super().begin_run(stream, epoch, run, **bounds):
            return False
        self.runs.append(run)
        return True


class CountingWriter:
    """Knows how many texts went through one lane to a durable log."""

    def __init__(self, writer: TextWriter) -> None:
        self._writer = writer
        self.taken = 0

    def add(self, texts: list[bytes]) -> bool:
        count = len(texts)  # the log may keep the list, and add to it
        has_taken = self._writer.add(texts)
        self.taken += count * has_taken
        return has_taken


class CountingDurableLog(DurableStreamLog):
    """Knows the lanes that lead to it; without `has_lanes` there are none."""

    def __init__(self, *args: Any, has_lanes: bool, **bounds: Any) -> None:
        super().__init__(*args, **bounds)
        self.writers: list[CountingWriter] = []
        self.opened: list[StreamId] = []
        self._has_lanes = has_lanes

    async def open(self, record: StreamRecord, **told: Any) -> Epoch | StreamStatus:
        self.opened.append(record.id)
        return await super().open(record, **told)

    def text_writer(self, *of: Any) -> CountingWriter | None:  # type: ignore[override]
        writer = super().text_writer(*of) if self._has_lanes else None
        if writer is None:
            return None
        self.writers.append(CountingWriter(writer))
        return self.writers[-1]


class Database(DatabaseThread):
    """Works in the loop and by its clock, so that two plays are alike."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        #: Seconds from what is asked to the answer.
        self.delay = 0.0
        self.is_failing = False
        self._jobs: deque[Callable[[], None]] = deque()

    def start(self) -> None:
        """There is no thread."""

    def do(self, work: Callable[[Any], Any]) -> "asyncio.Future[Any]":
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def job() -> None:
            try:
                value = self._done(work)
            except Exception as error:
                if not result.done():
                    result.set_exception(error)
            else:
                if not result.done():
                    result.set_result(value)

        self._ask(job)
        return result

    def do_later(self, work: Callable[[Any], None]) -> None:
        def job() -> None:
            with suppress(LogError):
                self._done(work)

        self._ask(job)

    def stop(self) -> None:
        while self._jobs:
            self._jobs.popleft()()
        self._asked.put(None)
        self._work()  # which closes it

    def _done(self, work: Callable[[Any], Any]) -> Any:
        if self.is_failing:
            raise StoreUnavailable("store: it is away")
        return self._do(work, time.monotonic())

    def _ask(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        asyncio.get_running_loop().call_later(self.delay, self._do_next)

    def _do_next(self) -> None:
        if self._jobs:
            self._jobs.popleft()()  # one behind the other, whatever the delays were


class Storage(SqliteStorage):
    """SQLite in memory, without threads."""

    def __init__(self) -> None:
        super().__init__(":memory:", now=lambda: 1.7e9)
        self.database: Database

    def _thread(self, does: str, on_doubt: Callable[[], None]) -> Database:
        self.database = Database(self.path, name=does, on_doubt=on_doubt)
        return self.database

    async def close(self) -> None:
        self._poller.close()
        self.database.stop()
