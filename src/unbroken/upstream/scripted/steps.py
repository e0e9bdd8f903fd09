"""The steps of a script: what a scripted answer does on the wire, one after the other."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Protocol

EVENT_STREAM = (("Content-Type", "text/event-stream; charset=utf-8"),)


class ScriptError(Exception):
    """A script that cannot be played, or a request that cannot be read: a mistake in a test, not a fault to inject."""


class Gate:
    """A door in a script: the answer waits at `Hold(gate)` until the test opens it."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    def open(self) -> None:
        """Let every answer pass that waits here or will come."""
        self._opened.set()

    async def wait(self) -> None:
        """Wait as an answer does, until the gate is open."""
        self._reached.set()
        await self._opened.wait()

    async def wait_until_reached(self, timeout: float = 10.0) -> None:
        """Return when an answer stands at the gate: all that was scripted before it has been written."""
        try:
            await asyncio.wait_for(self._reached.wait(), timeout)
        except TimeoutError:
            raise TimeoutError(f"waited {timeout:g} s for an answer to reach the gate; none did") from None


class Waitable(Protocol):
    """What `Hold` can wait for: a Gate or an asyncio.Event."""

    async def wait(self) -> object:
        """Return when the answer may go on."""


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and headers; `body` says how its end is known: chunked, by closing, or by a length in bytes."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = EVENT_STREAM
    body: Literal["chunked", "close"] | int = "chunked"
    version: Literal["1.1", "1.0"] = "1.1"
    reason: str | None = None

    def to_bytes(self) -> bytes:
        """Give the head as it goes out, the blank line included."""
        lines = [f"HTTP/{self.version} {self.status} {self._reason()}", *(f"{n}: {v}" for n, v in self.headers)]
        if self.body == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif isinstance(self.body, int):
            lines.append(f"Content-Length: {self.body}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _reason(self) -> str:
        if self.reason is not None:
            return self.reason
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:  # 529 and other numbers that providers made up
            return "Scripted"


@dataclass(frozen=True, slots=True)
class Send:
    """Body bytes, in one write; an HTTP chunk of its own where the body is chunked."""

    data: bytes

    def __post_init__(self) -> None:
        if not self.data:
            raise ScriptError("Send(b''): an empty chunk would end the body; say End() or SendRaw()")


@dataclass(frozen=True, slots=True)
class SendRaw:
    """Bytes as they are, in one write, without any framing."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Split:
    """From here on every write, framing included, goes out in writes of `size` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Silence until the test opens the gate."""

    gate: Waitable


@dataclass(frozen=True, slots=True)
class End:
    """The clean end of the body; the connection is kept alive where HTTP allows."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection (FIN) as it is; after an open body its terminating chunk is missing."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Abort the connection (RST); a unix socket knows no RST and is closed."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Silence until the other side leaves."""


@dataclass(frozen=True, slots=True)
class ReadNothing:
    """Silence, and nothing is read any more; as the first step it takes a new connection before its request is read."""


Step = Head | Send | SendRaw | Split | Pause | Hold | End | Cut | Reset | Stall | ReadNothing
LAST_STEPS = (End, Cut, Reset, Stall, ReadNothing)


@dataclass(frozen=True, slots=True)
class Script:
    """Steps that answer one request, whatever it says."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.steps or not isinstance(self.steps[-1], LAST_STEPS):
            raise ScriptError("a script must end in End(), Cut(), Reset(), Stall() or ReadNothing()")

    def reads_nothing(self) -> bool:
        """Tell whether the script takes a connection without reading its request."""
        return isinstance(self.steps[0], ReadNothing)
