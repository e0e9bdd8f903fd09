"""The stage for lanes: a whole gateway, but for sockets and time, between a client and upstreams that a test plays."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from uvicorn.server import ServerState

from tests.gateway.lane_answers import Asked, Played, dechunked, in_words
from tests.gateway.lane_steps import ClientGoesOn, Step
from tests.gateway.lane_stores import CountingDurableLog, CountingLog, Storage
from tests.gateway.lane_wires import Loop, Wire
from unbroken.chat.stream import Block, Offset, StreamId
from unbroken.gateway.app import Gateway
from unbroken.gateway.lane import MAX_TEXTS
from unbroken.gateway.serve import GatewayServer
from unbroken.gateway.stores import Stores
from unbroken.store.log import LogError, StreamLog
from unbroken.store.responses import MemoryResponseStore


class SameId:
    """Makes the same id for every stream, so that two plays say the same."""

    def new(self) -> str:
        return "one"


class Lines:
    """The journal's lines as they were noted."""

    def __init__(self) -> None:
        self.noted: list[dict[str, Any]] = []

    def note(self, event: str, **fields: Any) -> None:
        self.noted.append({"event": event, **fields})


class Stage:
    """A gateway between a client and upstreams that the test plays."""

    def __init__(self, asked: Asked, *, has_lanes: bool) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        self.loop, self.asked = loop, asked
        self._lines = Lines()
        self.storage = Storage()
        self.durable_log = CountingDurableLog(
            self.storage,
            now=loop.time,
            max_stream_bytes=asked.max_stream_bytes,
            max_pending_bytes=asked.max_pending_bytes,
            has_lanes=has_lanes,
        )
        stores = Stores(self.durable_log, MemoryResponseStore())
        journal: Any = self._lines
        self.gateway = Gateway(asked.settings, journal, stores=stores, chance=lambda: 0.5, now=lambda: 1.7e9)
        self.gateway.log = self.log = CountingLog(
            asked.max_stream_bytes, spare_bytes=asked.spare_bytes, has_lanes=has_lanes
        )
        self.gateway.ids = SameId()  # type: ignore[assignment]
        self.gateway.apply(asked.settings)
        config = GatewayServer(self.gateway, asked.settings.server).config
        config.load()
        made: Any = config.http_protocol_class
        self.connection = made(config=config, server_state=ServerState(), app_state={})
        self.client = Wire(loop, self.connection)
        self.seen: list[Any] = []
        self.kept: list[Any] = []
        self._asked_again = 0
        self._is_client_full = False

    async def play(self, steps: Sequence[Step]) -> None:
        if self.asked.durable:
            await self.durable_log.start()
        self.connection.connection_made(self.client)
        self.client.receive(self.asked.request)
        await self.turn()
        for step in steps:
            await step.act(self)
            await self.turn()
        await ClientGoesOn().act(self)
        await self.turn()
        self.lose_upstream()
        while self.gateway.running:
            await self.turn()
            await asyncio.sleep(0.1)
        await self.turn()
        self.client.lose()
        await self.turn()
        if self.asked.durable:
            self.storage.database.is_failing = False
            self.kept = await self._found(0)
            await self.durable_log.close()
        await self.gateway.upstreams.close()

    async def turn(self) -> None:
        """Lets happen what needs no time; whoever is asked to go on does."""
        for _ in range(15):
            await asyncio.sleep(0)
        while self.asked.again and self._asked_again < len(self.loop.wires) - 1:
            self._asked_again += 1
            for data in self.asked.again:
                self.loop.wires[self._asked_again].receive(data)
                await asyncio.sleep(0)

    async def look(self, after: int, *, stays: bool) -> None:
        """Reads the log, and perhaps stays as a follower."""
        self.seen += await self._found(after)
        for stream in self._streams if stays else ():
            with suppress(LogError):
                await self._log.follow(stream, Offset(after), self._stay)

    async def _found(self, after: int) -> list[Any]:
        """What the log has of the answer."""
        found: list[Any] = []
        for stream in self._streams:
            try:
                found.append([(entry.offset, entry.block) for entry in await self._log.read(stream, Offset(after))])
                if self.asked.durable:
                    status = await self.durable_log.status(stream)
                    found.append((status.last, status.has_ended, status.epoch, status.is_owned))
                    found += [status.account, await self.durable_log.notes(stream)]
                else:
                    found.append(self.log.held(stream))
            except LogError as error:
                found.append(type(error))
        return found

    @property
    def _log(self) -> StreamLog:
        return self.durable_log if self.asked.durable else self.log

    @property
    def _streams(self) -> list[StreamId]:
        return self.durable_log.opened or [production.stream for production in self.gateway.productions]

    def fill_client(self, is_full: bool) -> None:
        """The client's buffer is full, or has room again; a transport tells of it when it changes."""
        if is_full is not self._is_client_full:
            self._is_client_full = is_full
            (self.connection.pause_writing if is_full else self.connection.resume_writing)()

    def _stay(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        self.seen.append((self.loop.time(), first, list(blocks), ends))

    def receive(self, data: bytes) -> None:
        """The first upstream has sent something."""
        if self.loop.wires:
            self.loop.wires[0].receive(data)

    def lose_upstream(self, error: Exception | None = None) -> None:
        if self.loop.wires:
            self.loop.wires[0].lose(error)

    def played(self) -> Played:
        (_, first), *written = [(at, data) for at, what, data in self.client.noted if what == "write"] or [(0.0, b"")]
        head, _, whole = first.partition(b"\r\n\r\n")
        is_chunked = b"transfer-encoding: chunked" in head
        return Played(
            whole=whole,
            body=[(at, dechunked(data) if is_chunked else data) for at, data in written],
            client=[(at, what) for at, what, _ in self.client.noted if what != "write"],
            upstreams=[wire.noted for wire in self.loop.wires],
            seen=self.seen,
            kept=self.kept,
            lines=self._lines.noted,
            metrics=self.gateway.metrics.render(),
            lanes=[*map(len, self.log.runs), *(writer.taken for writer in self.durable_log.writers)],
        )


def played(asked: Asked, steps: Sequence[Step], *, has_lanes: bool = True) -> Played:
    """Plays one answer."""
    with asyncio.Runner(loop_factory=Loop) as runner:

        async def play() -> Played:
            stage = Stage(asked, has_lanes=has_lanes)
            async with asyncio.timeout(3600):
                await stage.play(steps)
            return stage.played()

        found = runner.run(play())
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        assert loop.complaints == []
        return found


def check(asked: Asked, *steps: Step) -> Played:
    """Plays an answer with lanes and without them; the one with them, if all was the same."""
    with_lanes, without = played(asked, steps), played(asked, steps, has_lanes=False)
    if asked.client == asked.upstream:
        assert with_lanes == without
    else:  # which letters of a text are escaped depends on whether it was translated by a template
        assert in_words(with_lanes) == in_words(without)
    assert max(with_lanes.lanes, default=0) <= MAX_TEXTS
    return with_lanes
