"""What supervisor and workers say to each other: JSON lines over a pair of sockets that nobody else has."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import msgspec

from unbroken.settings.tree import Settings
from unbroken.upstream.engine_shared import EngineReleased, EngineTold, EngineWanted

MAX_LINE_BYTES = 256 << 20  # the metrics of all workers, each with as many series as there may be
MAX_UNREAD_BYTES = 2 * MAX_LINE_BYTES  # whoever leaves so much unread does not read any more


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first word to a worker: which of how many it is, and its settings."""

    worker: int
    workers: int
    settings: Settings


class TakeSettings(msgspec.Struct, frozen=True, tag=True):
    """The worker is to take changed settings; `SettingsTaken` answers."""

    question: int
    settings: Settings


class SettingsTaken(msgspec.Struct, frozen=True, tag=True):
    """How taking the settings went; `error` is empty if it went well."""

    question: int
    error: str = ""


class TellMetrics(msgspec.Struct, frozen=True, tag=True):
    """The worker is to tell its metrics; `MetricsTold` answers."""

    question: int


class MetricsTold(msgspec.Struct, frozen=True, tag=True):
    """A worker's own metrics, in Prometheus' text."""

    question: int
    text: str


class AskAllMetrics(msgspec.Struct, frozen=True, tag=True):
    """A worker asks for the metrics of all; `AllMetrics` answers."""

    question: int


class AllMetrics(msgspec.Struct, frozen=True, tag=True):
    """The metrics of all workers, in Prometheus' text."""

    question: int
    text: str


class Serves(msgspec.Struct, frozen=True, tag=True):
    """The worker takes connections."""


class Refuses(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot serve with its settings; the message is for people."""

    message: str


ToWorker = Begin | TakeSettings | TellMetrics | AllMetrics | EngineTold
FromWorker = Serves | Refuses | SettingsTaken | MetricsTold | AskAllMetrics | EngineWanted | EngineReleased

TO_WORKER: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
FROM_WORKER: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)

Heard = TypeVar("Heard")
Answer = TypeVar("Answer", bound=SettingsTaken | MetricsTold | AllMetrics)

_encode = msgspec.json.Encoder().encode


class Channel(Generic[Heard]):
    """One end of the pair: sends its own words, and gives those of the other end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: msgspec.json.Decoder[Heard]
    ) -> None:
        self._reader, self._writer, self._decoder = reader, writer, decoder

    @classmethod
    async def open(cls, end: socket.socket, decoder: msgspec.json.Decoder[Heard]) -> "Channel[Heard]":
        """The channel at this end of a pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES), decoder)

    def send(self, message: ToWorker | FromWorker) -> None:
        """Sends a message, which is lost where the other end is gone; one that does not read is given up."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        transport.write(_encode(message) + b"\n")
        if transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            transport.abort()

    async def heard(self) -> AsyncIterator[Heard]:
        """The messages of the other end, until it is gone."""
        try:
            while True:
                yield self._decoder.decode(await self._reader.readuntil(b"\n"))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return

    def hang_up(self) -> None:
        """Closes this end, once what is waiting has been sent."""
        self._writer.close()

    async def close(self) -> None:
        """Hangs up, and waits until what was waiting has been sent."""
        self.hang_up()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


class Questions(Generic[Answer]):
    """Questions to the other end that wait for their answers; each has a number."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def ask(self, send: Callable[[int], object], seconds: float) -> Answer | None:
        """The answer to the question that `send` sends under a number; None where it does not come in time."""
        self._last += 1
        number = self._last
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        send(number)
        await asyncio.wait((answer,), timeout=seconds)
        del self._waiting[number]
        return answer.result() if answer.done() and not answer.cancelled() else None

    def hear(self, answer: Answer) -> None:
        """Takes an answer; one that nobody waits for any more is let go."""
        waiting = self._waiting.get(answer.question)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def give_up(self) -> None:
        """No answer will come any more."""
        for waiting in self._waiting.values():
            waiting.cancel()
