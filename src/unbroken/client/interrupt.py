"""Ctrl-C while an answer comes, and a keyboard that does not write into it."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")


async def until_interrupted(work: Coroutine[Any, Any, Result]) -> Result | None:
    """What `work` gives, or None where Ctrl-C cancelled it."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if this is None or this.cancelling():
            raise  # it was not the answer that was cancelled, but all of us
        return None
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def silent_keyboard() -> Iterator[None]:
    """What is typed meanwhile is not echoed; it is there for the next prompt."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = list(before)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
