"""Which stores the settings ask for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import Settings
from unbroken.store.durable import DurableStreamLog
from unbroken.store.heard import HeardResponseStore
from unbroken.store.log import DurableLog, StoreUnavailable
from unbroken.store.responses import MemoryResponseStore, ResponseStore
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_responses import SqliteResponseStore
from unbroken.store.storage import StreamStorage

SQLITE, MEMORY = "sqlite", "memory"
SERVERS = ("redis", "rediss", "valkey", "valkeys", "unix")


@dataclass(frozen=True, slots=True)
class Stores:
    """What outlives a request: durable streams, and responses that clients go on from."""

    log: DurableLog
    responses: ResponseStore

    @classmethod
    def of(cls, settings: Settings, *, now: Callable[[], float]) -> "Stores":
        """Those of the settings; nothing is opened yet.

        Raises:
            SettingsInvalid: there can be no such store.
        """
        try:
            return cls._made(settings, now)
        except StoreUnavailable as error:
            raise SettingsInvalid(f"store.streams: {error}") from None

    @classmethod
    def _made(cls, settings: Settings, now: Callable[[], float]) -> "Stores":
        store = settings.store
        scheme = urlsplit(store.streams).scheme or store.streams
        if scheme in SERVERS:
            from unbroken.store.valkey import ValkeyStorage  # needs an extra
            from unbroken.store.valkey_responses import ValkeyResponseStore

            server = ValkeyStorage(
                store.streams, lease=store.lease, retention=store.retention, max_live_bytes=store.live_bytes
            )
            log = _log(server, settings, now)
            return cls(log, HeardResponseStore(ValkeyResponseStore(server), log.health))
        file = SqliteStorage(
            sqlite_path(settings),
            lease=store.lease,
            retention=store.retention,
            now=now,
            synchronous=store.synchronous,
            max_live_bytes=store.live_bytes,
        )
        log = _log(file, settings, now)
        if scheme == MEMORY:
            return cls(log, MemoryResponseStore())
        return cls(log, HeardResponseStore(SqliteResponseStore(file), log.health))


def _log(storage: StreamStorage, settings: Settings, now: Callable[[], float]) -> DurableStreamLog:
    return DurableStreamLog(storage, now=now, lease=settings.store.lease, patience=settings.store.patience)


def sqlite_path(settings: Settings) -> str:
    """The file of the streams: what the settings say, else one of the user's own for each port.

    To one process at whatever port is free nobody can come back once it has ended: it needs no file.
    """
    streams, server = settings.store.streams, settings.server
    if streams == MEMORY or (streams == SQLITE and server.port == 0 and server.workers == 1):
        return ":memory:"
    if streams != SQLITE:
        return unquote(streams.removeprefix("sqlite:///"))
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return str(Path(home) / "unbroken" / f"streams-{settings.server.port}.db")
