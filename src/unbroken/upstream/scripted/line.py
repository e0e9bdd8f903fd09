"""The line to one reader: writes that wait for it, and the ways to end it."""

import asyncio
import socket
import struct
from collections.abc import Callable

from unbroken.upstream.scripted.counters import Counters
from unbroken.upstream.scripted.hangup import watch_for_hangup

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: the close is an RST
TURNS_BETWEEN_WRITES = 2  # a reader in the same loop sees each write by itself, and uvloop joins none


class Line:
    """A transport whose every write is one write on the wire."""

    def __init__(self, transport: asyncio.Transport, counters: Counters) -> None:
        self._transport = transport
        self._counters = counters
        self._writable = asyncio.Event()
        self._writable.set()
        self._stop_watching: Callable[[], None] = lambda: None
        self._is_answering = False

    def limit(self) -> None:
        """Have a write that the kernel does not take block the answer; may call `block()` at once."""
        self._transport.set_write_buffer_limits(high=1, low=0)  # with high=0 a TLS transport would block for ever

    def begin(self) -> None:
        """Count an answer as open."""
        self._is_answering = True
        self._counters.open_answers += 1

    def finish(self, *, left: bool = False) -> None:
        """Count the answer as ended, once: by us, or because its reader left."""
        if self._is_answering:
            self._is_answering = False
            self._counters.open_answers -= 1
            self._counters.left += left
            self._counters.changed()

    async def write(self, data: bytes) -> None:
        """Write these bytes and wait until the kernel has taken them."""
        self._transport.write(data)
        self._counters.bytes_sent += len(data)
        for _ in range(TURNS_BETWEEN_WRITES):
            await asyncio.sleep(0)
        await self._writable.wait()

    def block(self) -> None:
        """Make writes wait: the reader does not take what is written."""
        self._writable.clear()
        self._counters.blocked_answers += 1
        self._counters.changed()

    def unblock(self) -> None:
        """Let writes go on."""
        if not self._writable.is_set():
            self._writable.set()
            self._counters.blocked_answers -= 1
            self._counters.changed()

    def stop_reading(self) -> None:
        """Take nothing more out of the socket, and still notice that the other side leaves (on Linux)."""
        self._transport.pause_reading()
        descriptor = self._transport.get_extra_info("socket").fileno()
        self._stop_watching = watch_for_hangup(descriptor, self._transport.abort)

    def close(self) -> None:
        """End with a FIN, after what was written."""
        self.finish()
        self._transport.close()

    def reset(self) -> None:
        """End with an RST, at once; a unix socket has none and is closed."""
        self.finish()
        connection = self._transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    def is_ending(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._transport.is_closing()

    def lost(self) -> None:
        """Give back what the line held, once it has ended."""
        self._stop_watching()
        self.unblock()
