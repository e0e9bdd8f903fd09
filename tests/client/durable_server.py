"""A small HTTP server over real sockets that keeps D1 to D8, and a proxy before it; both cut lines when told to."""

import asyncio
import itertools
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from tests.client.durable_scripts import SCRIPTS, Script

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cut:
    """Stop this response behind so many bytes of its body, or before its head."""

    at: int | None
    #: `reset`, `eof` (the line ends), `end` (the body ends as if it were whole), `silence`.
    how: str = "reset"


@dataclass(frozen=True)
class Answer:
    """Answer so instead."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "no", "type": "t", "param": null, "code": "c"}}'


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """An answer in the log: how much of it is written grows."""

    def __init__(self, name: str, script: Script, request: Received) -> None:
        self.name = name
        self.script = script
        self.request = request


class _CutHere(Exception):
    def __init__(self, how: str) -> None:
        self.how = how


class _Threaded:
    """Listens on loopback, in a thread with a loop of its own."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def listen(self) -> None:
        """Listen, again at the same port."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self.run(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listen no more, and reset every line."""
        self.run(self._stop())

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.serve(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class DurableServer(_Threaded):
    """Answers every question of a dialect with its script."""

    def __init__(self, *, is_foreign: bool = False) -> None:
        self.is_foreign = is_foreign
        self.requests: list[Received] = []
        self.streams: dict[str, Stream] = {}
        self.cancelled: list[str] = []
        #: What befalls the responses to come, one after the other; None: nothing.
        self.faults: deque[Cut | Answer | None] = deque()
        self.befalls: Callable[[Received], Cut | Answer | None] = lambda _: None
        #: Blocks that are written at first; the rest when `go_on` is called.
        self.written: int | None = None
        self._names = (f"stream_{number}" for number in itertools.count(1))
        self._news = asyncio.Condition()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sent(self, method: str) -> list[Received]:
        """The requests of one method."""
        return [request for request in self.requests if request.method == method]

    def go_on(self) -> None:
        """Write the rest of all answers."""
        self.run(self._change(lambda: setattr(self, "written", None)))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a request brings about."""
        self.run(self._wait_until(condition))

    def forget(self) -> None:
        """Forget all streams."""
        self.streams.clear()

    async def _change(self, change: Callable[[], object]) -> None:
        async with self._news:
            change()
            self._news.notify_all()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await _read_request(reader):
            await self._change(lambda request=request: self.requests.append(request))  # type: ignore[misc]
            fault = self.faults.popleft() if self.faults else self.befalls(request)
            if isinstance(fault, Answer):
                await _write_whole(writer, fault.status, fault.headers, [fault.body])
                continue
            try:
                await self._answer(request, writer, fault)
            except _CutHere as cut:
                match cut.how:
                    case "reset":
                        return
                    case "eof":
                        writer.close()
                        await writer.wait_closed()
                        return
                    case "end":
                        writer.write(b"0\r\n\r\n")
                    case "silence":
                        await reader.read()
                        return

    async def _answer(self, request: Received, writer: asyncio.StreamWriter, cut: Cut | None) -> None:
        path = "/v1" + request.path.partition("?")[0].partition("/v1")[2]  # a proxy is sent whole URLs
        if request.method == "POST":
            await self._post(request, path, writer, cut)
            return
        if path in ("/v1/models", "/v1/streams"):
            await _write_whole(writer, 200, {}, [self._list(path)])
            return
        stream = self.streams.get(path.removeprefix("/v1/streams/"))
        if stream is None:
            await _write_whole(writer, 404, {}, [b'{"error": {"code": "stream_not_found"}}'])
        elif cut and cut.at is None:
            raise _CutHere(cut.how)
        elif request.method == "DELETE":
            await self._change(lambda: self.cancelled.append(stream.name))
            await _write_whole(writer, 200, {}, [b"{}"])
        else:
            after = int(request.headers.get("last-event-id", "0"))
            if after > len(stream.script.blocks):
                await _write_whole(writer, 416, {}, [b'{"error": {"code": "offset_unknown"}}'])
            else:
                await self._write_stream(writer, stream, after, cut)

    def _list(self, path: str) -> bytes:
        rows: list[Any] = [{"id": "small", "object": "model"}]
        if path == "/v1/streams":
            about = {"object": "stream", "state": "running", "model": "small", "created": 1, "offset": self.written}
            rows = [{"id": stream.name, **about, "upstream": "only"} for stream in self.streams.values()]
        return json.dumps({"object": "list", "data": rows}).encode()

    async def _post(self, request: Received, path: str, writer: asyncio.StreamWriter, cut: Cut | None) -> None:
        script = next(script for end, script in SCRIPTS.items() if path.endswith(end))
        key = request.headers.get("idempotency-key")
        known = [stream for stream in self.streams.values() if key and stream.request.headers["idempotency-key"] == key]
        if known and known[0].request.body != request.body:
            await _write_whole(writer, 409, {"x-should-retry": "false"}, [b'{"error": {}}'])
            return
        stream = known[0] if known else Stream(next(self._names), script, request)
        self.streams[stream.name] = stream
        if cut and cut.at is None:
            raise _CutHere(cut.how)
        if json.loads(request.body).get("stream"):
            await self._write_stream(writer, stream, 0, cut)
        else:
            headers = {} if self.is_foreign else {"Unbroken-Stream": stream.name}
            await _write_whole(writer, 200, headers, _cut(stream.script.whole, cut))

    async def _write_stream(self, writer: asyncio.StreamWriter, stream: Stream, after: int, cut: Cut | None) -> None:
        head = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        if not self.is_foreign:
            head["Unbroken-Stream"] = stream.name
        writer.write(_head(200, head))
        left = cut.at if cut else None
        async for piece in self._blocks(stream, after):
            sent = piece if left is None else piece[:left]
            if sent:
                writer.write(b"%x\r\n%b\r\n" % (len(sent), sent))
                await writer.drain()
            if cut and left is not None:
                left -= len(sent)
                if not left:
                    raise _CutHere(cut.how)
        writer.write(b"0\r\n\r\n")

    async def _blocks(self, stream: Stream, after: int) -> AsyncIterator[bytes]:
        """Blocks as a reader with `Unbroken-Durable` gets them (D7), a comment before each second one (S2)."""
        for offset, block in enumerate(stream.script.blocks, 1):
            if offset <= after:
                continue
            await self._wait_until(lambda offset=offset: self.written is None or offset <= self.written)  # type: ignore[misc]
            comment = b": keep-alive\n" if offset % 2 == 0 else b""
            name = b"" if self.is_foreign else b"id: %d\n" % offset
            yield comment + name + block


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    line = await reader.readline()
    if not line:
        return None
    method, path, _ = line.decode().split()
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _cut(body: bytes, cut: Cut | None) -> list[bytes | _CutHere]:
    return [body] if cut is None else [body[: cut.at], _CutHere(cut.how), body]


async def _write_whole(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], pieces: list[Any]
) -> None:
    head = {"Content-Type": "application/json", "Content-Length": str(len(pieces[-1])), **headers}
    writer.write(_head(status, head))
    for piece in pieces:
        if isinstance(piece, _CutHere):
            await writer.drain()
            raise piece
        writer.write(piece)
    await writer.drain()


class CuttingProxy(_Threaded):
    """Passes bytes on, and resets every line behind so many bytes of what comes back."""

    def __init__(self, target: int, every: Callable[[], int]) -> None:
        self.cuts = 0
        self._target = target
        self._every = every

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        up = asyncio.create_task(_pump(reader, to_server))
        try:
            left = self._every()
            while left and (data := await from_server.read(left)):
                writer.write(data)
                await writer.drain()
                left -= len(data)
            self.cuts += not left
        finally:
            up.cancel()
            to_server.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
