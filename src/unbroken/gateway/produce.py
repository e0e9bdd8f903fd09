"""The producer: tries upstreams until one begins to answer, and writes the stream's log. It is its only writer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block, Epoch, StreamId
from unbroken.chat.usage import Usage
from unbroken.gateway.attempt import StreamAttempt
from unbroken.gateway.metrics import Metrics
from unbroken.gateway.upstreams import Upstream, Upstreams
from unbroken.rules.lifecycle import State, Step, next_state
from unbroken.rules.outcome import api_error
from unbroken.rules.retry import GiveUp, RetryAfter, RetryPolicy, TryNext, most_telling, verdict
from unbroken.rules.routing import Target
from unbroken.settings.tree import TimeoutSettings
from unbroken.store.log import LogError, StreamLog
from unbroken.upstream.http import WholeResponse
from unbroken.wire.openai_chat.answer import Answer, relay_answer
from unbroken.wire.openai_chat.chunks import ChunkRelay
from unbroken.wire.openai_chat.errors import read_error, write_error_event
from unbroken.wire.openai_chat.request import write_request
from unbroken.wire.retry_after import read_retry_after

T = TypeVar("T")


@dataclass(slots=True)
class Account:
    """What the log line and the metrics say of one answer."""

    upstream: str = ""
    model: str = ""
    attempts: int = 0
    usage: Usage | None = None
    #: Loop time of the first piece of the answer; 0.0 if there was none.
    first_token_at: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What producers share: the upstreams, the log, the clock's bounds."""

    upstreams: Upstreams
    log: StreamLog
    metrics: Metrics
    timeouts: TimeoutSettings
    retries: RetryPolicy
    chance: Callable[[], float]
    now: Callable[[], float]  # seconds since 1970, for `created`


class Producer:
    """Produces one answer, whole or as a stream."""

    def __init__(self, request: ChatRequest, stream: StreamId, means: Means) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._stream = stream
        self._means = means
        self._deadline = self._loop.time() + means.timeouts.total
        self._created = int(means.now())
        self._attempt: StreamAttempt | None = None
        self._epoch = Epoch(0)
        self._is_paused = False
        #: Why it was stopped from our side, None if it was not.
        self.stopped: Failure | None = None
        self._task: asyncio.Task[object] | None = None
        self.state = State.ACCEPTED
        self.account = Account()
        #: When an upstream was last asked, or last said anything; loop time.
        self.heard_at = self._loop.time()
        #: Done when the first piece of the answer is in the log, or when it is clear that none will be.
        self.begun: asyncio.Future[None] = self._loop.create_future()

    async def answer(self) -> Answer:
        """The whole answer of the first upstream that gives one.

        Raises:
            UpstreamFailed: none did.
        """
        self._task = asyncio.current_task()
        answer = await self._first_to(self._ask_for_answer)
        self.account.usage = answer.usage
        return answer

    async def write_stream(self) -> None:
        """Writes the log of the stream to its end; a failure becomes its terminal block."""
        self._task = asyncio.current_task()
        self._epoch = self._means.log.create(self._stream, keep=False)
        try:
            attempt = await self._first_to(self._ask_for_stream)
            await self._see_through(attempt)
        except UpstreamFailed as failed:
            self._end_with(failed.failure)
        except asyncio.CancelledError:
            if self.stopped is None:
                raise
            self._end_with(self.stopped)
        finally:
            if not self.begun.done():
                self.begun.set_result(None)

    def pause(self, is_paused: bool) -> None:
        """Stops or resumes reading from the upstream."""
        self._is_paused = is_paused
        if self._attempt is not None:
            self._attempt.pause(is_paused)

    def stop(self, failure: Failure) -> None:
        """Ends the answer now, wherever it stands, and closes the upstream's connection."""
        if self.stopped is None and not self.state.is_terminal:
            self.stopped = failure
            if self._attempt is not None:
                self._attempt.cancel(failure)
            elif self._task is not None:
                self._task.cancel()

    async def _first_to(self, ask: Callable[[Target, Upstream], Awaitable[T]]) -> T:
        """What the first upstream gives that does not fail; upstreams, order and patience as the rules say."""
        upstreams, policy = self._means.upstreams, self._means.retries
        candidates = upstreams.candidates(self._request.model, self._loop.time())
        if not candidates:
            raise UpstreamFailed(self._nobody_left())
        failures: list[tuple[Failure, str]] = []
        at = tries_here = 0
        while True:
            target = candidates[at]
            upstream = upstreams.get(target.upstream)
            tries_here += 1
            self.account.attempts += 1
            self.account.upstream, self.account.model = target.upstream, target.public
            self.heard_at = self._loop.time()
            upstreams.began(upstream, self.heard_at)
            failure: Failure | None = Failure(Fault.CLIENT_LEFT, "the client has gone")
            try:
                given = await ask(target, upstream)
                failure = None
                return given
            except UpstreamFailed as failed:
                failure = failed.failure
            finally:
                if failure is not None or not self._request.stream:
                    upstreams.ended(upstream, failure, self._loop.time())
            self.heard_at = self._loop.time()
            failures.append((failure, upstream.name))
            if failure.fault is Fault.STALE:
                self.account.attempts -= 1
                tries_here -= 1
            match verdict(
                failure,
                policy,
                attempts=self.account.attempts,
                tries_here=tries_here,
                has_next=at + 1 < len(candidates),
                chance=self._means.chance(),
            ):
                case RetryAfter(seconds):
                    await asyncio.sleep(min(seconds, max(self._deadline - self._loop.time(), 0)))
                case TryNext():
                    at, tries_here = at + 1, 0
                case GiveUp():
                    raise UpstreamFailed(self._told(failures))
            self._means.metrics.count_retry(upstream.name, failure.fault.value)

    async def _ask_for_answer(self, target: Target, upstream: Upstream) -> Answer:
        client = await upstream.client()
        sink = WholeResponse()
        body = write_request(self._request, model=target.model, ask_usage=False)
        connection = await client.post("/chat/completions", body, sink, accept="application/json")
        late = Failure(Fault.TOTAL_TIMEOUT, "the answer was not complete within the total time")
        timer = self._loop.call_at(self._deadline, sink.lost, late)
        try:
            status, answer = await sink.complete
        except BaseException:
            connection.close()
            raise
        finally:
            timer.cancel()
        headers = dict(sink.headers)
        if status != 200:
            kind = headers.get(b"content-type", b"").decode("latin-1").lower()
            failure = read_error(status, kind, answer, secret=upstream.secret)
            raise UpstreamFailed(replace(failure, retry_after=read_retry_after(headers)))
        return relay_answer(answer, self._stream, target.public, created=self._created, secret=upstream.secret)

    async def _ask_for_stream(self, target: Target, upstream: Upstream) -> StreamAttempt:
        client = await upstream.client()
        relay = ChunkRelay(
            self._stream,
            target.public,
            created=self._created,
            choices=self._request.choices,
            include_usage=self._request.include_usage,
            secret=upstream.secret,
        )
        body = write_request(self._request, model=target.model, ask_usage=upstream.settings.ask_usage)
        attempt = StreamAttempt(
            relay,
            self._append,
            self._means.timeouts,
            deadline=self._deadline,
            gaps=self._means.metrics.answered(target.public, target.upstream).gaps.counts,
            secret=upstream.secret,
        )
        try:
            connection = await client.post("/chat/completions", body, attempt, accept="text/event-stream")
            attempt.connection = connection
            self._attempt = attempt
            if self._is_paused:
                attempt.pause(True)
            await attempt.begun
        except BaseException:
            attempt.cancel(Failure(Fault.CLIENT_LEFT, "given up"))
            self._attempt = None
            raise
        return attempt

    async def _see_through(self, attempt: StreamAttempt) -> None:
        """Waits for the end of an answer that has begun, and books it."""
        upstream = self._means.upstreams.get(self.account.upstream)
        failure: Failure | None = None
        try:
            await attempt.ended
        except UpstreamFailed as failed:
            failure = failed.failure
            raise
        finally:
            relay = attempt.relay
            self.account.first_token_at = attempt.first_token_at
            self.account.usage = relay.usage or Usage(output=relay.deltas, estimated=True)
            self._means.upstreams.ended(upstream, failure, self._loop.time())

    def _append(self, blocks: Sequence[Block], ends: bool) -> None:
        if self.state is State.ACCEPTED:
            self.state = next_state(self.state, Step.CONTENT)
            self.begun.set_result(None)
        if ends:
            self.state = next_state(self.state, Step.FINISH)
        try:
            self._means.log.append(self._stream, self._epoch, blocks, ends=ends)
        except LogError as error:
            self.stop(Failure(Fault.INTERNAL, str(error)))

    def _end_with(self, failure: Failure) -> None:
        """The terminal block of a stream that failed: the dialect's error event (law 1)."""
        self.account.failure = failure
        has_left = failure.fault is Fault.CLIENT_LEFT
        self.state = next_state(self.state, Step.CANCEL if has_left else Step.FAIL)
        block = write_error_event(api_error(failure, self.account.upstream))
        with suppress(LogError):  # if nobody may add to it any more, what was sent stays as it is
            self._means.log.append(self._stream, self._epoch, [block], ends=True)

    def _nobody_left(self) -> Failure:
        model = self._request.model
        message = f'no upstream for "{model}" is well: each has failed several times in a row and is left alone'
        return Failure(Fault.NO_UPSTREAM, message, retry_after=1.0)

    def _told(self, failures: Sequence[tuple[Failure, str]]) -> Failure:
        telling = most_telling([failure for failure, _ in failures])
        self.account.upstream = next(name for failure, name in failures if failure is telling)
        self.account.failure = telling
        return telling
