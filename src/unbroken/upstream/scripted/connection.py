"""One connection to a scripted upstream: reads its requests and has an answer played to each."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from unbroken.upstream.scripted.counters import Counters
from unbroken.upstream.scripted.line import Line
from unbroken.upstream.scripted.player import Player, Sleep
from unbroken.upstream.scripted.received import Received, RequestReader
from unbroken.upstream.scripted.steps import Script, ScriptError

MAX_WAITING_REQUESTS = 16  # pipelined behind an open answer


@dataclass(frozen=True, slots=True)
class Director:
    """What a connection asks of its server."""

    receive: Callable[[Received], None]
    script_for: Callable[[Received], Script]
    script_at_once: Callable[[], Script | None]  # for a connection whose request is never to be read
    next_number: Callable[[], int]
    sleep: Sleep
    counters: Counters
    connections: set["Connection"]


class Connection(asyncio.Protocol):
    """Plays one answer at a time; notices a reader who leaves at any moment of it."""

    line: Line

    def __init__(self, director: Director) -> None:
        self._director = director
        self._counters = director.counters
        self._counters.connections += 1
        self._reader = RequestReader(self._counters.connections, director.next_number)
        self._waiting: deque[Received] = deque()
        self.answer: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a script that reads nothing begins here, before any request."""
        self.line = Line(transport, self._counters)  # type: ignore[arg-type]  # uvloop's is no subclass of Transport
        self.line.limit()
        self._director.connections.add(self)
        self._counters.open_connections += 1
        script = self._director.script_at_once()
        if script is not None:
            self._open_answer(lambda: script, keep_alive=False)
        self._counters.changed()

    def data_received(self, data: bytes) -> None:
        """Take requests out of the bytes and answer them in turn."""
        try:
            for request in self._reader.feed(data):
                self._director.receive(request)
                self._waiting.append(request)
                self._counters.waiting_requests += 1
            if len(self._waiting) > MAX_WAITING_REQUESTS:
                raise ScriptError(f"more than {MAX_WAITING_REQUESTS} requests pipelined")
        except ScriptError as error:
            self._counters.failed(error)
            self.line.reset()
        self._answer_next()

    def eof_received(self) -> bool:
        """Take a reader who closes their side for one who has left: nothing is written to them any more."""
        if self.answer is not None:
            self.answer.cancel()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the answer that was open."""
        if self.answer is not None:
            self.answer.cancel()
        self.line.lost()
        self._counters.waiting_requests -= len(self._waiting)
        self._waiting.clear()
        self._director.connections.discard(self)
        self._counters.open_connections -= 1
        self._counters.changed()

    def pause_writing(self) -> None:
        """Make the answer wait for its reader."""
        self.line.block()

    def resume_writing(self) -> None:
        """Let the answer go on."""
        self.line.unblock()

    def _answer_next(self) -> None:
        if self.answer is None and self._waiting and not self.line.is_ending():
            request = self._waiting.popleft()
            self._counters.waiting_requests -= 1
            keep_alive = (request.header("connection") or "").lower() != "close"
            self._open_answer(lambda: self._director.script_for(request), keep_alive=keep_alive)

    def _open_answer(self, choose: Callable[[], Script], *, keep_alive: bool) -> None:
        player = Player(self.line, self._director.sleep, keep_alive=keep_alive)
        self.line.begin()
        self.answer = asyncio.get_running_loop().create_task(self._play(player, choose))
        self.answer.add_done_callback(self._answered)

    async def _play(self, player: Player, choose: Callable[[], Script]) -> None:
        try:
            for step in choose().steps:
                await player.play(step)
        except Exception as error:  # the task's root: the test must see it, and its client must not wait
            self._counters.failed(error)
            self.line.reset()

    def _answered(self, answer: asyncio.Task[None]) -> None:
        self.answer = None
        self.line.finish(left=answer.cancelled())
        self._answer_next()
