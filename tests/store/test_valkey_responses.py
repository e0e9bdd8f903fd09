"""Responses on a Valkey or Redis server: what one gateway keeps, every other finds."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from msgspec import Raw

from tests.store.valkey_server import own_server, skip_without_server, valkey_url
from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import ResponseStore, StoredResponse
from unbroken.store.valkey import ValkeyStorage
from unbroken.store.valkey_responses import ValkeyResponseStore

pytestmark = pytest.mark.anyio

LONG = 3600.0


@pytest.fixture
def url() -> Iterator[str]:
    skip_without_server()
    with valkey_url() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[ValkeyResponseStore]:
    storage = new_storage(url)
    yield ValkeyResponseStore(storage)
    await storage.close()


@pytest.fixture
async def elsewhere(url: str) -> AsyncIterator[ValkeyResponseStore]:
    storage = new_storage(url)
    yield ValkeyResponseStore(storage)
    await storage.close()


def new_storage(url: str, retention: float = LONG) -> ValkeyStorage:
    return ValkeyStorage(url, lease=LONG, retention=retention, max_live_bytes=1 << 20)


def response(id: str, owner: str = "alice", body: bytes = b"{}", items: tuple[bytes, ...] = ()) -> StoredResponse:
    return StoredResponse(id, owner, tuple(Raw(item) for item in items), body)


async def wait_for(store: ResponseStore, id: str) -> StoredResponse:
    while (found := await store.get(id, "alice")) is None:
        await asyncio.sleep(0)
    return found


async def test_what_one_keeps_all_find(store: ValkeyResponseStore, elsewhere: ValkeyResponseStore) -> None:
    kept = response("resp_1", body=b'{"a":"\xc3\xa9"}', items=(b"{}", b'{"b":1}'))
    store.put(kept)
    assert await store.get("resp_1", "alice") == kept
    assert await wait_for(elsewhere, "resp_1") == kept
    assert await store.get("resp_2", "alice") is None


async def test_only_its_owner_sees_or_deletes_a_response(
    store: ValkeyResponseStore, elsewhere: ValkeyResponseStore
) -> None:
    store.put(response("resp_1"))
    assert await store.get("resp_1", "bob") is None
    assert not await store.delete("resp_1", "bob")
    await wait_for(elsewhere, "resp_1")
    assert await elsewhere.get("resp_1", "bob") is None
    assert not await elsewhere.delete("resp_1", "bob")
    assert await elsewhere.delete("resp_1", "alice")
    assert await elsewhere.get("resp_1", "alice") is None
    assert not await elsewhere.delete("resp_1", "alice")


async def test_what_is_deleted_at_once_does_not_come_back(
    store: ValkeyResponseStore, elsewhere: ValkeyResponseStore
) -> None:
    for n in range(20):
        store.put(response(f"resp_{n}"))
    assert all([await store.delete(f"resp_{n}", "alice") for n in range(20)])
    store.put(response("last"))
    await wait_for(elsewhere, "last")
    assert [await elsewhere.get(f"resp_{n}", "alice") for n in range(20)] == [None] * 20


async def test_what_waits_is_written_before_it_closes(url: str, elsewhere: ValkeyResponseStore) -> None:
    storage = new_storage(url)
    store = ValkeyResponseStore(storage)
    for n in range(20):
        store.put(response(f"resp_{n}"))
    await storage.close()
    assert all([await elsewhere.get(f"resp_{n}", "alice") for n in range(20)])


async def test_a_response_is_kept_for_its_time(url: str) -> None:
    storage = new_storage(url, retention=0.02)
    store = ValkeyResponseStore(storage)
    store.put(response("resp_1"))
    await wait_for(store, "resp_1")
    while await store.get("resp_1", "alice") is not None:
        await asyncio.sleep(0)
    await storage.close()
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as server:
        assert server.keys("*") == []


async def test_one_that_is_too_long_is_not_kept(url: str) -> None:
    """L9."""
    storage = new_storage(url)
    store = ValkeyResponseStore(storage, max_bytes=10)
    store.put(response("resp_1", body=b"x" * 11))
    store.put(response("resp_2", body=b"x" * 10))
    assert await store.get("resp_1", "alice") is None
    assert await store.get("resp_2", "alice") is not None
    await storage.close()


async def test_what_cannot_be_written_waits_within_its_bound_until_the_server_is_back() -> None:
    """L9, D13."""
    skip_without_server()
    with own_server() as server:
        storage = new_storage(server.url)
        store = ValkeyResponseStore(storage, max_waiting=250)
        server.kill()
        for n in range(3):
            store.put(response(f"resp_{n}", body=b"x" * 100))
        with pytest.raises(StoreUnavailable):
            await store.get("resp_0", "alice")
        assert await store.get("resp_2", "alice") is not None
        server.start()
        await storage.close()
        storage = new_storage(server.url)
        again = ValkeyResponseStore(storage)
        assert [await again.get(f"resp_{n}", "alice") is not None for n in range(3)] == [False, True, True]
        await storage.close()
