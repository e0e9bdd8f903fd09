"""Running the gateway as a server: sockets, signals, and the order in which things start and stop."""

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from unbroken.gateway.app import Gateway
from unbroken.gateway.connection import connection_class, connection_limits
from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import check_address, listen, open_journal
from unbroken.gateway.reloading import OnReloaded, ReadSettings, reloading
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings
from unbroken.store.log import LogError

FAREWELL_SECONDS = 1.0  # for the error events of answers that did not finish within the drain
HASTY_SECONDS = 0.2  # for the same, when we are told a second time to stop
CLOSE_SECONDS = 10.0  # for engines and the like to stop
GC_THRESHOLD = (10_000, 20, 20)  # Python's (700, 10, 10) is for programs that make fewer objects
WATCHED_LOGGERS = ("uvicorn.error", "asyncio", "unbroken.store")


class GatewayServer(uvicorn.Server):
    """uvicorn's server with our signals: the first SIGTERM or Ctrl-C drains, another one ends at once."""

    def __init__(
        self, gateway: Gateway, settings: ServerSettings, on_listening: Callable[[], None] = lambda: None
    ) -> None:
        self._connection_class = connection_class(connection_limits(settings), gateway.refused)
        config = uvicorn.Config(
            gateway,
            http=self._connection_class,
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            backlog=4096,
        )
        super().__init__(config)
        self._gateway = gateway
        self._on_listening = on_listening
        #: The signal that ended the server before its answers were done, 0 if none did.
        self.forced_by = 0

    def apply(self, settings: ServerSettings) -> None:
        """Takes changed limits; they hold for the connections that are open, too."""
        self._connection_class.limits = connection_limits(settings)

    def begin_drain(self, signal_number: int = 0) -> None:
        """Takes no more calls; what runs may finish within the drain, then it is ended with an error."""
        if self.should_exit:
            self.force_exit, self.forced_by = True, signal_number
            return
        self.should_exit = True
        self._gateway.is_draining = True
        running, seconds = self._gateway.running, self._gateway.settings.server.drain
        self._gateway.journal.note("draining", running=running, seconds=seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains: in place of uvicorn's, which would cancel what is late rather than let it say so."""
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        connections = self.server_state.connections
        for connection in list(connections):
            connection.shutdown()
        await self._wait_until_gone(self._gateway.settings.server.drain)
        if connections or self._gateway.running:
            was_forced, self.force_exit = self.force_exit, False
            self._gateway.stop_answers()
            await self._gateway.durable.hand_over()
            await self._wait_until_gone(HASTY_SECONDS if was_forced else FAREWELL_SECONDS)
        for connection in list(connections):
            connection.transport.abort()
        while self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=FAREWELL_SECONDS)
            for task in self.server_state.tasks:
                task.cancel()

    async def _wait_until_gone(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        latest = loop.time() + seconds
        while self._is_busy() and not self.force_exit and loop.time() < latest:
            await asyncio.sleep(0.02)

    def _is_busy(self) -> bool:
        return bool(self.server_state.connections) or self._gateway.running > 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals on the loop, where they may touch what the loop owns."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.begin_drain, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


async def serve(
    settings: Settings,
    *,
    read_again: ReadSettings,
    announce: Callable[[Settings, int], None] = lambda settings, port: None,
    on_reloaded: OnReloaded = lambda is_taken, said: None,
) -> int:
    """Serves until it is told to stop; gives the number of the signal that cut the drain short, else 0.

    Args:
        settings: what to begin with.
        read_again: gives the settings anew when SIGHUP asks for it; SettingsInvalid is noted and nothing changes.
        announce: called with the settings and the port once it listens.
        on_reloaded: told how each reload went.

    Raises:
        SettingsInvalid: it may not, or cannot, listen where it was told to, or cannot use an upstream's files.
    """
    check_address(settings)
    listening = listen(settings.server)
    port = listening.getsockname()[1]
    journal = open_journal(settings)
    try:
        gateway = Gateway(settings, journal)
        server = GatewayServer(gateway, settings.server, lambda: announce(settings, port))

        async def take(changed: Settings) -> None:
            await take_settings(server, gateway, changed)

        with reloading(journal, settings, read_again, take, on_reloaded):
            await serve_at(listening, server, gateway)
        journal.note("stopped")
        return server.forced_by
    finally:
        listening.close()
        journal.close()


async def serve_at(listening: socket.socket, server: GatewayServer, gateway: Gateway) -> None:
    """Serves at a socket that is bound until the server is told to stop.

    Raises:
        SettingsInvalid: the store of durable streams cannot be used.
    """
    _allow_open_files(gateway.settings.server.connections)
    gc.collect()
    gc.freeze()  # what is there by now stays; to look at it again and again costs a few per cent of every request
    gc.set_threshold(*GC_THRESHOLD)
    with _told_to(gateway.journal):
        try:
            await gateway.start()
            await server.serve(sockets=[listening])
        except LogError as error:
            raise SettingsInvalid(str(error)) from None
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(gateway.close(), CLOSE_SECONDS)


async def take_settings(server: GatewayServer, gateway: Gateway, changed: Settings) -> None:
    """Has a gateway that serves take changed settings.

    Raises:
        SettingsInvalid: an upstream's file of authorities cannot be used; nothing is changed.
    """
    gateway.apply(changed)
    gateway.journal.reopen(format=changed.log.format, file=changed.log.file)
    server.apply(changed.server)
    _allow_open_files(changed.server.connections)
    await gateway.start()


class _ToJournal(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        error = kind.__name__ if kind else None
        self._journal.note("internal", source=record.name, message=record.getMessage()[:500], error=error)


@contextmanager
def _told_to(journal: Journal) -> Iterator[None]:
    """Whatever the libraries under us have to say is said in the log, not beside it."""
    handler = _ToJournal(journal)
    for name in WATCHED_LOGGERS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in WATCHED_LOGGERS:
            logging.getLogger(name).removeHandler(handler)


def _allow_open_files(connections: int) -> None:
    """Raises the soft limit of open files, which is 1024 as often as not: a stream needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 1000
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
