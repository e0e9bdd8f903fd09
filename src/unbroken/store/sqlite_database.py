"""A SQLite file of ours: opened, made new, brought up to date; and a thread that works on it."""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, TypeVar

from unbroken.store import sqlite_statements as sql
from unbroken.store.log import LogError, StoreUnavailable

Synchronous = Literal["normal", "full"]
Result = TypeVar("Result")
Work = Callable[[sqlite3.Connection], Result]

IN_MEMORY = ":memory:"

log = logging.getLogger("unbroken.store")

#: What to do about what SQLite found, by a word of its message.
_ADVICE = (
    ("is full", "make room on the disk"),
    ("readonly", "let this process write the file and its directory"),
    ("read-only", "let this process write the file and its directory"),
    ("locked", "end whatever else holds the file locked"),
    ("not a database", "move the file away, or name another one"),
    ("malformed", "move the file away and begin a new one, or restore a copy"),
    ("unable to open", "see that the directory is there and may be written"),
    ("no such table", "move the file away, or name another one"),
    ("disk I/O error", "see what the system's log says of the disk"),
)


def complain(path: str, error: Exception | str) -> StoreUnavailable:
    """The error for whoever has to mend it: which file, what was found, what to do."""
    found = str(error)
    advice = next((advice for word, advice in _ADVICE if word in found), "see that it can be read and written")
    return StoreUnavailable(f"store {path}: {found}: {advice}")


def open_database(path: str, *, synchronous: Synchronous, busy: float) -> sqlite3.Connection:
    """Opens the file, made and brought up to date where need be; it waits up to `busy` seconds for other processes.

    Raises:
        StoreUnavailable: it is of a newer version, or another program's.
        sqlite3.Error, OSError: it cannot be opened.
    """
    if path != IN_MEMORY:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            # SQLite's own would be readable for all. One that is there is not opened: to close it would let go of all
            # locks that this process has on it (POSIX), and whoever closes it next would clear the journal away.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)
    try:
        _migrate(path, connection)
        _share(connection, busy)
        connection.execute(sql.SET_SYNCHRONOUS[synchronous])
        connection.execute(sql.SET_WAL_LIMIT)
        connection.execute(sql.SET_CHECKPOINT)
    except BaseException:
        connection.close()
        raise
    return connection


def may_only_read(connection: sqlite3.Connection) -> bool:
    """Whether nothing can be written over it: SQLite opens for reading what it may not write, without a word."""
    try:
        connection.execute(sql.WRITE_NOTHING)
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
        return True
    return False


def _share(connection: sqlite3.Connection, busy: float) -> None:
    """Lets readers and a writer work at once, which is asked of a new file, while others may be asking too."""
    give_up = time.monotonic() + busy
    while True:
        try:
            connection.execute(sql.SET_WAL)
            return
        except sqlite3.OperationalError:  # SQLite does not wait here by itself
            if time.monotonic() >= give_up:
                raise
        time.sleep(0.01)


def _migrate(path: str, connection: sqlite3.Connection) -> None:
    if connection.execute(sql.SCHEMA_OBJECTS).fetchone()[0] == 0:
        connection.execute(sql.SET_VACUUM)
    connection.execute(sql.BEGIN_WRITE)  # before the look at it: another process may be about to make it
    try:
        version = _version(path, connection)
        for statement in (statement for migration in sql.MIGRATIONS[version:] for statement in migration):
            connection.execute(statement)
        if version < sql.SCHEMA_VERSION:
            connection.execute(sql.SET_APPLICATION)
            connection.execute(sql.SET_VERSION)
        connection.execute(sql.COMMIT)
    finally:
        if connection.in_transaction:
            connection.execute(sql.ROLLBACK)


def _version(path: str, connection: sqlite3.Connection) -> int:
    version: int = connection.execute(sql.GET_VERSION).fetchone()[0]
    application: int = connection.execute(sql.GET_APPLICATION).fetchone()[0]
    is_new = version == application == 0 and connection.execute(sql.SCHEMA_OBJECTS).fetchone()[0] == 0
    if not is_new and application != sql.APPLICATION_ID:
        raise StoreUnavailable(f"store {path}: it is another program's database: move it away, or name another file")
    if version > sql.SCHEMA_VERSION:
        found = f"its schema is version {version}, and this program knows up to {sql.SCHEMA_VERSION}"
        raise StoreUnavailable(f"store {path}: {found}: start the newer program, or name another file")
    return version


def _let_the_loop_go_first() -> None:
    """Has Linux not stop the loop when it wakes this thread: the loop holds what runs Python, and we would only wait.

    On a core that both share these were two switches for nothing with each thing asked.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # of this thread


class DatabaseThread:
    """One connection and the thread that uses it; what is asked of it is done in order.

    After an error of SQLite the connection is opened anew, and `on_doubt` hears that the last thing asked may or may
    not have been done.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str,
        synchronous: Synchronous = "normal",
        busy: float = 1.0,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._synchronous: Synchronous = synchronous
        self._busy = busy
        self._on_doubt = on_doubt
        self._connection: sqlite3.Connection | None = None
        self._may_only_read = False
        self._locked_at = 0.0  # when it was last found that another process does not let go of the file
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def do(self, work: Work[Result]) -> "asyncio.Future[Result]":
        """Does it after all that was asked before; its errors of SQLite become StoreUnavailable."""
        loop = asyncio.get_running_loop()
        asked_at = time.monotonic()
        result: asyncio.Future[Result] = loop.create_future()

        def answer(value: "Result | None", error: BaseException | None) -> None:  # quoted: it would be made each time
            if result.done():  # nobody waits any more
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]

        def job() -> None:
            value: Result | None = None
            error: BaseException | None = None
            try:
                value = self._do(work, asked_at)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has gone
                loop.call_soon_threadsafe(answer, value, error)

        self._asked.put(job)
        return result

    def do_later(self, work: Work[None]) -> None:
        """Does it when it comes to it; where SQLite cannot, it is left."""

        asked_at = time.monotonic()

        def job() -> None:
            try:
                self._do(work, asked_at)
            except LogError:
                pass
            except Exception:  # the thread's root: it must live, there is only one
                log.exception("store %s: what was to be done later has failed", self._path)

        self._asked.put(job)

    def stop(self) -> None:
        """Ends when all that was asked is done; may be called from any thread."""
        self._asked.put(None)

    def join(self) -> None:
        """Waits until it has ended."""
        self._thread.join()

    def _work(self) -> None:
        _let_the_loop_go_first()
        while (job := self._asked.get()) is not None:
            job()
        if self._connection is not None:
            self._connection.close()

    def _do(self, work: Work[Result], asked_at: float) -> Result:
        if asked_at < self._locked_at:  # else each of a hundred would wait in its turn, and the last for minutes
            raise complain(self._path, "database is locked")
        try:
            if (connection := self._connection) is None:
                connection = self._connection = open_database(
                    self._path, synchronous=self._synchronous, busy=self._busy
                )
                self._may_only_read = may_only_read(connection)
            return work(connection)
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                self._locked_at = time.monotonic()
            self._begin_anew()
            raise complain(self._path, error) from error
        finally:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute(sql.ROLLBACK)
            if self._may_only_read:
                self._close()  # all connections of a process share its memory of the journal, and none could write

    def _begin_anew(self) -> None:
        self._on_doubt()
        self._close()

    def _close(self) -> None:
        """Has the next thing that is asked open the file anew."""
        self._may_only_read = False
        connection = self._connection
        if connection is None:
            return
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute(sql.ROLLBACK)
            if self._path != IN_MEMORY:  # there the connection is the database
                self._connection = None
                connection.close()
