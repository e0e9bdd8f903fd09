"""Plays the steps of one answer on a line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import assert_never

from unbroken.upstream.scripted.line import Line
from unbroken.upstream.scripted.steps import (
    Cut,
    End,
    Head,
    Hold,
    Pause,
    ReadNothing,
    Reset,
    ScriptError,
    Send,
    SendRaw,
    Split,
    Stall,
    Step,
)

Sleep = Callable[[float], Awaitable[object]]


class Player:
    """Keeps the framing of one answer while its steps go out."""

    def __init__(self, line: Line, sleep: Sleep, *, keep_alive: bool) -> None:
        self._line = line
        self._sleep = sleep
        self._keep_alive = keep_alive
        self._head: Head | None = None
        self._body_bytes = 0
        self._is_raw = False
        self._write_size: int | None = None

    async def play(self, step: Step) -> None:
        """Do one step; raises ScriptError where it makes no sense after those before it."""
        match step:
            case Head():
                self._head, self._body_bytes = step, 0
                await self._write(step.to_bytes())
            case Send(data):
                await self._write(self._framed(data))
            case SendRaw(data):
                self._is_raw = True
                await self._write(data)
            case Split(size):
                self._write_size = size
            case Pause(seconds):
                await self._sleep(seconds)
            case Hold(gate):
                await gate.wait()
            case End():
                await self._end()
            case Cut():
                self._line.close()
            case Reset():
                self._line.reset()
            case Stall():
                await _for_ever()
            case ReadNothing():
                self._line.stop_reading()
                await _for_ever()
            case _:
                assert_never(step)

    def _framed(self, data: bytes) -> bytes:
        if self._head is None:
            raise ScriptError("Send() before any Head(): say SendRaw() for bytes without framing")
        self._body_bytes += len(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self._head.body == "chunked" else data

    async def _write(self, data: bytes) -> None:
        size = self._write_size or max(len(data), 1)
        for start in range(0, len(data), size):
            await self._line.write(data[start : start + size])

    async def _end(self) -> None:
        head = self._head
        if head is None:
            if not self._is_raw:
                raise ScriptError("End() before any Head(): nothing has begun that could end")
            return
        self._line.finish()  # before the last bytes: a quick reader may close within this very write
        if head.body == "chunked":
            await self._write(b"0\r\n\r\n")
        elif isinstance(head.body, int) and head.body != self._body_bytes and not self._is_raw:
            raise ScriptError(f"End() after {self._body_bytes} body bytes where {head.body} were promised: say Cut()")
        if head.body == "close" or not self._keep_alive or not _keeps_alive(head):
            self._line.close()


def _keeps_alive(head: Head) -> bool:
    connection = next((value.lower() for name, value in head.headers if name.lower() == "connection"), "")
    return connection != "close" if head.version == "1.1" else connection == "keep-alive"


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
