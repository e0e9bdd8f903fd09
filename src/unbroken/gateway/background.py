"""A gateway in this very process, for a chat when no server runs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from unbroken.gateway.app import Gateway
from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import listen
from unbroken.gateway.serve import GatewayServer
from unbroken.gateway.stores import MEMORY
from unbroken.settings.tree import Settings


class _QuietServer(GatewayServer):
    """Leaves signals to whoever runs it."""

    async def serve(self, sockets=None) -> None:  # type: ignore[no-untyped-def]
        await self._serve(sockets)


@asynccontextmanager
async def background_server(settings: Settings) -> AsyncIterator[str]:
    """Serves `settings` on a free port of loopback as long as the context lasts; gives the base URL."""
    async with serve_in_background(settings, Journal(file=os.devnull)) as (_, base_url):
        yield base_url


@asynccontextmanager
async def serve_in_background(settings: Settings, journal: Journal) -> AsyncIterator[tuple[Gateway, str]]:
    """Serves `settings` on a free port of loopback; gives the gateway and its base URL."""
    server_settings = msgspec.structs.replace(settings.server, host="127.0.0.1", port=0)
    listening = listen(server_settings)
    # Nobody comes back to it once this process has ended.
    settings = msgspec.structs.replace(settings, store=msgspec.structs.replace(settings.store, streams=MEMORY))
    gateway = Gateway(settings, journal)
    server = _QuietServer(gateway, server_settings)
    await gateway.start()
    port = listening.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield gateway, f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = server.force_exit = True
        await serving
        await gateway.close()
        listening.close()
        journal.close()
