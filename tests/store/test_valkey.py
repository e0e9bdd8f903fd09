"""Streams on a Valkey or Redis server: what one storage writes, others read, and only its owner appends (D1-D14)."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.appends import append_of
from tests.store.valkey_server import skip_without_server, valkey_url
from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.log import (
    LogError,
    OffsetUnknown,
    StaleEpoch,
    StreamEnded,
    StreamExists,
    StreamTooLong,
    StreamUnknown,
)
from unbroken.store.storage import Append
from unbroken.store.valkey import ValkeyStorage
from unbroken.store.valkey_message import read_news, write_append

pytestmark = pytest.mark.anyio

ONE, TWO = StreamId("chatcmpl-one"), StreamId("chatcmpl-two")
FIRST = Epoch(1)
LONG = 3600.0  # seconds that no test lasts


@pytest.fixture
def url() -> Iterator[str]:
    skip_without_server()
    with valkey_url() as url:
        yield url


@pytest.fixture
def server(url: str) -> Iterator["redis.Redis[bytes]"]:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        yield client


@asynccontextmanager
async def opened(
    url: str, owner: str, *, lease: float = LONG, retention: float = LONG, max_live_bytes: int = 1 << 20
) -> AsyncIterator[ValkeyStorage]:
    storage = ValkeyStorage(url, lease=lease, retention=retention, max_live_bytes=max_live_bytes)
    await storage.start(OwnerId(owner))
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
async def here(url: str) -> AsyncIterator[ValkeyStorage]:
    async with opened(url, "here") as storage:
        yield storage


@pytest.fixture
async def there(url: str) -> AsyncIterator[ValkeyStorage]:
    async with opened(url, "there") as storage:
        yield storage


def blocks(*texts: str) -> list[Block]:
    return [Block(f"data: {text}\n\n".encode()) for text in texts]


def append(
    stream: StreamId,
    first: int,
    *texts: str,
    epoch: int = 1,
    ends: bool = False,
    note: bytes = b"",
    account: bytes = b"",
) -> Append:
    return append_of(stream, Epoch(epoch), Offset(first), blocks(*texts), ends, note, account)


async def commit(storage: ValkeyStorage, *appends: Append) -> dict[StreamId, type[LogError]]:
    return {stream: type(error) for stream, error in (await storage.commit(appends)).items()}


async def test_what_one_process_commits_every_other_reads(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    assert await commit(here, append(ONE, 1, "a", "b")) == {}
    assert await commit(here, append(ONE, 3, "c", ends=True)) == {}
    held = await there.read(ONE, Offset(0))
    assert (held.first, held.blocks, held.has_ended) == (1, blocks("a", "b", "c"), True)
    held = await there.read(ONE, Offset(2))
    assert (held.first, held.blocks, held.has_ended) == (3, blocks("c"), True)
    assert (await there.read(ONE, Offset(3))).blocks == []


async def test_a_stream_cannot_be_read_from_where_it_has_not_come_to(here: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    await commit(here, append(ONE, 1, "a"))
    with pytest.raises(OffsetUnknown):
        await here.read(ONE, Offset(2))


async def test_a_record_comes_back_as_it_was_given(here: ValkeyStorage, there: ValkeyStorage) -> None:
    record = StreamRecord(
        id=ONE,
        key_name="alice",
        dialect="openai-chat",
        body=b'{"n": "\xc3\xa9\x00"}',
        headers={"a": "b"},
        created=7,
        is_streamed=False,
        orphan_grace=None,
        claim="alice/key",
        fingerprint="f",
    )
    assert await here.create(record) is None
    status = await there.status(ONE)
    assert status.record == record
    assert (status.epoch, status.last, status.has_ended, status.is_owned) == (1, 0, False, True)
    assert (status.account, status.watched_until) == (b"", 0.0)


async def test_an_id_is_given_once(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    with pytest.raises(StreamExists):
        await there.create(StreamRecord(id=ONE))


async def test_a_claim_is_had_by_one_stream_until_that_is_forgotten(here: ValkeyStorage, there: ValkeyStorage) -> None:
    assert await here.create(StreamRecord(id=ONE, claim="alice/key")) is None
    status = await there.create(StreamRecord(id=TWO, claim="alice/key"))
    assert status is not None
    assert status.record.id == ONE
    with pytest.raises(StreamUnknown):
        await there.status(TWO)
    await here.forget(ONE)
    assert await there.create(StreamRecord(id=TWO, claim="alice/key")) is None


@pytest.mark.parametrize("unknown", ["status", "notes"])
async def test_nothing_is_known_of_a_stream_that_never_was(here: ValkeyStorage, unknown: str) -> None:
    ask: Callable[[StreamId], object] = getattr(here, unknown)
    with pytest.raises(StreamUnknown):
        await ask(ONE)  # type: ignore[misc]
    with pytest.raises(StreamUnknown):
        await here.read(ONE, Offset(0))
    with pytest.raises(StreamUnknown):
        await here.claim(ONE, only_lapsed=False)
    assert await commit(here, append(ONE, 1, "a")) == {ONE: StreamUnknown}


async def test_a_reader_and_forgetting_make_no_stream_of_an_unknown_one(
    here: ValkeyStorage, server: "redis.Redis[bytes]"
) -> None:
    await here.watch(ONE, 7.0)
    await here.forget(ONE)
    assert server.keys("*one*") == []


async def test_a_former_owner_cannot_append(here: ValkeyStorage, there: ValkeyStorage) -> None:
    """L5."""
    await here.create(StreamRecord(id=ONE))
    await here.create(StreamRecord(id=TWO))
    await commit(here, append(ONE, 1, "a"))
    assert await there.claim(ONE, only_lapsed=False) == (2, 1)
    assert await commit(here, append(ONE, 2, "late"), append(TWO, 1, "b")) == {ONE: StaleEpoch}
    assert await commit(there, append(ONE, 2, "b", epoch=2)) == {}
    assert (await here.read(ONE, Offset(0))).blocks == blocks("a", "b")
    assert (await here.read(TWO, Offset(0))).blocks == blocks("b")


async def test_nothing_follows_the_end(here: ValkeyStorage) -> None:
    """L1."""
    await here.create(StreamRecord(id=ONE))
    await commit(here, append(ONE, 1, "a", ends=True))
    assert await commit(here, append(ONE, 2, "late")) == {ONE: StreamEnded}
    assert (await here.read(ONE, Offset(0))).blocks == blocks("a")


async def test_a_repeated_commit_adds_nothing(here: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    again = [append(ONE, 1, "a", "b", note=b"n", account=b"x"), append(TWO, 1, "a")]
    assert await commit(here, *again) == {TWO: StreamUnknown}
    assert await commit(here, *again) == {TWO: StreamUnknown}
    end = append(ONE, 3, "c", ends=True, note=b"m")
    assert await commit(here, end) == await commit(here, end) == {}
    assert (await here.read(ONE, Offset(0))).blocks == blocks("a", "b", "c")
    assert await here.notes(ONE) == b"nm"


async def test_a_gap_is_refused(here: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    assert await commit(here, append(ONE, 2, "b")) == {ONE: StreamUnknown}
    assert (await here.read(ONE, Offset(0))).blocks == []


async def test_several_appends_of_a_stream_in_one_commit_keep_their_order(here: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    assert await commit(here, append(ONE, 1, "a"), append(ONE, 2, "b"), append(ONE, 3, "c", ends=True)) == {}
    assert (await here.read(ONE, Offset(0))).blocks == blocks("a", "b", "c")


async def test_an_append_may_have_more_blocks_than_a_script_has_places(here: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    texts = [str(n) for n in range(9001)]
    assert await commit(here, append(ONE, 1, *texts)) == {}
    assert (await here.read(ONE, Offset(0))).blocks == blocks(*texts)


async def test_notes_are_gathered_and_the_account_is_replaced(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    assert await there.notes(ONE) == b""
    await commit(here, append(ONE, 1, "a", note=b"\x00one", account=b'{"n": 1}'))
    await commit(here, append(ONE, 2, "b"))
    await commit(here, append(ONE, 3, "c", "d", note=b"two", account=b'{"n": 2}'))
    assert await there.notes(ONE) == b"\x00onetwo"
    assert (await there.status(ONE)).account == b'{"n": 2}'


async def test_notes_and_accounts_need_no_block(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    for bare in (append(ONE, 1, note=b"n"), append(ONE, 1, note=b"n"), append(ONE, 1, account=b"{}")):
        assert await commit(here, bare) == {}
    await commit(here, append(ONE, 1, "a", note=b"m"))
    assert await commit(here, append(ONE, 2, note=b"o")) == {}
    assert await there.notes(ONE) == b"nnmo"
    assert (await there.status(ONE)).account == b"{}"
    await there.claim(ONE, only_lapsed=False)
    assert await commit(here, append(ONE, 2, note=b"late")) == {ONE: StaleEpoch}
    await commit(there, append(ONE, 2, "b", epoch=2, ends=True))
    assert await commit(there, append(ONE, 3, epoch=2, note=b"late")) == {ONE: StreamEnded}


async def test_a_released_stream_can_be_taken_over_by_anybody(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    await here.release(ONE, Epoch(2))
    await there.release(ONE, FIRST)
    assert (await there.status(ONE)).is_owned
    await here.release(ONE, FIRST)
    await here.release(TWO, FIRST)
    assert not (await there.status(ONE)).is_owned
    assert await there.claim(ONE, only_lapsed=True) == (2, 0)
    assert await here.renew() == []


async def test_a_reader_never_moves_back(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    for until in (1000.5, 2000.25, 1500.0):
        await there.watch(ONE, until)
    assert (await here.status(ONE)).watched_until == 2000.25


async def test_live_streams_are_listed_oldest_first(here: ValkeyStorage, there: ValkeyStorage) -> None:
    streams = [StreamId(f"chatcmpl-{n}") for n in range(150)]
    for n, stream in enumerate(streams):
        await (here if n % 2 else there).create(StreamRecord(id=stream, created=n % 7))
    await commit(here, append(streams[3], 1, "a", ends=True))
    await there.forget(streams[5])
    gone = {streams[3], streams[5]}
    assert [status.record.id for status in await here.live()] == [stream for stream in streams if stream not in gone]


async def test_a_stream_is_taken_over_only_when_its_owner_has_gone(url: str, there: ValkeyStorage) -> None:
    """D12."""
    async with opened(url, "here") as here:
        await here.create(StreamRecord(id=ONE))
        await commit(here, append(ONE, 1, "a"))
        assert (await there.status(ONE)).is_owned
        assert await there.claim(ONE, only_lapsed=True) is None
    assert not (await there.status(ONE)).is_owned
    assert await there.claim(ONE, only_lapsed=True) == (2, 1)
    assert (await there.status(ONE)).is_owned


async def test_a_lease_lapses_by_the_servers_clock_unless_it_is_renewed(url: str, there: ValkeyStorage) -> None:
    async with opened(url, "here", lease=0.001) as here:
        await here.create(StreamRecord(id=ONE))
        while (await there.status(ONE)).is_owned:
            pass
        await there.create(StreamRecord(id=TWO))
        assert await there.renew() == []
        assert (await there.status(TWO)).is_owned
        assert await there.claim(ONE, only_lapsed=True) == (2, 0)


async def test_what_is_ours_or_has_ended_is_not_taken_over(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    assert await here.claim(ONE, only_lapsed=True) is None
    await here.create(StreamRecord(id=TWO))
    await commit(here, append(TWO, 1, "a", ends=True))
    assert await there.claim(TWO, only_lapsed=True) is None
    assert await there.claim(TWO, only_lapsed=False) == (2, 1)


async def test_a_former_owner_is_told_once_what_it_has_lost(here: ValkeyStorage, there: ValkeyStorage) -> None:
    await here.create(StreamRecord(id=ONE))
    await here.create(StreamRecord(id=TWO))
    assert await here.renew() == []
    await there.claim(ONE, only_lapsed=False)
    assert await here.renew() == [ONE]
    assert await here.renew() == []
    await here.claim(ONE, only_lapsed=False)
    assert await there.renew() == [ONE]
    await there.claim(ONE, only_lapsed=False)
    assert await here.renew() == [ONE]


async def test_a_live_stream_never_expires_and_an_ended_one_is_gone_after_its_time(
    url: str, server: "redis.Redis[bytes]"
) -> None:
    """D10."""
    async with opened(url, "here", retention=0.05) as here:
        await here.create(StreamRecord(id=ONE, claim="alice/one"))
        await here.create(StreamRecord(id=TWO, claim="alice/two"))
        await commit(here, append(ONE, 1, "a", note=b"n", ends=True), append(TWO, 1, "a", note=b"n"))
        while await here.create(StreamRecord(id=StreamId("again"), claim="alice/one")) is not None:
            pass  # it has the claim as long as it is there
        while server.keys("*{chatcmpl-one}*"):
            pass
        with pytest.raises(StreamUnknown):
            await here.status(ONE)
        of_live = [*server.keys("*{chatcmpl-two}*"), *server.keys("*claim:alice/two")]
        assert len(of_live) == 4
        assert {server.pttl(key) for key in of_live} == {-1}


async def test_everything_of_an_ended_stream_has_the_same_time(
    here: ValkeyStorage, server: "redis.Redis[bytes]"
) -> None:
    await here.create(StreamRecord(id=ONE, claim="alice/one"))
    await commit(here, append(ONE, 1, "a", note=b"n", ends=True))
    keys = [*server.keys("*{chatcmpl-one}*"), *server.keys("*claim:*")]
    assert len(keys) == 4
    assert all(0 < server.pttl(key) <= LONG * 1000 for key in keys)


async def test_a_stream_whose_blocks_the_server_has_dropped_is_unknown(
    here: ValkeyStorage, server: "redis.Redis[bytes]"
) -> None:
    await here.create(StreamRecord(id=ONE))
    await commit(here, append(ONE, 1, "a", ends=True))
    server.delete("unbroken:{chatcmpl-one}:blocks")  # as under a `volatile-` policy
    with pytest.raises(StreamUnknown):
        await here.read(ONE, Offset(0))


async def test_the_bound_counts_streams_that_have_not_ended(url: str, there: ValkeyStorage) -> None:
    """L9."""
    async with opened(url, "here", max_live_bytes=2000) as here:
        await here.create(StreamRecord(id=ONE))
        await commit(there, append(ONE, 1, "a" * 1000, "b" * 1000))
        with pytest.raises(StreamTooLong):
            await here.create(StreamRecord(id=TWO))
        assert await commit(here, append(ONE, 3, "c", ends=True)) == {}
        assert await here.create(StreamRecord(id=TWO)) is None


async def test_ends_and_forgetting_leave_nothing_in_the_count(
    here: ValkeyStorage, server: "redis.Redis[bytes]"
) -> None:
    for stream in (ONE, TWO):
        await here.create(StreamRecord(id=stream, body=b"x" * 100))
        await commit(here, append(stream, 1, "a", "b", note=b"n"))
    await commit(here, append(ONE, 3, "c", ends=True))
    await here.forget(ONE)
    assert int(server.get("unbroken:live-bytes") or 0) > 100
    await here.forget(TWO)
    assert server.get("unbroken:live-bytes") == b"0"
    assert {*server.keys("*")} == {b"unbroken:live-bytes", b"unbroken:owners"}


async def test_two_gateways_with_prefixes_of_their_own_share_a_server(url: str) -> None:
    async with AsyncExitStack() as stack:
        for prefix in ("a:", "b:"):
            storage = ValkeyStorage(url, lease=LONG, retention=LONG, max_live_bytes=1000, prefix=prefix)
            await storage.start(OwnerId("same"))
            stack.push_async_callback(storage.close)
            assert await storage.create(StreamRecord(id=ONE, claim="same")) is None
            assert await commit(storage, append(ONE, 1, prefix)) == {}
            assert len(await storage.live()) == 1


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.binary(max_size=20), st.booleans())
def test_what_followers_are_told_is_what_was_appended(pieces: list[bytes], note: bytes, ends: bool) -> None:
    given_blocks = [Block(piece) for piece in pieces]
    message = write_append(append_of(ONE, Epoch(3), Offset(7), given_blocks, ends, note, b"{}"))
    news = read_news(message)
    assert (news.first, news.blocks, news.has_ended) == (7, given_blocks, ends)
