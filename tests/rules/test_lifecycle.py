"""The life of a stream: every path ends in one terminal state, and nothing follows it (L1)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.rules.lifecycle import NEXT, State, Step, StepNotAllowed, next_state

TERMINALS = {State.FINISHED, State.FAILED, State.CANCELLED}


def test_the_terminal_states_are_those_that_are_called_so() -> None:
    assert {state for state in State if state.is_terminal} == TERMINALS


@pytest.mark.parametrize(("state", "step"), list(itertools.product(TERMINALS, Step)))
def test_no_step_leaves_a_terminal_state(state: State, step: Step) -> None:
    with pytest.raises(StepNotAllowed, match=f"{state.value} cannot {step.value}"):
        next_state(state, step)


def test_nothing_finishes_that_has_not_begun() -> None:
    with pytest.raises(StepNotAllowed):
        next_state(State.ACCEPTED, Step.FINISH)


@pytest.mark.parametrize("state", [state for state in State if state not in TERMINALS])
def test_a_stream_can_always_be_ended_with_an_error_or_a_cancel(state: State) -> None:
    assert next_state(state, Step.FAIL) is State.FAILED
    assert next_state(state, Step.CANCEL) is State.CANCELLED


def test_every_state_and_step_is_used() -> None:
    assert {state for state, _ in NEXT} | set(NEXT.values()) == set(State)
    assert {step for _, step in NEXT} == set(Step)


@given(st.lists(st.sampled_from(list(Step))))
def test_any_steps_end_in_one_terminal_at_the_most(steps: list[Step]) -> None:
    state, endings = State.ACCEPTED, 0
    for step in steps:
        try:
            state = next_state(state, step)
        except StepNotAllowed:
            continue
        assert not endings, "a step after the end"
        endings += state.is_terminal
    assert endings == int(state.is_terminal)
