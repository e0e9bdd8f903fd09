"""Bounds of appending text by text: what `append` would refuse is refused, and nothing of it is there."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from unbroken.chat.stream import Block, Offset, StreamId
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import StoreUnavailable, StreamTooLong
from unbroken.store.sqlite import SqliteStorage

pytestmark = pytest.mark.anyio

STREAM = StreamId("chatcmpl-1")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[DurableStreamLog]:
    log = DurableStreamLog(SqliteStorage(str(tmp_path / "s.db")), max_stream_bytes=20, max_pending_bytes=100)
    await log.start()
    yield log
    await log.close()


async def texts_in(log: DurableStreamLog) -> bytes:
    await log.settle()
    return b"".join([entry.block for entry in await log.read(STREAM, Offset(0))])


async def test_a_stream_grows_no_longer_than_it_may(log: DurableStreamLog) -> None:
    epoch = await log.create(STREAM, keep=True)
    writer = log.text_writer(STREAM, epoch, b"<", b">")
    assert writer is not None
    assert writer.add([b"12345678", b"12345678"])
    assert not writer.add([b""])
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, [Block(b"x")])
    assert await texts_in(log) == b"<12345678><12345678>"


async def test_no_more_waits_than_may(log: DurableStreamLog) -> None:
    streams = [STREAM, *(StreamId(f"chatcmpl-{number}") for number in range(2, 7))]
    epochs = [await log.create(stream, keep=True) for stream in streams]
    writers = [log.text_writer(stream, epoch, b"<", b">") for stream, epoch in zip(streams, epochs, strict=True)]
    assert [writer is not None and writer.add([b"x" * 17]) for writer in writers] == [True] * 5 + [False]
    assert await texts_in(log) == b"<%b>" % (b"x" * 17)


async def test_nothing_is_taken_once_the_log_closes(tmp_path: Path) -> None:
    log = DurableStreamLog(SqliteStorage(str(tmp_path / "closed.db")))
    await log.start()
    epoch = await log.create(STREAM, keep=True)
    writer = log.text_writer(STREAM, epoch, b"<", b">")
    assert writer is not None
    await log.close()
    assert log.text_writer(STREAM, epoch, b"<", b">") is None
    with pytest.raises(StoreUnavailable):
        log.append(STREAM, epoch, [Block(b"x")])
    assert not writer.add([b"late"])
