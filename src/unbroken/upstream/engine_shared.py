"""An engine that another process of ours runs: what is known of it here is what that one tells."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from unbroken.settings.engine import EngineSettings
from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.engine import DEMO_MODEL
from unbroken.upstream.engine_state import EngineAddress, EngineFailed, EnginePhase, EngineState


class EngineView(Protocol):
    """An engine as those who ask it see it, whichever process it is a child of."""

    @property
    def state(self) -> EngineState:
        """Its phase, with a sentence for people."""

    @property
    def address(self) -> EngineAddress | None:
        """Where the engine answers; None while it is not ready."""

    @property
    def context_length(self) -> int | None:
        """Tokens that one conversation may hold; None until the engine was ready once."""

    async def start(self) -> None:
        """Begins to load the model, in the background; another call changes nothing."""

    async def wait_until_ready(self, timeout: float | None = None) -> EngineAddress:
        """The address, once the model is loaded; raises EngineFailed where it will not be."""

    async def stop(self) -> None:
        """Takes it that nobody here asks the engine any more."""


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


def engine_id(upstream: UpstreamSettings) -> EngineId:
    """The engine that an upstream's settings ask for."""
    path = str(DEMO_MODEL) if upstream.path == "demo" else upstream.path
    return EngineId(upstream.name, EngineSettings(path=path, **msgspec.structs.asdict(upstream.engine_options)))


class SharedEngine:
    """One engine that runs elsewhere; `hear` is to be called with whatever is told of it."""

    def __init__(self, engine: EngineId, say: Say) -> None:
        self.id = engine
        self._say = say
        self._is_wanted = False
        self._changed = asyncio.Event()
        self._told = self._stated(EnginePhase.STARTING, "has not been started")

    @property
    def state(self) -> EngineState:
        return self._told.state

    @property
    def address(self) -> EngineAddress | None:
        return self._told.address

    @property
    def context_length(self) -> int | None:
        return self._told.context_length

    def hear(self, told: EngineTold) -> None:
        """Takes what has changed, and wakes those who wait."""
        self._told = told
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            self._say(EngineWanted(self.id))

    async def wait_until_ready(self, timeout: float | None = None) -> EngineAddress:
        try:
            async with asyncio.timeout(timeout):
                while self.address is None:
                    if self.state.phase in (EnginePhase.FAILED, EnginePhase.STOPPED):
                        raise EngineFailed(self.state.sentence)
                    await self._changed.wait()
        except TimeoutError:
            raise EngineFailed(f"{self.state.sentence}; not ready within {timeout:g} s") from None
        return self.address

    async def stop(self) -> None:
        self.hear(self._stated(EnginePhase.STOPPED, "is stopped"))
        if self._is_wanted:
            self._is_wanted = False
            self._say(EngineReleased(self.id))

    def _stated(self, phase: EnginePhase, sentence: str) -> EngineTold:
        return EngineTold(self.id, EngineState(phase, f'engine "{self.id.name}" {sentence}'))


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
