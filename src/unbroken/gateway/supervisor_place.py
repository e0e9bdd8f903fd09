"""One place among the workers: the process that fills it, and the next one when that has ended."""

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from unbroken.gateway.journal import Journal
from unbroken.gateway.worker_words import (
    FROM_WORKER,
    Channel,
    FromWorker,
    MetricsTold,
    Questions,
    SettingsTaken,
    TakeSettings,
    TellMetrics,
    ToWorker,
)
from unbroken.settings.tree import Settings

FIRST_RESTART_SECONDS = 0.1
LONGEST_RESTART_SECONDS = 10.0
HEALTHY_SECONDS = 60.0  # a worker that has lived this long begins with a clean record
SETTINGS_SECONDS = 30.0  # for a busy worker to take changed settings
METRICS_SECONDS = 2.0  # for a busy worker to tell its metrics; the others' must not wait for one that hangs
LONGEST_STOP_SECONDS = 20.0  # for a worker to end when its drain is over, or it has hung up

Hear = Callable[["Place", FromWorker], Awaitable[None]]
"""Hears what the worker of a place says, unless it is an answer to the place itself."""

FirstWords = Callable[["Place"], list[ToWorker]]
"""What a worker has to know before it can serve."""


def restart_seconds(deaths: int, chance: float) -> float:
    """Seconds until a worker is started again, doubling, less up to half by `chance` (0 to 1)."""
    whole = min(LONGEST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2.0 ** min(deaths - 1, 16))
    return whole * (1 - chance / 2)


class Place:
    """Keeps one worker running until it is told to stop."""

    def __init__(
        self, number: int, listening: socket.socket, journal: Journal, chance: Callable[[], float], hear: Hear
    ) -> None:
        self.number = number
        self._listening, self._journal, self._chance, self._hear = listening, journal, chance, hear
        self._channel: Channel[FromWorker] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._settings_taken = Questions[SettingsTaken]()
        self._metrics_told = Questions[MetricsTold]()

    async def keep_filled(self, first_words: FirstWords, on_empty: Callable[["Place"], None]) -> None:
        """Runs one worker after the other; each is told `first_words`, and `on_empty` hears when it has ended."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._stopping.is_set():
            started = loop.time()
            try:
                ending = await self._live(first_words)
            finally:
                on_empty(self)
            if self._stopping.is_set():
                return
            deaths = 1 if loop.time() - started >= HEALTHY_SECONDS else deaths + 1
            seconds = restart_seconds(deaths, self._chance())
            self._journal.note(
                "worker", number=self.number, message=f"has ended ({ending}) and is started again in {seconds:.1f} s"
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    def send(self, message: ToWorker) -> None:
        """Says something to the worker, if there is one."""
        if self._channel is not None:
            self._channel.send(message)

    def stop(self, drain_seconds: float) -> None:
        """Has the worker drain, or end at once where it drains already; it is ended by force if it does not."""
        self._stopping.set()
        if self._process is not None:
            _signal(self._process, signal.SIGTERM)
            loop = asyncio.get_running_loop()
            loop.call_later(drain_seconds + LONGEST_STOP_SECONDS, _signal, self._process, signal.SIGKILL)

    async def take(self, settings: Settings) -> str | None:
        """Has the worker take changed settings; gives why it cannot, empty where it can or there is none.

        None is a worker that does not answer in time; it takes them when it comes to it.
        """

        def send(question: int) -> None:
            self.send(TakeSettings(question, settings))

        if not self._channel:
            return ""
        taken = await self._settings_taken.ask(send, SETTINGS_SECONDS)
        return taken.error if taken else None

    async def metrics(self) -> str | None:
        """The worker's metrics; None where there is no worker, or it does not answer in time."""

        def send(question: int) -> None:
            self.send(TellMetrics(question))

        told = await self._metrics_told.ask(send, METRICS_SECONDS) if self._channel else None
        return told.text if told else None

    async def _live(self, first_words: FirstWords) -> str:
        """One worker's life; gives how it ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = self._process = await self._spawn(theirs)
        except OSError as error:  # a machine that has no memory or processes left may have some later
            ours.close()
            return f"could not be started: {error.strerror}"
        try:
            if self._stopping.is_set():
                _signal(process, signal.SIGTERM)
            channel = self._channel = await Channel.open(ours, FROM_WORKER)
            for message in first_words(self):
                channel.send(message)
            self._journal.note("worker", number=self.number, pid=process.pid, message="has been started")
            async for heard in channel.heard():
                match heard:
                    case SettingsTaken():
                        self._settings_taken.hear(heard)
                    case MetricsTold():
                        self._metrics_told.hear(heard)
                    case _:
                        await self._hear(self, heard)
            self._hang_up()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), LONGEST_STOP_SECONDS)  # hanging up is the last that it does
        finally:
            self._hang_up()
            _signal(process, signal.SIGKILL)
            self._process = None
        await process.wait()
        return _ending(process.pid, process.returncode)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.hang_up()
            self._channel = None
        self._settings_taken.give_up()
        self._metrics_told.give_up()

    async def _spawn(self, channel: socket.socket) -> asyncio.subprocess.Process:
        inherited = (self._listening.fileno(), channel.fileno())
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "unbroken.gateway.worker", *map(str, inherited)),
            pass_fds=inherited,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the supervisor, which has the workers drain
        )


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


def _ending(pid: int, code: int | None) -> str:
    how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
    return f"process {pid}: {how}"
