"""Lanes change nothing: any upstream, read by read, with them and without them; and through real sockets."""

import asyncio
import json
import re
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from unbroken.chat.stream import Block, Epoch, Offset, StreamId, StreamRecord, StreamStatus
from unbroken.gateway.app import Gateway
from unbroken.gateway.attempt import FITS_BEFORE_LANE
from unbroken.gateway.lane import MAX_BYTES, MAX_TEXTS
from unbroken.gateway.serve import GatewayServer
from unbroken.gateway.stores import Stores
from unbroken.settings.tree import Settings
from unbroken.store.durable import MAX_PENDING_BYTES, DurableStreamLog
from unbroken.store.held import Run
from unbroken.store.log import LogError, StoreUnavailable, StreamLog, TextWriter, say_nothing
from unbroken.store.memory import Held, MemoryStreamLog
from unbroken.store.responses import MemoryResponseStore
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_database import DatabaseThread
from unbroken.upstream.chunked import LONGEST
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    ScriptedUpstream,
    cut_after,
    eof_after,
    hold_after,
    malformed_after,
    reset_after,
    text,
)
from unbroken.wire.sse import SseEvent, SseReader

from .conftest import Dial, Line, Reading, Serve, Served, upstream_settings

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


# the stage: a whole gateway, but for sockets and time


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


class CountingLog(MemoryStreamLog):
    """Knows the runs that it has begun; without `has_lanes` it begins none, and so there are no lanes."""

    def __init__(self, *args: Any, has_lanes: bool, **bounds: Any) -> None:
        super().__init__(*args, **bounds)
        self.runs: list[Run] = []
        self._has_lanes = has_lanes

    def begin_run(self, stream: StreamId, epoch: Epoch, run: Run, **bounds: Any) -> bool:
        if not self._has_lanes or not super().begin_run(stream, epoch, run, **bounds):
            return False
        self.runs.append(run)
        return True


class CountingWriter:
    """Knows how many texts went through one lane to a durable log."""

    def __init__(self, writer: TextWriter) -> None:
        self._writer = writer
        self.taken = 0

    def add(self, texts: list[bytes]) -> bool:
        count = len(texts)  # the log may keep the list, and add to it
        has_taken = self._writer.add(texts)
        self.taken += count * has_taken
        return has_taken


class CountingDurableLog(DurableStreamLog):
    """Knows the lanes that lead to it; without `has_lanes` there are none."""

    def __init__(self, *args: Any, has_lanes: bool, **bounds: Any) -> None:
        super().__init__(*args, **bounds)
        self.writers: list[CountingWriter] = []
        self.opened: list[StreamId] = []
        self._has_lanes = has_lanes

    async def open(self, record: StreamRecord, **told: Any) -> Epoch | StreamStatus:
        self.opened.append(record.id)
        return await super().open(record, **told)

    def text_writer(self, *of: Any) -> CountingWriter | None:  # type: ignore[override]
        writer = super().text_writer(*of) if self._has_lanes else None
        if writer is None:
            return None
        self.writers.append(CountingWriter(writer))
        return self.writers[-1]


class Database(DatabaseThread):
    """Works in the loop and by its clock, so that two plays are alike."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        #: Seconds from what is asked to the answer.
        self.delay = 0.0
        self.is_failing = False
        self._jobs: deque[Callable[[], None]] = deque()

    def start(self) -> None:
        """There is no thread."""

    def do(self, work: Callable[[Any], Any]) -> "asyncio.Future[Any]":
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def job() -> None:
            try:
                value = self._done(work)
            except Exception as error:
                if not result.done():
                    result.set_exception(error)
            else:
                if not result.done():
                    result.set_result(value)

        self._ask(job)
        return result

    def do_later(self, work: Callable[[Any], None]) -> None:
        def job() -> None:
            with suppress(LogError):
                self._done(work)

        self._ask(job)

    def stop(self) -> None:
        while self._jobs:
            self._jobs.popleft()()
        self._asked.put(None)
        self._work()  # which closes it

    def _done(self, work: Callable[[Any], Any]) -> Any:
        if self.is_failing:
            raise StoreUnavailable("store: it is away")
        return self._do(work, time.monotonic())

    def _ask(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        asyncio.get_running_loop().call_later(self.delay, self._do_next)

    def _do_next(self) -> None:
        if self._jobs:
            self._jobs.popleft()()  # one behind the other, whatever the delays were


class Storage(SqliteStorage):
    """SQLite in memory, without threads."""

    def __init__(self) -> None:
        super().__init__(":memory:", now=lambda: 1.7e9)
        self.database: Database

    def _thread(self, does: str, on_doubt: Callable[[], None]) -> Database:
        self.database = Database(self.path, name=does, on_doubt=on_doubt)
        return self.database

    async def close(self) -> None:
        self._poller.close()
        self.database.stop()


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


@dataclass(frozen=True)
class Asked:
    """What the client asks for, of whom, and within which bounds."""

    client: str = "openai-chat"
    upstream: str = "openai-chat"
    version: str = "1.1"
    fields: tuple[tuple[str, Any], ...] = ()
    #: What the upstream sends that is asked to go on; without it nobody is.
    again: tuple[bytes, ...] = ()
    #: The header that asks for a durable answer.
    durable: str = ""
    max_stream_bytes: int = 64 << 20
    max_pending_bytes: int = MAX_PENDING_BYTES
    spare_bytes: int = 1 << 20

    @property
    def request(self) -> bytes:
        path, body = {
            "openai-chat": ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
            "anthropic-messages": ("messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}),
            "openai-responses": ("responses", {"input": "Hi"}),
        }[self.client]
        data = msgspec.json.encode({"model": "m", "stream": True, **body, **dict(self.fields)})
        head = (
            f"POST /v1/{path} HTTP/{self.version}\r\nhost: h\r\nx-request-id: r\r\ncontent-type: application/json\r\n"
        )
        head += f"{self.durable}\r\n" if self.durable else ""
        return f"{head}anthropic-version: 2023-06-01\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data

    @property
    def settings(self) -> Settings:
        upstream = {"name": "up", "base_url": "http://up/v1", "models": ["*"], "dialect": self.upstream}
        upstream["continuation"] = "match" if self.again else "none"
        sections = {"retries": {"attempts": 2 if self.again else 1}, "store": {"streams": "memory"}}
        return msgspec.convert({"upstream": [upstream], **sections}, Settings)


@dataclass(frozen=True)
class Played:
    """All that was to be seen of one answer."""

    #: The body of an answer that is no stream.
    whole: Any
    #: When, and the body, of each write to the client of one that is.
    body: list[tuple[float, Any]]
    #: What else was done to the client's connection.
    client: list[tuple[float, str]]
    #: What was done to the connections to upstreams.
    upstreams: list[list[tuple[float, str, bytes]]]
    #: What was found in the log, and what another follower was given.
    seen: list[Any]
    #: What the log has in the end, of a durable answer: its blocks, how it stands, its account, its notes.
    kept: list[Any]
    lines: list[dict[str, Any]]
    metrics: bytes
    #: How many texts went through each of the lanes.
    lanes: list[int] = field(compare=False)

    @property
    def in_lanes(self) -> int:
        """Texts that went through lanes."""
        return sum(self.lanes)

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in self.body)


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

    async def play(self, steps: Sequence["Step"]) -> None:
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


def dechunked(data: bytes) -> bytes:
    """The body of one chunk; whatever is written to a client at once is one."""
    line, end, rest = data.partition(b"\r\n")
    size = int(line, 16)
    assert (line, end, rest[size:]) == (b"%x" % size, b"\r\n", b"\r\n"), data
    return rest[:size]


def played(asked: Asked, steps: Sequence["Step"], *, has_lanes: bool = True) -> Played:
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


def in_words(answer: Played) -> Played:
    """The same with the values of its events in place of their bytes."""
    whole = json.loads(answer.whole) if answer.whole else answer.whole
    return replace(answer, whole=whole, body=_values(answer.body), seen=_values(answer.seen), kept=_values(answer.kept))


def _values(found: object) -> object:
    match found:
        case bytes():
            said = [(type, data if data == b"[DONE]" else json.loads(data)) for type, data in SseReader().feed(found)]
            return (re.findall(rb"^id: (\d+)$", found, re.MULTILINE), said) if said else found
        case Held(last, _, followers):
            return last, followers  # its size depends on the letters that are escaped, too
        case list() | tuple():
            return [_values(one) for one in found]
        case _:
            return found


def check(asked: Asked, *steps: "Step") -> Played:
    """Plays an answer with lanes and without them; the one with them, if all was the same."""
    with_lanes, without = played(asked, steps), played(asked, steps, has_lanes=False)
    if asked.client == asked.upstream:
        assert with_lanes == without
    else:  # which letters of a text are escaped depends on whether it was translated by a template
        assert in_words(with_lanes) == in_words(without)
    assert max(with_lanes.lanes, default=0) <= MAX_TEXTS
    return with_lanes


# what happens to an answer


@dataclass(frozen=True)
class Read:
    """The gateway reads this from the upstream at once."""

    data: bytes

    async def act(self, stage: Stage) -> None:
        stage.receive(self.data)


@dataclass(frozen=True)
class Silence:
    """Nothing comes for some seconds."""

    seconds: float

    async def act(self, stage: Stage) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class ClientIsSlow:
    """The client's buffer is full; with `in_write` the next write of a body fills it, with `in_head` that of a head."""

    in_write: bool = False
    in_head: bool = False

    async def act(self, stage: Stage) -> None:
        if self.in_head:
            stage.client.in_head = partial(stage.fill_client, True)
        elif self.in_write:
            stage.client.in_write = partial(stage.fill_client, True)
        else:
            stage.fill_client(True)


@dataclass(frozen=True)
class ClientGoesOn:
    """The client's buffer has room again."""

    async def act(self, stage: Stage) -> None:
        stage.client.in_write = stage.client.in_head = None
        stage.fill_client(False)


@dataclass(frozen=True)
class ClientLeaves:
    """The client closes its connection; something may be read from the upstream before anybody knows what to do."""

    then: bytes = b""

    async def act(self, stage: Stage) -> None:
        stage.client.lose_now()
        if self.then:
            stage.receive(self.then)


@dataclass(frozen=True)
class UpstreamLeaves:
    """The upstream's connection is closed, or reset."""

    is_reset: bool = False

    async def act(self, stage: Stage) -> None:
        stage.lose_upstream(ConnectionResetError(104, "Connection reset by peer") if self.is_reset else None)


@dataclass(frozen=True)
class WeStop:
    """We shut down."""

    async def act(self, stage: Stage) -> None:
        stage.gateway.stop_answers()
        await stage.gateway.durable.hand_over()


@dataclass(frozen=True)
class Look:
    """Somebody looks into the log, and perhaps stays as a second follower."""

    after: int = 0
    stays: bool = False

    async def act(self, stage: Stage) -> None:
        await stage.look(self.after, stays=self.stays)


@dataclass(frozen=True)
class StoreIsSlow:
    """The store takes so long for each answer from now on."""

    seconds: float

    async def act(self, stage: Stage) -> None:
        stage.storage.database.delay = self.seconds


@dataclass(frozen=True)
class StoreFails:
    """The store is away for a while."""

    seconds: float

    async def act(self, stage: Stage) -> None:
        database = stage.storage.database
        database.is_failing = True
        stage.loop.call_later(self.seconds, setattr, database, "is_failing", False)


@dataclass(frozen=True)
class AnotherClaims:
    """The stream becomes another owner's."""

    async def act(self, stage: Stage) -> None:
        for stream in stage.durable_log.opened:
            with suppress(LogError):
                await stage.durable_log.claim(stream, on_lost=say_nothing)


@dataclass(frozen=True)
class Cancelled:
    """Somebody cancels the stream; where the store takes no end, nobody else is here to write one."""

    async def act(self, stage: Stage) -> None:
        for stream in stage.durable_log.opened:
            with suppress(LogError, TimeoutError):
                async with asyncio.timeout(60):
                    await stage.gateway.durable.cancel(stream)


Step = (
    Read
    | Silence
    | ClientIsSlow
    | ClientGoesOn
    | ClientLeaves
    | UpstreamLeaves
    | WeStop
    | Look
    | StoreIsSlow
    | StoreFails
    | AnotherClaims
    | Cancelled
)


# what an upstream says


def chat(members: bytes, finish: bytes = b"null", *, index: int = 0, more: bytes = b"") -> bytes:
    """The data of a chunk; `members` are its delta's."""
    choice = b'{"index":%d,"delta":{%b},"finish_reason":%b}' % (index, members, finish)
    head = b'{"id":"c1","object":"chat.completion.chunk","created":1,"model":"theirs","choices":['
    return b"%b%b]%b}" % (head, choice, more)


def chat_text(text: bytes) -> bytes:
    return chat(b'"content":%b' % text)


def message(type: bytes, members: bytes) -> bytes:
    return b'{"type":"%b",%b}' % (type, members)


def message_text(text: bytes, index: int = 0) -> bytes:
    return message(b"content_block_delta", b'"index":%d,"delta":{"type":"text_delta","text":%b}' % (index, text))


def data_line(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def named(data: bytes) -> bytes:
    """The event of a message, with its name."""
    return b"event: %b\ndata: %b\n\n" % (data.split(b'"')[3], data)


def chunk(body: bytes, size: str = "{:x}") -> bytes:
    return b"%b\r\n%b\r\n" % (size.format(len(body)).encode(), body)


CHAT_USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'
CHAT_BEGIN = [chat(b'"role":"assistant","content":""')]
CHAT_END = [chat(b"", b'"stop"'), b"[DONE]"]
MESSAGE_BEGIN = [
    message(b"message_start", b'"message":{"id":"m1","model":"theirs","content":[],"usage":{"input_tokens":3}}'),
    message(b"content_block_start", b'"index":0,"content_block":{"type":"text","text":""}'),
]
MESSAGE_END = [
    message(b"content_block_stop", b'"index":0'),
    message(b"message_delta", b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}'),
    b'{"type":"message_stop"}',
]


def words(*texts: str) -> list[bytes]:
    return [json.dumps(text).encode() for text in texts]


@dataclass(frozen=True)
class Upstream:
    """How a dialect's events are written."""

    begin: Sequence[bytes]
    end: Sequence[bytes]
    text: Callable[[bytes], bytes]
    write: Callable[[bytes], bytes]

    def events(self, *texts: str) -> list[bytes]:
        """An answer that says this, event by event."""
        return [self.write(data) for data in (*self.begin, *map(self.text, words(*texts)), *self.end)]

    def says(self, *texts: str) -> list[Read]:
        return [Read(chunk(self.write(self.text(text)))) for text in words(*texts)]

    @property
    def begins(self) -> list[Read]:
        return [Read(HEAD), *(Read(chunk(self.write(data))) for data in self.begin)]

    @property
    def ends(self) -> list[Read]:
        return [*(Read(chunk(self.write(data))) for data in self.end), Read(END)]


CHAT = Upstream(CHAT_BEGIN, CHAT_END, chat_text, data_line)
MESSAGES = Upstream(MESSAGE_BEGIN, MESSAGE_END, message_text, named)
UPSTREAMS = {"openai-chat": CHAT, "anthropic-messages": MESSAGES}


# anything


PLAIN_TEXTS = st.text(min_size=1, max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False))
ODD_TEXTS = [
    *(
        rb'""',
        rb'"\ud83d"',
        rb'"\ude00"',
        rb'"\ud83d\ude00"',
        rb'"\u00e9\/\u0000\u2028"',
        b'"\xe2\x80\xa8\xc2\x85\x7f"',
    ),
    *(
        b'"\xff"',
        b'"a',
        b'a"',
        b'"a\n"',
        b'"a\tb"',
        b'"\x00"',
        b'"a"\n',
        b'\n"a"',
        b'"a"\r',
        b'\r\n"a"',
        b'"a" ',
        b' "a"',
        b'\t"a"',
    ),
    *(b"null", b"5", b"", b'"a","x":"b"', b'"a"},"x":{"content":"b"', b'"a"\ndata: ', b'"\\"', b'"\\x"', b'"a" "b"'),
    *(b'"%b"' % (b"x" * size) for size in (200, 5000, LONGEST - 220, LONGEST, 2 * LONGEST - 300, 3 * LONGEST)),
]
TEXTS = st.one_of(
    PLAIN_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(min_size=1, max_size=8).map(lambda text: json.dumps(text).encode()),
)
ANY_TEXTS = st.one_of(TEXTS, TEXTS, TEXTS, st.sampled_from(ODD_TEXTS))

CALL = b'"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]'
CHAT_ODDITIES = [
    *(data_line(data) for data in (*CHAT_BEGIN, *CHAT_END, *CHAT_END)),
    data_line(chat(b'"content":null')),
    data_line(chat(b'"content":"u"', more=b"," + CHAT_USAGE)),
    data_line(chat(b'"content":"a"', b'"length"')),
    data_line(chat(b'"content":"a"', b'""')),
    data_line(chat(b'"content":"one"', index=1)),
    data_line(chat(b"", b'"stop"', index=1)),
    data_line(b'{"id":"c1","choices":[],%b}' % CHAT_USAGE),
    *(data_line(chat(b'"%b":"r"' % name)) for name in (b"reasoning_content", b"reasoning", b"refusal", b"other")),
    data_line(chat(b'"content":"a","reasoning_content":"b"')),
    data_line(chat(b'"content":"a","content":"b"')),
    data_line(chat(b'"c\\u006fntent":"x","content":"a"')),
    data_line(chat(b'"content":[{"type":"text","text":"b"}]', more=b',"x":{"content":"wrong"}')),
    data_line(chat(CALL)),
    data_line(chat(b'"content":"a",' + CALL)),
    data_line(chat(b'"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]')),
    data_line(b'{"error":{"message":"it broke","type":"server_error"}}'),
    data_line(b'{"choices":[{"index":0,"delta":{"content":'),
    data_line(chat(b'"content":"a"')).replace(b"\n", b"\r\n"),
    data_line(chat(b'"content":"a"')).replace(b"\n", b"\r"),
    data_line(chat(b'"content":"a"')).replace(b"data: ", b"data:"),
    data_line(chat(b'"content":"a"')).replace(b'"created"', b'\ndata: "created"'),
    b"event: message\n" + data_line(chat(b'"content":"a"')),
    b"event: ping\n" + data_line(chat(b'"content":"a"')),
    b"id: 7\n" + data_line(chat(b'"content":"a"')),
    b"\xef\xbb\xbf" + data_line(chat(b'"content":"a"')),
    *(b": a comment\n\n", b": a comment\n", b"\n", b"data:\n\n", b"data: \n\n", b"event: x\n\n", b"retry: 5\n\n"),
    *(b"data: cut", b"event: cut", b"data: {", b"<html>"),
]
MESSAGE_ODDITIES = [
    *(named(data) for data in (*MESSAGE_BEGIN, *MESSAGE_END, *MESSAGE_END)),
    named(message(b"content_block_start", b'"index":1,"content_block":{"type":"text","text":""}')),
    named(message_text(b'"one"', 1)),
    named(message(b"content_block_stop", b'"index":1')),
    named(message(b"content_block_start", b'"index":2,"content_block":{"type":"thinking","thinking":""}')),
    named(message(b"content_block_delta", b'"index":2,"delta":{"type":"thinking_delta","thinking":"t"}')),
    named(message(b"content_block_start", b'"index":3,"content_block":{"type":"tool_use","id":"a","name":"f"}')),
    named(message(b"content_block_delta", b'"index":3,"delta":{"type":"input_json_delta","partial_json":"{}"}')),
    named(message(b"content_block_delta", b'"index":0,"delta":{"type":"citations_delta","citation":{"text":"a"}}')),
    named(message(b"content_block_delta", b'"delta":{"type":"text_delta","text":"a"}')),
    named(message(b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":"a","text":"b"}')),
    named(message_text(b'"a"').replace(b"}}", b"}   }")),
    named(message_text(b'"a"').replace(b"}}", b'},"x":{"text":"b"}}')),
    data_line(message_text(b'"a"')),
    named(message_text(b'"a"')).replace(b"\n", b"\r\n"),
    named(message_text(b'"a"')).replace(b"data: ", b"data:"),
    named(message_text(b'"a"')).replace(b'"index"', b'\ndata: "index"'),
    b"event: ping\n" + data_line(message_text(b'"a"')),
    named(b'{"type":"ping"}'),
    named(b'{"type":"error","error":{"type":"overloaded_error","message":"too much"}}'),
    *(b": a comment\n\n", b": a comment\n", b"\n", b"event: x\n\n", b"data: cut", b"event: cut", b"data: {", b"<html>"),
]
ODDITIES = {"openai-chat": CHAT_ODDITIES, "anthropic-messages": MESSAGE_ODDITIES}
FRAMES: list[Callable[[bytes], bytes]] = [
    lambda body: chunk(body, "{:X}"),
    lambda body: chunk(body, "{:x};name=value"),
    lambda body: chunk(body, "0{:x}"),
    lambda body: chunk(body, "{:x} "),
    lambda body: chunk(body).replace(b"\r\n", b"\n", 1),
    lambda body: chunk(body)[:-2] + b"\n",
    lambda body: b"\n" + body + b"\r\n",
    lambda body: body,
    lambda body: chunk(chunk(body)),
    lambda body: chunk(body) + END,
    lambda body: chunk(body[:9]) + chunk(body[9:] or b"x"),
    lambda body: chunk(body) + b"\r\n",
]
SECONDS = st.sampled_from([0.0, 0.0004, 0.003, 0.2, 0.7, 1.0, 1.5, 11.0, 25.0, 31.0])
HAPPENINGS: st.SearchStrategy[Step] = st.one_of(
    SECONDS.map(Silence),
    SECONDS.map(Silence),
    st.booleans().map(ClientIsSlow),
    st.just(ClientGoesOn()),
    st.just(ClientGoesOn()),
)
STORE_HAPPENINGS: st.SearchStrategy[Step] = st.one_of(
    HAPPENINGS,
    st.sampled_from([0.0, 0.0004, 0.004, 0.02, 0.3]).map(StoreIsSlow),
    st.sampled_from([0.01, 0.4, 3.0, 14.0]).map(StoreFails),
)
LOOKS = st.builds(Look, st.integers(0, 9), st.booleans())
ENDINGS: st.SearchStrategy[list[Step]] = st.one_of(
    st.just([]),
    st.just([]),
    st.just([ClientLeaves()]),
    st.booleans().map(lambda is_reset: [UpstreamLeaves(is_reset)]),
    st.just([WeStop()]),
)
STORE_ENDINGS: st.SearchStrategy[list[Step]] = st.one_of(
    ENDINGS, st.just([AnotherClaims()]), st.just([Cancelled()]), st.just([StoreFails(60.0)])
)


@st.composite
def scripts(draw: st.DrawFn, upstream: str, *, looks: bool = True, is_durable: bool = False) -> list[Step]:
    """What happens to an answer of this dialect; most of it are pieces of text, each of them a chunk and a read."""
    way, happenings = UPSTREAMS[upstream], STORE_HAPPENINGS if is_durable else HAPPENINGS
    sent: list[bytes | Step] = [chunk(way.write(data)) for data in way.begin]
    begin = draw(st.sampled_from(["t", "t", "t", ""]))
    for kind in begin + "".join(draw(st.lists(st.sampled_from("tttttoofchjnw"), min_size=2, max_size=14))):
        match kind:
            case "t":
                sent += [chunk(way.write(way.text(text))) for text in draw(st.lists(TEXTS, min_size=6, max_size=16))]
            case "w":  # the log commits between them
                for text in draw(st.lists(TEXTS, min_size=2, max_size=6)):
                    sent += [chunk(way.write(way.text(text))), Silence(draw(st.sampled_from([0.0, 0.002, 0.006])))]
            case "o":
                sent.append(chunk(draw(st.sampled_from(ODDITIES[upstream]))))
            case "f":
                sent.append(draw(st.sampled_from(FRAMES))(way.write(way.text(draw(TEXTS)))))
            case "c":
                sent.append(chunk(way.write(way.text(draw(ANY_TEXTS)))))
            case "j":
                texts = draw(st.lists(ANY_TEXTS, min_size=2, max_size=4))
                sent.append(chunk(b"".join(way.write(way.text(text)) for text in texts)))
            case "n":  # a chunk of what looks like chunks
                texts = draw(st.lists(TEXTS, min_size=1, max_size=4))
                inner = [chunk(way.write(way.text(text))) for text in texts]
                sent += [b"%x\r\n" % sum(map(len, inner)), *inner, b"\r\n"]
            case _:
                sent.append(draw(happenings | LOOKS if looks else happenings))
    if draw(st.booleans()):
        sent += [*(chunk(way.write(data)) for data in way.end), END]
    ending = draw(STORE_ENDINGS if is_durable else ENDINGS)
    if ending:
        at = draw(st.integers(0, len(sent)))
        sent[at:at] = ending
    return [Read(HEAD), *cut_anew(draw, sent)]


def cut_anew(draw: st.DrawFn, sent: list[bytes | Step]) -> list[Step]:
    """Most chunks are a read each; some come together, or cut."""
    steps: list[Step] = []
    places = st.integers(0, max(len(sent) - 1, 0))
    joined, cut = draw(st.sets(places, max_size=6)), draw(st.dictionaries(places, st.integers(1, 400), max_size=3))
    rest = b""
    for place, one in enumerate(sent):
        if not isinstance(one, bytes):
            steps += [Read(rest), one] if rest else [one]
            rest = b""
            continue
        rest += one
        if place in cut and len(rest) > cut[place]:
            steps.append(Read(rest[: cut[place]]))
            rest = rest[cut[place] :]
        elif place not in joined:
            steps.append(Read(rest))
            rest = b""
    return [*steps, Read(rest)] if rest else steps


ASKED = [
    Asked("openai-chat", "openai-chat"),
    Asked("openai-chat", "openai-chat", fields=(("n", 2), ("stream_options", {"include_usage": True}))),
    Asked("openai-chat", "openai-chat", spare_bytes=2000),
    Asked("anthropic-messages", "openai-chat"),
    Asked("openai-chat", "anthropic-messages", fields=(("stream_options", {"include_usage": True}),)),
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.client} of {asked.upstream}")
def test_lanes_change_nothing_whatever_happens(asked: Asked) -> None:
    in_lanes: list[int] = []

    @settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(scripts(asked.upstream, looks=asked.spare_bytes > 2000))  # what is held of more is not the same
    def look(steps: list[Step]) -> None:
        answer = check(asked, *steps)
        read_events(answer.text)
        in_lanes.append(answer.in_lanes)

    look()
    assert sum(taken > 3 for taken in in_lanes) > 0.25 * len(in_lanes)


DURABLE = "unbroken-durable: true"

DURABLY_ASKED = [
    Asked("openai-chat", "openai-chat", durable=DURABLE),
    Asked("openai-chat", "openai-chat", durable="idempotency-key: k", fields=(("n", 2),)),
    Asked("openai-chat", "openai-chat", durable=DURABLE, max_stream_bytes=9000),
    Asked("openai-chat", "openai-chat", durable=DURABLE, max_pending_bytes=3000),
    Asked("openai-chat", "openai-chat", durable=DURABLE, fields=(("stream", False),)),
    Asked("openai-chat", "openai-chat", durable=DURABLE, version="1.0"),
    Asked("anthropic-messages", "openai-chat", durable=DURABLE),
    Asked("openai-chat", "anthropic-messages", durable=DURABLE),
]


@pytest.mark.parametrize("asked", DURABLY_ASKED, ids=lambda asked: f"{asked.client} of {asked.upstream}")
def test_lanes_to_a_durable_log_change_nothing_whatever_happens(asked: Asked) -> None:
    in_lanes: list[int] = []

    @settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(scripts(asked.upstream, is_durable=True))
    def look(steps: list[Step]) -> None:
        answer = check(asked, *steps)
        in_lanes.append(answer.in_lanes)
        if asked.durable == DURABLE and isinstance(
            answer.kept[0], list
        ):  # else it has failed at once, and is forgotten
            said = re.sub(rb"(?m)^event: ping\ndata: .*\n\n|^: keep-alive\n", b"", followed(answer))
            assert b"".join(block for _, block in answer.kept[0]).startswith(said)

    look()
    assert sum(taken > 3 for taken in in_lanes) > 0.25 * len(in_lanes)


def followed(answer: Played) -> bytes:
    """The blocks that the client was sent, each with the next number."""
    read_events(answer.text)
    numbers = re.findall(rb"(?m)^id: (\d+)$", answer.text)
    assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]
    return re.sub(rb"(?m)^id: \d+\n", b"", answer.text)


def read_events(text: bytes) -> list[SseEvent]:
    """The events that a client reads, all of them whole."""
    reader = SseReader()
    events = reader.feed(text)
    assert not reader.has_rest
    for _, data in events:
        if data != b"[DONE]":
            json.loads(data)
    return events


# one by one

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
PAIRS = [("openai-chat", "openai-chat"), ("anthropic-messages", "openai-chat"), ("openai-chat", "anthropic-messages")]


def spoken(answer: Played) -> str:
    """The text that the client reads."""
    said = [json.loads(data) for _, data in read_events(answer.text) if data != b"[DONE]"]
    deltas = [one["choices"][0]["delta"] if one.get("choices") else one.get("delta", {}) for one in said]
    return "".join(delta.get("content") or delta.get("text") or "" for delta in deltas)


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_the_pieces_of_an_answer_go_through_a_lane(client: str, upstream: str) -> None:
    way = UPSTREAMS[upstream]
    answer = check(Asked(client, upstream), *way.begins, *way.says(*ALPHABET), *way.ends)
    assert spoken(answer) == ALPHABET
    assert answer.lines[0]["outcome"] == "finished"
    assert answer.in_lanes > 20
    assert len(answer.body) > 26, "each read is a write"


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_chunks_that_come_together_stay_together(client: str, upstream: str) -> None:
    way, texts = UPSTREAMS[upstream], [f"{letter}é/" for letter in ALPHABET]
    reads = way.says(*texts)
    joined = [Read(b"".join(read.data for read in reads[start : start + 3])) for start in range(8, 26, 3)]
    answer = check(Asked(client, upstream), *way.begins, *reads[:8], *joined, *way.ends)
    assert spoken(answer) == "".join(texts)
    assert answer.in_lanes > 20
    assert len(answer.body) < 8 + 6 + 6


def test_where_the_server_writes_sizes_in_capitals_there_are_no_lanes_but_in_those_that_there_are() -> None:
    capitals = [Read(chunk(data_line(chat_text(b'"%b"' % (letter.encode() * 11))), "{:X}")) for letter in ALPHABET]
    assert capitals[0].data.startswith(b"A0\r\n")
    assert check(Asked(), *CHAT.begins, *capitals, *CHAT.ends).in_lanes == 0
    assert check(Asked(), *CHAT.begins, *CHAT.says(*"abcdef"), *capitals, *CHAT.ends).in_lanes > 26


def test_a_lane_that_is_full_is_followed_by_another() -> None:
    texts = [f"{number} " for number in range(3 * MAX_TEXTS)]
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*texts), *CHAT.ends)
    assert spoken(answer) == "".join(texts)
    assert 2 * MAX_TEXTS < answer.in_lanes < 3 * MAX_TEXTS


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_read_of_several_chunks_that_is_too_much_for_a_lane_ends_it(count: int) -> None:
    reads = CHAT.says(*(f"{number} " for number in range(MAX_TEXTS + 10)))
    joined = [b"".join(read.data for read in reads[start : start + count]) for start in range(6, len(reads), count)]
    answer = check(Asked(), *CHAT.begins, *reads[:6], *map(Read, joined), *CHAT.ends)
    assert answer.in_lanes > 200


BROKEN = [
    pytest.param(b"\n" + b"x" * 259, id="a line end"),
    pytest.param(b"x" * 262, id="anything"),
    pytest.param(b"\r\n" + END, id="an empty line"),
    pytest.param(b"100000000000000000\r\n", id="a size that is none"),
    pytest.param(END, id="the end"),
    pytest.param(b"0\r\nx: y\r\n\r\n", id="an end with a trailer"),
    pytest.param(END + chunk(data_line(chat_text(b'"behind"'))), id="more behind the end"),
]


@pytest.mark.parametrize("data", BROKEN)
@pytest.mark.parametrize("after", [0, 6])
def test_what_is_no_chunk_ends_a_lane_as_it_ends_an_answer(data: bytes, after: int) -> None:
    answer = check(
        Asked(), *CHAT.begins, *CHAT.says(*ALPHABET[: after + 2]), Read(data), *CHAT.says("more"), *CHAT.ends
    )
    assert (answer.in_lanes > 0) == (after > 0)
    assert spoken(answer) == ALPHABET[: after + 2]
    assert b'"error"' in answer.text


def test_an_event_with_a_line_end_for_a_size_is_no_chunk() -> None:
    """Of all lengths there are some that no chunk has; this is one of them."""
    event = data_line(chat_text(b'"%b"' % (b"x" * 110)))
    read = b"\n" + event + b"\r\n"
    assert len(read) == 262
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*"abcdef"), Read(read))
    assert spoken(answer) == "abcdef"
    assert "not HTTP" in answer.lines[0]["message"]


@pytest.mark.parametrize("beside", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize(("client", "upstream"), [*PAIRS, ("anthropic-messages", "anthropic-messages")])
@pytest.mark.parametrize("joined", [False, True])
def test_a_line_end_beside_a_text_breaks_the_event(client: str, upstream: str, beside: bytes, joined: bool) -> None:
    """JSON may have it there, but in an event it begins another line."""
    way = UPSTREAMS[upstream]
    for wrong in (b'"wrong"' + beside, beside + b'"wrong"'):
        reads = [*way.says("last"), Read(chunk(way.write(way.text(wrong))))]
        if joined:
            reads = [Read(b"".join(read.data for read in reads))]
        answer = check(Asked(client, upstream), *way.begins, *way.says(*"abcdef"), *reads, *way.ends)
        assert spoken(answer) == "abcdeflast"
        assert answer.lines[0]["outcome"] == "malformed"


@pytest.mark.parametrize("durable", ["", DURABLE])
@pytest.mark.parametrize(("client", "upstream"), [*PAIRS, ("anthropic-messages", "anthropic-messages")])
def test_events_of_several_lines_are_no_model_of_broken_ones(client: str, upstream: str, durable: str) -> None:
    """A line end in the data of an event is the end of one `data:` line and the start of the next; alone it is none."""
    way = UPSTREAMS[upstream]
    for place in (b'"index"', b'"delta"'):
        events = [way.write(way.text(text)) for text in words(*ALPHABET)]
        spread = [Read(chunk(event.replace(place, b"\ndata: " + place))) for event in events]
        broken = [Read(chunk(event.replace(place, b"\n" + place))) for event in events]
        answer = check(Asked(client, upstream, durable=durable), *way.begins, *spread, *broken[:3], *way.ends)
        assert spoken(answer) == ALPHABET
        assert answer.lines[0]["outcome"] == "malformed"


def test_a_long_text_goes_the_long_way_and_the_lane_goes_on() -> None:
    texts = ["a"] * 6 + ["x" * size for size in (LONGEST - 300, LONGEST, 3 * LONGEST)] + ["b"] * 12
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*texts), *CHAT.ends)
    assert spoken(answer) == "".join(texts)
    assert answer.in_lanes > 12


LONG_MODEL = "🙂" * (LONGEST // 8)  # bytes: four times as many


@pytest.mark.parametrize("more", [0, LONGEST * 5 // 8])
def test_blocks_that_are_too_long_for_a_lane_have_none(more: int) -> None:
    fingerprint = b',"system_fingerprint":"%b"' % (b"f" * more)
    reads = [Read(chunk(data_line(chat(b'"content":%b' % text, more=fingerprint)))) for text in words(*ALPHABET)]
    answer = check(Asked(fields=(("model", LONG_MODEL),)), *CHAT.begins, *reads, *CHAT.ends)
    assert spoken(answer) == ALPHABET
    assert (answer.in_lanes > 0) == (not more)


EIGHTH = MAX_BYTES // 8


@pytest.mark.parametrize("bound", [300, 30_000, 4 * EIGHTH, 8 * EIGHTH, 9 * EIGHTH, 10 * EIGHTH, 24 * EIGHTH])
@pytest.mark.parametrize("letters", [200, LONGEST - 200, 2 * LONGEST - 200])
def test_a_stream_is_as_long_as_it_may_be(bound: int, letters: int) -> None:
    """With a long name of the model a block is longer than the chunk that it comes from."""
    asked = Asked(fields=(("model", LONG_MODEL),), max_stream_bytes=bound, spare_bytes=bound)
    several = Read(b"".join(read.data for read in CHAT.says(*["x" * letters] * 15)))
    answer = check(asked, *CHAT.begins, *CHAT.says(*"abcdef"), *[several] * 20, *CHAT.ends)
    assert len(answer.text) < bound + 20_000
    assert answer.in_lanes > 200 or bound < 3 * MAX_BYTES or letters > LONGEST


@pytest.mark.parametrize("spare", [0, 1000, 5_000, 100_000])
def test_how_an_answer_fails_that_is_too_long_to_be_continued(spare: int) -> None:
    answer = check(Asked(spare_bytes=spare), *CHAT.begins, *CHAT.says(*ALPHABET), UpstreamLeaves())
    assert answer.in_lanes > 20
    assert spoken(answer) == ALPHABET


def test_a_client_that_knows_no_chunks_has_no_lane() -> None:
    answer = check(Asked(version="1.0"), *CHAT.begins, *CHAT.says(*ALPHABET), *CHAT.ends)
    assert spoken(answer) == ALPHABET
    assert answer.in_lanes == 0


@pytest.mark.parametrize(
    "head",
    [b"content-length: 100000\r\n", b"connection: close\r\n", b"transfer-encoding: chunked\r\n"],
    ids=["a length", "an end", "a chunk"],
)
def test_a_body_that_looks_like_chunks_is_none_of_them(head: bytes) -> None:
    begin = HEAD.replace(b"transfer-encoding: chunked\r\n", head)
    if b"chunked" in head:
        begin += b"100000\r\n"
    answer = check(Asked(), Read(begin), *CHAT.begins[1:], *CHAT.says(*ALPHABET), *CHAT.ends)
    assert spoken(answer) == ALPHABET
    assert answer.in_lanes == 0


def test_another_kind_of_text_has_a_lane_of_its_own() -> None:
    thinking = [Read(chunk(data_line(chat(b'"reasoning_content":%b' % text)))) for text in words(*ALPHABET)]
    answer = check(Asked(), *CHAT.begins, *thinking, *CHAT.says(*ALPHABET), *CHAT.ends)
    assert answer.in_lanes > 35


def test_each_choice_has_its_own_texts() -> None:
    reads = [Read(chunk(data_line(chat(b'"content":"%d"' % turn, index=turn % 2)))) for turn in range(40)]
    runs = [Read(chunk(data_line(chat(b'"content":"%d"' % turn, index=turn // 20)))) for turn in range(40)]
    first = Read(chunk(data_line(chat(b'"role":"assistant","content":""', index=1))))
    ends = [Read(chunk(data_line(chat(b"", b'"stop"', index=index)))) for index in (1, 0)]
    steps = [*CHAT.begins, first, *reads, *runs, *ends, Read(chunk(b"data: [DONE]\n\n"))]
    answer = check(Asked(fields=(("n", 2),)), *steps)
    assert answer.in_lanes > 5
    assert answer.lines[0]["outcome"] == "finished"


# what happens beside a lane

HAPPENS: dict[str, list[Step]] = {
    "the upstream is cut": [UpstreamLeaves()],
    "the upstream is reset": [UpstreamLeaves(is_reset=True)],
    "the client leaves": [ClientLeaves()],
    "the client is slow": [ClientIsSlow()],
    "the client is slow for a while": [ClientIsSlow(), Silence(0.7), ClientGoesOn()],
    "the client is slow for a long while": [ClientIsSlow(), Silence(70.0), ClientGoesOn()],
    "the client is slow in a write": [ClientIsSlow(in_write=True)],
    "we stop": [WeStop()],
    "a short silence": [Silence(0.7)],
    "a long silence": [Silence(25.0)],
    "a stall": [Silence(40.0)],
    "a look": [Look(after=3)],
    "a second reader": [Look(after=3, stays=True)],
    "a second reader of what comes": [Look(after=20, stays=True)],
}


@pytest.mark.parametrize("name", HAPPENS)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_whatever_happens_beside_a_lane(client: str, upstream: str, name: str) -> None:
    way = UPSTREAMS[upstream]
    before, between, behind = way.says(*ALPHABET[:20]), way.says(*ALPHABET[20:23]), way.says(*ALPHABET[23:])
    steps = [*way.begins, *before, Silence(0.02), *HAPPENS[name], *between, ClientGoesOn(), *behind, *way.ends]
    answer = check(Asked(client, upstream), *steps)
    assert answer.in_lanes > 15
    assert ALPHABET.startswith(spoken(answer))


@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_lane_to_a_client_that_has_left_writes_nothing(count: int) -> None:
    then = b"".join(read.data for read in CHAT.says(*ALPHABET[20 : 20 + count]))
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*ALPHABET[:20]), ClientLeaves(then), *CHAT.ends)
    assert answer.in_lanes > 15
    assert spoken(answer) == ALPHABET[:20]


@pytest.mark.parametrize("seconds", [0.5, 0.999, 1.0, 1.5, 10.9, 11.1, 21.5, 29.9, 30.2])
def test_comments_and_limits_count_from_the_last_text_of_a_lane(seconds: float) -> None:
    steps = [*CHAT.begins, *CHAT.says(*ALPHABET[:9]), Silence(0.3), *CHAT.says(*ALPHABET[9:12]), Silence(seconds)]
    answer = check(Asked(), *steps, *CHAT.says(*ALPHABET[12:]), *CHAT.ends)
    assert answer.in_lanes > 5
    comments = [at for at, data in answer.body if data == b": keep-alive\n"]
    assert len(comments) == sum(seconds >= due for due in (1.0, 11.0, 21.0))
    assert (spoken(answer) == ALPHABET) == (seconds < 30)


def test_gaps_between_texts_are_counted_as_they_were() -> None:
    texts = CHAT.says(*ALPHABET)
    steps = [step for number, read in enumerate(texts) for step in (read, Silence(0.0007 * number))]
    answer = check(Asked(), *CHAT.begins, *steps, *CHAT.ends)
    assert answer.in_lanes > 20
    buckets = [
        line for line in answer.metrics.decode().splitlines() if line.startswith("unbroken_inter_token_seconds_b")
    ]
    assert len({line.split()[-1] for line in buckets}) > 3


@pytest.mark.parametrize("durable", ["", DURABLE])
def test_an_answer_that_is_cut_in_a_lane_goes_on_from_all_that_was_said(durable: str) -> None:
    again = tuple(read.data for read in (*CHAT.begins, *CHAT.says(*ALPHABET), *CHAT.ends))
    for count in range(4, 26):
        steps = [*CHAT.begins, *CHAT.says(*ALPHABET[:count]), UpstreamLeaves(), Silence(1.0)]
        answer = check(Asked(again=again, durable=durable), *steps)
        assert spoken(answer) == ALPHABET
        assert answer.lines[0]["continued"] == 1
        assert answer.in_lanes == max(0, count - 1 - FITS_BEFORE_LANE)


# to a durable log


@pytest.mark.parametrize("fields", [(), (("stream", False),)], ids=["stream", "whole"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_the_pieces_of_a_durable_answer_go_through_a_lane(
    client: str, upstream: str, fields: tuple[tuple[str, Any], ...]
) -> None:
    way = UPSTREAMS[upstream]
    texts = [step for read in way.says(*ALPHABET) for step in (read, Silence(0.01))]
    answer = check(Asked(client, upstream, fields=fields, durable=DURABLE), *way.begins, *texts, *way.ends)
    assert answer.lines[0]["outcome"] == "finished"
    assert answer.in_lanes > 20
    log, (last, has_ended, *_), *_ = answer.kept
    assert [offset for offset, _ in log] == [*range(1, last + 1)]
    assert has_ended
    if fields:
        return
    assert spoken(answer) == ALPHABET
    assert followed(answer) == b"".join(block for _, block in log)
    assert len(answer.body) > 26, "each commit is a write"


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02])
def test_durable_texts_that_wait_for_the_store_are_committed_together(seconds: float) -> None:
    texts = [step for read in CHAT.says(*ALPHABET) for step in (read, Silence(0.003))]
    answer = check(Asked(durable=DURABLE), *CHAT.begins, StoreIsSlow(seconds), *texts, *CHAT.ends)
    assert answer.in_lanes > 20
    assert spoken(answer) == ALPHABET
    assert 3 < len(answer.body) < 26


STORE_HAPPENS: dict[str, list[Step]] = HAPPENS | {
    "the store is slow": [StoreIsSlow(0.3)],
    "the store is slow for a while": [StoreIsSlow(0.3), Silence(0.1), StoreIsSlow(0.0)],
    "the store is away for a while": [StoreFails(3.0)],
    "the store is away for a long while": [StoreFails(60.0)],
    "the store is away for a long while, and nobody speaks": [StoreFails(60.0), Silence(20.0)],
    "another claims the stream": [AnotherClaims()],
    "the stream is cancelled": [Cancelled()],
}


@pytest.mark.parametrize("name", STORE_HAPPENS)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_whatever_happens_beside_a_lane_to_a_durable_log(client: str, upstream: str, name: str) -> None:
    way = UPSTREAMS[upstream]
    before, between, behind = way.says(*ALPHABET[:20]), way.says(*ALPHABET[20:23]), way.says(*ALPHABET[23:])
    happens = [*STORE_HAPPENS[name], *between, Silence(0.02), ClientGoesOn(), *behind]
    for gap in (0.0, 0.003, 0.02):  # nothing is committed, something, everything
        steps = [*way.begins, *before[:10], Silence(0.02), *before[10:], Silence(gap), *happens, *way.ends]
        answer = check(Asked(client, upstream, durable=DURABLE), *steps)
        assert answer.in_lanes > 15
        assert ALPHABET.startswith(spoken(answer))


def test_a_durable_answer_whose_head_fills_the_clients_buffer_comes_once() -> None:
    """A client that has not read its last answer has little room for the head of the next."""
    begin, texts = CHAT.begins, [step for read in CHAT.says(*ALPHABET) for step in (read, Silence(0.01))]
    steps = [begin[0], ClientIsSlow(in_head=True), *begin[1:], *texts[:20], ClientGoesOn(), *texts[20:], *CHAT.ends]
    answer = check(Asked(durable=DURABLE), *steps)
    assert followed(answer) == b"".join(block for _, block in answer.kept[0])


def test_no_more_durable_blocks_wait_for_the_store_than_may() -> None:
    """Lanes are bound to the byte as all that is appended is."""
    steps = [*CHAT.begins, *CHAT.says(*"abc"), Silence(1.0), *CHAT.says(*ALPHABET), Silence(1.0)]
    lengths = []
    for bound in range(1200, 1500, 10):
        answer = check(Asked(durable=DURABLE, max_pending_bytes=bound), *steps, *CHAT.ends)
        assert answer.in_lanes > 5
        lengths.append(len(answer.kept[0]))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] < len(CHAT_BEGIN) + 3 + len(ALPHABET)


def test_a_durable_stream_is_as_long_as_it_may_be() -> None:
    joined = [Read(b"".join(read.data for read in CHAT.says(*"xyz")))] * 5
    for bound in range(2000, 2600, 10):
        asked = Asked(durable=DURABLE, max_stream_bytes=bound)
        answer = check(asked, *CHAT.begins, *CHAT.says(*"abcdef"), Silence(0.1), *joined, *CHAT.ends)
        assert answer.in_lanes > 4
        assert sum(len(block) for _, block in answer.kept[0][:-1]) <= bound


@pytest.mark.parametrize("letters", [LONGEST - 400, LONGEST - 200])
def test_how_a_durable_answer_fails_that_is_too_long_to_be_continued(letters: int) -> None:
    again = tuple(read.data for read in (*CHAT.begins, *CHAT.says("again"), *CHAT.ends))
    said = CHAT.says(*["x" * letters] * ((1 << 20) // letters + 5))
    outcomes = set()
    for less in range(0, 40, 4):
        steps = [*CHAT.begins, *said[less:], Silence(0.02), UpstreamLeaves(), Silence(1.0)]
        answer = check(Asked(durable=DURABLE, again=again), *steps)
        assert answer.in_lanes > 200
        outcomes.add(answer.lines[-1]["message"])
    assert len(outcomes) > 1


# through sockets

WORDS = "The quick brown fox jumps over the lazy dog and runs away."
COUNT = len(WORDS.split())


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def with_counted_lanes(served: Served) -> CountingLog:
    """The log that the gateway has from now on."""
    log = served.gateway.log = CountingLog(spare_bytes=1 << 20, has_lanes=True)
    served.gateway.apply(served.gateway.settings)
    return log


def word_by_word(gates: list[Gate], words: str = WORDS) -> Answer:
    """Each word but the first waits for its gate, so that it is read by itself."""
    answer = text(words)
    gates[0].open()
    for number, gate in enumerate(gates, 1):
        answer |= hold_after(number, gate)
    return answer


async def read_words(reading: Reading, gates: Sequence[Gate]) -> None:
    for number, gate in enumerate(gates):
        gate.open()
        await reading.read_text(" ".join(WORDS.split()[: number + 1]))


@pytest.mark.anyio
async def test_a_stream_comes_whole_through_a_lane(serve: Serve, upstream: ScriptedUpstream) -> None:
    gates = [Gate() for _ in range(COUNT)]
    upstream.script(word_by_word(gates))
    served = await serve(upstream)
    log = with_counted_lanes(served)
    async with served.reading() as reading:
        await read_words(reading, gates)
        answer = await reading.read_to_end()
    assert (answer.text, answer.is_done) == (WORDS, True)
    assert sum(map(len, log.runs)) >= COUNT - 4
    line = await served.wait_for_line()
    assert (line["outcome"], line["output_tokens"]) == ("finished", COUNT)
    assert upstream.connections == 1
    assert (await served.stream()).is_done
    assert upstream.connections == 1, "the connection is used again"


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [cut_after, reset_after, eof_after, malformed_after])
async def test_an_answer_that_breaks_off_in_a_lane_goes_on(
    serve: Serve, upstream: ScriptedUpstream, fault: Callable[[int], Any]
) -> None:
    gates = [Gate() for _ in range(COUNT - 2)]
    upstream.script(word_by_word(gates) | fault(COUNT - 2))
    upstream.always(text(WORDS))
    served = await serve(upstream_settings("up0", upstream, continuation="match"))
    log = with_counted_lanes(served)
    async with served.reading() as reading:
        await read_words(reading, gates[:-1])
        taken = sum(map(len, log.runs))
        gates[-1].open()
        answer = await reading.read_to_end()
    assert taken > 4
    assert (answer.text, answer.is_done) == (WORDS, True)
    assert len({one["id"] for one in answer.chunks}) == 1
    line = await served.wait_for_line()
    assert (line["outcome"], line["continued"], line["output_tokens"]) == ("finished", 1, COUNT)


@pytest.mark.anyio
async def test_comments_come_into_the_silence_behind_a_lane(serve: Serve, upstream: ScriptedUpstream) -> None:
    gates = [Gate() for _ in range(COUNT)]
    upstream.script(word_by_word(gates))
    served = await serve(upstream, keep_alive={"first": 0.2, "every": 0.05})
    log = with_counted_lanes(served)
    async with served.reading() as reading:
        await read_words(reading, gates[:-2])
        taken = sum(map(len, log.runs))
        assert taken > 4
        seen = reading.answer.raw.count(b": keep-alive\n")
        await reading.read_until(lambda answer: answer.raw.count(b": keep-alive\n") > seen + 2)
        await read_words(reading, gates)
        answer = await reading.read_to_end()
    assert sum(map(len, log.runs)) > taken, "the lane goes on behind them"
    assert (answer.text, answer.is_done) == (WORDS, True)


@pytest.fixture
async def secure_upstream(tmp_path: Path) -> AsyncIterator[ScriptedUpstream]:
    """One that speaks TLS; its authority is in `ca.pem`."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedUpstream(ssl_context=context) as upstream:
        yield upstream


@pytest.mark.anyio
async def test_a_lane_of_an_upstream_with_tls(serve: Serve, secure_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    gates = [Gate() for _ in range(COUNT)]
    secure_upstream.script(word_by_word(gates))
    served = await serve(upstream_settings("up0", secure_upstream, ca_file=str(tmp_path / "ca.pem")))
    log = with_counted_lanes(served)
    async with served.reading() as reading:
        await read_words(reading, gates)
        answer = await reading.read_to_end()
    assert (answer.text, answer.is_done) == (WORDS, True)
    assert sum(map(len, log.runs)) >= COUNT - 4
    assert (await served.stream()).is_done
    assert secure_upstream.connections == 1, "the connection is used again"


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [cut_after, reset_after])
async def test_a_cut_in_a_lane_with_tls_is_a_cut(
    serve: Serve, secure_upstream: ScriptedUpstream, tmp_path: Path, fault: Callable[[int], Any]
) -> None:
    gates = [Gate() for _ in range(COUNT - 2)]
    secure_upstream.script(word_by_word(gates) | fault(COUNT - 2))
    served = await serve(upstream_settings("up0", secure_upstream, ca_file=str(tmp_path / "ca.pem")))
    log = with_counted_lanes(served)
    async with served.reading() as reading:
        await read_words(reading, gates[:-1])
        assert sum(map(len, log.runs)) > 4
        gates[-1].open()
        answer = await reading.read_to_end()
    assert not answer.is_done
    assert answer.error is not None
    assert f"after {COUNT - 3} chunks" in (await served.wait_for_line())["message"]


@pytest.mark.anyio
async def test_a_client_that_leaves_a_lane_ends_the_upstreams_answer(serve: Serve, upstream: ScriptedUpstream) -> None:
    gates = [Gate() for _ in range(COUNT)]
    upstream.script(word_by_word(gates))
    served = await serve(upstream)
    log = with_counted_lanes(served)
    async with served.reading() as reading:
        await read_words(reading, gates[:-2])
    line = await served.wait_for_line()
    assert sum(map(len, log.runs)) > 4
    assert line["outcome"] == "client_left"
    assert line["output_tokens"] == COUNT - 2
    assert len(log) == 0


@pytest.mark.anyio
async def test_a_client_of_http_1_0_reads_no_chunks(serve: Serve, upstream: ScriptedUpstream, dial: Dial) -> None:
    gates = [Gate() for _ in range(COUNT)]
    upstream.script(word_by_word(gates))
    served = await serve(upstream)
    log = with_counted_lanes(served)
    line = await dial(served)
    line.post(served.body(stream=True), version="1.0")
    head = await line.read_head()
    assert head.header("transfer-encoding") is None
    for gate in gates:
        gate.open()
        await served.turn()
    body = await line.read_to_end()
    said = [json.loads(data)["choices"][0]["delta"] for _, data in read_events(body)[:-1]]
    assert "".join(delta.get("content", "") for delta in said) == WORDS
    assert not log.runs


@pytest.mark.anyio
async def test_a_slow_client_of_a_lane_slows_the_upstream(serve: Serve, upstream: ScriptedUpstream) -> None:
    word = "x" * (LONGEST - 500)
    gates = [Gate() for _ in range(500)]
    upstream.script(word_by_word(gates, " ".join([word] * len(gates))))
    served = await serve(upstream)
    log = with_counted_lanes(served)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", served.port))
    line = Line(*await asyncio.open_connection(sock=slow, limit=1 << 14))
    line.post(served.body(stream=True))
    await gates[0].wait_until_reached()
    transports = [connection.transport for connection in served.connections]
    (transport,) = [one for one in transports if one.get_extra_info("peername") == slow.getsockname()]
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for gate in gates:
        await gate.wait_until_reached()
        gate.open()
        await served.turn()
        if transport.get_write_buffer_size() > 64 << 10:  # where asyncio and uvloop say that it is full
            break
    assert 10 < sum(map(len, log.runs)) < len(gates) // 2
    for gate in gates:
        gate.open()
    for _ in range(20):
        await served.turn()
    assert transport.get_write_buffer_size() < len(gates) * len(word) // 2, "it is not read on"
    events = read_events((await line.read_response()).body)
    assert events[-1].data == b"[DONE]"
    assert sum(data.count(word.encode()) for _, data in events) == len(gates)
    await line.close()
