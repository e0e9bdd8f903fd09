"""Which gateways run on this machine for this user: a small file each, so that `unbroken reload` finds them."""

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
    written: list[Path] = []

    def note(port: int) -> None:
        folder = _folder()
        with suppress(OSError):  # a machine without such a place has no `unbroken reload`, and that is all
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                (folder / f"{port}.pid").write_text(str(os.getpid()))
                written.append(folder / f"{port}.pid")

    try:
        yield note
    finally:
        for path in written:
            with suppress(OSError):
                path.unlink()


def running_gateways() -> dict[int, int]:
    """Process id by port of the gateways that run; files that a killed one left behind are removed."""
    found: dict[int, int] = {}
    folder = _folder()
    if not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return found
    for path in folder.glob("*.pid"):
        try:
            pid = int(path.read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            path.unlink(missing_ok=True)
        else:
            found[int(path.stem)] = pid
    return found
