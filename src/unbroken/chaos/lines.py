"""The way from the clients to the gateways: any of them, over lines that are cut at the bytes that the plan says."""

import asyncio
import itertools
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from unbroken.chaos.plan import LineCut, fate_of_line

PIECE_BYTES = 64 << 10  # read at a time; a client that does not read holds up its own line only
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Takes clients' lines at one port, and passes each to the next gateway that takes it."""

    def __init__(self, ports: Sequence[int], seed: int) -> None:
        self._ports = ports
        self._seed = seed
        self._numbers = itertools.count(1)
        self._turn = itertools.cycle(range(len(ports)))
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        #: Lines that were made, and cut.
        self.lines = self.cuts = 0
        self.port = 0

    @property
    def root(self) -> str:
        """The address for clients, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for line in self._lines:
            line.cancel()
        if self._lines:
            await asyncio.wait(self._lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        self.lines += 1
        fate = fate_of_line(self._seed, next(self._numbers))
        try:
            if (gateway := await self._connect()) is not None:
                with suppress(asyncio.CancelledError):  # the run is over
                    await self._pass_on((reader, writer), gateway, fate)
        finally:
            writer.transport.abort()
            self._lines.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turn)
        for place in range(len(self._ports)):
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._ports[(first + place) % len(self._ports)])
        return None

    async def _pass_on(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        gateway: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        fate: LineCut | None,
    ) -> None:
        up = fate.after if fate and fate.is_request else None
        down = fate.after if fate and not fate.is_request else None
        pumps = [
            asyncio.create_task(_pump(client[0], gateway[1], up)),
            asyncio.create_task(_pump(gateway[0], client[1], down)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if fate is not None and any(pump.result() for pump in done):
                self.cuts += 1
                if fate.is_reset:
                    _reset(client[1])
            if client[1].can_write_eof():
                client[1].close()  # what was passed on before the cut arrives
                with suppress(OSError):
                    await client[1].wait_closed()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            gateway[1].transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> bool:
    """Passes bytes on until one end has closed; True when `left` bytes were passed on, which were all."""
    try:
        while left is None or left > 0:
            data = await reader.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES))
            if not data:
                return False
            writer.write(data)
            await writer.drain()
            left = None if left is None else left - len(data)
    except OSError:
        return False
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if isinstance(found, socket.socket) or hasattr(found, "setsockopt"):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
