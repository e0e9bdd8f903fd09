"""The health of a store: what is told of all that fails in it (D13)."""

import pytest

from unbroken.store.health import StoreHealth
from unbroken.store.log import StoreUnavailable, StreamUnknown

FULL, GONE = StoreUnavailable("the disk is full"), StoreUnavailable("the disk is gone")


class Watched(StoreHealth):
    """A health whose changes are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[StoreUnavailable | None] = []
        self.on_change = self.told.append


def test_store_that_goes_and_comes_back_is_told_once_each() -> None:
    health = Watched()
    health.renewed()
    health.failed(FULL)
    health.failed(GONE)
    health.renewed()
    assert health.told == [FULL]
    health.renewed()
    health.renewed()
    assert health.told == [FULL, None]
    health.failed(GONE)
    assert health.told == [FULL, None, GONE]


def test_lease_that_still_fits_on_a_full_disk_does_not_make_it_well() -> None:
    health = Watched()
    for _ in range(5):
        health.failed(FULL)
        health.renewed()
    assert health.told == [FULL]
    health.renewed()
    assert health.told == [FULL, None]


def test_refusal_of_one_stream_is_no_failure_of_the_store() -> None:
    health = Watched()
    with pytest.raises(StreamUnknown), health:
        raise StreamUnknown("there is none")
    with pytest.raises(StoreUnavailable), health:
        raise FULL
    assert health.told == [FULL]


def test_what_fails_because_the_store_is_closed_is_not_told() -> None:
    health = Watched()
    health.close()
    health.failed(GONE)
    assert not health.told
