"""Blocks in a file: what was written is read, in runs or not, by this version and from the one before."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.stream import Block, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store import sqlite_statements as sql
from unbroken.store.durable import DurableStreamLog
from unbroken.store.held import Run
from unbroken.store.pieces import join_pieces, pack, read_blocks, unpack, write_pieces
from unbroken.store.sqlite import SqliteStorage

STREAM = StreamId("chatcmpl-one")
BLOCKS = st.lists(st.binary(max_size=8).map(Block), max_size=5)
RUNS = st.builds(Run, st.binary(max_size=4), st.binary(max_size=4), st.lists(st.binary(max_size=4), max_size=5))
PARTS = st.lists(BLOCKS | RUNS, max_size=5)


def all_of(parts: list[list[Block] | Run]) -> list[Block]:
    return [block for part in parts for block in part]


@given(PARTS)
def test_what_was_written_is_read(parts: list[list[Block] | Run]) -> None:
    assert read_blocks(write_pieces(parts)) == all_of(parts)
    assert [block for part in parts for block in unpack(pack(part))] == all_of(parts)


@given(st.lists(PARTS, max_size=3))
def test_joined_bodies_hold_the_blocks_of_all(several: list[list[list[Block] | Run]]) -> None:
    joined = join_pieces(write_pieces(parts) for parts in several)
    assert read_blocks(joined) == [block for parts in several for block in all_of(parts)]


def test_what_stands_around_the_texts_of_a_run_is_there_once() -> None:
    run = Run(b"<" * 300, b">" * 300, [b"text"] * 200)
    assert len(write_pieces([run])) < 600 + 200 * 7


@given(BLOCKS)
def test_blocks_alone_are_what_version_1_wrote(blocks: list[Block]) -> None:
    assert write_pieces([blocks]) == msgspec.msgpack.encode(blocks)


@pytest.mark.anyio
async def test_a_file_of_version_1_is_read_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    said = [Block(b"data: 1\n\n"), Block(b"data: 2\n\n")]
    first = DurableStreamLog(SqliteStorage(path), owner=OwnerId("first"))
    await first.start()
    epoch = await first.open(StreamRecord(id=STREAM))
    assert isinstance(epoch, int)
    first.append(STREAM, epoch, said)
    await first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()

    again = DurableStreamLog(SqliteStorage(path), owner=OwnerId("again"))
    await again.start()
    epoch = await again.claim(STREAM)
    writer = again.text_writer(STREAM, epoch, b"data: ", b"\n\n")
    assert writer is not None
    assert writer.add([b"3", b"4"])
    await again.settle()
    read = [entry.block for entry in await again.read(STREAM, Offset(0))]
    await again.close()
    assert read == [*said, b"data: 3\n\n", b"data: 4\n\n"]
    connection = sqlite3.connect(path)
    assert connection.execute(sql.GET_VERSION).fetchone()[0] == sql.SCHEMA_VERSION
    connection.close()
