"""Which gateways run on this machine for this user: a small file each, so that other commands find them.

A gateway holds a lock on its file as long as it lives: a file without one was left behind, and the process that has
its number by now is somebody else.
"""

import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from unbroken.gateway.admission import is_loopback
from unbroken.settings.tree import ServerSettings

ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - addresses to tell from others
VERDICT = ".reloaded"  # of the file that says how a reload went
RELOAD_SECONDS = 60.0  # longer than any worker may take


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


class Reloaded(Struct, frozen=True):
    """How the latest reload of a gateway went; `number` counts them from 1."""

    number: int
    is_taken: bool
    said: str


class Remembrance:
    """The files by which other commands know of this process, once it is noted."""

    def __init__(self, config: Path | None) -> None:
        self._config = str(config.resolve()) if config else ""
        self._written: tuple[Path, int] | None = None
        self._reloads = 0

    def note(self, host: str, port: int) -> None:
        """This process is the gateway at a host and port."""
        folder = _folder()
        with suppress(OSError):  # a machine without such a place has no `unbroken reload`, and that is all
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                return
            path, starting = folder / f"{port}.pid", folder / f"{port}.{os.getpid()}.starting"
            file = os.open(starting, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, msgspec.json.encode(Running(os.getpid(), port, root_of(host, port), self._config)))
            _verdict_of(port).unlink(missing_ok=True)  # of one that was killed
            starting.replace(path)  # locked and whole: whoever sees it half made would take it for left behind
            self._written = path, file

    def reloaded(self, is_taken: bool, said: str) -> None:
        """Tells `unbroken reload` how it went."""
        self._reloads += 1
        if self._written is None:
            return
        verdict = self._written[0].with_suffix(VERDICT)
        with suppress(OSError):
            new = verdict.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(Reloaded(self._reloads, is_taken, said)))
            new.replace(verdict)  # at once: it is read while we write

    def forget(self) -> None:
        """This process is no gateway any more."""
        if self._written is not None:
            path, file = self._written
            with suppress(OSError):
                if os.path.samestat(os.fstat(file), path.stat()):  # not that of one at another host, same port
                    path.unlink()
                    path.with_suffix(VERDICT).unlink(missing_ok=True)
            os.close(file)


@contextmanager
def remembered(config: Path | None) -> Iterator[Remembrance]:
    """What keeps this process in mind as a gateway, by that configuration file, until the context ends."""
    remembrance = Remembrance(config)
    try:
        yield remembrance
    finally:
        remembrance.forget()


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
            elif os.path.samestat(os.fstat(file.fileno()), path.stat()):  # nobody has taken the port meanwhile
                path.unlink()
    return sorted(found, key=lambda gateway: gateway.port)


def reload(gateway: Running) -> Reloaded | None:
    """Has a gateway take its changed configuration; gives how it went, None where it does not say so in time."""
    before = _latest_reload(gateway)
    with suppress(ProcessLookupError):
        os.kill(gateway.pid, signal.SIGHUP)
        latest = time.monotonic() + RELOAD_SECONDS
        while time.monotonic() < latest and gateway in running_gateways():
            if (verdict := _latest_reload(gateway)) is not None and verdict != before:
                return verdict
            time.sleep(0.05)
    return None


def _latest_reload(gateway: Running) -> Reloaded | None:
    try:
        return msgspec.json.decode(_verdict_of(gateway.port).read_bytes(), type=Reloaded)
    except (OSError, msgspec.DecodeError):
        return None


def places_of(server: ServerSettings | None, config: Path | None) -> tuple[str | None, list[str]]:
    """Where the gateway that is meant by these settings may be: at their own address, or at one where one runs.

    Where there is a configuration file, a gateway that runs by another one, or by none, is not the one that is meant.
    """
    running = running_gateways()
    meant = [gateway for gateway in running if config is None or gateway.config == str(config.resolve())]
    if server is None or not server.port:
        return None, [gateway.root for gateway in meant]
    is_of_another = any(gateway.port == server.port for gateway in running if gateway not in meant)
    is_known = any(gateway.port == server.port for gateway in meant)
    # One that is known to run goes before whoever answers at the port, and no key goes to another machine.
    is_elsewhere = config is not None and bool(meant)
    may_be_asked = is_known or not (is_of_another or is_elsewhere or not _is_here(server.host))
    own = root_of(server.host, server.port) if may_be_asked else None
    return own, [gateway.root for gateway in meant if gateway.port != server.port]


def _is_here(host: str) -> bool:
    try:
        return host in ANY_ADDRESS or is_loopback(host)
    except OSError:
        return False


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "unbroken" if runtime else Path(tempfile.gettempdir()) / f"unbroken-{os.getuid()}"


def _verdict_of(port: int) -> Path:
    return _folder() / f"{port}{VERDICT}"


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
