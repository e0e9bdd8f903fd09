"""A changed configuration, asked for by SIGHUP: read, checked, and taken, or refused as a whole."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec

from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import check_address, open_journal
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings

ReadSettings = Callable[[], Awaitable[Settings]]
"""Reads the settings anew; SettingsInvalid where they cannot be used."""


@contextmanager
def reloading(
    journal: Journal, bound: ServerSettings, read_again: ReadSettings, take: Callable[[Settings], Awaitable[None]]
) -> Iterator[None]:
    """Reads the settings anew on each SIGHUP and has `take` take them, one after the other.

    `bound` is what the server was started with: its address stays as it is.
    """
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()

    async def reload_when_wanted() -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                await take(await _read(bound, read_again))
            except SettingsInvalid as error:
                journal.note("reload", message=f"nothing was changed: {error}")

    task = loop.create_task(reload_when_wanted())
    loop.add_signal_handler(signal.SIGHUP, wanted.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()


def note_taken(journal: Journal, bound: ServerSettings, changed: ServerSettings) -> None:
    """Notes that changed settings hold from now on, but for those that only a new start can take."""
    if (changed.host, changed.port) != (bound.host, bound.port):
        journal.note("reload", message="host and port have changed, which needs a restart")
    if changed.workers != bound.workers:
        journal.note("reload", message="the number of workers has changed, which needs a restart")
    journal.note("reload", message="the configuration has been taken")


async def _read(bound: ServerSettings, read_again: ReadSettings) -> Settings:
    changed = await read_again()
    # What it is bound to stays; and without keys it must not be bound to more than loopback.
    check_address(msgspec.structs.replace(changed, server=msgspec.structs.replace(changed.server, host=bound.host)))
    open_journal(changed).close()  # it raises what there is to raise
    return changed
