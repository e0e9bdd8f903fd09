"""A transport for httpx2 and httpx whose answers, once begun, arrive whole."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import httpx2

from unbroken.client.resume import Done, Give, HangUp, Outcome, Pause, Post, ReadOn, Resume, Resumed, Step
from unbroken.client.transport_exchange import Exchange, Surroundings, library_of
from unbroken.rules.resume import PASSING

Result = TypeVar("Result")
PATIENCE = 120.0  # s from a drop to the next progress


class ResumingTransport(httpx2.BaseTransport):
    """Sends requests through another transport, and gets the answers of an Unbroken server over lines that drop.

    Args:
        inner: a transport of httpx2 or httpx, by default one of httpx2 as it comes; the client is to be of its library.
        patience: seconds from a drop to the next progress, after which the SDK sees the drop.
        on_resume: is called for every drop that was got over, in the thread that reads.
    """

    def __init__(
        self,
        inner: Any = None,
        *,
        patience: float = PATIENCE,
        on_resume: Callable[[Resumed], None] | None = None,
    ) -> None:
        self._inner = httpx2.HTTPTransport() if inner is None else inner
        self._around = Surroundings(library_of(self._inner), patience, on_resume)
        self._body = type("_BodyOfLibrary", (_Body, self._around.library.SyncByteStream), {})

    def handle_request(self, request: Any) -> Any:
        """The response to one request."""
        exchange = self._around.exchange(request)
        if exchange is None:
            return self._inner.handle_request(request)
        line = _Line(self._inner, exchange)
        try:
            posted = line.run(exchange.ask())
        except self._around.drops:
            exchange.lose()
            raise
        except BaseException:
            line.hang_up()
            raise
        if not posted.reply.is_ours:
            if posted.reply.status in PASSING:
                exchange.lose()
            return line.response
        head = line.response
        body = self._body(line, exchange.answer(posted))
        return self._around.library.Response(
            head.status_code, headers=head.headers, stream=body, extensions=head.extensions
        )

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()


class _Line:
    """Carries out the steps of one exchange."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self.response: Any = None
        self.exchange = exchange
        self.drops = exchange.around.drops
        self._inner = inner
        self._pieces: Iterator[bytes] = iter(())

    def run(self, steps: Generator[Step, Outcome, Result]) -> Result:
        """Carry out steps that give nothing."""
        try:
            step = next(steps)
            while True:
                step = steps.send(self.act(step))
        except StopIteration as end:
            result: Result = end.value
            return result

    def act(self, step: Step) -> Outcome:
        """Carry out one step, and say what came of it."""
        match step:
            case Post() | Resume():
                return self._send(self.exchange.request(step))
            case ReadOn():
                try:
                    return next(filter(None, self._pieces), b"")
                except self.drops as error:
                    return self.exchange.dropped(error)
            case HangUp():
                self.hang_up()
            case Pause(seconds) if seconds:
                time.sleep(seconds)
        return Done()

    def hang_up(self) -> None:
        """Close the response."""
        if self.response is not None:
            with suppress(*self.drops):
                self.response.close()

    def send_cancel(self) -> None:
        """Tell the server that the reader has left, if it can be told soon."""
        request = self.exchange.cancel()
        if request is not None:
            with suppress(*self.drops):
                self._inner.handle_request(request).close()

    def _send(self, request: Any) -> Outcome:
        try:
            self.response = self._inner.handle_request(request)
        except self.drops as error:
            return self.exchange.dropped(error)
        self._pieces = iter(self.response.stream)
        return self.exchange.reply(self.response)


class _Body:
    """What the SDK reads."""

    def __init__(self, line: _Line, steps: Generator[Step, Outcome, None]) -> None:
        self._line = line
        self._steps = steps

    def __iter__(self) -> Iterator[bytes]:
        outcome: Outcome | None = None
        while True:
            try:
                step = next(self._steps) if outcome is None else self._steps.send(outcome)
            except StopIteration:
                return
            except self._line.drops:
                self._line.exchange.give_up()
                raise
            if isinstance(step, Give):
                yield step.data
                outcome = Done()
            else:
                outcome = self._line.act(step)

    def close(self) -> None:
        """The SDK has read it, or leaves."""
        self._line.hang_up()
        self._line.send_cancel()
