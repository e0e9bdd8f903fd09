"""A real Valkey or Redis server for tests: without persistence, on a Unix socket, in a folder of its own."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

MEMORY_ONLY = ("--save", "", "--appendonly", "no", "--port", "0", "--loglevel", "warning")
START_TIMEOUT = 20.0


def why_absent() -> str | None:
    """Why there can be no server here; None if there can."""
    return None if _program() else "neither valkey-server nor redis-server is installed"


def skip_without_server() -> None:
    """Skips the test where there is no server; on CI that is a failure."""
    if (reason := why_absent()) is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class ValkeyServer:
    """One server, which can be killed and started again at the same place; then it is empty."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        self.socket = self.folder / "socket"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Returns when it answers, if only to refuse."""
        program = _program()
        assert program is not None, why_absent()
        place = ("--unixsocket", str(self.socket), "--dir", str(self.folder), "--logfile", str(self.folder / "log"))
        self._process = subprocess.Popen([program, *MEMORY_ONLY, *place, *self._options])
        give_up = time.monotonic() + START_TIMEOUT
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < give_up, "the server does not answer"
            time.sleep(0.005)

    def kill(self) -> None:
        """As by `kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def hang(self) -> None:
        """It takes connections and says nothing, until `wake`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Ends it and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def control(self) -> "redis.Redis[bytes]":
        """A client for what a test has to do to it."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5)

    def _answers(self) -> bool:
        with self.control() as client:
            try:
                client.ping()
            except redis.AuthenticationError:
                return True
            except (redis.RedisError, OSError):
                return False
        return True


_idle: list[ValkeyServer] = []


@contextmanager
def valkey_url() -> Iterator[str]:
    """The url of an empty server that nobody else uses meanwhile; it is kept for the next who asks."""
    if _idle:
        server = _idle.pop()
    else:
        server = ValkeyServer()
        atexit.register(server.remove)
    try:
        yield server.url
    finally:
        with server.control() as client:
            client.flushall()
        _idle.append(server)


@contextmanager
def own_server(*options: str) -> Iterator[ValkeyServer]:
    """A server that the test may kill or set."""
    server = ValkeyServer(*options)
    try:
        yield server
    finally:
        server.wake()
        server.remove()


def _program() -> str | None:
    return shutil.which("valkey-server") or shutil.which("redis-server")
