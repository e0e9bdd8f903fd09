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
from unbroken.store.pieces import PackedRun, Part, RunUnknown, join_pieces, pack, read_blocks, unpack, write_pieces
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_tail import Tail

STREAM = StreamId("chatcmpl-one")
BLOCKS = st.lists(st.binary(max_size=8).map(Block), max_size=5)
RUNS = st.builds(Run, st.binary(max_size=4), st.binary(max_size=4), st.lists(st.binary(max_size=4), max_size=5))
PARTS = st.lists(BLOCKS | RUNS, max_size=5)


def all_of(parts: list[Part]) -> list[Block]:
    return [block for part in parts for block in part]


read_pieces = msgspec.msgpack.Decoder(list[bytes | PackedRun]).decode


@given(PARTS)
def test_what_was_written_is_read(parts: list[Part]) -> None:
    assert read_blocks(write_pieces(parts)) == all_of(parts)
    for part in parts:
        assert all_of(unpack(read_pieces(msgspec.msgpack.encode(pack(part))))) == list(part)


FEW_RUNS = st.builds(
    Run, st.sampled_from([b"", b"<"]), st.sampled_from([b"", b">"]), st.lists(st.just(b"t"), max_size=2)
)


@given(st.lists(st.tuples(FEW_RUNS | BLOCKS, st.booleans()), max_size=8))
def test_what_a_writer_has_in_the_journal_is_what_a_reader_finds_there(rows: list[tuple[Part, bool]]) -> None:
    written, read = Tail(0), Tail(0)
    for row, (part, is_anew) in enumerate(rows, 1):
        if is_anew:
            written.name_run_anew()
        pieces = read_pieces(msgspec.msgpack.encode(pack(part, written.run)))
        size = sum(map(len, part))
        written.add(row, part, size, False, b"", b"")
        read.add_pieces(row, pieces, False, b"", b"")
        assert read.blocks == written.blocks == all_of([part for part, _ in rows[:row]])
        assert (read.last, read.count, read.size) == (written.last, written.count, written.size)


def test_a_run_that_goes_on_is_named_once() -> None:
    run = Run(b"<" * 300, b">" * 300, [b"text"])
    assert len(msgspec.msgpack.encode(pack(run, run))) < 12
    assert len(msgspec.msgpack.encode(pack(run, Run(b"<", b">", [b"text"])))) > 600


def test_a_run_whose_beginning_was_not_read_is_unknown() -> None:
    with pytest.raises(RunUnknown):
        unpack([PackedRun(None, None, [b"text"])])
    with pytest.raises(RunUnknown):
        unpack([b"a block", PackedRun(None, None, [b"text"])], Run(b"<", b">", []))


@given(st.lists(PARTS, max_size=3))
def test_joined_bodies_hold_the_blocks_of_all(several: list[list[Part]]) -> None:
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
