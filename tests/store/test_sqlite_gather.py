"""What the journal of the SQLite store is rid of, and in what pieces: commits wait for each."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.sqlite_database import IN_MEMORY, open_database
from unbroken.store.sqlite_gather import DROPPED_BYTES, GATHERED_TOGETHER, KEPT_ROWS, Gatherer
from unbroken.store.sqlite_writer import StreamWriter
from unbroken.store.storage import Append

SMALL = Block(b"data: x\n\n")
LARGE = Block(b"x" * (64 << 10))


class Writing:
    """A process that writes to the store, and gathers when it is asked to and a test says so."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.is_asked = False
        gatherer = Gatherer(self._ask)
        self._writer = StreamWriter(
            OwnerId("me"), lease=15.0, max_live_bytes=1 << 30, now=lambda: 0.0, gatherer=gatherer
        )
        self._writer.renew(connection)

    def _ask(self) -> None:
        self.is_asked = True

    def answer(self, number: int, block: Block = LARGE, *, ends: bool = True, is_streamed: bool = True) -> None:
        """A stream of one block."""
        record = StreamRecord(id=(stream := StreamId(f"chatcmpl-{number}")), is_streamed=is_streamed)
        assert self._writer.create(self._connection, record) is None
        append = Append(stream, Epoch(1), Offset(1), [block], len(block), ends=ends)
        assert not self._writer.commit(self._connection, [append])

    def renew(self) -> None:
        """As is done every few seconds."""
        self._writer.renew(self._connection)

    def segments(self) -> int:
        """How many streams have been gathered."""
        count: int = self._connection.execute("SELECT count(*) FROM segments").fetchone()[0]
        return count

    def gather(self) -> int:
        """How many bytes of the journal it has dropped."""
        self.is_asked = False
        before = self.journal()
        self._writer.gather(self._connection)
        return sum(before) - sum(self.journal())

    def journal(self) -> list[int]:
        """The sizes of its rows."""
        return [size for (size,) in self._connection.execute("SELECT length(body) FROM journal ORDER BY id")]


@pytest.fixture
def writing() -> Iterator[Writing]:
    with closing(open_database(IN_MEMORY, synchronous="normal", busy=1.0)) as connection:
        yield Writing(connection)


def test_the_journal_is_dropped_a_bounded_piece_at_a_time(writing: Writing) -> None:
    dropped = []
    for number in range(2 * KEPT_ROWS + 50):
        writing.answer(number)
        while writing.is_asked:
            dropped.append(writing.gather())
    pieces = [size for size in dropped if size]
    assert len(pieces) > 2
    assert max(pieces) < DROPPED_BYTES + len(LARGE) + 100
    assert len(writing.journal()) <= 2 * KEPT_ROWS


def test_commits_come_between_the_pieces(writing: Writing) -> None:
    number = 0
    while not (writing.is_asked and writing.gather()):
        writing.answer(number)
        number += 1
    assert writing.is_asked
    writing.answer(number)
    assert writing.gather() > 0


def test_streams_that_have_ended_are_gathered_together(writing: Writing) -> None:
    for number in range(GATHERED_TOGETHER):
        assert not writing.is_asked
        writing.answer(number, SMALL)
    assert writing.is_asked
    writing.gather()
    assert (writing.segments(), writing.is_asked) == (GATHERED_TOGETHER, False)


def test_none_waits_for_others_longer_than_to_the_next_renewal(writing: Writing) -> None:
    writing.answer(0, SMALL)
    assert not writing.is_asked
    writing.renew()
    assert writing.is_asked
    writing.gather()
    assert writing.segments() == 1


def test_a_whole_answer_waits_for_none(writing: Writing) -> None:
    """Its client is given all of it as soon as it has ended, which is read from the store."""
    writing.answer(0, SMALL, is_streamed=False)
    assert writing.is_asked
    writing.gather()
    assert writing.segments() == 1


def test_a_stream_that_goes_on_waits_for_none(writing: Writing) -> None:
    """Nobody has to read more of it from the journal than was promised."""
    writing.answer(0, SMALL, ends=False)
    assert not writing.is_asked
    writing.answer(1, LARGE, ends=False)
    assert writing.is_asked
    writing.gather()
    assert (writing.segments(), writing.is_asked) == (1, False)
