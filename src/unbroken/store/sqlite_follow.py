"""Following what other processes write: one look at the journal, now and then, for all streams that are followed."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from unbroken.chat.stream import Offset, StreamId
from unbroken.store import sqlite_statements as sql
from unbroken.store.held import Run
from unbroken.store.log import OffsetUnknown, StoreUnavailable, StreamUnknown
from unbroken.store.pieces import RunUnknown, blocks_of, unpack
from unbroken.store.sqlite_database import Work
from unbroken.store.sqlite_rows import (
    JournalEntry,
    blocks_behind,
    find_row,
    read_behind,
    read_journal,
    tail_of,
    transaction,
)
from unbroken.store.storage import OnNews, Stored

POLL_SECONDS = 0.015  # of 50 ms that a follower elsewhere may wait up to 25 are the commit's, and some the look itself

Result = TypeVar("Result")


class Ask(Protocol):
    """Does something in the reader's thread."""

    def __call__(self, work: Work[Result]) -> "asyncio.Future[Result]": ...


@dataclass(slots=True, eq=False)
class _Followed:
    stream: StreamId
    number: int
    at: int
    on_news: OnNews
    #: Whether all behind `at` has to be read: the journal may not have it, or not any more.
    is_behind: bool = True
    #: What it had last, if that was a run: the journal may go on with it.
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class _News:
    last_row: int
    is_gapless: bool
    entries: Sequence[JournalEntry]  # of streams that are followed, in order


class Poller:
    """Looks for news of followed streams, only while there are any."""

    def __init__(self, ask: Ask, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """`pause` waits between two looks, so many seconds."""
        self._ask = ask
        self._pause = pause
        self._followed: dict[_Followed, None] = {}
        self._row = 0  # the last journal row that was looked at
        self._has_row = False
        self._task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stops looking."""
        self._followed.clear()
        if self._task is not None:
            self._task.cancel()

    async def follow(self, stream: StreamId, after: Offset, on_news: OnNews) -> Callable[[], None]:
        """Calls `on_news` with all behind `after` that is there and comes; gives what stops it."""

        def look(connection: sqlite3.Connection) -> int:
            with transaction(connection, sql.BEGIN_READ):
                read_behind(connection, stream, after)
                return find_row(connection, stream).number

        followed = _Followed(stream, await self._ask(look), after, on_news)
        self._followed[followed] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        return lambda: self._stop(followed)

    def _stop(self, followed: _Followed) -> None:
        self._followed.pop(followed, None)

    async def _poll(self) -> None:
        while self._followed:
            with suppress(StoreUnavailable):  # looked for again the next time
                if not self._has_row:
                    self._row = await self._ask(_last_row)
                    self._has_row = True
                await self._look()
            await self._pause(POLL_SECONDS)
        self._has_row = False

    async def _look(self) -> None:
        for followed in [followed for followed in self._followed if followed.is_behind]:
            await self._read_behind(followed)
        numbers = {followed.number for followed in self._followed}
        since = self._row
        news = await self._ask(lambda connection: _read_news(connection, since, numbers))
        self._row = news.last_row
        by_number: dict[int, list[JournalEntry]] = {}
        for entry in news.entries:
            by_number.setdefault(entry.stream, []).append(entry)
        for followed in list(self._followed):
            if not news.is_gapless:
                followed.is_behind = True
            for entry in by_number.get(followed.number, ()):
                self._take(followed, entry)

    async def _read_behind(self, followed: _Followed) -> None:
        followed.is_behind = False

        def read(connection: sqlite3.Connection) -> tuple[Stored, Run | None]:
            with transaction(connection, sql.BEGIN_READ):
                row = find_row(connection, followed.stream)
                tail = tail_of(connection, row)
                return blocks_behind(connection, row, tail, Offset(followed.at)), tail.run

        try:
            # Rows that come yet may be of before this moment: their blocks are known, whatever they are taken to go on.
            part, followed.run = await self._ask(read)
            self._tell(followed, part)
        except StoreUnavailable:
            followed.is_behind = True
            raise
        except (StreamUnknown, OffsetUnknown):  # it has been forgotten
            self._stop(followed)

    def _take(self, followed: _Followed, entry: JournalEntry) -> None:
        try:
            parts = unpack(entry.pieces, followed.run)
        except RunUnknown:
            followed.is_behind = True
            return
        if parts:
            followed.run = last if isinstance(last := parts[-1], Run) else None
        self._tell(followed, Stored(Offset(entry.first), blocks_of(parts), entry.ends))

    def _tell(self, followed: _Followed, part: Stored) -> None:
        """Tells what is new of it; what does not join on is read from the file the next time."""
        known = followed.at + 1 - part.first
        if followed not in self._followed or followed.is_behind:
            return
        if known < 0:
            followed.is_behind = True
            return
        blocks = part.blocks[known:]
        if blocks or (part.has_ended and known == len(part.blocks)):
            first = Offset(followed.at + 1)
            followed.at += len(blocks)
            if part.has_ended:
                self._stop(followed)
            followed.on_news(followed.stream, Stored(first, blocks, part.has_ended))


def _last_row(connection: sqlite3.Connection) -> int:
    row: int = connection.execute(sql.JOURNAL_LAST).fetchone()[0]
    return row


def _read_news(connection: sqlite3.Connection, since: int, numbers: set[int]) -> _News:
    """What the journal says of some streams behind a row."""
    last_row = _last_row(connection)
    if last_row == since:
        return _News(since, True, ())
    entries: list[JournalEntry] = []
    row, is_gapless = since, True
    for id, body in connection.execute(sql.JOURNAL_BEHIND, (since,)):
        is_gapless = is_gapless and id == row + 1
        row = id
        entries += [entry for entry in read_journal(body) if entry.stream in numbers]
    return _News(max(row, last_row), is_gapless and row >= last_row, entries)
