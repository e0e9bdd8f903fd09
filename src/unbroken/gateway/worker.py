"""One of several processes that serve the same socket: `python -m unbroken.gateway.worker LISTENING CHANNEL`.

Both are numbers of inherited file descriptors. When the channel ends the supervisor is gone: running answers may
finish, then the process ends.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import assert_never

import msgspec
import uvloop

from unbroken.gateway.app import Gateway
from unbroken.gateway.listening import open_journal
from unbroken.gateway.serve import GatewayServer, serve_at, take_settings
from unbroken.gateway.worker_metrics import of_all_workers
from unbroken.gateway.worker_words import (
    TO_WORKER,
    AllMetrics,
    AskAllMetrics,
    Begin,
    Channel,
    MetricsTold,
    Questions,
    Refuses,
    Serves,
    SettingsTaken,
    TakeSettings,
    TellMetrics,
    ToWorker,
)
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import Settings
from unbroken.upstream.engine_child import HTTP_THREADS
from unbroken.upstream.engine_shared import EngineTold, SharedEngines

ALL_METRICS_SECONDS = 5.0  # longer than the supervisor waits for any worker


def main() -> None:
    """Serves until the supervisor says so, or is gone."""
    # A terminal that hangs up, or whoever means all of us, means the supervisor, which reads the configuration anew.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    listening, channel = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_run(listening, channel)))


def with_fair_pools(settings: Settings, workers: int) -> Settings:
    """The settings with so few idle connections to each engine that those of all workers leave half of it free.

    An engine spends a thread on each open connection: idle ones would keep another worker's request waiting.
    """
    most = max(1, HTTP_THREADS // 2 // workers)
    upstreams = (
        msgspec.structs.replace(upstream, idle_connections=min(upstream.idle_connections, most))
        if upstream.engine
        else upstream
        for upstream in settings.upstream
    )
    return msgspec.structs.replace(settings, upstream=tuple(upstreams))


async def _run(listening: socket.socket, end: socket.socket) -> int:
    """Gives the exit code."""
    channel = await Channel.open(end, TO_WORKER)
    heard = channel.heard()
    begin = await anext(heard, None)
    if not isinstance(begin, Begin):
        return 0
    try:
        return await _serve(listening, begin, channel, heard)
    except SettingsInvalid as error:
        channel.send(Refuses(str(error)))
        return 1
    finally:
        await channel.close()


async def _serve(
    listening: socket.socket, begin: Begin, channel: Channel[ToWorker], heard: AsyncIterator[ToWorker]
) -> int:
    engines = SharedEngines(channel.send)
    settings = with_fair_pools(begin.settings, begin.workers)
    journal = open_journal(settings, worker=begin.worker)
    try:
        gateway = Gateway(settings, journal, new_engine=engines.engine)
        server = GatewayServer(gateway, settings.server, lambda: worker.begin(heard))
        worker = _Worker(begin, channel, server, gateway, engines)
        try:
            await serve_at(listening, server, gateway)
        finally:
            worker.end()
        return 128 + server.forced_by if server.forced_by else 0
    finally:
        journal.close()


class _Worker:
    """Does what the supervisor says."""

    def __init__(
        self,
        begin: Begin,
        channel: Channel[ToWorker],
        server: GatewayServer,
        gateway: Gateway,
        engines: SharedEngines,
    ) -> None:
        self._number, self._workers = begin.worker, begin.workers
        self._channel, self._server, self._gateway, self._engines = channel, server, gateway, engines
        self._metrics = Questions[AllMetrics]()
        self._obeying: asyncio.Task[None] | None = None
        gateway.metrics.of_all_workers = self._all_metrics

    def begin(self, heard: AsyncIterator[ToWorker]) -> None:
        """Says that it serves, and obeys from now on."""
        self._channel.send(Serves())
        self._obeying = asyncio.create_task(self._obey(heard))
        self._obeying.add_done_callback(self._lose_supervisor)

    def end(self) -> None:
        """Obeys no more."""
        if self._obeying is not None:
            self._obeying.cancel()

    async def _obey(self, heard: AsyncIterator[ToWorker]) -> None:
        async for message in heard:
            await self._do(message)

    def _lose_supervisor(self, obeying: asyncio.Task[None]) -> None:
        """Ends when the running answers have ended: nobody is there any more to say so."""
        if not obeying.cancelled() and not self._server.should_exit:
            self._gateway.journal.note("worker", message="the supervisor is gone")
            self._server.begin_drain()

    async def _do(self, message: ToWorker) -> None:
        match message:
            case EngineTold():
                self._engines.hear(message)
            case TakeSettings(question, settings):
                self._channel.send(SettingsTaken(question, await self._take(settings)))
            case TellMetrics(question):
                self._channel.send(MetricsTold(question, self._gateway.metrics.render().decode()))
            case AllMetrics():
                self._metrics.hear(message)
            case Begin():
                raise AssertionError("a worker begins once")
            case _:
                assert_never(message)

    async def _take(self, settings: Settings) -> str:
        """Why the settings cannot be taken, empty if they have been."""
        try:
            await take_settings(self._server, self._gateway, with_fair_pools(settings, self._workers))
        except SettingsInvalid as error:
            return str(error)
        return ""

    async def _all_metrics(self) -> bytes:
        def send(question: int) -> None:
            self._channel.send(AskAllMetrics(question))

        answer = await self._metrics.ask(send, ALL_METRICS_SECONDS)
        text = answer.text if answer else of_all_workers({self._number: self._gateway.metrics.render().decode()})
        return text.encode()


if __name__ == "__main__":
    main()
