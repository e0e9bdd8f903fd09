"""The life of a stream: which step may follow which (law 1: one terminal event, and nothing after it)."""

from enum import Enum


class State(Enum):
    """Where a stream stands."""

    ACCEPTED = "accepted"  # nothing of the answer is in the log: every upstream may still be tried
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = object.__hash__  # an enum's own is written in Python; every answer is looked up in the table below

    @property
    def is_terminal(self) -> bool:
        """Whether nothing may follow."""
        return self in (State.FINISHED, State.FAILED, State.CANCELLED)


class Step(Enum):
    """What happens to a stream."""

    CONTENT = "content"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"

    __hash__ = object.__hash__


NEXT = {
    (State.ACCEPTED, Step.CONTENT): State.RUNNING,
    (State.ACCEPTED, Step.FAIL): State.FAILED,
    (State.ACCEPTED, Step.CANCEL): State.CANCELLED,
    (State.RUNNING, Step.CONTENT): State.RUNNING,
    (State.RUNNING, Step.FINISH): State.FINISHED,
    (State.RUNNING, Step.FAIL): State.FAILED,
    (State.RUNNING, Step.CANCEL): State.CANCELLED,
}


class StepNotAllowed(Exception):
    """A step that the table does not know from where the stream stands."""


def next_state(state: State, step: Step) -> State:
    """Where `step` leads from `state`.

    Raises:
        StepNotAllowed: it leads nowhere; the stream's bytes must stay as they are.
    """
    try:
        return NEXT[state, step]
    except KeyError:
        raise StepNotAllowed(f"a stream that is {state.value} cannot {step.value}") from None
