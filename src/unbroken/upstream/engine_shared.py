"""An engine that another process of ours runs: what is known of it here is what that one tells."""

from collections.abc import Callable

import msgspec

from unbroken.settings.engine import EngineSettings
from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.engine import DEMO_MODEL
from unbroken.upstream.engine_state import EngineAddress, EnginePhase, EngineState
from unbroken.upstream.engine_view import EngineView


class EngineId(msgspec.Struct, frozen=True):
    """Which engine is meant: two of the same name and settings are one."""

    name: str
    settings: EngineSettings


class EngineTold(msgspec.Struct, frozen=True, tag=True):
    """What the process that runs an engine tells of it, at each change."""

    engine: EngineId
    state: EngineState
    address: EngineAddress | None = None
    context_length: int | None = None


class EngineWanted(msgspec.Struct, frozen=True, tag=True):
    """A process has a use for an engine; `EngineReleased` takes it back."""

    engine: EngineId


class EngineReleased(msgspec.Struct, frozen=True, tag=True):
    """A process has no more use for an engine that it wanted."""

    engine: EngineId


Say = Callable[[EngineWanted | EngineReleased], object]


def model_path(path: str) -> str:
    """The file that a `path` of the settings, or of the command line, means."""
    return str(DEMO_MODEL) if path == "demo" else path


def engine_id(upstream: UpstreamSettings) -> EngineId:
    """The engine that an upstream's settings ask for."""
    path = model_path(upstream.path)
    return EngineId(upstream.name, EngineSettings(path=path, **msgspec.structs.asdict(upstream.engine_options)))


class SharedEngine(EngineView):
    """One engine that runs elsewhere; `hear` is to be called with whatever is told of it."""

    def __init__(self, engine: EngineId, say: Say) -> None:
        super().__init__(EngineState(EnginePhase.STARTING, f'engine "{engine.name}" has not been started'))
        self.id = engine
        self._say = say
        self._is_wanted = False

    def hear(self, told: EngineTold) -> None:
        """Takes what has changed, and wakes those who wait."""
        self.state, self.address, self.context_length = told.state, told.address, told.context_length
        self._wake()

    async def start(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            self._say(EngineWanted(self.id))

    async def stop(self) -> None:
        self.hear(EngineTold(self.id, EngineState(EnginePhase.STOPPED, f'engine "{self.id.name}" is stopped')))
        if self._is_wanted:
            self._is_wanted = False
            self._say(EngineReleased(self.id))


class SharedEngines:
    """The engines that a process uses and another one runs; what is asked of that one goes through `say`."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._used: list[SharedEngine] = []
        self._told: dict[EngineId, EngineTold] = {}

    def engine(self, upstream: UpstreamSettings) -> SharedEngine:
        """The engine of an upstream."""
        shared = SharedEngine(engine_id(upstream), self._heed)
        if told := self._told.get(shared.id):
            shared.hear(told)
        self._used.append(shared)
        return shared

    def hear(self, told: EngineTold) -> None:
        """Takes what is told of an engine."""
        self._told[told.engine] = told
        for shared in self._used:
            if shared.id == told.engine:
                shared.hear(told)

    def _heed(self, message: EngineWanted | EngineReleased) -> None:
        if isinstance(message, EngineReleased):  # nothing is kept of what nobody here uses
            self._used = [shared for shared in self._used if shared.state.phase is not EnginePhase.STOPPED]
            if all(shared.id != message.engine for shared in self._used):
                self._told.pop(message.engine, None)
        self._say(message)
