"""How long a worker that has died is waited with."""

from hypothesis import given
from hypothesis import strategies as st

from unbroken.gateway.supervisor_place import FIRST_RESTART_SECONDS, LONGEST_RESTART_SECONDS, restart_seconds


def test_the_wait_doubles_up_to_its_bound() -> None:
    waits = [restart_seconds(deaths, chance=0) for deaths in range(1, 10)]
    assert waits[:3] == [FIRST_RESTART_SECONDS, 2 * FIRST_RESTART_SECONDS, 4 * FIRST_RESTART_SECONDS]
    assert waits[-1] == LONGEST_RESTART_SECONDS


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_it_is_always_tried_again_within_the_bound(deaths: int, chance: float) -> None:
    assert FIRST_RESTART_SECONDS / 2 <= restart_seconds(deaths, chance) <= LONGEST_RESTART_SECONDS
