"""What every store of responses promises, and its bounds."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from msgspec import Raw

from unbroken.chat.stream import OwnerId
from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import MemoryResponseStore, ResponseStore, StoredResponse
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_responses import SqliteResponseStore

pytestmark = pytest.mark.anyio


def response(id: str, owner: str = "alice", body: bytes = b"{}", items: tuple[bytes, ...] = ()) -> StoredResponse:
    return StoredResponse(id, owner, tuple(Raw(item) for item in items), body)


class NewStore(Protocol):
    def __call__(self, max_responses: int = 1000, max_bytes: int = 1 << 20) -> ResponseStore: ...


@pytest.fixture(params=["memory", "sqlite"])
async def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NewStore]:
    if request.param == "memory":
        yield MemoryResponseStore
        return
    storage = SqliteStorage(tmp_path / "unbroken.db")
    await storage.start(OwnerId("here"))
    yield partial(SqliteResponseStore, storage)
    await storage.close()


@pytest.fixture
def store(new_store: NewStore) -> ResponseStore:
    return new_store()


async def test_what_is_put_can_be_got(store: ResponseStore) -> None:
    kept = response("resp_1", body=b'{"a":1}', items=(b"{}",))
    store.put(kept)
    assert await store.get("resp_1", "alice") == kept
    assert await store.get("resp_1", "alice") == kept


async def test_what_was_never_put_is_not_there(store: ResponseStore) -> None:
    assert await store.get("resp_1", "alice") is None
    assert not await store.delete("resp_1", "alice")


async def test_only_its_owner_sees_or_deletes_a_response(store: ResponseStore) -> None:
    store.put(response("resp_1", "alice"))
    for stranger in ("bob", ""):
        assert await store.get("resp_1", stranger) is None
        assert not await store.delete("resp_1", stranger)
    assert await store.get("resp_1", "alice") is not None


async def test_what_is_deleted_is_gone(store: ResponseStore) -> None:
    store.put(response("resp_1"))
    store.put(response("resp_2"))
    assert await store.delete("resp_1", "alice")
    assert await store.get("resp_1", "alice") is None
    assert not await store.delete("resp_1", "alice")
    assert await store.get("resp_2", "alice") is not None


async def test_putting_again_replaces(store: ResponseStore) -> None:
    store.put(response("resp_1", body=b"one"))
    store.put(response("resp_1", body=b"two"))
    found = await store.get("resp_1", "alice")
    assert found is not None
    assert found.body == b"two"


async def kept(store: ResponseStore, count: int) -> list[int]:
    return [number for number in range(count) if await store.get(str(number), "alice") is not None]


async def test_the_oldest_goes_first(new_store: NewStore) -> None:
    store = new_store(max_responses=3)
    for number in range(5):
        store.put(response(str(number)))
    assert await kept(store, 5) == [2, 3, 4]


async def test_what_is_asked_for_stays_longer(new_store: NewStore) -> None:
    store = new_store(max_responses=2)
    store.put(response("0"))
    store.put(response("1"))
    await store.get("0", "alice")
    await store.get("1", "bob")
    store.put(response("2"))
    assert await kept(store, 3) == [0, 2]


async def test_bytes_are_bounded_input_included(new_store: NewStore) -> None:
    store = new_store(max_bytes=100)
    for number in range(4):
        store.put(response(str(number), body=b"x" * 20, items=(b"y" * 10, b"z" * 10)))
    assert await kept(store, 4) == [2, 3]


async def test_what_is_larger_than_all_is_not_kept_and_pushes_nothing_out(new_store: NewStore) -> None:
    store = new_store(max_bytes=100)
    store.put(response("0", body=b"x" * 50))
    store.put(response("1", body=b"x" * 101))
    assert await kept(store, 2) == [0]


async def test_room_that_is_given_back_can_be_used_again(new_store: NewStore) -> None:
    store = new_store(max_bytes=100)
    for _ in range(10):
        store.put(response("0", body=b"x" * 60))
        store.put(response("0", body=b"x" * 60))
        assert await store.delete("0", "alice")
    store.put(response("1", body=b"x" * 50))
    store.put(response("2", body=b"x" * 50))
    assert await kept(store, 3) == [1, 2]


async def test_a_response_in_a_file_outlives_its_process_and_goes_with_age(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "unbroken.db")
    clock = [1000.0]
    kept = response("resp_1", items=(b'{"a":1}',))

    await storage.start(OwnerId("here"))
    SqliteResponseStore(storage, max_age=60.0, now=lambda: clock[0]).put(kept)
    await storage.close()

    await storage.start(OwnerId("restarted"))
    store = SqliteResponseStore(storage, max_age=60.0, now=lambda: clock[0])
    clock[0] += 60
    assert await store.get("resp_1", "alice") == kept
    clock[0] += 1
    assert await store.get("resp_1", "alice") is None
    await storage.close()


async def test_what_cannot_be_written_is_not_kept_and_asking_says_why(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "unbroken.db")
    await storage.start(OwnerId("here"))
    store = SqliteResponseStore(storage)
    await storage.close()
    store.put(response("resp_1"))
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("resp_1", "alice")
