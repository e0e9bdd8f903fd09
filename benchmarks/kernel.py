"""What the kernel says of processes: their CPU time and memory; and how many files it lets us open."""

import os
import resource

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
ENOUGH_FILES = 40_000  # far above the streams of any scenario


def tree(pid):
    """The process and all that descend from it."""
    pids, queue = [], [pid]
    while queue:
        pid = queue.pop()
        pids.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as f:
                    queue += map(int, f.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return pids


def usage(roots):
    """CPU seconds, resident bytes, system CPU seconds of the process trees of `roots`."""
    cpu = rss = system = 0
    for pid in {p for root in roots for p in tree(root)}:
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(") ", 1)[1].split()
            with open(f"/proc/{pid}/statm") as f:
                rss += int(f.read().split()[1]) * PAGE
            cpu += (int(fields[11]) + int(fields[12])) / TICK
            system += int(fields[12]) / TICK
        except (FileNotFoundError, ProcessLookupError):
            pass
    return cpu, rss, system


def machine_cpu():
    """CPU seconds all of the machine has been busy for, stolen time with it."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def files_allowed():
    """How many files a process may have open, at the most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)


def allow_open_files():
    """Raises the soft limit of open files: each stream is one, and the limit is 1024 as often as not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files_allowed():
        resource.setrlimit(resource.RLIMIT_NOFILE, (files_allowed(), hard))
