"""The scripted upstream: a fake OpenAI-compatible provider on a real socket, in the running loop."""

import asyncio
import itertools
import ssl
from collections import deque
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Self

from unbroken.upstream.scripted import bodies
from unbroken.upstream.scripted.answers import text
from unbroken.upstream.scripted.completion import DEFAULT_MODEL
from unbroken.upstream.scripted.connection import Connection, Director
from unbroken.upstream.scripted.counters import TIMEOUT, Counters
from unbroken.upstream.scripted.draft import Answer
from unbroken.upstream.scripted.player import Sleep
from unbroken.upstream.scripted.received import Received
from unbroken.upstream.scripted.steps import Script, ScriptError, Step

Answering = Callable[[Received], "Answer | Script | None"]
KEPT_REQUESTS = 10_000  # the latest ones; a soak test must not grow here
BACKLOG = 4096  # many readers may come at once


class ScriptedUpstream:
    """A provider that answers as it is told, used as `async with ScriptedUpstream() as upstream:`.

    On leaving, every connection is reset, and the first mistake in a script or a request is raised.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix_path: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        models: Sequence[str] = (DEFAULT_MODEL,),
        paths: Collection[str] = ("/v1/chat/completions",),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._host, self._port, self._unix_path, self._ssl = host, port, unix_path, ssl_context
        self._models = bodies.models(models)
        self._paths = paths
        self._queued: deque[Answer | Script] = deque()
        self._default: Answer | Script = text("one two three")
        self._answering: Answering = lambda _: None
        self._requests: deque[Received] = deque(maxlen=KEPT_REQUESTS)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self.counters = Counters()
        self._director = Director(
            receive=self._receive,
            script_for=self._script_for,
            script_at_once=self._script_at_once,
            next_number=itertools.count(1).__next__,
            sleep=sleep,
            counters=self.counters,
            connections=self._connections,
        )

    # --- what it answers

    def script(self, *parts: Answer | Script | Step) -> None:
        """Queue what the next requests get: one each for several answers, or one made of these steps."""
        self._queued.extend(_answers_of(parts))

    def always(self, *parts: Answer | Script | Step) -> None:
        """Set what a request gets when nothing is queued."""
        (self._default,) = _answers_of(parts)

    def answer_with(self, answering: Answering) -> None:
        """Ask this first, for every request on any path; None leaves the request to the queue."""
        self._answering = answering

    # --- where it is and what it has seen

    @property
    def port(self) -> int:
        """The port it listens on, chosen at the first start and kept."""
        return self._port

    @property
    def base_url(self) -> str:
        """The base URL for a client (over a unix socket the host is only a name)."""
        scheme = "https" if self._ssl else "http"
        return f"{scheme}://localhost/v1" if self._unix_path else f"{scheme}://{self._host}:{self._port}/v1"

    @property
    def requests(self) -> list[Received]:
        """The requests so far, oldest first (the latest 10,000)."""
        return list(self._requests)

    @property
    def unplayed(self) -> int:
        """How many queued answers no request has taken yet."""
        return len(self._queued)

    @property
    def connections(self) -> int:
        """How many connections were ever made."""
        return self.counters.connections

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return self.counters.open_connections

    @property
    def open_answers(self) -> int:
        """How many answers have begun (headers sent or not) and not ended."""
        return self.counters.open_answers

    @property
    def left(self) -> int:
        """How many answers their reader left while they were open."""
        return self.counters.left

    @property
    def bytes_sent(self) -> int:
        """How many bytes were written, over all connections."""
        return self.counters.bytes_sent

    # --- waiting: each raises TimeoutError with what was found

    async def wait_for_requests(self, n: int = 1, *, timeout: float = TIMEOUT) -> list[Received]:
        """Wait until n requests have come in all, and give them."""
        await self.counters.wait_for(f"{n} requests", lambda: self.counters.requests >= n, timeout)
        return self.requests

    async def wait_for_connections(self, n: int = 1, *, timeout: float = TIMEOUT) -> None:
        """Wait until n connections have been made in all."""
        await self.counters.wait_for(f"{n} connections", lambda: self.connections >= n, timeout)

    async def wait_until_left(self, n: int = 1, *, timeout: float = TIMEOUT) -> None:
        """Wait until, in all, n readers have closed their connection while their answer was open."""
        await self.counters.wait_for(f"{n} readers to leave", lambda: self.left >= n, timeout)

    async def wait_until_blocked(self, n: int = 1, *, timeout: float = TIMEOUT) -> None:
        """Wait until n answers at once cannot write because their readers do not read."""
        await self.counters.wait_for(f"{n} blocked answers", lambda: self.counters.blocked_answers >= n, timeout)

    async def wait_until_idle(self, *, timeout: float = TIMEOUT) -> None:
        """Wait until no answer is open; connections may be."""
        await self.counters.wait_for(
            "no open answer", lambda: not (self.open_answers or self.counters.waiting_requests), timeout
        )

    async def wait_until_unconnected(self, *, timeout: float = TIMEOUT) -> None:
        """Wait until no connection is open."""
        await self.counters.wait_for("no open connection", lambda: not self.open_connections, timeout)

    # --- its life

    async def start(self) -> None:
        """Listen; a second time on the same port, as a server that comes back."""
        loop = asyncio.get_running_loop()
        if self._unix_path is not None:
            self._server = await loop.create_unix_server(
                self._connection, self._unix_path, ssl=self._ssl, backlog=BACKLOG
            )
        else:
            self._server = await loop.create_server(
                self._connection, self._host, self._port, ssl=self._ssl, backlog=BACKLOG
            )
            self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away as a killed server does: refuse connections and reset the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        answers = [connection.answer for connection in self._connections if connection.answer is not None]
        for connection in list(self._connections):
            connection.line.reset()
        await self.counters.wait_despite_errors("no open connection", lambda: not self.open_connections)
        if answers:
            await asyncio.wait(answers)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None and self.counters.errors:
            raise self.counters.errors[0]

    # --- what connections ask

    def _connection(self) -> Connection:
        return Connection(self._director)

    def _receive(self, request: Received) -> None:
        self._requests.append(request)
        self.counters.requests += 1
        self.counters.changed()

    def _script_for(self, request: Received) -> Script:
        answer = self._answering(request) or self._answer_for(request)
        return answer.script_for(request) if isinstance(answer, Answer) else answer

    def _answer_for(self, request: Received) -> Answer | Script:
        match request.method, request.path:
            case "GET", "/v1/models":
                return self._models
            case "POST", path if path in self._paths:
                return self._queued.popleft() if self._queued else self._default
            case _:
                return bodies.error(404, f"Unknown path: {request.method} {request.path}", code="unknown_url")

    def _script_at_once(self) -> Script | None:
        following = self._queued[0] if self._queued else self._default
        if not isinstance(following, Script) or not following.reads_nothing():
            return None
        if self._queued:
            self._queued.popleft()
        return following


def _answers_of(parts: tuple[Answer | Script | Step, ...]) -> list[Answer | Script]:
    answers = [part for part in parts if isinstance(part, Answer | Script)]
    if not answers:
        return [Script(tuple(part for part in parts if not isinstance(part, Answer | Script)))]
    if len(answers) < len(parts):
        raise ScriptError(
            "steps and answers in one call: put steps into an answer with insert_after() or before_head()"
        )
    return answers
