"""The store of a run: a file, a server of our own that can be killed, or somebody's."""

import asyncio
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

from unbroken.chaos.gateways import free_port

START_SECONDS = 20.0
LOOK_EVERY = 0.02  # s
PROGRAMS = ("valkey-server", "redis-server")


class NoStore(Exception):
    """The store cannot be had; the message says what is missing."""


class Store(Protocol):
    """Keeps the streams of all gateways."""

    #: As the setting `store.streams` names it.
    url: str

    async def start(self) -> None:
        """Returns when it can be used; raises NoStore."""
        ...

    async def fail(self, seconds: float) -> None:
        """Cannot be written for so long."""
        ...

    async def stop(self) -> None:
        """Ends it."""
        ...


class SqliteFile:
    """A file in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "streams.db"
        self.url = f"sqlite:///{self._path}"

    async def start(self) -> None:
        """There is nothing to start."""

    async def fail(self, seconds: float) -> None:
        """Another process holds the write lock: to SQLite this connection is as good as one."""
        with closing(sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)) as connection:
            with suppress(sqlite3.OperationalError):  # a gateway had it for all that time
                await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
                await asyncio.sleep(seconds)
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    async def stop(self) -> None:
        """There is nothing to stop."""


class ValkeyServer:
    """A server of our own that writes everything down before it says that it has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "valkey"
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: asyncio.subprocess.Process | None = None
        #: One failure at a time.
        self._failing = asyncio.Lock()

    async def start(self) -> None:
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise NoStore(f"neither {' nor '.join(PROGRAMS)} is installed")
        self._folder.mkdir(exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(program, "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", "valkey.log"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(int(START_SECONDS / LOOK_EVERY)):
            if await self._answers():
                return
            await asyncio.sleep(LOOK_EVERY)
        raise NoStore(f"{program} does not answer; its log is in {self._folder}")

    async def fail(self, seconds: float) -> None:
        """It is killed, and starts again with what it had written down."""
        async with self._failing:
            await self._kill()
            await asyncio.sleep(seconds)
            await self.start()

    async def stop(self) -> None:
        await self._kill()

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"PING\r\n")
            said = await reader.readline()
            writer.close()
        except OSError:
            return False
        return said.startswith(b"+PONG")  # not -LOADING


class ForeignStore:
    """A server that is there already, and is left alone."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def start(self) -> None:
        """There is nothing to start."""

    async def fail(self, seconds: float) -> None:
        """It is not ours to harm."""

    async def stop(self) -> None:
        """There is nothing to stop."""
