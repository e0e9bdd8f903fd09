"""Gathering: what the journal holds of a stream becomes a segment, and the journal's rows can go."""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from unbroken.chat.stream import Epoch, Offset, OwnerId, StreamId
from unbroken.store import sqlite_statements as sql
from unbroken.store.held import size_of
from unbroken.store.pieces import Piece, join_pieces, pack, write_pieces
from unbroken.store.sqlite_rows import StreamRow, tail_of, tails_of, transaction
from unbroken.store.sqlite_tail import Tail
from unbroken.store.storage import Append

SEGMENT_BLOCKS = 256  # a reader elsewhere has at most so many of a stream's blocks to look for in the journal
SEGMENT_BYTES = 64 << 10  # and so many of its bytes
JOURNAL_ROWS = 1024  # nor does it read more rows than these and those that are kept
JOURNAL_BYTES = 4 << 20  # nor more bytes
DROPPED_BYTES = 4 << 20  # of the journal at once: commits wait while its pages are given free
KEPT_ROWS = 256  # longer than they are needed: a follower elsewhere looks every 15 ms and finds them there
GATHERED_AT_ONCE = 32  # commits wait while this is written
GATHERED_TOGETHER = 8  # streams that have ended wait for so many, or for the next renewal: they share pages and syncs
MERGED_BYTES = 1 << 20  # segments of a slow stream are small and many: at its end they become one, if it is not larger
MERGED_SEGMENTS = 4
EXPIRED_AT_ONCE = 100  # commits wait while these are deleted
SPARE_PAGES = 2048  # 8 MiB that stay in the file for what comes next; beyond them it gives back what is a quarter of it


Entry = tuple[int, int, Sequence[Piece], bool, bytes, bytes]
"""What a row of the journal has of a stream: a `JournalEntry` before it is written."""


@dataclass(slots=True, eq=False)
class Ours:
    """A stream that this process writes."""

    number: int
    id: StreamId
    epoch: Epoch
    #: Offset of the last block in a segment.
    gathered: int
    last: int
    #: Bytes of its record, and of the blocks and notes before its tail.
    size: int
    tail: Tail = field(init=False)
    #: Bytes that had been written to the journal before its first row.
    begun_at: int = 0
    #: Whether it is read as soon as it has ended, from a segment at less cost than from the journal.
    is_read_at_end: bool = False

    def __post_init__(self) -> None:
        self.tail = Tail(self.last)

    @property
    def size_in_all(self) -> int:
        """Bytes of its record and of all of its blocks and notes."""
        return self.size + self.tail.size

    @property
    def is_done(self) -> bool:
        """Whether it has ended and is all in segments."""
        return self.tail.has_ended and not self.tail.first_row

    def entry_of(self, append: Append) -> Entry | None:
        """What the journal's next row has of an append; None if it is not, by all that we know, the owner's next."""
        tail, first = self.tail, append.first
        if append.epoch != self.epoch or first != tail.last + 1 or tail.has_ended:
            return None
        return self.number, first, pack(append.blocks, tail.run), append.ends, append.note, append.account

    def rest_of(self, append: Append) -> Append | None:
        """What of an append that may be a repeated one is not there yet; None if all of it is."""
        there = self.tail.last + 1 - append.first
        if there <= 0:
            return append
        if there >= len(append.blocks) or self.tail.has_ended:
            return None
        first, blocks = Offset(append.first + there), append.blocks[there:]
        size = size_of(blocks) + len(append.note)
        return Append(append.stream, append.epoch, first, blocks, size, append.ends, append.note, append.account)


class Gatherer:
    """Which streams of this process have something in the journal, oldest first, and when it is gathered.

    `on_due` is called when `gather_due` has something to do.
    """

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        self._is_asked_for = False  # `on_due` has been called, and nothing was gathered since
        self._in_journal: dict[Ours, None] = {}  # by the first row that holds some of them
        self._due: dict[Ours, None] = {}
        self._is_urgent = False  # among these there is one that goes on, or is about to be read
        self._row = 0  # the last journal row of ours
        self._written = 0  # bytes of journal rows so far
        self._dropped_to = 0  # every row of ours before it has been deleted
        self._rows: deque[tuple[int, int]] = deque()  # those that we know of, and the bytes in them
        self._has_more_to_drop = False
        self._looked_at = 0  # the last row when we looked in vain for rows to drop

    def clear(self) -> None:
        """Forgets all: the file knows better."""
        self._in_journal.clear()
        self._due.clear()
        self._rows.clear()
        self._is_asked_for = self._is_urgent = False

    def drop(self, ours: Ours) -> None:
        """Leaves out a stream that is no longer ours."""
        self._in_journal.pop(ours, None)
        self._due.pop(ours, None)

    def note(self, row: int, written: Iterable[tuple[Ours, Append]]) -> int:
        """Hears of a commit, and sees what has become due by it; gives the bytes in it."""
        in_all = self._written
        for ours, append in written:
            tail, size = ours.tail, append.size
            if not tail.first_row:
                self._in_journal[ours] = None
                ours.begun_at = in_all
            tail.add(row, append.blocks, size, append.ends, append.note, append.account)
            in_all += size
            if tail.has_ended:
                self._due[ours] = None
                self._is_urgent |= ours.is_read_at_end
            elif tail.size >= SEGMENT_BYTES or tail.count >= SEGMENT_BLOCKS:
                self._due[ours] = None
                self._is_urgent = True
        size = in_all - self._written
        self._row, self._written = row, in_all
        self._rows.append((row, size))
        self._see_who_is_far_back(row)
        self._ask()
        return size

    def take_up(self, ours: Ours) -> None:
        """Hears of a stream of ours that was read from the file, with what the journal has of it."""
        if ours.tail.first_row:
            self._in_journal[ours] = self._due[ours] = None
            self._is_urgent = True
            self._row = max(self._row, ours.tail.last_row)  # it may be a commit of ours that seemed to fail

    @property
    def is_due(self) -> bool:
        """Whether `gather_due` has something to do."""
        return bool(self._due)

    def all_due(self) -> None:
        """Makes all due."""
        self._due.update(self._in_journal)

    def look_how_far(self, connection: sqlite3.Connection) -> None:
        """Makes due what is far back in the journal by what others have written, and lets none wait for company."""
        self._see_who_is_far_back(connection.execute(sql.JOURNAL_LAST).fetchone()[0])
        self._is_urgent = self.is_due
        self._ask()

    def _ask(self) -> None:
        is_time = self._is_urgent or self._has_more_to_drop or len(self._due) >= GATHERED_TOGETHER
        if is_time and not self._is_asked_for:
            self._is_asked_for = True
            self._on_due()

    def _see_who_is_far_back(self, row: int) -> None:
        for ours in self._in_journal:
            if row - ours.tail.first_row < JOURNAL_ROWS and self._written - ours.begun_at < JOURNAL_BYTES:
                break
            self._due[ours] = None
            self._is_urgent = True
            if len(self._due) >= GATHERED_AT_ONCE:
                break

    def gather_due(self, connection: sqlite3.Connection, owner: OwnerId, now: float) -> Sequence[Ours]:
        """Gathers some of what is due; gives those that are ours no more: they have ended, or the file knows better."""
        self._is_asked_for = False
        due = list(self._due)[:GATHERED_AT_ONCE]
        with transaction(connection):
            done = [ours for ours in due if not self._gather(connection, ours, now)]
        for ours in due:
            self.drop(ours)
            ours.gathered, ours.size = ours.tail.last, ours.size_in_all
            ours.tail = Tail(ours.tail.last, has_ended=ours.tail.has_ended)
        self._is_urgent = self._is_urgent and self.is_due
        self._drop_rows(connection, owner)
        self._ask()
        return done

    def _gather(self, connection: sqlite3.Connection, ours: Ours, now: float) -> bool:
        """Whether the stream goes on in our hands."""
        tail = ours.tail
        values = (tail.last, self._row, ours.size_in_all, tail.account, now if tail.has_ended else None)
        known = (ours.number, ours.epoch, ours.gathered, tail.first_row)
        if connection.execute(sql.GATHER, (*values, *known)).rowcount:
            write_segment(connection, ours.number, ours.gathered, tail)
            return not tail.has_ended
        found = connection.execute(sql.STREAM, (ours.id,)).fetchone()
        if found is not None and (row := StreamRow._make(found)).epoch == ours.epoch:
            # We were taken for dead, and another process has gathered a part of it.
            gather_tail(connection, row, tail_of(connection, row), now)
        return False

    def _drop_rows(self, connection: sqlite3.Connection, owner: OwnerId) -> None:
        """Deletes rows of ours that nobody needs, a bounded piece of them."""
        due_at = max(self._dropped_to + 2 * KEPT_ROWS, self._looked_at + KEPT_ROWS // 8)
        if self._row < due_at and not self._has_more_to_drop:
            return
        # Not the first of them: those that were taken up again came in any order.
        oldest = min((ours.tail.first_row for ours in self._in_journal), default=self._row + 1)
        floor = min(oldest, self._row - KEPT_ROWS)
        if floor - self._dropped_to < KEPT_ROWS and not self._has_more_to_drop:
            self._looked_at = self._row
            return
        size = 0
        while self._rows and self._rows[0][0] < floor and size < DROPPED_BYTES:
            size += self._rows.popleft()[1]
        dropped_to = min(floor, self._rows[0][0]) if self._rows else floor
        self._has_more_to_drop = dropped_to < floor
        if dropped_to > self._dropped_to:
            connection.execute(sql.DROP_JOURNAL, (self._dropped_to, dropped_to, owner))
            self._dropped_to = dropped_to


def gather_tail(connection: sqlite3.Connection, row: StreamRow, tail: Tail, now: float) -> None:
    """Gathers what a stream of anybody's has in the journal, within a transaction."""
    if tail.first_row:
        last_row: int = connection.execute(sql.JOURNAL_LAST).fetchone()[0]
        values = (tail.last, last_row, row.size + tail.size, tail.account, now if tail.has_ended else None)
        connection.execute(sql.GATHER, (*values, row.number, row.epoch, row.last, last_row))
        write_segment(connection, row.number, row.last, tail)


def write_segment(connection: sqlite3.Connection, number: int, gathered: int, tail: Tail) -> None:
    """Writes what was in the journal, behind the segments that there are; at the end many small ones become one."""
    if tail.count or tail.notes:
        segment = (number, gathered + 1, tail.last, write_pieces(tail.parts), b"".join(tail.notes))
        connection.execute(sql.CREATE_SEGMENT, segment)
    has_others = gathered > 0
    if has_others and tail.has_ended and _count_segments(connection, number) > MERGED_SEGMENTS:
        _merge(connection, number, tail.last)


def _count_segments(connection: sqlite3.Connection, number: int) -> int:
    count: int = connection.execute(sql.SEGMENT_COUNT, (number,)).fetchone()[0]
    return count


def _merge(connection: sqlite3.Connection, number: int, last: int) -> None:
    segments = connection.execute(sql.SEGMENTS, (number,)).fetchall()
    if sum(len(blocks) + len(notes) for blocks, notes in segments) > MERGED_BYTES:
        return
    notes = b"".join(notes for _, notes in segments)
    connection.execute(sql.DROP_SEGMENTS, (number,))
    connection.execute(sql.CREATE_SEGMENT, (number, 1, last, join_pieces(body for body, _ in segments), notes))


def tidy(connection: sqlite3.Connection, owner: OwnerId, now: float) -> None:
    """Clears up behind owners whose lease has lapsed: what they left in the journal is gathered."""
    for (lapsed,) in connection.execute(sql.LAPSED_OWNERS, (now, owner)).fetchall():
        with transaction(connection):
            rows = [StreamRow._make(found) for found in connection.execute(sql.LIVE_OF_OWNER, (lapsed,))]
            tails = tails_of(connection, rows)
            for row in rows:
                gather_tail(connection, row, tails[row.number], now)
            if any(tail.first_row for tail in tails.values()):
                connection.execute(sql.COUNT_CLAIM)  # it may be alive, and go on with a run that is no longer there
            last_row: int = connection.execute(sql.JOURNAL_LAST).fetchone()[0]
            connection.execute(sql.DROP_JOURNAL, (0, last_row - KEPT_ROWS, lapsed))
            if all(tails[row.number].has_ended for row in rows):
                connection.execute(sql.DROP_OWNER, (lapsed,))


def drop_orphans(connection: sqlite3.Connection) -> None:
    """Drops the journal's rows of owners that have resigned, as far back as no live stream has anything."""
    connection.execute(sql.DROP_ORPHANS, (KEPT_ROWS,))


def expire(connection: sqlite3.Connection, before: float) -> bool:
    """Removes some streams that ended before a moment; whether there may be more."""
    with transaction(connection):
        expired = connection.execute(sql.EXPIRED, (before, EXPIRED_AT_ONCE)).fetchall()
        for statement in sql.REMOVE:
            connection.executemany(statement, expired)
    return len(expired) == EXPIRED_AT_ONCE


def give_back(connection: sqlite3.Connection) -> None:
    """Gives pages back to the disk where much of the file is empty."""
    pages, free = connection.execute(sql.COUNT_PAGES).fetchone()
    if free > SPARE_PAGES and free * 4 > pages:
        connection.execute(sql.GIVE_BACK_PAGES).fetchall()
