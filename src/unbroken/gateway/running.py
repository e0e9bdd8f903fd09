"""Which gateways run on this machine for this user: a small file each, so that other commands find them.

A gateway holds a lock on its file as long as it lives: a file without one was left behind, and the process that has
its number by now is somebody else.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from unbroken.settings.tree import ServerSettings

ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - addresses to tell from others


class Running(Struct, frozen=True):
    """A gateway that runs."""

    pid: int
    port: int
    #: Where it is reached from this machine, such as `http://127.0.0.1:8080`.
    root: str
    #: The absolute path of its configuration file, empty if it has none.
    config: str = ""


def root_of(host: str, port: int) -> str:
    """Where a gateway that listens there is reached from this machine."""
    if host in ANY_ADDRESS:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def remembered(config: Path | None) -> Iterator[Callable[[str, int], None]]:
    """Gives a function that notes this process as the gateway at a host and port, until the context ends."""
    written: list[tuple[Path, int]] = []

    def note(host: str, port: int) -> None:
        folder = _folder()
        with suppress(OSError):  # a machine without such a place has no `unbroken reload`, and that is all
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                return
            path = folder / f"{port}.pid"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            written.append((path, file))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = Running(os.getpid(), port, root_of(host, port), str(config.resolve()) if config else "")
            os.write(file, msgspec.json.encode(own))

    try:
        yield note
    finally:
        for path, file in written:
            with suppress(OSError):
                path.unlink()
            os.close(file)


def running_gateways() -> list[Running]:
    """The gateways that run, by port; files that a killed one left behind are removed."""
    found: list[Running] = []
    folder = _folder()
    if not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return found
    for path in folder.glob("*.pid"):
        with suppress(OSError, msgspec.DecodeError), path.open("rb") as file:
            if _is_locked(file.fileno()):
                found.append(msgspec.json.decode(file.read(), type=Running))
            else:
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda gateway: gateway.port)


def places_of(server: ServerSettings, config: Path | None) -> tuple[str | None, list[str]]:
    """Where the gateway that is meant by these settings may be: at their own address, or at one where one runs.

    Where there is a configuration file, a gateway that runs by another one, or by none, is not the one that is meant.
    """
    running = running_gateways()
    meant = [gateway for gateway in running if config is None or gateway.config == str(config.resolve())]
    is_taken = any(gateway.port == server.port for gateway in running if gateway not in meant)
    own = None if is_taken or not server.port else root_of(server.host, server.port)
    return own, [gateway.root for gateway in meant if gateway.port != server.port]


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "unbroken" if runtime else Path(tempfile.gettempdir()) / f"unbroken-{os.getuid()}"


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
