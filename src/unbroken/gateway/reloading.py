"""A changed configuration, asked for by SIGHUP: read, checked, and taken, or refused as a whole."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec

from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import check_address, open_journal
from unbroken.settings.catalogue import sections, settings_of
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings

ReadSettings = Callable[[], Awaitable[Settings]]
"""Reads the settings anew; SettingsInvalid where they cannot be used."""

OnReloaded = Callable[[bool, str], None]
"""Hears whether changed settings have been taken, and what is to be said about it; empty if nothing is."""


@contextmanager
def reloading(
    journal: Journal,
    begun: Settings,
    read_again: ReadSettings,
    take: Callable[[Settings], Awaitable[None]],
    on_reloaded: OnReloaded,
) -> Iterator[None]:
    """Reads the settings anew on each SIGHUP and has `take` take them, one after the other.

    `begun` is what the server was started with: its address, for one, stays as it is.
    """
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()

    async def reload_when_wanted() -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                changed = await _read(begun.server, read_again)
                await take(changed)
            except SettingsInvalid as error:
                journal.note("reload", message=f"nothing was changed: {error}")
                on_reloaded(False, str(error))
                continue
            except Exception as bug:  # the next reload must be heard of
                journal.note("error", error=type(bug).__name__, message=f"a reload has failed: {bug}")
                on_reloaded(False, f"{type(bug).__name__}: {bug}")
                continue
            if left := waiting_for_a_restart(begun, changed):
                journal.note("reload", message=left)
            journal.note("reload", message="the configuration has been taken")
            on_reloaded(True, left)

    task = loop.create_task(reload_when_wanted())
    loop.add_signal_handler(signal.SIGHUP, wanted.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()


def waiting_for_a_restart(begun: Settings, changed: Settings) -> str:
    """Which of the changed settings only a new start can take, as a sentence; empty if none."""
    names = [
        f"{section}.{setting.name}"
        for section, table in sections()
        for setting in settings_of(table)
        if setting.needs_restart
        and getattr(getattr(begun, section), setting.name) != getattr(getattr(changed, section), setting.name)
    ]
    return f"{', '.join(names)} {'have' if len(names) > 1 else 'has'} changed, which needs a restart" if names else ""


async def _read(bound: ServerSettings, read_again: ReadSettings) -> Settings:
    changed = await read_again()
    # What it is bound to stays; and without keys it must not be bound to more than loopback.
    check_address(msgspec.structs.replace(changed, server=msgspec.structs.replace(changed.server, host=bound.host)))
    open_journal(changed).close()  # it raises what there is to raise
    return changed
