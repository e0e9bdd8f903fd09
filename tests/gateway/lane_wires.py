"""A loop without time, and connections whose other ends a test holds."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class Clock(selectors.SelectSelector):
    """Waits for nothing: where there is nothing to do before some time, it is that time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen"
        self.now += max(timeout, 0.0)
        return []


class Loop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, whose connections are wires that the test holds the other ends of."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)
        self.complaints: list[str] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(repr(context)))
        #: Those to upstreams, in the order in which they were opened.
        self.wires: list[Wire] = []

    def time(self) -> float:
        return self.clock.now

    async def create_connection(self, factory: Callable[[], Any], *_: Any, **__: Any) -> tuple[Any, Any]:  # type: ignore[override]
        wire = Wire(self, factory())
        self.wires.append(wire)
        wire.protocol.connection_made(wire)
        return wire, wire.protocol


class Wire(asyncio.Transport):
    """A transport that notes what is done to it, and gives its protocol what the test says."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        super().__init__()
        self._loop = loop
        self.protocol = protocol
        #: When, what, and with what data.
        self.noted: list[tuple[float, str, bytes]] = []
        #: Called in the next write of a body, of a head.
        self.in_write: Callable[[], None] | None = None
        self.in_head: Callable[[], None] | None = None
        self._waiting: list[bytes] = []
        self._is_paused = self._is_closing = self._is_lost = False

    def receive(self, data: bytes) -> None:
        """The other side has sent this, and it is read at once, unless reading is paused."""
        if self._is_paused:
            self._waiting.append(data)
        elif not self._is_closing:
            self.protocol.data_received(data)

    def lose(self, error: Exception | None = None) -> None:
        """The other side has closed the connection, or reset it."""
        if not self._is_closing:
            if error is None:
                assert not self.protocol.eof_received()
            self._close(error)

    def lose_now(self) -> None:
        """The other side has closed the connection, and everybody has been told."""
        if not self._is_closing:
            self._is_closing = True
            self._tell_lost(None)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def write(self, data: Any) -> None:
        if self._is_lost:
            raise RuntimeError("the transport is closed")  # as uvloop's says
        self._note("write", bytes(data))
        is_head = data[:5] == b"HTTP/"
        if (in_write := self.in_head if is_head else self.in_write) is not None:
            self.in_head = self.in_write = None
            in_write()

    def pause_reading(self) -> None:
        self._note("pause")
        self._is_paused = True

    def resume_reading(self) -> None:
        self._note("resume")
        self._is_paused = False
        self._loop.call_soon(self._receive_waiting)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._note("close")
        self._close(None)

    def abort(self) -> None:
        self._note("abort")
        self._close(None)

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def _note(self, what: str, data: bytes = b"") -> None:
        self.noted.append((self._loop.time(), what, data))

    def _receive_waiting(self) -> None:
        while self._waiting and not self._is_paused:
            self.receive(self._waiting.pop(0))

    def _close(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self.protocol.connection_lost(error)
