"""Followers of streams on a Valkey or Redis server: in order, each block once, whatever happens to the line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis

from tests.store.appends import append_of
from tests.store.valkey_server import skip_without_server, valkey_url
from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.log import OffsetUnknown, StreamUnknown
from unbroken.store.storage import Stored
from unbroken.store.valkey import ValkeyStorage

pytestmark = pytest.mark.anyio

ONE, TWO = StreamId("chatcmpl-one"), StreamId("chatcmpl-two")


class Reader:
    """What a follower has been told, which must be in order and each block once."""

    def __init__(self, after: int = 0) -> None:
        self.blocks: list[Block] = []
        self.has_ended = False
        self._after = after
        self._told = asyncio.Event()

    def __call__(self, stream: StreamId, news: Stored) -> None:
        assert not self.has_ended
        assert news.blocks or news.has_ended
        assert news.first == self._after + len(self.blocks) + 1
        self.blocks += news.blocks
        self.has_ended = news.has_ended
        self._told.set()

    async def wait_for(self, condition: Callable[["Reader"], bool]) -> None:
        while not condition(self):
            self._told.clear()
            await self._told.wait()

    async def wait_for_blocks(self, number: int) -> None:
        await self.wait_for(lambda reader: len(reader.blocks) >= number)
        assert len(self.blocks) == number


class Writer:
    """The owner of a stream, in another process as it were."""

    def __init__(self, storage: ValkeyStorage) -> None:
        self._storage = storage
        self._last = dict[StreamId, int]()

    async def write(self, stream: StreamId, *texts: str, ends: bool = False) -> None:
        if stream not in self._last:
            await self._storage.create(StreamRecord(id=stream))
        first = self._last.get(stream, 0) + 1
        self._last[stream] = first + len(texts) - 1
        written = append_of(stream, Epoch(1), Offset(first), blocks(*texts), ends)
        assert not await self._storage.commit([written])


def blocks(*texts: str) -> list[Block]:
    return [Block(f"data: {text}\n\n".encode()) for text in texts]


def new_storage(url: str) -> ValkeyStorage:
    return ValkeyStorage(url, lease=3600, retention=3600, max_live_bytes=1 << 20)


@pytest.fixture
def url() -> Iterator[str]:
    skip_without_server()
    with valkey_url() as url:
        yield url


@pytest.fixture
def server(url: str) -> Iterator["redis.Redis[bytes]"]:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        yield client


@pytest.fixture
async def writer(url: str) -> AsyncIterator[Writer]:
    storage = new_storage(url)
    await storage.start(OwnerId("writer"))
    yield Writer(storage)
    await storage.close()


@pytest.fixture
async def storage(url: str) -> AsyncIterator[ValkeyStorage]:
    storage = new_storage(url)
    await storage.start(OwnerId("reader"))
    yield storage
    await storage.close()


async def test_a_follower_hears_what_there_is_and_what_comes(storage: ValkeyStorage, writer: Writer) -> None:
    await writer.write(ONE, "a", "b")
    reader = Reader()
    await storage.follow(ONE, Offset(0), reader)
    assert reader.blocks == blocks("a", "b")
    await writer.write(ONE, "c")
    await reader.wait_for_blocks(3)
    await writer.write(ONE, "d", "e", ends=True)
    await reader.wait_for(lambda reader: reader.has_ended)
    assert reader.blocks == blocks("a", "b", "c", "d", "e")


async def test_a_follower_begins_where_it_says(storage: ValkeyStorage, writer: Writer) -> None:
    await writer.write(ONE, "a", "b", "c")
    behind, at_the_end = Reader(1), Reader(3)
    await storage.follow(ONE, Offset(1), behind)
    await storage.follow(ONE, Offset(3), at_the_end)
    assert (behind.blocks, at_the_end.blocks) == (blocks("b", "c"), [])
    await writer.write(ONE, "d")
    await behind.wait_for_blocks(3)
    await at_the_end.wait_for_blocks(1)


async def test_a_stream_that_has_ended_is_told_at_once(storage: ValkeyStorage, writer: Writer) -> None:
    await writer.write(ONE, "a", ends=True)
    whole, nothing = Reader(), Reader(1)
    (await storage.follow(ONE, Offset(0), whole))()
    (await storage.follow(ONE, Offset(1), nothing))()
    assert (whole.blocks, whole.has_ended) == (blocks("a"), True)
    assert (nothing.blocks, nothing.has_ended) == ([], True)


async def test_what_is_not_there_cannot_be_followed(storage: ValkeyStorage, writer: Writer) -> None:
    with pytest.raises(StreamUnknown):
        await storage.follow(ONE, Offset(0), Reader())
    await writer.write(ONE, "a")
    with pytest.raises(OffsetUnknown):
        await storage.follow(ONE, Offset(2), Reader())


async def test_who_stops_is_told_no_more_and_the_others_go_on(storage: ValkeyStorage, writer: Writer) -> None:
    await writer.write(ONE, "a")
    stopped, other = Reader(), Reader()
    stop = await storage.follow(ONE, Offset(0), stopped)
    await storage.follow(ONE, Offset(0), other)
    stop()
    stop()
    await writer.write(ONE, "b")
    await other.wait_for_blocks(2)
    assert stopped.blocks == blocks("a")


async def test_a_stream_can_be_followed_again_at_once(storage: ValkeyStorage, writer: Writer) -> None:
    await writer.write(ONE, "a")
    for _ in range(20):
        (await storage.follow(ONE, Offset(0), Reader()))()
    reader = Reader()
    await storage.follow(ONE, Offset(0), reader)
    await writer.write(ONE, "b")
    await reader.wait_for_blocks(2)


async def test_a_follower_that_raises_goes_to_the_loop_and_the_others_go_on(
    storage: ValkeyStorage, writer: Writer
) -> None:
    def fail(stream: StreamId, news: Stored) -> None:
        raise ValueError("no")

    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    await writer.write(ONE, "a")
    reader = Reader(1)
    await storage.follow(ONE, Offset(1), fail)
    await storage.follow(ONE, Offset(1), reader)
    await writer.write(ONE, "b")
    await reader.wait_for_blocks(1)
    assert [str(error) for error in raised] == ["no"]
    with pytest.raises(ValueError, match="no"):
        await storage.follow(ONE, Offset(0), fail)


async def test_no_block_is_missed_while_a_follower_begins(storage: ValkeyStorage, writer: Writer) -> None:
    await writer.write(ONE, "0")
    readers = [Reader() for _ in range(20)]

    async def write() -> None:
        for n in range(1, 200):
            await writer.write(ONE, str(n), ends=n == 199)

    async def follow() -> None:
        for reader in readers:
            await storage.follow(ONE, Offset(0), reader)

    await asyncio.gather(write(), follow())
    for reader in readers:
        await reader.wait_for(lambda reader: reader.has_ended)
        assert reader.blocks == blocks(*map(str, range(200)))


async def test_a_lost_line_loses_nothing(storage: ValkeyStorage, writer: Writer, server: "redis.Redis[bytes]") -> None:
    await writer.write(ONE, "a")
    await writer.write(TWO, "a")
    one, two = Reader(), Reader()
    await storage.follow(ONE, Offset(0), one)
    await storage.follow(TWO, Offset(0), two)
    for n in range(2, 12):
        assert server.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await writer.write(ONE, "b")
        await one.wait_for_blocks(n)
    await writer.write(TWO, "b", ends=True)
    await two.wait_for(lambda reader: reader.has_ended)
    assert two.blocks == blocks("a", "b")


async def test_a_forgotten_stream_is_followed_no_more_after_a_lost_line(
    storage: ValkeyStorage, writer: Writer, server: "redis.Redis[bytes]"
) -> None:
    await writer.write(ONE, "a")
    await storage.follow(ONE, Offset(0), Reader())
    await storage.forget(ONE)
    server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    while server.execute_command("PUBSUB", "CHANNELS"):
        await asyncio.sleep(0)
    reader = Reader()
    await writer.write(TWO, "a")
    await storage.follow(TWO, Offset(0), reader)
    await writer.write(TWO, "b")
    await reader.wait_for_blocks(2)


async def test_there_is_one_line_for_all_and_none_when_nothing_is_followed(
    storage: ValkeyStorage, writer: Writer, server: "redis.Redis[bytes]"
) -> None:
    def lines() -> int:
        return len(server.client_list("pubsub"))

    assert lines() == 0
    stops = []
    for stream in (ONE, TWO):
        await writer.write(stream, "a")
        stops += [await storage.follow(stream, Offset(0), Reader()) for _ in range(3)]
    assert lines() == 1
    assert len(server.pubsub_channels()) == 2
    for stop in stops:
        stop()
    while lines():
        await asyncio.sleep(0)
