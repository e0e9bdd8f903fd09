"""Noticing that the other side has left a connection that nobody reads."""

import asyncio
import select
from collections.abc import Callable


def watch_for_hangup(descriptor: int, hung_up: Callable[[], None]) -> Callable[[], None]:
    """Call back once when the peer of an unread socket closes it (on Linux only); gives what stops the watch."""
    if not hasattr(select, "epoll"):
        return lambda: None
    # Unread data would keep an ordinary poll awake for ever; EPOLLRDHUP alone wakes on the FIN behind it.
    watch = select.epoll()
    watch.register(descriptor, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not watch.closed:
            loop.remove_reader(watch.fileno())
            watch.close()

    def noticed() -> None:
        stop()
        hung_up()

    loop.add_reader(watch.fileno(), noticed)
    return stop
