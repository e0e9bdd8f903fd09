"""Streams in a SQLite file that several processes of one machine may share."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import PathLike, fspath
from typing import TypeVar

from unbroken.chat.stream import Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store import sqlite_statements as sql
from unbroken.store.log import LogError, StoreUnavailable
from unbroken.store.sqlite_database import IN_MEMORY, DatabaseThread, Synchronous, Work
from unbroken.store.sqlite_follow import Poller
from unbroken.store.sqlite_gather import Gatherer
from unbroken.store.sqlite_rows import read_behind, read_notes, read_statuses, transaction, unknown
from unbroken.store.sqlite_writer import StreamWriter
from unbroken.store.storage import Append, OnNews, Stored

LEASE_SECONDS = 15.0  # how long a stream whose process was killed waits to be taken over
RETENTION_SECONDS = 3600.0
MAX_LIVE_BYTES = 4 << 30  # of streams that have not ended; a disk that is full would stop them all
BUSY_SECONDS = 1.0  # how long another process may hold the file before that is an error

Result = TypeVar("Result")


class SqliteStorage:
    """`StreamStorage` in a file: one thread writes, another reads, so that a large read delays no commit.

    The path `:memory:` makes one that nobody else sees and that is gone when it closes.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        lease: float = LEASE_SECONDS,
        retention: float = RETENTION_SECONDS,
        max_live_bytes: int = MAX_LIVE_BYTES,
        synchronous: Synchronous = "normal",
        busy: float = BUSY_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = fspath(path)
        self._lease = lease
        self._retention = retention
        self._max_live_bytes = max_live_bytes
        self._synchronous: Synchronous = synchronous
        self._busy = busy
        self._now = now
        self._writer: StreamWriter
        self._poller: Poller
        self._write_thread: DatabaseThread | None = None
        self._read_thread: DatabaseThread

    async def start(self, owner: OwnerId) -> None:
        thread = self._thread("writer", lambda: self._writer.begin_anew())
        gatherer = Gatherer(lambda: thread.do_later(self._writer.gather))
        self._writer = StreamWriter(
            owner, lease=self._lease, max_live_bytes=self._max_live_bytes, now=self._now, gatherer=gatherer
        )
        self._write_thread = thread
        self._read_thread = thread if self.path == IN_MEMORY else self._thread("reader", lambda: None)
        self._poller = Poller(self._read_thread.do)
        for each in {thread, self._read_thread}:
            each.start()
        try:
            await thread.do(self._writer.renew)
        except BaseException:
            await self._stop()
            raise

    def _thread(self, does: str, on_doubt: Callable[[], None]) -> DatabaseThread:
        return DatabaseThread(
            self.path, name=f"store-{does}", synchronous=self._synchronous, busy=self._busy, on_doubt=on_doubt
        )

    async def close(self) -> None:
        self._poller.close()
        with suppress(StoreUnavailable):  # then the lease lapses by itself
            await self.write(self._writer.resign)
        await self._stop()

    async def _stop(self) -> None:
        if (thread := self._write_thread) is not None:
            self._write_thread = None
            for each in {thread, self._read_thread}:
                each.stop()
                await asyncio.to_thread(each.join)

    def write(self, work: Work[Result]) -> "asyncio.Future[Result]":
        """Does something else with the file, in the writer's thread and in order; raises StoreUnavailable."""
        if self._write_thread is None:
            raise StoreUnavailable(f"store {self.path}: it is not open: it has been closed, or not started")
        return self._write_thread.do(work)

    def _read(self, work: Work[Result]) -> "asyncio.Future[Result]":
        """Reads as of one moment."""
        if self._write_thread is None:
            raise StoreUnavailable(f"store {self.path}: it is not open: it has been closed, or not started")

        def read(connection: sqlite3.Connection) -> Result:
            with transaction(connection, sql.BEGIN_READ):
                return work(connection)

        return self._read_thread.do(read)

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        return await self.write(lambda connection: self._writer.create(connection, record))

    async def claim(self, stream: StreamId, *, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        return await self.write(lambda connection: self._writer.claim(connection, stream, only_lapsed))

    async def release(self, stream: StreamId, epoch: Epoch) -> None:
        await self.write(lambda connection: self._writer.release(connection, stream, epoch))

    async def commit(self, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        return await self.write(lambda connection: self._writer.commit(connection, appends))

    async def read(self, stream: StreamId, after: Offset) -> Stored:
        return await self._read(lambda connection: read_behind(connection, stream, after))

    async def notes(self, stream: StreamId) -> bytes:
        return await self._read(lambda connection: read_notes(connection, stream))

    async def status(self, stream: StreamId) -> StreamStatus:
        found = await self._statuses(sql.STATUS, stream)
        if not found:
            raise unknown(stream)
        return found[0]

    async def live(self) -> list[StreamStatus]:
        return [status for status in await self._statuses(sql.STATUS_OF_LIVE) if not status.has_ended]

    async def lapsed(self) -> list[StreamStatus]:
        found = await self._statuses(sql.STATUS_OF_LAPSED, self._now())
        return [status for status in found if not status.has_ended]

    async def _statuses(self, query: str, *parameters: str | float) -> list[StreamStatus]:
        return await self._read(lambda connection: read_statuses(connection, self._now(), query, parameters))

    async def watch(self, stream: StreamId, until: float) -> None:
        await self.write(lambda connection: self._writer.watch(connection, stream, until))

    async def forget(self, stream: StreamId) -> None:
        await self.write(lambda connection: self._writer.forget(connection, stream))

    async def renew(self) -> Sequence[StreamId]:
        lost = await self.write(self._writer.renew)
        self._clear_up()
        return lost

    def _clear_up(self) -> None:
        """A bounded piece at a time, so that commits come between."""

        def clear_up(connection: sqlite3.Connection) -> None:
            if self._writer.clear_up(connection, self._retention):
                self._clear_up()

        if (thread := self._write_thread) is not None:
            thread.do_later(clear_up)

    async def follow(self, stream: StreamId, after: Offset, on_news: OnNews) -> Callable[[], None]:
        return await self._poller.follow(stream, after, on_news)
