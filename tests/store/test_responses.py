"""What every store of responses promises, and the bounds of the one in memory."""

import pytest
from msgspec import Raw

from unbroken.store.responses import MemoryResponseStore, ResponseStore, StoredResponse


def response(id: str, owner: str = "alice", body: bytes = b"{}", items: tuple[bytes, ...] = ()) -> StoredResponse:
    return StoredResponse(id, owner, tuple(Raw(item) for item in items), body)


@pytest.fixture(params=[MemoryResponseStore])
def store(request: pytest.FixtureRequest) -> ResponseStore:
    return request.param()


def test_what_is_put_can_be_got(store: ResponseStore) -> None:
    kept = response("resp_1", body=b'{"a":1}', items=(b"{}",))
    store.put(kept)
    assert store.get("resp_1", "alice") == kept
    assert store.get("resp_1", "alice") == kept


def test_what_was_never_put_is_not_there(store: ResponseStore) -> None:
    assert store.get("resp_1", "alice") is None
    assert not store.delete("resp_1", "alice")


def test_only_its_owner_sees_or_deletes_a_response(store: ResponseStore) -> None:
    store.put(response("resp_1", "alice"))
    for stranger in ("bob", ""):
        assert store.get("resp_1", stranger) is None
        assert not store.delete("resp_1", stranger)
    assert store.get("resp_1", "alice") is not None


def test_what_is_deleted_is_gone(store: ResponseStore) -> None:
    store.put(response("resp_1"))
    store.put(response("resp_2"))
    assert store.delete("resp_1", "alice")
    assert store.get("resp_1", "alice") is None
    assert not store.delete("resp_1", "alice")
    assert store.get("resp_2", "alice") is not None


def test_putting_again_replaces(store: ResponseStore) -> None:
    store.put(response("resp_1", body=b"one"))
    store.put(response("resp_1", body=b"two"))
    found = store.get("resp_1", "alice")
    assert found is not None
    assert found.body == b"two"


def kept(store: MemoryResponseStore, count: int) -> list[int]:
    return [number for number in range(count) if store.get(str(number), "alice") is not None]


def test_the_oldest_goes_first() -> None:
    store = MemoryResponseStore(max_responses=3)
    for number in range(5):
        store.put(response(str(number)))
    assert len(store) == 3
    assert kept(store, 5) == [2, 3, 4]


def test_what_is_asked_for_stays_longer() -> None:
    store = MemoryResponseStore(max_responses=2)
    store.put(response("0"))
    store.put(response("1"))
    store.get("0", "alice")
    store.get("1", "bob")
    store.put(response("2"))
    assert kept(store, 3) == [0, 2]


def test_bytes_are_bounded_input_included() -> None:
    store = MemoryResponseStore(max_bytes=100)
    for number in range(4):
        store.put(response(str(number), body=b"x" * 20, items=(b"y" * 10, b"z" * 10)))
    assert kept(store, 4) == [2, 3]


def test_what_is_larger_than_all_is_not_kept_and_pushes_nothing_out() -> None:
    store = MemoryResponseStore(max_bytes=100)
    store.put(response("0", body=b"x" * 50))
    store.put(response("1", body=b"x" * 101))
    assert kept(store, 2) == [0]


def test_room_that_is_given_back_can_be_used_again() -> None:
    store = MemoryResponseStore(max_bytes=100)
    for _ in range(10):
        store.put(response("0", body=b"x" * 60))
        store.put(response("0", body=b"x" * 60))
        assert store.delete("0", "alice")
    store.put(response("1", body=b"x" * 50))
    store.put(response("2", body=b"x" * 50))
    assert kept(store, 3) == [1, 2]
