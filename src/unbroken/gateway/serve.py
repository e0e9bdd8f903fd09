"""Running the gateway as a server: sockets, signals, and the order in which things start and stop."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn

from unbroken.gateway.admission import is_loopback
from unbroken.gateway.app import Gateway
from unbroken.gateway.connection import ConnectionLimits, connection_class
from unbroken.gateway.journal import Journal
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings

FAREWELL_SECONDS = 1.0  # for the error events of answers that did not finish within the drain


class GatewayServer(uvicorn.Server):
    """uvicorn's server with our signals: the first SIGTERM or Ctrl-C drains, another one ends at once."""

    def __init__(self, gateway: Gateway, settings: ServerSettings) -> None:
        limits = ConnectionLimits(
            settings.header_limit, settings.header_timeout, settings.body_timeout, settings.connections
        )
        config = uvicorn.Config(
            gateway,
            http=connection_class(limits),
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            backlog=4096,
            timeout_keep_alive=int(settings.idle_timeout),
            timeout_graceful_shutdown=int(settings.drain + FAREWELL_SECONDS) + 1,
        )
        super().__init__(config)
        self._gateway = gateway
        self._drain = settings.drain

    def begin_drain(self) -> None:
        """Takes no more calls; what runs may finish within the drain, then it is ended with an error."""
        if self.should_exit:
            self._gateway.stop_answers()
            self.force_exit = True
            return
        self.should_exit = True
        self._gateway.is_draining = True
        running = len(self._gateway.producers)
        self._gateway.journal.note("draining", running=running, seconds=self._drain)
        asyncio.get_running_loop().call_later(self._drain, self._gateway.stop_answers)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals on the loop, where they may touch what the loop owns."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.begin_drain)
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
) -> None:
    """Serves until it is told to stop.

    Args:
        settings: what to begin with.
        read_again: gives the settings anew when SIGHUP asks for it; what it raises is noted and nothing changes.
        announce: called with the port once it listens.

    Raises:
        SettingsInvalid: it may not, or cannot, listen where it was told to.
    """
    check_address(settings)
    listening = listen(settings.server)
    journal = Journal(format=settings.log.format, file=settings.log.file)
    gateway = Gateway(settings, journal)
    server = GatewayServer(gateway, settings.server)

    async def reload() -> None:
        try:
            changed = await read_again()
            check_address(changed)
            gateway.apply(changed)
        except SettingsInvalid as error:
            journal.note("reload", message=f"nothing was changed: {error}")
            return
        if changed.server != settings.server:
            journal.note("reload", message="[server] has changed: host, port and connection limits need a restart")
        await gateway.start()
        journal.note("reload", message="the configuration has been taken")

    reloads: set[asyncio.Task[None]] = set()

    def begin_reload() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, begin_reload)
    try:
        await gateway.start()
        announce(gateway, listening.getsockname()[1])
        await server.serve(sockets=[listening])
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        await gateway.close()
        listening.close()
        journal.close()


def check_address(settings: Settings) -> None:
    """Refuses to answer strangers: without a key only this machine is served.

    Raises:
        SettingsInvalid: says how to make a key.
    """
    if settings.keys or is_loopback(settings.server.host):
        return
    raise SettingsInvalid(
        f"host is {settings.server.host}, but no key is configured: anyone who reaches this machine could use it.\n"
        "Make a key and name it in the configuration:\n\n"
        '    export UNBROKEN_KEYS_APP="$(openssl rand -hex 24)"\n\n'
        'or in unbroken.toml:  [keys]  app = "env:UNBROKEN_KEY_APP".  Or bind to 127.0.0.1.'
    )


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens at the configured address.

    Raises:
        SettingsInvalid: the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        hint = "; is another server running there? `--port 0` takes a free one" if error.errno == 98 else ""
        raise SettingsInvalid(
            f"cannot listen at {settings.host}:{settings.port}: {error.strerror or error}{hint}"
        ) from None
    return listening
