"""Which gateways run on this machine for this user: a small file each, so that `unbroken reload` finds them.

A gateway holds a lock on its file as long as it lives: a file without one was left behind, and the process that has
its number by now is somebody else.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "unbroken" if runtime else Path(tempfile.gettempdir()) / f"unbroken-{os.getuid()}"


@contextmanager
def remembered() -> Iterator[Callable[[int], None]]:
    """Gives a function that notes this process as the gateway at a port, until the context ends."""
    written: list[tuple[Path, int]] = []

    def note(port: int) -> None:
        folder = _folder()
        with suppress(OSError):  # a machine without such a place has no `unbroken reload`, and that is all
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                return
            path = folder / f"{port}.pid"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            written.append((path, file))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, str(os.getpid()).encode())

    try:
        yield note
    finally:
        for path, file in written:
            with suppress(OSError):
                path.unlink()
            os.close(file)


def running_gateways() -> dict[int, int]:
    """Process id by port of the gateways that run; files that a killed one left behind are removed."""
    found: dict[int, int] = {}
    folder = _folder()
    if not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return found
    for path in folder.glob("*.pid"):
        with suppress(OSError, ValueError), path.open() as file:
            if _is_locked(file.fileno()):
                found[int(path.stem)] = int(file.read())
            else:
                path.unlink(missing_ok=True)
    return found


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
