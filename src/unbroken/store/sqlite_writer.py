"""The one writer of a process: what it does to the SQLite store, in its own thread."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from unbroken.chat.stream import Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store import sqlite_statements as sql
from unbroken.store.log import LogError, StaleEpoch, StreamEnded, StreamExists, StreamTooLong
from unbroken.store.pieces import write_msgpack
from unbroken.store.sqlite_gather import Gatherer, Ours, drop_orphans, expire, gather_tail, give_back, tidy
from unbroken.store.sqlite_rows import (
    StreamRow,
    find_row,
    read_statuses,
    tail_of,
    tails_of,
    transaction,
    unknown,
    write_record,
)
from unbroken.store.sqlite_tail import Tail
from unbroken.store.storage import Append


class _Commit(NamedTuple):
    """A row that is written to the journal, of which we may come to doubt whether it was."""

    appends: Sequence[Append]
    body: bytes
    #: The journal's last row before it.
    behind: int


class StreamWriter:
    """Streams as this process writes them; every method runs in the writer's thread, one at a time."""

    def __init__(
        self, owner: OwnerId, *, lease: float, max_live_bytes: int, now: Callable[[], float], gatherer: Gatherer
    ) -> None:
        self._owner = owner
        self._lease = lease
        self._max_live_bytes = max_live_bytes
        self._now = now
        self._gatherer = gatherer
        self._ours: dict[StreamId, Ours] = {}
        self._held_at_most = 0  # bytes of all live streams: counted at times, and what we have written since
        self._claims: int | None = None  # as we have last seen the fences; None: look again
        self._row = 0  # the journal's last row that we know of
        self._committing: _Commit | None = None
        self._doubt: _Commit | None = None
        #: Number and epoch of live streams that we held for ours and know no more, until a renewal has looked for them.
        self._unsure: dict[StreamId, tuple[int, Epoch]] = {}
        self._has_all = True  # whether `_ours` are all of ours that have something in the journal

    def begin_anew(self) -> None:
        """Forgets what the last failure has made doubtful: all that is not read from the file."""
        self._has_all = False
        for ours in self._ours.values():
            self._doubt_that_it_is_ours(ours)
        self._ours.clear()
        self._gatherer.clear()
        self._claims = None
        if self._committing is not None:
            self._doubt, self._committing = self._committing, None

    def _doubt_that_it_is_ours(self, ours: Ours) -> None:
        if not ours.tail.has_ended:
            self._unsure[ours.id] = ours.number, ours.epoch

    def create(self, connection: sqlite3.Connection, record: StreamRecord) -> StreamStatus | None:
        """Writes a new stream of ours; or gives the one that has its claim."""
        body = write_record(record)
        with transaction(connection):
            if record.claim:
                taken = read_statuses(connection, self._now(), sql.STATUS_OF_CLAIM, (record.claim,))
                if taken:
                    return taken[0]
            self._check_room(connection, len(body))
            try:
                parameters = (record.id, record.claim or None, self._owner, len(body))
                number = connection.execute(sql.CREATE_STREAM, parameters).lastrowid
            except sqlite3.IntegrityError:
                raise StreamExists(f"there is a stream {record.id} already") from None
            connection.execute(sql.CREATE_RECORD, (number, body))
        ours = Ours(number or 0, record.id, Epoch(1), gathered=0, last=0, size=len(body))
        ours.is_read_at_end = not record.is_streamed
        self._ours[record.id] = ours
        return None

    def _check_room(self, connection: sqlite3.Connection, size: int) -> None:
        if self._held_at_most + size > self._max_live_bytes:
            self._count_held(connection)
            if self._held_at_most + size > self._max_live_bytes:
                found = f"{self._held_at_most} bytes, and the bound is {self._max_live_bytes}"
                raise StreamTooLong(f"no room for another stream: streams that have not ended hold {found}")
        self._held_at_most += size

    def _count_held(self, connection: sqlite3.Connection) -> None:
        of_others: int = connection.execute(sql.LIVE_BYTES_OF_OTHERS, (self._owner,)).fetchone()[0]
        live = [ours for ours in self._ours.values() if not ours.tail.has_ended]
        self._held_at_most = of_others + sum(ours.size_in_all for ours in live)

    def claim(self, connection: sqlite3.Connection, stream: StreamId, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        """Makes the stream ours, all that is in the journal gathered; None if `only_lapsed` and its owner may live."""
        with transaction(connection):
            row = find_row(connection, stream)
            tail = tail_of(connection, row)
            if only_lapsed and (tail.has_ended or self._is_held(connection, row)):
                return None
            gather_tail(connection, row, tail, self._now())
            connection.execute(sql.TAKE, (self._owner, row.number))
            self._count_claim(connection)
        self._forget_ours(stream)
        epoch = Epoch(row.epoch + 1)
        if not tail.has_ended:
            size = row.size + tail.size
            self._ours[stream] = Ours(row.number, stream, epoch, gathered=tail.last, last=tail.last, size=size)
        return epoch, Offset(tail.last)

    def _is_held(self, connection: sqlite3.Connection, row: StreamRow) -> bool:
        until: float = connection.execute(sql.LEASE, (row.owner,)).fetchone()[0]
        return row.owner == self._owner or until > self._now()

    def _count_claim(self, connection: sqlite3.Connection) -> None:
        """Makes every writer look at what it owns; us only if somebody else has been at it too."""
        if connection.execute(sql.CLAIMS).fetchone()[0] == self._claims and self._claims is not None:
            self._claims += 1
        connection.execute(sql.COUNT_CLAIM)

    def release(self, connection: sqlite3.Connection, stream: StreamId, epoch: Epoch) -> None:
        """Gives the stream up if it is still ours, so that anybody may take it over."""
        with transaction(connection):
            if connection.execute(sql.RELEASE, (stream, self._owner, epoch)).rowcount:
                row = find_row(connection, stream)
                gather_tail(connection, row, tail_of(connection, row), self._now())  # our rows do not wait for its heir
                self._count_claim(connection)
        if (ours := self._ours.get(stream)) is not None and ours.epoch == epoch:
            self._forget_ours(stream)

    def forget(self, connection: sqlite3.Connection, stream: StreamId) -> None:
        """Removes the stream; an unknown one is no error."""
        with transaction(connection):
            found = connection.execute(sql.STREAM, (stream,)).fetchone()
            if found is not None:
                for statement in sql.REMOVE:
                    connection.execute(statement, (found[0],))
                self._count_claim(connection)
        self._forget_ours(stream)

    def watch(self, connection: sqlite3.Connection, stream: StreamId, until: float) -> None:
        """Notes until when a reader is there; never moves it back."""
        connection.execute(sql.WATCH, (until, stream, until))

    # commits

    def commit(self, connection: sqlite3.Connection, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        """Writes one group in one row of the journal."""
        entries, followed = [], []
        for append in appends:
            ours = self._ours.get(append.stream)
            if ours is None or (entry := ours.entry_of(append)) is None:
                return self._commit_with_care(connection, appends)
            entries.append(entry)
            followed.append(ours)
        if self._claims is None or self._doubt is not None:
            return self._commit_with_care(connection, appends)
        body = write_msgpack(entries)
        self._committing = _Commit(appends, body, self._row)
        written = connection.execute(sql.JOURNAL_UNLESS_CLAIMED, (self._owner, body, self._claims))
        if not written.rowcount:
            self._committing = None
            return self._commit_with_care(connection, appends)
        self._committed(written.lastrowid or 0, zip(followed, appends, strict=True))
        return {}

    def _committed(self, row: int, written: Iterable[tuple[Ours, Append]]) -> None:
        self._committing = self._doubt = None
        self._row = row
        self._held_at_most += self._gatherer.note(row, written)

    def _commit_with_care(
        self, connection: sqlite3.Connection, appends: Sequence[Append]
    ) -> Mapping[StreamId, LogError]:
        """As `commit`, with a look at every stream in the file: somebody has claimed one, or a commit has failed."""
        with transaction(connection):
            claims: int = connection.execute(sql.CLAIMS).fetchone()[0]
            refused = self._look_for_lost(connection) if claims != self._claims else {}
            wanted = [append for append in appends if self._may_follow(connection, append, refused)]
            wanted = self._not_written(connection, wanted)
            if wanted := [part for append in wanted if (part := self._ours[append.stream].rest_of(append))]:
                self._row = connection.execute(sql.JOURNAL_LAST).fetchone()[0]
                body = write_msgpack([self._ours[append.stream].entry_of(append) for append in wanted])
                self._committing = _Commit(wanted, body, self._row)
                row = connection.execute(sql.JOURNAL, (self._owner, body)).lastrowid or 0
        self._claims = claims
        self._doubt = None
        if wanted:
            self._committed(row, [(self._ours[append.stream], append) for append in wanted])
        for append in appends:
            if (ours := self._ours.get(append.stream)) is not None and ours.is_done:
                self._forget_ours(append.stream)
        return refused

    def _not_written(self, connection: sqlite3.Connection, appends: list[Append]) -> list[Append]:
        """Those that are not of the commit that seemed to fail, and did not."""
        doubt = self._doubt
        if doubt is None:
            return appends
        found = connection.execute(sql.JOURNAL_OF_OWNER, (doubt.behind, self._owner, doubt.body)).fetchone()
        if found is None:
            return appends
        self._row = max(self._row, found[0])
        return [append for append in appends if append not in doubt.appends]

    def _may_follow(self, connection: sqlite3.Connection, append: Append, refused: dict[StreamId, LogError]) -> bool:
        if append.stream in refused:
            return False
        ours = self._ours.get(append.stream)
        if ours is None or ours.epoch != append.epoch:
            row_or_refusal = self._look_at(connection, append)
            if isinstance(row_or_refusal, LogError):
                refused[append.stream] = row_or_refusal
                return False
            ours = self._load(row_or_refusal, tail_of(connection, row_or_refusal))
        if ours.tail.has_ended and append.first > ours.tail.last:
            refused[append.stream] = StreamEnded(f"stream {append.stream} has ended after {ours.tail.last} blocks")
        elif append.first > ours.tail.last + 1:
            found = f"it has {ours.tail.last} blocks, and {append.first} cannot be the next"
            refused[append.stream] = StaleEpoch(f"stream {append.stream}: {found}")
        return append.stream not in refused

    def _look_at(self, connection: sqlite3.Connection, append: Append) -> StreamRow | LogError:
        found = connection.execute(sql.STREAM, (append.stream,)).fetchone()
        if found is None:
            return unknown(append.stream)
        row = StreamRow._make(found)
        if row.epoch != append.epoch or row.owner != self._owner:
            return stale(append.stream, append.epoch, row.epoch)
        if row.ended_at is not None and append.first > row.last:
            return StreamEnded(f"stream {append.stream} has ended after {row.last} blocks")
        return row

    def _take_up_all(self, connection: sqlite3.Connection) -> None:
        """After a failure: all of ours are read from the file, above all those to which nothing will be appended.

        Without that their rows of the journal would be dropped ungathered.
        """
        if self._has_all:
            return
        found = map(StreamRow._make, connection.execute(sql.LIVE_OF_OWNER, (self._owner,)).fetchall())
        rows = [row for row in found if row.id not in self._ours]
        tails = tails_of(connection, rows)
        for row in rows:
            self._load(row, tails[row.number])
        self._has_all = True

    def _load(self, row: StreamRow, tail: Tail) -> Ours:
        """A stream of ours as the file has it."""
        stream = StreamId(row.id)
        ours = Ours(row.number, stream, Epoch(row.epoch), gathered=row.last, last=tail.last, size=row.size)
        ours.tail = tail
        self._ours[stream] = ours
        self._gatherer.take_up(ours)
        return ours

    def _look_for_lost(self, connection: sqlite3.Connection) -> dict[StreamId, LogError]:
        """Those that we held for ours and are not; of the others somebody may have gathered what they go on with.

        What a look that fails has found is found again by the next one.
        """
        held = dict(connection.execute(sql.LIVE_NUMBERS_OF_OWNER, (self._owner,)).fetchall())
        lost: dict[StreamId, LogError] = {}
        for stream, ours in list(self._ours.items()):
            ours.tail.name_run_anew()
            if held.get(ours.number) != ours.epoch and not ours.tail.has_ended:
                self._doubt_that_it_is_ours(ours)
                self._forget_ours(stream)
        for stream, (number, epoch) in self._unsure.items():
            if stream not in self._ours and number not in held:
                found = connection.execute(sql.STREAM, (stream,)).fetchone()
                if found is None:
                    lost[stream] = unknown(stream)
                elif (present := StreamRow._make(found).epoch) != epoch:  # else it has ended, or was released
                    lost[stream] = stale(stream, epoch, present)
        return lost

    def _forget_ours(self, stream: StreamId) -> None:
        if (ours := self._ours.pop(stream, None)) is not None:
            self._gatherer.drop(ours)

    # what is done now and then

    def gather(self, connection: sqlite3.Connection) -> None:
        """Writes segments of the streams that are due."""
        self._take_up_all(connection)
        for done in self._gatherer.gather_due(connection, self._owner, self._now()):
            if self._ours.get(done.id) is done:
                self._doubt_that_it_is_ours(done)
                del self._ours[done.id]

    def renew(self, connection: sqlite3.Connection) -> Sequence[StreamId]:
        """Renews our lease; gives the streams that others have claimed."""
        with transaction(connection):
            connection.execute(sql.RENEW, (self._owner, self._now() + self._lease))
            claims: int = connection.execute(sql.CLAIMS).fetchone()[0]
            lost = self._look_for_lost(connection) if claims != self._claims or self._unsure else {}
            self._take_up_all(connection)
            self._count_held(connection)
        self._claims = claims
        self._unsure.clear()
        self._gatherer.look_how_far(connection)
        return [stream for stream, error in lost.items() if isinstance(error, StaleEpoch)]

    def clear_up(self, connection: sqlite3.Connection, retention: float) -> bool:
        """Removes what was kept for its time and what the dead have left; whether there may be more to remove."""
        tidy(connection, self._owner, self._now())
        drop_orphans(connection)
        give_back(connection)
        return expire(connection, self._now() - retention)

    def resign(self, connection: sqlite3.Connection) -> None:
        """Gathers all and gives up the lease."""
        self._take_up_all(connection)
        self._gatherer.all_due()
        while self._gatherer.is_due:
            self.gather(connection)
        connection.execute(sql.DROP_OWNER, (self._owner,))


def stale(stream: str, given: int, present: int) -> StaleEpoch:
    """The refusal of an owner whose stream has been claimed."""
    return StaleEpoch(f"stream {stream}: epoch {given} was given, {present} is its owner's")
