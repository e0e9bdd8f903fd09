"""What every answer has, whole or streamed: the upstreams that were asked for it, how it stands, and what ends it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block, StreamId
from unbroken.gateway.account import Account
from unbroken.gateway.attempt import StreamAttempt
from unbroken.gateway.lane import NewLane
from unbroken.gateway.metrics import Metrics
from unbroken.gateway.questions import Question, ask_for_stream, rate_limits
from unbroken.gateway.upstreams import Upstream, Upstreams
from unbroken.rules.lifecycle import State, Step, next_state
from unbroken.rules.retry import GiveUp, RetryAfter, RetryPolicy, TryNext, counts, most_telling, verdict
from unbroken.rules.routing import Target
from unbroken.settings.tree import TimeoutSettings
from unbroken.store.memory import MemoryStreamLog
from unbroken.wire.dialects import Answering, Dialect

T = TypeVar("T")

_GIVEN_UP = Failure(Fault.CLIENT_LEFT, "given up")  # what an attempt that was cancelled has come to


@dataclass(frozen=True, slots=True)
class Means:
    """What producers share: the upstreams, the log of plain streams, the clock's bounds."""

    upstreams: Upstreams
    log: MemoryStreamLog
    metrics: Metrics
    timeouts: TimeoutSettings
    retries: RetryPolicy
    chance: Callable[[], float]
    now: Callable[[], float]  # seconds since 1970, for `created`


class Asked(Struct, frozen=True):
    """What was asked, by whom, and what the answer is called."""

    request: ChatRequest
    stream: StreamId
    #: The client's.
    dialect: Dialect
    #: Seconds since 1970.
    created: int
    #: The client's headers, of which only those go up that the upstream's dialect has asked for.
    headers: Mapping[bytes, bytes]
    #: Fields of the request that the answer repeats.
    echo: Mapping[str, Raw]


OnWhole = Callable[[bytes], None]
"""Hears of an answer that is whole: its body, or the terminal block of its stream."""


class Production:
    """The making of one answer."""

    __slots__ = (
        "_attempt",
        "_deadline",
        "_dialect",
        "_is_paused",
        "_loop",
        "_means",
        "_on_whole",
        "_others",
        "_request",
        "_task",
        "account",
        "asked",
        "attempts_before",
        "heard_at",
        "state",
        "stopped",
        "stream",
    )

    def __init__(self, asked: Asked, means: Means, *, on_whole: OnWhole | None = None) -> None:
        """`on_whole` is called before anything that comes next from any client is heard."""
        self._loop = asyncio.get_running_loop()
        self.asked = asked
        self._request, self._dialect = asked.request, asked.dialect
        self._means = means
        self._on_whole = on_whole
        self.stream = asked.stream
        self._attempt: StreamAttempt | None = None
        self._is_paused = False
        #: Why it was stopped from our side, None if it was not.
        self.stopped: Failure | None = None
        self._task: asyncio.Task[object] | None = None
        self._deadline = 0.0  # of the total limit; loop time
        #: Those that may be asked if the one that is asked now fails.
        self._others: Sequence[tuple[Target, Upstream]] = ()
        self.state = State.ACCEPTED
        self.account = Account()
        #: How many of its attempts other processes have made: they do not count against ours.
        self.attempts_before = 0
        #: When an upstream was last asked, or last said anything; loop time.
        self.heard_at = self._loop.time()

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
        self._task = asyncio.current_task(self._loop)
        limit = self._means.timeouts.total
        self._deadline = self._loop.time() + limit
        return self._loop.call_at(self._deadline, self._stop_late, limit)

    def _stop_late(self, limit: float) -> None:
        self.stop(Failure(Fault.TOTAL_TIMEOUT, f"the answer was not complete within {limit:g} s"))

    async def _first_to(self, ask: Callable[[Target, Upstream], Awaitable[T]]) -> tuple[T, Upstream]:
        """What the first upstream gives that does not fail, and which; order and patience as the rules say."""
        upstreams, policy = self._means.upstreams, self._means.retries
        # Resolved once: a reload may take an upstream out of the table, not out of an answer (FAULTS.md 44).
        candidates = [
            (target, upstreams.get(target.upstream))
            for target in upstreams.candidates(self._request.model, self._loop.time())
        ]
        if not candidates:
            raise UpstreamFailed(upstreams.nobody_left(self._request.model, self._loop.time()))
        failures: list[tuple[Failure, Target]] = []
        at = tries_here = 0
        while True:
            target, upstream = candidates[at]
            tries_here += 1
            self.account.attempts += 1
            self.account.upstream, self.account.model = target.upstream, target.public
            attempts_left = policy.attempts - (self.account.attempts - self.attempts_before)
            self._others = candidates[at + 1 :][: max(0, attempts_left)]
            self.heard_at = self._loop.time()
            upstreams.began(upstream, self.heard_at)
            failure: Failure | None = _GIVEN_UP
            try:
                given = await ask(target, upstream)
                failure = None
                return given, upstream
            except UpstreamFailed as failed:
                failure = upstream.without_secrets(failed.failure)
                failed.__traceback__ = None  # through its frames it holds the attempt, which holds the error
            finally:
                if failure is not None or not self._request.stream:
                    upstreams.ended(upstream, self._request, failure, self._loop.time())
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
                attempts=self.account.attempts - self.attempts_before,
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

    def _answering(self, target: Target, request: ChatRequest | None = None) -> Answering:
        request = request or self._request
        return Answering(
            self.stream, target.public, self.asked.created, request.choices, request.include_usage, self.asked.echo
        )

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
        new_lane: NewLane | None = None,
    ) -> StreamAttempt:
        """An attempt whose answer has begun; its blocks go to `on_blocks`, or the way of a new lane."""
        client = await upstream.client()
        timeouts = self._means.timeouts
        if upstream.is_engine:
            # It sends headers only when a slot is free.
            timeouts = msgspec.structs.replace(timeouts, headers=timeouts.total)
        attempt = StreamAttempt(
            question.relay,
            on_blocks,
            timeouts,
            gaps=self._means.metrics.answered(target.public, target.upstream).gaps,
            secret=upstream.secret,
            tells_progress=upstream.is_engine or question.holds_back,
            read_error=upstream.read_error,
            new_lane=new_lane,
        )
        self.account.dropped = question.dropped
        try:
            connection = await client.post(
                question.path or upstream.dialect.path,
                question.body,
                attempt,
                accept="text/event-stream",
                more_headers=upstream.headers_for(self.asked.headers),
            )
            self._attempt = attempt
            attempt.pause(self._is_paused)
            attempt.sent(connection)
            await attempt.begun
            self.account.limits = rate_limits(attempt.headers, self._dialect, now=self._means.now())
            attempt.headers = ()
        except BaseException:
            attempt.abandon()
            self._attempt = None
            raise
        return attempt

    def _note_failure(self, failure: Failure) -> None:
        self.account.failure = failure
        is_wished = failure.fault in (Fault.CLIENT_LEFT, Fault.CANCELLED)
        self.state = next_state(self.state, Step.CANCEL if is_wished else Step.FAIL)

    def _told(self, failures: Sequence[tuple[Failure, Target]]) -> Failure:
        telling = most_telling([failure for failure, _ in failures])
        target = next(target for failure, target in failures if failure is telling)
        self.account.upstream, self.account.model = target.upstream, target.public
        return telling
