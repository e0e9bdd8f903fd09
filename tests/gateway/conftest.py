"""A real gateway on a real socket, in front of scripted upstreams."""

import asyncio
import io
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from uvicorn.server import ServerState

from tests.conftest import NO_OLLAMA
from unbroken.gateway.app import Gateway
from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import listen
from unbroken.gateway.serve import GatewayServer
from unbroken.gateway.stores import Stores
from unbroken.gateway.upstreams import NewEngine
from unbroken.settings.tree import ServerSettings, Settings, UpstreamSettings
from unbroken.upstream.scripted import ScriptedUpstream
from unbroken.wire.sse import SseReader

Serve = Callable[..., Any]

UPSTREAM_KEY = "sk-upstream-secret"


@dataclass
class Answer:
    """What a client has read of one stream."""

    status: int
    headers: httpx2.Headers
    raw: bytes
    blocks: list[bytes] = field(default_factory=list)

    @property
    def chunks(self) -> list[Any]:
        return [msgspec.json.decode(block) for block in self.blocks if block != b"[DONE]"]

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for chunk in self.chunks for choice in chunk.get("choices", ())]

    @property
    def finish_reasons(self) -> list[str | None]:
        return [choice["finish_reason"] for chunk in self.chunks for choice in chunk.get("choices", ())]

    @property
    def is_done(self) -> bool:
        return bool(self.blocks) and self.blocks[-1] == b"[DONE]"

    @property
    def error(self) -> dict[str, Any] | None:
        if self.status != 200:
            return msgspec.json.decode(self.raw)["error"]
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)


class Reading:
    """A stream that a client is reading."""

    def __init__(self, response: httpx2.Response) -> None:
        self.answer = Answer(response.status_code, response.headers, b"")
        self._pieces = response.aiter_raw()
        self._reader = SseReader()

    async def read_piece(self) -> bytes:
        """Reads what comes next; empty at the end."""
        piece = await anext(self._pieces, b"")
        self.answer.raw += piece
        self.answer.blocks += [event.data for event in self._reader.feed(piece)]
        return piece

    async def read_until(self, holds: Callable[[Answer], bool]) -> Answer:
        """Reads until the condition holds; the answer must not end before."""
        while not holds(self.answer):
            assert await self.read_piece(), f"the stream has ended: {self.answer.raw!r}"
        return self.answer

    async def read_text(self, text: str) -> Answer:
        """Reads until this much of the text has come."""
        return await self.read_until(lambda answer: answer.text.startswith(text))

    async def read_to_end(self) -> Answer:
        while await self.read_piece():
            pass
        return self.answer


class Served:
    """A running gateway and a client of it."""

    def __init__(
        self, gateway: Gateway, base_url: str, client: httpx2.AsyncClient, out: io.StringIO, connections: set[Any]
    ) -> None:
        self.gateway, self.base_url, self.client, self._out = gateway, base_url, client, out
        self.port = int(base_url.rpartition(":")[2].partition("/")[0])
        #: The connections of its clients.
        self.connections: set[Any] = connections

    @staticmethod
    def body(content: str = "hello", **fields: Any) -> dict[str, Any]:
        return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}

    async def ask(
        self, content: str = "hello", headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx2.Response:
        """A whole answer."""
        return await self.client.post("/chat/completions", json=self.body(content, **fields), headers=headers)

    async def stream(self, content: str = "hello", headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """A stream, read to its end."""
        async with self.reading(content, headers, **fields) as reading:
            return await reading.read_to_end()

    @asynccontextmanager
    async def reading(
        self, content: str = "hello", headers: dict[str, str] | None = None, **fields: Any
    ) -> AsyncIterator[Reading]:
        """A stream, to be read as the test likes; the client leaves at the end of the context."""
        request = self.body(content, stream=True, **fields)
        async with self.client.stream("POST", "/chat/completions", json=request, headers=headers) as response:
            yield Reading(response)

    async def wait_until_connections(self, count: int) -> None:
        """Returns when this many clients are connected."""
        async with asyncio.timeout(10):
            while len(self.connections) != count:
                await asyncio.sleep(0.005)

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines of the log, once the journal has written what it was told."""
        self.gateway.journal.flush()
        return [msgspec.json.decode(line) for line in self._out.getvalue().split("\n") if line]

    def forget_log(self) -> None:
        """Drops the lines so far."""
        self._out.truncate(0)

    async def wait_for_line(self) -> dict[str, Any]:
        """The line of the latest request, once no answer runs any more."""
        await self.wait_until_idle()
        return [line for line in self.log_lines() if line["event"] == "request"][-1]

    async def wait_until_idle(self) -> None:
        """Waits until no answer is produced any more, and its request is booked."""
        while self.gateway.running:
            await self.turn()

    async def turn(self) -> None:
        """Lets the gateway go on for a little while."""
        await self.client.get(f"http://127.0.0.1:{self.port}/healthz")

    async def metrics(self) -> dict[str, float]:
        """The samples of `/metrics`, such as `unbroken_retries_total{upstream="up0",fault="cut"}`."""
        text = (await self.client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
async def other() -> AsyncIterator[ScriptedUpstream]:
    """A second upstream."""
    async with ScriptedUpstream() as scripted:
        yield scripted


def settings_of(*upstreams: ScriptedUpstream | UpstreamSettings, **sections: Any) -> Settings:
    """Settings with these upstreams, named up0, up1, …; keyword arguments are settings by section."""
    named = tuple(
        u if isinstance(u, UpstreamSettings) else upstream_settings(f"up{n}", u) for n, u in enumerate(upstreams)
    )
    retries = {"backoff_first": 0.001, "backoff_most": 0.01, **sections.pop("retries", {})}
    store = {"streams": "memory", **sections.pop("store", {})}
    settings = msgspec.convert({**sections, "retries": retries, "store": store}, Settings)
    return msgspec.structs.replace(settings, upstream=named)


def upstream_settings(name: str, scripted: ScriptedUpstream, **fields: Any) -> UpstreamSettings:
    """How a scripted upstream is reached; it serves the model `m`, and is asked to go on with an answer if told so."""
    known = {"name": name, "base_url": scripted.base_url, "api_key": UPSTREAM_KEY, "models": ("m",)}
    known["continuation"] = "none"
    return UpstreamSettings(**{**known, **fields})


@pytest.fixture
async def serve(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Serve]:
    """Serves a gateway in front of the given upstreams; keyword arguments are settings by section.

    Chance is no chance here: equals are tried in the order in which they are given, and backoff has no jitter.
    """
    async with AsyncExitStack() as stack:

        async def start(
            *upstreams: ScriptedUpstream | UpstreamSettings,
            chance: Callable[[], float] = lambda: 0.5,
            stores: Stores | None = None,
            new_engine: NewEngine | None = None,
            **sections: Any,
        ) -> Served:
            settings = settings_of(*upstreams, **sections)
            out = io.StringIO()
            journal = Journal(out, format="json")
            gateway = Gateway(settings, journal, chance=chance, stores=stores, new_engine=new_engine)
            port, connections = await stack.enter_async_context(_listening(gateway, settings.server))
            base_url = f"http://127.0.0.1:{port}/v1"
            key = next(iter(settings.keys.values()), "none")
            headers = {"authorization": f"Bearer {key}"}
            client = httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=20, trust_env=False, verify=False)
            await stack.enter_async_context(client)
            return Served(gateway, base_url, client, out, connections)

        yield start
    # Neither a task nor a future may fail without anybody hearing of it.
    complaints = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not complaints, [record.getMessage() for record in complaints]


@asynccontextmanager
async def _listening(gateway: Gateway, settings: ServerSettings) -> AsyncIterator[tuple[int, set[Any]]]:
    """What `GatewayServer` does, without its ticks of 0.1 s at the end; gives the port and the connections."""
    settings = msgspec.structs.replace(settings, host="127.0.0.1", port=0)
    config, state = GatewayServer(gateway, settings).config, ServerState()
    config.load()
    await gateway.start()

    def connection() -> Any:
        return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

    listening = listen(settings)
    server = await asyncio.get_running_loop().create_server(connection, sock=listening)
    try:
        yield listening.getsockname()[1], state.connections
    finally:
        server.close()
        gateway.stop_answers()
        for open_connection in list(state.connections):
            open_connection.transport.abort()  # type: ignore[union-attr]
        await asyncio.gather(*state.tasks)
        await gateway.close()
        gateway.journal.close()


@dataclass(frozen=True)
class RawResponse:
    """A response as it came over the socket."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for found, value in self.headers if found == name]
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = msgspec.json.decode(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


class Line:
    """A bare socket to a gateway: what is sent is sent as it stands, and what comes is read strictly."""

    PATIENCE = 15.0  # s; nothing here takes long, unless it hangs

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def get(self, path: str = "/healthz", more: str = "") -> None:
        self.send(f"GET {path} HTTP/1.1\r\nhost: gateway\r\n{more}\r\n".encode("latin-1"))

    def post(self, body: bytes | dict[str, Any], more: str = "", version: str = "1.1") -> None:
        """Asks for a chat completion."""
        body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        self.send(f"{head}content-length: {len(body)}\r\n{more}\r\n".encode("latin-1") + body)

    async def sent(self) -> None:
        async with asyncio.timeout(self.PATIENCE):
            await self._writer.drain()

    def stop_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def read_head(self) -> RawResponse:
        """The head of the next response; an interim one has a head only."""
        async with asyncio.timeout(self.PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        pairs = [line.split(": ", 1) for line in lines]
        return RawResponse(int(status), [(name.lower(), value) for name, value in pairs], b"")

    async def read_response(self, *, to: str = "GET") -> RawResponse:
        """The next response, whole."""
        head = await self.read_head()
        if head.header("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in self.read_chunks()])
        elif (length := head.header("content-length")) is not None and to != "HEAD":
            async with asyncio.timeout(self.PATIENCE):
                body = await self._reader.readexactly(int(length))
        elif head.status in (204, 304) or to == "HEAD":
            body = b""
        else:
            body = await self.read_to_end()
        return RawResponse(head.status, head.headers, body)

    async def read_chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self.read_chunk():
            yield chunk

    async def read_chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        async with asyncio.timeout(self.PATIENCE):
            size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
            chunk = await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
        return chunk

    async def read_to_end(self) -> bytes:
        """All until the gateway closes; a connection that is reset is an error."""
        async with asyncio.timeout(self.PATIENCE):
            return await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        self._writer.transport.abort()


Dial = Callable[[Served], Awaitable[Line]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens bare connections to a gateway."""
    lines: list[Line] = []

    async def open_line(gateway: Served) -> Line:
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 22)))
        return lines[-1]

    yield open_line
    for line in lines:
        await line.close()


class Process:
    """A running `unbroken serve`."""

    PATIENCE = 60.0  # s; a process that hangs must not hang the tests

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process, self._folder = process, folder
        self.said = ""
        self.base_url = ""

    async def wait_until_said(self, words: str) -> None:
        """Reads its output until the words are there."""
        assert self.process.stderr is not None
        async with asyncio.timeout(self.PATIENCE):
            while words not in self.said:
                piece = await self.process.stderr.read(4096)
                assert piece, f"it ended without {words!r}: {self.said}"
                self.said += piece.decode()

    async def wait_until_serving(self) -> None:
        await self.wait_until_said("unbroken chat")
        self.base_url = self.said.partition("serves at ")[2].split()[0]

    async def wait_until_ended(self) -> int:
        """Its exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(self.PATIENCE):
            self.said += (await self.process.stderr.read()).decode()
            return await self.process.wait()

    def configure(self, upstream: ScriptedUpstream, more: str = "", models: str = '["m"]') -> None:
        (self._folder / "unbroken.toml").write_text(self.configuration(upstream, more, models))

    @staticmethod
    def configuration(upstream: ScriptedUpstream, more: str = "", models: str = '["m"]') -> str:
        return f'{more}\n[[upstream]]\nname = "up"\nbase_url = "{upstream.base_url}"\nmodels = {models}\n'

    @property
    def port_option(self) -> tuple[str, str]:
        """How another command is told which gateway is meant."""
        return "--port", self.base_url.rpartition(":")[2].removesuffix("/v1")

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.base_url, timeout=self.PATIENCE, trust_env=False)


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts `unbroken` in a folder of its own, with `upstream`, and `more` settings, in its `unbroken.toml`."""
    started: list[asyncio.subprocess.Process] = []
    plain = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", *NO_OLLAMA) if name in os.environ}

    async def run(
        *arguments: str, upstream: ScriptedUpstream | None = None, more: str = "", env: dict[str, str] | None = None
    ) -> Process:
        if upstream is not None:
            (tmp_path / "unbroken.toml").write_text(Process.configuration(upstream, more))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "unbroken", *arguments,
            cwd=tmp_path,
            env={**plain, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return Process(process, tmp_path)

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
