"""Several processes that serve one socket: started, told what changes, kept running, and ended together."""

import asyncio
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import assert_never

from unbroken.gateway.engine_share import EngineShare
from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import check_address, listen, open_journal
from unbroken.gateway.reloading import OnReloaded, ReadSettings, reloading
from unbroken.gateway.supervisor_place import Place
from unbroken.gateway.worker_metrics import of_all_workers
from unbroken.gateway.worker_words import (
    AllMetrics,
    AskAllMetrics,
    Begin,
    FromWorker,
    MetricsTold,
    Refuses,
    Serves,
    SettingsTaken,
    ToWorker,
)
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import Settings
from unbroken.upstream.engine_shared import EngineReleased, EngineTold, EngineWanted

ENGINES_SECONDS = 10.0  # for the engines to stop
BACKLOG = 4096  # connections that wait to be taken, also while no worker lives


async def supervise(
    settings: Settings,
    *,
    read_again: ReadSettings,
    announce: Callable[[Settings, int], None] = lambda settings, port: None,
    on_reloaded: OnReloaded = lambda is_taken, said: None,
    chance: Callable[[], float] = random.random,
) -> int:
    """Has `server.workers` processes serve until it is told to stop; otherwise the same as `serve`.

    Raises:
        SettingsInvalid: it may not, or cannot, listen where it was told to, or cannot use an upstream's files.
    """
    check_address(settings)
    listening = listen(settings.server)
    port = listening.getsockname()[1]
    journal = open_journal(settings)
    try:
        supervisor = Supervisor(settings, listening, journal, chance, lambda: announce(settings, port))
        taking = reloading(journal, settings, read_again, supervisor.take, on_reloaded)
        with taking, _told_to_stop(supervisor.stop):
            await supervisor.run()
        journal.note("stopped")
        return supervisor.forced_by
    finally:
        listening.close()
        journal.close()


class Supervisor:
    """The workers and what they share: the socket, the engines, the settings."""

    def __init__(
        self,
        settings: Settings,
        listening: socket.socket,
        journal: Journal,
        chance: Callable[[], float],
        on_serving: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._journal = journal
        self._on_serving = on_serving
        self._has_served = self._is_stopping = False
        self._refusal = ""
        self._engines = EngineShare(journal, self._tell)
        self._places = [
            Place(number, listening, journal, chance, self._hear) for number in range(1, settings.server.workers + 1)
        ]
        self._gathering: set[asyncio.Task[None]] = set()
        #: The signal that ended the workers before their answers were done, 0 if none did.
        self.forced_by = 0

    async def run(self) -> None:
        """Keeps the workers running until it is told to stop.

        Raises:
            SettingsInvalid: the first of them could not serve with the settings.
        """
        self._listening.listen(BACKLOG)
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in self._places:
                    tasks.create_task(place.keep_filled(self._first_words, self._on_empty))
                await self._engines.configure(self._settings)
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._engines.close(), ENGINES_SECONDS)
        if self._refusal:
            raise SettingsInvalid(self._refusal)

    def stop(self, signal_number: int = 0) -> None:
        """Has all workers drain; another call ends them at once."""
        if self._is_stopping:
            self.forced_by = signal_number
        self._is_stopping = True
        self._listening.close()  # the workers have it, each until it drains: then nobody is let in any more
        for place in self._places:
            place.stop(0.0 if self.forced_by else self._settings.server.drain)

    async def take(self, changed: Settings) -> None:
        """Has all workers take changed settings.

        Raises:
            SettingsInvalid: they cannot, and go on with those that they have.
        """
        former, self._settings = self._settings, changed  # a worker that begins meanwhile begins with them
        errors = await asyncio.gather(*(place.take(changed) for place in self._places))
        if refusal := next(filter(None, errors), ""):
            self._settings = former
            raise SettingsInvalid(refusal)
        for place, error in zip(self._places, errors, strict=True):
            if error is None:
                found = f"worker {place.number} has not said whether it took the configuration"
                self._journal.note("reload", message=f"{found}: it does when it comes to it")
        self._journal.reopen(format=changed.log.format, file=changed.log.file)
        await self._engines.configure(changed)

    def _first_words(self, place: Place) -> list[ToWorker]:
        return [Begin(place.number, len(self._places), self._settings), *self._engines.told()]

    def _tell(self, told: EngineTold) -> None:
        for place in self._places:
            place.send(told)

    def _on_empty(self, place: Place) -> None:
        self._engines.release_all(place.number)

    async def _hear(self, place: Place, message: FromWorker) -> None:
        match message:
            case Serves():
                if not self._has_served:
                    self._has_served = True
                    self._on_serving()
            case Refuses(reason):
                self._heed_refusal(reason)
            case EngineWanted(engine):
                await self._engines.want(place.number, engine)
            case EngineReleased(engine):
                self._engines.release(place.number, engine)
            case AskAllMetrics(question):
                task = asyncio.create_task(self._gather_metrics(place, question))
                self._gathering.add(task)
                task.add_done_callback(self._gathering.discard)
            case SettingsTaken() | MetricsTold():
                raise AssertionError("the place hears answers itself")
            case _:
                assert_never(message)

    def _heed_refusal(self, reason: str) -> None:
        """Settings with which nobody has served yet are the user's to correct; later a worker is tried again."""
        if self._has_served:
            self._journal.note("worker", message=reason)
        elif not self._refusal:
            self._refusal = reason
            self.stop()

    async def _gather_metrics(self, asker: Place, question: int) -> None:
        texts = await asyncio.gather(*(place.metrics() for place in self._places))
        told = {place.number: text for place, text in zip(self._places, texts, strict=True) if text is not None}
        asker.send(AllMetrics(question, of_all_workers(told)))


@contextmanager
def _told_to_stop(stop: Callable[[int], None]) -> Iterator[None]:
    """Hears SIGTERM and Ctrl-C for all workers."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
