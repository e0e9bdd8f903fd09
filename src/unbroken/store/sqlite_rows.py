"""What the rows of the SQLite store hold: a stream is partly in segments, and partly in the journal."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from unbroken.chat.stream import Block, Epoch, Offset, StreamId, StreamRecord, StreamStatus
from unbroken.store import sqlite_statements as sql
from unbroken.store.log import OffsetUnknown, StreamUnknown
from unbroken.store.pieces import PackedRun, RunUnknown, read_blocks, write_msgpack
from unbroken.store.sqlite_tail import Tail
from unbroken.store.storage import Stored


class JournalEntry(msgspec.Struct, array_like=True, frozen=True):
    """What one commit added to one stream."""

    stream: int
    first: int
    pieces: list[bytes | PackedRun]
    ends: bool
    note: bytes
    account: bytes


_read_entries = msgspec.msgpack.Decoder(list[JournalEntry]).decode
write_record = write_msgpack
read_record = msgspec.msgpack.Decoder(StreamRecord).decode


def read_journal(body: bytes) -> list[JournalEntry]:
    """What a row of the journal says; raises sqlite3.DatabaseError for what cannot be ours."""
    try:
        return _read_entries(body)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"the journal is malformed: {error}") from error


class StreamRow(NamedTuple):
    """A row of `streams`."""

    number: int
    id: str
    owner: str
    epoch: int
    last: int
    gathered: int
    size: int
    account: bytes
    watched_until: float
    ended_at: float | None


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = sql.BEGIN_WRITE) -> Iterator[None]:
    """All or nothing of what is done within, as one moment."""
    connection.execute(begin)
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute(sql.ROLLBACK)
        raise
    connection.execute(sql.COMMIT)


def find_row(connection: sqlite3.Connection, stream: StreamId) -> StreamRow:
    """The stream's row; raises StreamUnknown."""
    found = connection.execute(sql.STREAM, (stream,)).fetchone()
    if found is None:
        raise unknown(stream)
    return StreamRow._make(found)


def unknown(stream: str) -> StreamUnknown:
    """The refusal of a stream that is not there."""
    return StreamUnknown(f"there is no stream {stream}")


def tails_of(connection: sqlite3.Connection, rows: Iterable[StreamRow]) -> dict[int, Tail]:
    """By number, what the journal holds of these streams and their segments do not."""
    begun = {row.number: row for row in rows}
    tails = {row.number: Tail(row.last, has_ended=row.ended_at is not None) for row in begun.values()}
    lowest = min((row.gathered for row in begun.values() if row.ended_at is None), default=None)
    if lowest is None:
        return tails
    for id, body in connection.execute(sql.JOURNAL_BEHIND, (lowest,)):
        for entry in read_journal(body):
            row = begun.get(entry.stream)
            if row is None or row.ended_at is not None or id <= row.gathered:
                continue
            try:
                tails[row.number].add_pieces(id, entry.pieces, entry.ends, entry.note, entry.account)
            except RunUnknown as error:
                raise sqlite3.DatabaseError(f"the journal is malformed: row {id} goes on with no run") from error
    return tails


def tail_of(connection: sqlite3.Connection, row: StreamRow) -> Tail:
    """What the journal holds of one stream and its segments do not."""
    return tails_of(connection, [row])[row.number]


def read_behind(connection: sqlite3.Connection, stream: StreamId, after: Offset) -> Stored:
    """All blocks behind an offset; raises StreamUnknown, OffsetUnknown."""
    row = find_row(connection, stream)
    return blocks_behind(connection, row, tail_of(connection, row), after)


def blocks_behind(connection: sqlite3.Connection, row: StreamRow, tail: Tail, after: Offset) -> Stored:
    """As `read_behind`, of a stream whose tail has been read."""
    if not 0 <= after <= tail.last:
        raise OffsetUnknown(f"stream {row.id} has {tail.last} blocks, and {after} is not among them")
    blocks: list[Block] = []
    for first, body in connection.execute(sql.SEGMENTS_BEHIND, (row.number, after)):
        blocks += read_blocks(body)[max(0, after + 1 - first) :]
    blocks += tail.blocks[max(0, after - row.last) :]
    return Stored(Offset(after + 1), blocks, tail.has_ended)


def read_notes(connection: sqlite3.Connection, stream: StreamId) -> bytes:
    """All notes of a stream; raises StreamUnknown."""
    row = find_row(connection, stream)
    gathered = [notes for (notes,) in connection.execute(sql.NOTES, (row.number,))]
    return b"".join([*gathered, *tail_of(connection, row).notes])


def read_statuses(
    connection: sqlite3.Connection, now: float, query: str, parameters: Sequence[str | float] = ()
) -> list[StreamStatus]:
    """How the streams stand that a query for their rows, records and leases finds."""
    found = connection.execute(query, parameters).fetchall()
    rows = [StreamRow._make(columns[:10]) for columns in found]
    tails = tails_of(connection, rows)
    return [
        _status(row, tails[row.number], record, lease_until > now)
        for row, (record, lease_until) in zip(rows, (columns[10:] for columns in found), strict=True)
    ]


def _status(row: StreamRow, tail: Tail, record: bytes, is_leased: bool) -> StreamStatus:
    return StreamStatus(
        record=read_record(record),
        epoch=Epoch(row.epoch),
        last=Offset(tail.last),
        has_ended=tail.has_ended,
        is_owned=is_leased and not tail.has_ended,
        account=row.account if tail.account is None else tail.account,
        watched_until=row.watched_until,
    )
