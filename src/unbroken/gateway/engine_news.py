"""What the log says of an engine: each phase that it enters, and how far its model is loaded."""

from unbroken.gateway.journal import Journal
from unbroken.upstream.engine_state import EnginePhase, EngineState

STEP = 0.25  # of the model between two lines while it loads


class EngineNews:
    """Notes an engine's states; called with each of them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._phase: EnginePhase | None = None
        self._next = 0.0

    def __call__(self, state: EngineState) -> None:
        """Notes a state that says something new."""
        if state.phase is not self._phase:
            self._phase, self._next = state.phase, 0.0
        elif state.phase is not EnginePhase.LOADING or (state.progress or 0.0) < self._next:
            return
        self._next = (state.progress or 0.0) + STEP
        self._journal.note("engine", phase=state.phase.value, message=state.sentence)
