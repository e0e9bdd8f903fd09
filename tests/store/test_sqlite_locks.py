"""Other processes come and go at the file while one writes it: nothing that was committed is lost (L2)."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.store.appends import append_of
from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_gather import KEPT_ROWS, SEGMENT_BLOCKS

pytestmark = pytest.mark.anyio

STREAM = StreamId("chatcmpl-1")

#: Opens the file, counts its streams, and closes it: as the last one there SQLite would clear away the journal.
VISIT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM streams").fetchone()[0])
connection.close()
"""


async def visit(path: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", VISIT, str(path)), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return said.decode().strip()


async def test_a_visitor_who_leaves_does_not_take_the_journal_with_him(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    storage = SqliteStorage(path)
    await storage.start(OwnerId("one"))
    try:
        await storage.create(StreamRecord(id=STREAM))
        await storage.read(STREAM, Offset(0))  # by now both of its threads have the file open
        journal = path.with_name("streams.db-wal")
        before = journal.stat().st_ino
        assert await visit(path) == "1"
        assert journal.stat().st_ino == before
        await storage.create(StreamRecord(id=StreamId("chatcmpl-2")))
        assert await visit(path) == "2"
    finally:
        await storage.close()


async def test_a_writer_that_began_anew_after_an_error_still_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    storage = SqliteStorage(path)
    await storage.start(OwnerId("one"))
    try:
        await storage.create(StreamRecord(id=STREAM))
        await storage.read(STREAM, Offset(0))
        with pytest.raises(Exception, match="no such table"):
            await storage.write(lambda connection: connection.execute("SELECT * FROM nowhere"))
        status = await storage.status(STREAM)
        await storage.commit([append_of(STREAM, status.epoch, Offset(1), [Block(b"data: 1\n\n")], False, b"", b"")])
        await visit(path)
        await storage.commit([append_of(STREAM, status.epoch, Offset(2), [Block(b"data: 2\n\n")], False, b"", b"")])
        other = SqliteStorage(path)
        await other.start(OwnerId("two"))
        try:
            assert len((await other.read(STREAM, Offset(0))).blocks) == 2
        finally:
            await other.close()
    finally:
        await storage.close()


async def test_what_was_committed_before_an_error_stays_when_the_journal_is_cleared(tmp_path: Path) -> None:
    quiet, busy = StreamId("chatcmpl-quiet"), StreamId("chatcmpl-busy")
    storage = SqliteStorage(tmp_path / "streams.db")
    await storage.start(OwnerId("one"))
    try:
        for stream in (quiet, busy):
            await storage.create(StreamRecord(id=stream))
        await storage.commit([append_of(quiet, Epoch(1), Offset(1), [Block(b"data: 1\n\n")], True, b"", b"")])
        quieter = StreamId("chatcmpl-quieter")
        await storage.create(StreamRecord(id=quieter))
        await storage.commit([append_of(quieter, Epoch(1), Offset(1), [Block(b"data: 1\n\n")], False, b"", b"")])
        with pytest.raises(Exception, match="no such table"):
            await storage.write(lambda connection: connection.execute("SELECT * FROM nowhere"))
        for offset in range(1, 3 * (KEPT_ROWS + SEGMENT_BLOCKS)):
            await storage.commit([append_of(busy, Epoch(1), Offset(offset), [Block(b"data: 2\n\n")], False, b"", b"")])
        for stream in (quiet, quieter):
            assert (await storage.read(stream, Offset(0))).blocks == [b"data: 1\n\n"]
        assert (await storage.status(quiet)).has_ended
    finally:
        await storage.close()
