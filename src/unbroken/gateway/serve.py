"""Running the gateway as a server: sockets, signals, and the order in which things start and stop."""

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import uvicorn

from unbroken.gateway.admission import is_loopback
from unbroken.gateway.app import Gateway
from unbroken.gateway.connection import connection_class, connection_limits
from unbroken.gateway.journal import Journal
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings

FAREWELL_SECONDS = 1.0  # for the error events of answers that did not finish within the drain
HASTY_SECONDS = 0.2  # for the same, when we are told a second time to stop
CLOSE_SECONDS = 10.0  # for engines and the like to stop
GC_THRESHOLD = (10_000, 20, 20)  # Python's (700, 10, 10) is for programs that make fewer objects
WATCHED_LOGGERS = ("uvicorn.error", "asyncio")


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
        running, seconds = len(self._gateway.producers), self._gateway.settings.server.drain
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
        if connections:
            was_forced, self.force_exit = self.force_exit, False
            self._gateway.stop_answers()
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
        while self.server_state.connections and not self.force_exit and loop.time() < latest:
            await asyncio.sleep(0.02)

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
    read_again: Callable[[], Awaitable[Settings]],
    announce: Callable[[Gateway, int], None] = lambda gateway, port: None,
) -> int:
    """Serves until it is told to stop; gives the number of the signal that cut the drain short, else 0.

    Args:
        settings: what to begin with.
        read_again: gives the settings anew when SIGHUP asks for it; SettingsInvalid is noted and nothing changes.
        announce: called with the port once it listens.

    Raises:
        SettingsInvalid: it may not, or cannot, listen where it was told to, or cannot use an upstream's files.
    """
    check_address(settings)
    listening = listen(settings.server)
    port = listening.getsockname()[1]
    journal = open_journal(settings)
    try:
        gateway = Gateway(settings, journal)
        server = GatewayServer(gateway, settings.server, lambda: announce(gateway, port))
        _allow_open_files(settings.server.connections)
        gc.collect()
        gc.freeze()  # what is there by now stays; to look at it again and again costs a few per cent of every request
        gc.set_threshold(*GC_THRESHOLD)
        with _told_to(journal), _reloading(server, gateway, settings, read_again):
            try:
                await gateway.start()
                await server.serve(sockets=[listening])
            finally:
                with suppress(TimeoutError):
                    await asyncio.wait_for(gateway.close(), CLOSE_SECONDS)
        journal.note("stopped")
        return server.forced_by
    finally:
        listening.close()
        journal.close()


def open_journal(settings: Settings) -> Journal:
    """The log where the settings want it.

    Raises:
        SettingsInvalid: the file cannot be written to.
    """
    try:
        return Journal(format=settings.log.format, file=settings.log.file)
    except OSError as error:
        raise SettingsInvalid(f"log.file {settings.log.file}: cannot be written to: {error.strerror}") from None


def check_address(settings: Settings) -> None:
    """Refuses to answer strangers: without a key only this machine is served.

    Raises:
        SettingsInvalid: says how to make a key.
    """
    host = settings.server.host
    try:
        if settings.keys or is_loopback(host):
            return
    except OSError as error:
        raise SettingsInvalid(f"host is {host}, which stands for no address: {error.strerror}") from None
    raise SettingsInvalid(
        f"host is {host}, but no key is configured: anyone who reaches this machine could use it.\n"
        "Make a key, and start again:\n\n"
        '    export UNBROKEN_KEYS_APP="$(openssl rand -hex 24)"\n\n'
        "or name it in unbroken.toml:\n\n"
        '    [keys]\n    app = "env:MY_KEY"\n\n'
        "or serve only this machine, with --host 127.0.0.1."
    )


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that is bound to the configured address.

    Raises:
        SettingsInvalid: the address cannot be had.
    """
    place = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsInvalid(f"cannot listen at {place}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1)  # two can be bound to a port, only one listens; uvicorn sets the real backlog
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        hint = _BIND_HINTS.get(error.errno or 0, "")
        raise SettingsInvalid(f"cannot listen at {place}: {error.strerror or error}{hint}") from None
    return listening


_BIND_HINTS = {
    errno.EADDRINUSE: ". Another server runs there: stop it, or take another port; `--port 0` takes a free one",
    errno.EACCES: ". Ports below 1024 are for root: take a higher one",
    errno.EADDRNOTAVAIL: ". It is no address of this machine",
}


@contextmanager
def _reloading(
    server: GatewayServer, gateway: Gateway, settings: Settings, read_again: Callable[[], Awaitable[Settings]]
) -> Iterator[None]:
    """Takes the configuration anew on each SIGHUP, one after the other."""
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()
    bound = settings.server

    async def reload() -> None:
        changed = await read_again()
        # What it is bound to stays; and without keys it must not be bound to more than loopback.
        check_address(msgspec.structs.replace(changed, server=msgspec.structs.replace(changed.server, host=bound.host)))
        open_journal(changed).close()  # it raises what there is to raise
        gateway.apply(changed)
        gateway.journal.reopen(format=changed.log.format, file=changed.log.file)
        server.apply(changed.server)
        await gateway.start()
        if (changed.server.host, changed.server.port) != (bound.host, bound.port):
            gateway.journal.note("reload", message="host and port have changed, which needs a restart")
        gateway.journal.note("reload", message="the configuration has been taken")

    async def reload_when_wanted() -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                await reload()
            except SettingsInvalid as error:
                gateway.journal.note("reload", message=f"nothing was changed: {error}")

    task = loop.create_task(reload_when_wanted())
    loop.add_signal_handler(signal.SIGHUP, wanted.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()


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
