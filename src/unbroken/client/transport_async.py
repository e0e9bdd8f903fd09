"""As `transport`, for asynchronous clients, on asyncio and trio."""

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from typing import Any

import anyio  # what httpx2 stands on
import httpx2

from unbroken.client.resume import Done, Give, HangUp, Outcome, Pause, Post, ReadOn, Resume, Resumed, Step
from unbroken.client.resume_steps import Posted
from unbroken.client.transport import PATIENCE
from unbroken.client.transport_exchange import Exchange, Surroundings, library_of
from unbroken.rules.resume import PASSING

MOST_FAREWELL = 1.0  # s for telling the server that the reader has left, also where the reader was cancelled


class AsyncResumingTransport(httpx2.AsyncBaseTransport):
    """As `ResumingTransport`, over an asynchronous transport; `on_resume` is an ordinary function."""

    def __init__(
        self,
        inner: Any = None,
        *,
        patience: float = PATIENCE,
        on_resume: Callable[[Resumed], None] | None = None,
    ) -> None:
        self._inner = httpx2.AsyncHTTPTransport() if inner is None else inner
        self._around = Surroundings(library_of(self._inner), patience, on_resume)
        self._body = type("_BodyOfLibrary", (_Body, self._around.library.AsyncByteStream), {})

    async def handle_async_request(self, request: Any) -> Any:
        """The response to one request."""
        exchange = self._around.exchange(request)
        if exchange is None:
            return await self._inner.handle_async_request(request)
        line = _Line(self._inner, exchange)
        try:
            posted = await line.run(exchange.ask())
        except self._around.drops:
            exchange.lose()
            raise
        except BaseException:
            with anyio.move_on_after(MOST_FAREWELL, shield=True):
                await line.hang_up()
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

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()


class _Line:
    """Carries out the steps of one exchange."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self.response: Any = None
        self.exchange = exchange
        self.drops = exchange.around.drops
        self._inner = inner
        self._pieces: AsyncIterator[bytes] | None = None

    async def run(self, steps: Generator[Step, Outcome, Posted]) -> Posted:
        """Carry out steps that give nothing."""
        try:
            step = next(steps)
            while True:
                step = steps.send(await self.act(step))
        except StopIteration as end:
            posted: Posted = end.value
            return posted

    async def act(self, step: Step) -> Outcome:
        """Carry out one step, and say what came of it."""
        match step:
            case Post() | Resume():
                return await self._send(self.exchange.request(step))
            case ReadOn():
                return await self._read()
            case HangUp():
                await self.hang_up()
            case Pause(seconds) if seconds:
                await anyio.sleep(seconds)
        return Done()

    async def hang_up(self) -> None:
        """Close the response."""
        if self.response is not None:
            with suppress(*self.drops):
                await self.response.aclose()

    async def send_cancel(self) -> None:
        """Tell the server that the reader has left, if it can be told soon."""
        request = self.exchange.cancel()
        if request is not None:
            with anyio.move_on_after(MOST_FAREWELL, shield=True), suppress(*self.drops):
                response = await self._inner.handle_async_request(request)
                await response.aclose()

    async def _send(self, request: Any) -> Outcome:
        try:
            self.response = await self._inner.handle_async_request(request)
        except self.drops as error:
            return self.exchange.dropped(error)
        self._pieces = aiter(self.response.stream)
        return self.exchange.reply(self.response)

    async def _read(self) -> Outcome:
        assert self._pieces is not None, "a response came before its body"
        piece = b""
        try:
            while not piece:
                piece = await anext(self._pieces)
        except StopAsyncIteration:
            return b""
        except self.drops as error:
            return self.exchange.dropped(error)
        return piece


class _Body:
    """What the SDK reads."""

    def __init__(self, line: _Line, steps: Generator[Step, Outcome, None]) -> None:
        self._line = line
        self._steps = steps

    async def __aiter__(self) -> AsyncIterator[bytes]:
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
                outcome = await self._line.act(step)

    async def aclose(self) -> None:
        """The SDK has read it, or leaves."""
        try:
            await self._line.hang_up()
        finally:
            await self._line.send_cancel()
