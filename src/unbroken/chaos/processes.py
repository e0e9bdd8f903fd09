"""The processes of this machine, as far as a run has to find or end its own: children of children, by `/proc`."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Seen:
    """A process; `began` tells it from another one that has got its number."""

    pid: int
    began: str
    command: str


def can_see() -> bool:
    """Whether this machine tells of processes' children."""
    return (PROC / "self" / "stat").exists()


def descendants(pid: int) -> list[Seen]:
    """The children of a process that live, and theirs."""
    children: dict[int, list[int]] = {}
    began: dict[int, str] = {}
    for entry in PROC.iterdir() if can_see() else ():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            began[int(entry.name)] = fields[19]
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.append(Seen(child, began[child], _command(child)))
            waiting.append(child)
    return found


def is_alive(seen: Seen) -> bool:
    """Whether this very process still runs."""
    fields = _stat(seen.pid)
    return fields is not None and fields[0] not in "ZX" and fields[19] == seen.began


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's `stat` from its state on: state, parent, …; the twentieth is when it began."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
