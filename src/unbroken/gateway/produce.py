"""The producer: tries upstreams until one begins to answer, and writes the stream's log. It is its only writer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import msgspec
from msgspec import Raw

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block, Epoch, StreamId
from unbroken.chat.usage import Usage
from unbroken.gateway.account import Account, Answer
from unbroken.gateway.attempt import StreamAttempt, why_refused, why_unreadable
from unbroken.gateway.metrics import Metrics
from unbroken.gateway.questions import EventCollector, Question, ask_for_events, ask_for_stream, rate_limits
from unbroken.gateway.upstreams import Upstream, Upstreams
from unbroken.rules.lifecycle import State, Step, next_state
from unbroken.rules.outcome import api_error
from unbroken.rules.retry import GiveUp, RetryAfter, RetryPolicy, TryNext, counts, most_telling, verdict
from unbroken.rules.routing import Target
from unbroken.settings.tree import TimeoutSettings
from unbroken.store.log import LogError, StreamLog
from unbroken.upstream.http import WholeResponse
from unbroken.wire.dialects import Answering, Dialect
from unbroken.wire.openai_chat.assemble import AnswerAssembler
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.request import as_stream

T = TypeVar("T")


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

    def __init__(
        self,
        request: ChatRequest,
        stream: StreamId,
        means: Means,
        dialect: Dialect = OPENAI_CHAT,
        client_headers: Mapping[bytes, bytes] = MappingProxyType({}),
        echo: Mapping[str, Raw] | None = None,
        on_whole: Callable[["Producer"], None] | None = None,
    ) -> None:
        """`dialect` is the client's; of its headers only those go up that the upstream's dialect has asked for.

        `on_whole` is called when the answer is whole, before anything that comes next from any client is heard.
        """
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._stream = stream
        self._means = means
        self._dialect = dialect
        self._client_headers = client_headers
        self._echo = echo or request.fields
        self._on_whole = on_whole
        self._fail: Callable[[ApiError], list[Block]] | None = None
        self.stream = stream
        #: The stream's terminal block, or the whole answer; None while there is none.
        self.last_block: Block | None = None
        self.whole: bytes | None = None
        self._created = int(means.now())
        self._attempt: StreamAttempt | None = None
        self._epoch = Epoch(0)
        self._has_content = False
        self._is_paused = False
        #: Why it was stopped from our side, None if it was not.
        self.stopped: Failure | None = None
        self._task: asyncio.Task[object] | None = None
        self.state = State.ACCEPTED
        self.account = Account()
        #: When an upstream was last asked, or last said anything; loop time.
        self.heard_at = self._loop.time()
        #: True when the first piece of the answer is in the log, False when it is clear that none will be.
        self.begun: asyncio.Future[bool] = self._loop.create_future()

    async def answer(self) -> Answer:
        """The whole answer of the first upstream that gives one.

        Raises:
            UpstreamFailed: none did.
        """
        limit = self._begin()
        try:
            answer, _ = await self._first_to(self._ask_for_answer)
        except UpstreamFailed as failed:
            self._note_failure(failed.failure)
            raise
        except asyncio.CancelledError:
            if self.stopped is None or self._task is None:
                raise
            self._task.uncancel()  # it was `stop`: the task that called us goes on
            self._note_failure(self.stopped)
            raise UpstreamFailed(self.stopped) from None
        finally:
            limit.cancel()
        self.state = next_state(next_state(self.state, Step.CONTENT), Step.FINISH)
        self.account.usage = answer.usage
        self.whole = answer.body
        self._tell_whole()
        return answer

    async def write_stream(self) -> None:
        """Writes the log of the stream to its end; a failure becomes its terminal block."""
        limit = self._begin()
        self._epoch = await self._means.log.create(self._stream, keep=False)
        try:
            attempt, upstream = await self._first_to(self._ask_for_stream)
            await self._see_through(attempt, upstream)
        except UpstreamFailed as failed:
            self._end_with(failed.failure)
        except asyncio.CancelledError:
            if self.stopped is None:
                raise
            self._end_with(self.stopped)
        except Exception:  # the task's root: whatever it is, the reader must not wait for ever
            self._end_with(Failure(Fault.INTERNAL, "the gateway has failed; its log says how"))
            raise
        finally:
            limit.cancel()
            if not self.begun.done():
                self.begun.set_result(False)

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

    def _begin(self) -> asyncio.TimerHandle:
        """Makes this task the producer's; gives the timer of the total limit."""
        self._task = asyncio.current_task()
        total = self._means.timeouts.total
        late = Failure(Fault.TOTAL_TIMEOUT, f"the answer was not complete within {total:g} s")
        return self._loop.call_later(total, self.stop, late)

    async def _first_to(self, ask: Callable[[Target, Upstream], Awaitable[T]]) -> tuple[T, Upstream]:
        """What the first upstream gives that does not fail, and which; order and patience as the rules say."""
        upstreams, policy = self._means.upstreams, self._means.retries
        # Resolved once: a reload may take an upstream out of the table, not out of an answer (FAULTS.md 44).
        candidates = [
            (target, upstreams.get(target.upstream))
            for target in upstreams.candidates(self._request.model, self._loop.time())
        ]
        if not candidates:
            raise UpstreamFailed(self._nobody_left())
        failures: list[tuple[Failure, Target]] = []
        at = tries_here = 0
        while True:
            target, upstream = candidates[at]
            tries_here += 1
            self.account.attempts += 1
            self.account.upstream, self.account.model = target.upstream, target.public
            self.heard_at = self._loop.time()
            upstreams.began(upstream, self.heard_at)
            failure: Failure | None = Failure(Fault.CLIENT_LEFT, "given up")
            try:
                given = await ask(target, upstream)
                failure = None
                return given, upstream
            except UpstreamFailed as failed:
                failure = upstream.without_secrets(failed.failure)
            finally:
                if failure is not None or not self._request.stream:
                    upstreams.ended(upstream, failure, self._loop.time())
            if self.stopped is not None:
                raise UpstreamFailed(self.stopped)
            self.heard_at = self._loop.time()
            failures.append((failure, target))
            if not counts([failed for failed, _ in failures]):
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
                    await asyncio.sleep(seconds)
                case TryNext():
                    at, tries_here = at + 1, 0
                case GiveUp():
                    raise UpstreamFailed(self._told(failures))
            self._means.metrics.count_retry(upstream.name, failure.fault.value)

    async def _ask_for_answer(self, target: Target, upstream: Upstream) -> Answer:
        if upstream.dialect is not self._dialect:
            return await self._translate_answer(target, upstream)
        if upstream.is_engine:
            return await self._assemble_answer(target, upstream)
        client = await upstream.client()
        self.account.dropped = ()
        sink = WholeResponse()
        body = self._dialect.write_request(self._request, model=target.model, ask_usage=False, more={})
        headers = upstream.headers_for(self._client_headers)
        connection = await client.post(self._dialect.path, body, sink, accept="application/json", more_headers=headers)
        try:
            status, answer = await sink.complete
        except BaseException:
            connection.close()
            raise
        if status != 200:
            read_error = self._dialect.read_error
            raise UpstreamFailed(why_refused(status, sink.headers, answer, read_error, secret=upstream.secret))
        if (unreadable := why_unreadable(sink.headers, "")) is not None:
            raise UpstreamFailed(unreadable)
        self.account.limits = rate_limits(sink.headers, self._dialect, upstream.dialect)
        relayed, usage = self._dialect.relay_answer(answer, self._answering(target), secret=upstream.secret)
        return Answer(relayed, usage)

    async def _assemble_answer(self, target: Target, upstream: Upstream) -> Answer:
        """A whole answer asked for in pieces: llama.cpp notices only while it streams that nobody waits any more."""
        assembler = AnswerAssembler()
        request = as_stream(self._request)
        question = self._question(request, target, upstream)
        await self._gather(target, upstream, question, lambda blocks, ends: assembler.feed(blocks))
        return Answer(assembler.whole(), question.relay.usage)

    async def _translate_answer(self, target: Target, upstream: Upstream) -> Answer:
        """A whole answer of another dialect: asked for in pieces, and written when all of them are there."""
        collector = EventCollector()
        question = ask_for_events(
            self._request,
            self._dialect,
            upstream.dialect,
            collector,
            model=target.model,
            secret=upstream.secret,
            is_engine=upstream.is_engine,
        )
        await self._gather(target, upstream, question, lambda blocks, ends: None)
        return Answer(self._dialect.write_answer(collector.events, self._answering(target)), question.relay.usage)

    async def _gather(
        self, target: Target, upstream: Upstream, question: Question, on_blocks: Callable[[list[Block], bool], None]
    ) -> None:
        """Sees a stream through to its end for an answer that goes out whole."""
        attempt = await self._open_stream(target, upstream, question, on_blocks)
        try:
            await attempt.ended
        except BaseException:
            attempt.abandon()
            raise
        finally:
            self._attempt = None

    async def _ask_for_stream(self, target: Target, upstream: Upstream) -> StreamAttempt:
        question = self._question(self._request, target, upstream)
        return await self._open_stream(target, upstream, question, self._append)

    def _answering(self, target: Target, request: ChatRequest | None = None) -> Answering:
        request = request or self._request
        return Answering(self._stream, target.public, self._created, request.choices, request.include_usage, self._echo)

    def _question(self, request: ChatRequest, target: Target, upstream: Upstream) -> Question:
        return ask_for_stream(
            request,
            self._dialect,
            upstream.dialect,
            self._answering(target, request),
            model=target.model,
            secret=upstream.secret,
            ask_usage=upstream.settings.ask_usage,
            is_engine=upstream.is_engine,
        )

    async def _open_stream(
        self,
        target: Target,
        upstream: Upstream,
        question: Question,
        on_blocks: Callable[[list[Block], bool], None],
    ) -> StreamAttempt:
        """An attempt whose answer has begun; its blocks go to `on_blocks`."""
        client = await upstream.client()
        timeouts = self._means.timeouts
        if upstream.is_engine:
            # It sends headers only when a slot is free.
            timeouts = msgspec.structs.replace(timeouts, headers=timeouts.total)
        attempt = StreamAttempt(
            question.relay,
            on_blocks,
            timeouts,
            gaps=self._means.metrics.answered(target.public, target.upstream).gaps.counts,
            secret=upstream.secret,
            tells_progress=upstream.is_engine,
            read_error=upstream.dialect.read_error,
        )
        self.account.dropped = question.dropped
        try:
            connection = await client.post(
                upstream.dialect.path,
                question.body,
                attempt,
                accept="text/event-stream",
                more_headers=upstream.headers_for(self._client_headers),
            )
            self._attempt, self._fail = attempt, question.fail
            attempt.pause(self._is_paused)
            attempt.sent(connection)
            await attempt.begun
            self.account.limits = rate_limits(attempt.headers, self._dialect, upstream.dialect)
        except BaseException:
            attempt.abandon()
            self._attempt = None
            raise
        return attempt

    async def _see_through(self, attempt: StreamAttempt, upstream: Upstream) -> None:
        """Waits for the end of an answer that has begun, and books it."""
        failure: Failure | None = None
        try:
            await attempt.ended
        except UpstreamFailed as failed:
            failure = upstream.without_secrets(failed.failure)
            raise UpstreamFailed(failure) from None
        finally:
            relay = attempt.relay
            self.account.first_token_at = attempt.first_token_at
            self.account.usage = relay.usage or Usage(output=relay.deltas, estimated=True)
            self._means.upstreams.ended(upstream, failure, self._loop.time())

    def _append(self, blocks: Sequence[Block], ends: bool) -> None:
        try:
            self._means.log.append(self._stream, self._epoch, blocks, ends=ends)
        except LogError as error:
            return self.stop(Failure(Fault.INTERNAL, str(error)))
        if not self._has_content:
            self._has_content = True
            self.state = next_state(self.state, Step.CONTENT)
            self.begun.set_result(True)
        if ends:
            self.state = next_state(self.state, Step.FINISH)
            self.last_block = blocks[-1]
            self._tell_whole()

    def _tell_whole(self) -> None:
        if self._on_whole is not None:
            self._on_whole(self)

    def _note_failure(self, failure: Failure) -> None:
        self.account.failure = failure
        has_left = failure.fault is Fault.CLIENT_LEFT
        self.state = next_state(self.state, Step.CANCEL if has_left else Step.FAIL)

    def _end_with(self, failure: Failure) -> None:
        """The terminal block of a stream that failed: the dialect's error event (law 1)."""
        self._note_failure(failure)
        error = api_error(failure, self.account.upstream)
        # What an attempt held back was never said: its numbers count for nothing.
        fail = self._fail if self._has_content else None
        blocks = fail(error) if fail else [self._dialect.write_error_event(error)]
        with suppress(LogError):  # if nobody may add to it any more, what was sent stays as it is
            self._means.log.append(self._stream, self._epoch, blocks, ends=True)

    def _nobody_left(self) -> Failure:
        model = self._request.model
        message = f'no upstream for "{model}" is well: each has failed several times in a row and is left alone'
        return Failure(Fault.NO_UPSTREAM, message, retry_after=1.0)

    def _told(self, failures: Sequence[tuple[Failure, Target]]) -> Failure:
        telling = most_telling([failure for failure, _ in failures])
        target = next(target for failure, target in failures if failure is telling)
        self.account.upstream, self.account.model = target.upstream, target.public
        return telling
