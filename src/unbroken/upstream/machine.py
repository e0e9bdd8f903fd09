"""The machine that a model is to run on: cores and memory, as far as this process may use them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# proc(5): the state of a process that a debugger has stopped, and where the times are behind the state.
TRACED, USER_TIME, SYSTEM_TIME = "t", 10, 11


@dataclass(frozen=True, slots=True)
class Machine:
    """What may be used; `free_bytes` is None where the system does not say, `gpu_bytes` is free memory of GPUs."""

    cores: int
    free_bytes: int | None
    gpu_bytes: int


def usable_cores() -> int:
    """Physical cores that this process may use, by affinity and the container's quota; hyperthreads do not count."""
    if sys.platform == "win32" or not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // (1 if sys.platform == "darwin" else 2))
    cpus = os.sched_getaffinity(0)
    siblings = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    limit = int(quota) // int(period) if quota.isdigit() and period.isdigit() else len(siblings)
    return max(1, min(len(siblings), limit))


def free_memory() -> int | None:
    """Bytes of memory that can be had without swapping, within the container's limit; None where nobody says."""
    pages = {line.split(":")[0]: line.split()[1] for line in _read("/proc/meminfo").splitlines() if ":" in line}
    if "MemAvailable" in pages:
        free = int(pages["MemAvailable"]) * 1024
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return None
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def resident_bytes(pid: int) -> int | None:
    """Bytes of memory that a process holds, mapped files or its own, whichever is more; None where nobody says."""
    sizes = [
        int(line.split()[1]) * 1024
        for line in _read(f"/proc/{pid}/status").splitlines()
        if line.startswith(("RssAnon:", "RssFile:"))
    ]
    return max(sizes, default=None)


def cpu_spent(pid: int) -> str | None:
    """The time that a process has computed so far, as a text that changes with it.

    None where nobody says, or where a debugger has stopped the process: its user wants it so.
    """
    if stat := _read(f"/proc/{pid}/stat"):
        state, *numbers = stat.rpartition(")")[2].split()
        return None if state == TRACED else " ".join(numbers[USER_TIME : SYSTEM_TIME + 1])
    try:
        told = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.decode("ascii", "replace").strip() or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
