"""The engines that several workers use: each runs once, beside the workers, and all are told how it fares."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from unbroken.gateway.engine_news import EngineNews
from unbroken.gateway.journal import Journal
from unbroken.settings.tree import Settings
from unbroken.upstream.engine import Engine
from unbroken.upstream.engine_shared import EngineId, EngineTold, engine_id
from unbroken.upstream.engine_state import EngineState


@dataclass(slots=True)
class _Shared:
    engine: Engine
    users: Counter[int] = field(default_factory=Counter)
    """How often each worker wants it; more than once while a reload exchanges its upstream."""


class EngineShare:
    """Runs each engine as long as the settings name it or a worker uses it; `tell` is to tell every worker."""

    def __init__(self, journal: Journal, tell: Callable[[EngineTold], None]) -> None:
        self._journal = journal
        self._tell = tell
        self._configured: set[EngineId] = set()
        self._shared: dict[EngineId, _Shared] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def configure(self, settings: Settings) -> None:
        """Starts the engines that the settings name; others end when no worker uses them any more."""
        self._configured = {engine_id(upstream) for upstream in settings.upstream if upstream.engine}
        for engine in self._configured:
            await self._run(engine)
        for engine in list(self._shared):
            self._stop_if_idle(engine)

    async def want(self, worker: int, engine: EngineId) -> None:
        """A worker has a use for the engine."""
        shared = await self._run(engine)
        shared.users[worker] += 1
        self._tell(_told(engine, shared.engine))

    def release(self, worker: int, engine: EngineId) -> None:
        """A worker has one use less for the engine."""
        if shared := self._shared.get(engine):
            shared.users[worker] -= 1
            self._stop_if_idle(engine)

    def release_all(self, worker: int) -> None:
        """A worker has ended."""
        for engine, shared in list(self._shared.items()):
            shared.users.pop(worker, None)
            self._stop_if_idle(engine)

    def told(self) -> Iterator[EngineTold]:
        """What is known of each engine now."""
        for engine, shared in self._shared.items():
            yield _told(engine, shared.engine)

    async def close(self) -> None:
        """Stops all engines."""
        self._configured = set()
        for engine, shared in list(self._shared.items()):
            shared.users.clear()
            self._stop_if_idle(engine)
        await asyncio.gather(*self._stopping)

    async def _run(self, engine: EngineId) -> _Shared:
        if (shared := self._shared.get(engine)) is None:
            shared = self._shared[engine] = _Shared(self._new_engine(engine))
            await shared.engine.start()
        return shared

    def _new_engine(self, wanted: EngineId) -> Engine:
        note = EngineNews(self._journal)

        def on_state(state: EngineState) -> None:
            note(state)
            if (shared := self._shared.get(wanted)) is not None and shared.engine is engine:
                self._tell(_told(wanted, engine))

        engine = Engine(wanted.name, wanted.settings, on_state=on_state)
        return engine

    def _stop_if_idle(self, engine: EngineId) -> None:
        if engine in self._configured or self._shared[engine].users.total():
            return
        task = asyncio.create_task(self._shared.pop(engine).engine.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


def _told(engine: EngineId, running: Engine) -> EngineTold:
    return EngineTold(engine, running.state, running.address, running.context_length)
