"""One attempt at one upstream: its response becomes blocks, or a failure.

Everything that runs per chunk is here and in what it calls: `data` → `SseReader` → `ChunkRelay` → `on_blocks`.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.gateway.metrics import GAP_BOUNDS
from unbroken.settings.tree import TimeoutSettings
from unbroken.upstream.http import Connection, Headers, WholeResponse
from unbroken.wire.openai_chat.chunks import ChunkRelay, Progress
from unbroken.wire.openai_chat.errors import read_error
from unbroken.wire.retry_after import read_retry_after
from unbroken.wire.sse import EventTooLarge, SseReader

MAX_ERROR_BYTES = 1 << 20  # of an error response; what is longer is no message


class StreamAttempt:
    """A sink for an upstream's streamed response.

    Until the first piece of the answer its blocks are held back, for the upstream may still fail and another be
    asked (law 4); `begun` is done when that piece is there. From then on `on_blocks` gets them as they come.
    """

    def __init__(
        self,
        relay: ChunkRelay,
        on_blocks: Callable[[list[Block], bool], None],
        timeouts: TimeoutSettings,
        *,
        deadline: float,
        gaps: list[int],
        secret: str = "",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self.relay = relay
        self._on_blocks = on_blocks
        self._timeouts = timeouts
        self._deadline = deadline
        self._secret = secret
        self._reader = SseReader()
        self._held: list[Block] = []
        self._error: WholeResponse | None = None
        self._gaps = gaps
        self._is_paused = False
        self._is_over = False
        self._status = 0
        self._headers: Headers = ()
        self._waits_for = Fault.HEADERS_TIMEOUT
        self._last = self._time()
        self._timer = self._loop.call_at(min(self._last + timeouts.headers, deadline), self._look)
        self.connection: Connection | None = None
        #: Loop time of the first piece of the answer, 0.0 before it.
        self.first_token_at = 0.0
        #: Done with the first piece of the answer; or fails with `UpstreamFailed`.
        self.begun: asyncio.Future[None] = self._loop.create_future()
        #: Done when the answer is whole; or fails with `UpstreamFailed` after `begun`.
        self.ended: asyncio.Future[None] = self._loop.create_future()

    # ResponseSink

    def head(self, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers
        self._last = self._time()
        self._waits_for = Fault.FIRST_TOKEN_TIMEOUT
        kind = _content_type(headers)
        if status != 200:
            self._error = WholeResponse(MAX_ERROR_BYTES)
            self._error.head(status, headers)
        elif not kind.startswith("text/event-stream"):
            self._fail(Failure(Fault.MALFORMED, f'answered with content-type "{kind}", expected an event stream', 200))
        else:
            self._arm(self._last + self._timeouts.first_token)

    def data(self, data: bytes) -> None:
        if self._error is not None:
            return self._error.data(data)
        failure = None
        blocks: list[Block] = []
        feed = self.relay.feed
        try:
            events = self._reader.feed(data)
            if len(events) == 1:
                blocks = feed(events[0])
            elif not events:
                return
            else:
                for event in events:
                    blocks += feed(event)
        except UpstreamFailed as failed:
            failure = failed.failure
        except EventTooLarge as error:
            failure = Failure(Fault.TOO_LARGE, str(error))
        if blocks:
            now = self._time()
            if self.first_token_at:
                self._gaps[bisect_right(GAP_BOUNDS, now - self._last)] += 1
                self._last = now
                self._on_blocks(blocks, self.relay.progress is Progress.ENDED)
            else:
                self._last = now
                self._hold(blocks)
        if failure is not None:
            self._fail(failure)
        elif self.relay.progress is Progress.ENDED:
            self._end()
        elif self.relay.progress is Progress.FINISHED and self._waits_for is not Fault.CUT:
            self._waits_for = Fault.CUT  # the answer is there: an end that does not come is made
            self._arm(self._time() + self._timeouts.after_finish)

    def end(self) -> None:
        if self._error is not None:
            return self._fail_with_response(self._error)
        if not self._is_over:
            self._finish()

    def lost(self, failure: Failure) -> None:
        if self._is_over:
            return
        if self.relay.progress is Progress.FINISHED:
            self._finish()  # all of the answer had come
        elif self.first_token_at:
            self._fail(replace(failure, message=f"{failure.message} after {self.relay.deltas} chunks"))
        else:
            self._fail(failure)

    # control

    def pause(self, is_paused: bool) -> None:
        """Stops or resumes reading from the upstream; while paused no limit between tokens runs."""
        self._is_paused = is_paused
        self._last = self._time()
        if self.connection is not None and not self._is_over:
            if is_paused:
                self.connection.pause()
            else:
                self.connection.resume()

    def cancel(self, failure: Failure) -> None:
        """Ends the attempt from our side and closes the upstream's connection."""
        self._fail(failure)

    # inside

    def _hold(self, blocks: list[Block]) -> None:
        self._held += blocks
        if self.relay.progress is Progress.WAITING:
            return
        held, self._held = self._held, []
        self.first_token_at = self._last
        if self._waits_for is Fault.FIRST_TOKEN_TIMEOUT:
            self._waits_for = Fault.BETWEEN_TOKENS_TIMEOUT
            self._arm(self._last + self._timeouts.between_tokens)
        self._on_blocks(held, self.relay.progress is Progress.ENDED)
        if not self.begun.done():
            self.begun.set_result(None)

    def _finish(self) -> None:
        """The upstream has no more to say: the answer is whole, or it was cut."""
        try:
            blocks = self.relay.finish()
        except UpstreamFailed as failed:
            return self._fail(failed.failure)
        if blocks:
            self._on_blocks(blocks, True)
        self._end()

    def _end(self) -> None:
        self._is_over = True
        self._timer.cancel()
        if not self.ended.done():
            self.ended.set_result(None)
        if self.connection is not None:
            self.connection.release()

    def _fail(self, failure: Failure) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._timer.cancel()
        if self.connection is not None:
            self.connection.close()
        waiter = self.ended if self.begun.done() else self.begun
        if not waiter.done():
            waiter.set_exception(UpstreamFailed(failure))

    def _fail_with_response(self, response: WholeResponse) -> None:
        response.end()
        body = b"" if response.complete.exception() else response.complete.result()[1]
        failure = read_error(self._status, _content_type(self._headers), body, secret=self._secret)
        self._fail(replace(failure, retry_after=read_retry_after(dict(self._headers))))

    def _arm(self, at: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(min(at, self._deadline), self._look)

    def _look(self) -> None:
        """A limit may have passed; it is measured from the last sign of life, so that no chunk moves a timer."""
        now = self._time()
        limits = {
            Fault.HEADERS_TIMEOUT: self._timeouts.headers,
            Fault.FIRST_TOKEN_TIMEOUT: self._timeouts.first_token,
            Fault.BETWEEN_TOKENS_TIMEOUT: self._timeouts.between_tokens,
            Fault.CUT: self._timeouts.after_finish,
        }
        limit = limits[self._waits_for]
        if now >= self._deadline:
            self._fail(Failure(Fault.TOTAL_TIMEOUT, "the answer was not complete within the total time"))
        elif self._is_paused or now < self._last + limit:
            self._arm((now if self._is_paused else self._last) + limit)
        elif self._waits_for is Fault.CUT:
            self._finish()
        else:
            self._fail(Failure(self._waits_for, _TOO_SLOW[self._waits_for].format(limit)))


_TOO_SLOW = {
    Fault.HEADERS_TIMEOUT: "no response within {:g} s",
    Fault.FIRST_TOKEN_TIMEOUT: "no first token within {:g} s",
    Fault.BETWEEN_TOKENS_TIMEOUT: "no further token within {:g} s",
}


def _content_type(headers: Headers) -> str:
    return dict(headers).get(b"content-type", b"").decode("latin-1").lower()
