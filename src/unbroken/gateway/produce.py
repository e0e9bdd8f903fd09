"""The producer: has an upstream begin to answer, and writes the stream's log. It is its only writer."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block, Epoch, Offset
from unbroken.chat.usage import Usage
from unbroken.gateway.attempt import StreamAttempt
from unbroken.gateway.continuation import Ending, failing_behind, read_said
from unbroken.gateway.follow import StreamFollower
from unbroken.gateway.going_on import GoingOn
from unbroken.gateway.lane import MAX_BYTES, Lane, fits
from unbroken.gateway.production import Asked, Means, OnWhole
from unbroken.gateway.questions import Question
from unbroken.gateway.stream_account import StreamAccount, ToldError, write_account
from unbroken.gateway.upstreams import Upstream
from unbroken.rules.lifecycle import State, Step, next_state
from unbroken.rules.outcome import api_error
from unbroken.rules.routing import Target
from unbroken.store.held import Run
from unbroken.store.log import DurableLog, LogError, OffsetUnknown, StoreUnavailable, StreamLog, StreamTooLong
from unbroken.wire.template import Template

# Seconds for which the end of a durable stream waits for room in a log that has as much to commit as it may: longer
# than a store may usually fail before that is given up, and there is room again.
END_PATIENCE_SECONDS = 30.0
FIRST_PAUSE = 0.05  # seconds before it is tried again; doubled each time
LONGEST_PAUSE = 1.0
LEAST_PAUSE = 0.001  # a timer for less is due at once, and would be set again and again until the clock has moved

Going = tuple[StreamAttempt, Upstream]
"""An attempt whose answer has begun, and at which upstream."""


class Producer(GoingOn):
    """Produces one answer as a stream."""

    __slots__ = (
        "_durable_log",
        "_fail",
        "_has_content",
        "_is_account_due",
        "_log",
        "_take_note",
        "begun",
        "client",
        "epoch",
        "is_durable",
        "lost",
    )

    def __init__(
        self,
        asked: Asked,
        means: Means,
        *,
        log: DurableLog | None = None,
        epoch: Epoch | None = None,
        on_whole: OnWhole | None = None,
    ) -> None:
        """With an `epoch` the stream is there already, in `log`, and is durable; without one it is made, and plain."""
        super().__init__(asked, means, on_whole=on_whole)
        self._log: StreamLog = log or means.log
        self._durable_log = log
        #: With which it writes the log.
        self.epoch = epoch or Epoch(0)
        self.is_durable = epoch is not None
        self._fail: Callable[[ApiError], list[Block]] | None = None
        self._take_note: Callable[[], bytes] | None = None
        self._has_content = False
        #: Who follows the stream, if nobody else ever will.
        self.client: StreamFollower | None = None
        #: Why the stream is no longer ours to write, None while it is.
        self.lost: LogError | None = None
        self._is_account_due = True
        #: True when the first piece of the answer is in the log, False when it is clear that none will be.
        self.begun: asyncio.Future[bool] = self._loop.create_future()

    def write_stream(self) -> Coroutine[Any, Any, None]:
        """Writes the log of the stream to its end; a failure becomes its terminal block."""
        return self._write(self._begin_answer)

    async def go_on(self, blocks: Sequence[Block], note: bytes) -> None:
        """Writes the rest of a stream that another producer has begun: `blocks` and `note` are what it left."""
        if blocks:
            self._take_up(blocks, note)
            self.begun.set_result(True)
            await self._write(self._continue_for_another)
        else:
            await self._write(self._begin_answer)

    async def end(self, blocks: Sequence[Block], failure: Failure) -> None:
        """Ends a stream that another producer has begun."""
        if blocks:
            self._take_up(blocks)
        self.begun.set_result(bool(blocks))
        await self._end_with(failure)

    def _take_up(self, blocks: Sequence[Block], note: bytes = b"") -> None:
        """Stands where another producer stood."""
        self.said.take(blocks, note)
        self._has_content = True
        self.state = next_state(self.state, Step.CONTENT)
        if self.said.is_too_long:  # to go on with; to say behind them that it has failed they are needed all the same
            self._fail = failing_behind(self._dialect, self._answering_again(), blocks)
        with suppress(UpstreamFailed):  # in no word of ours: then nobody counts it
            said = read_said(self._dialect, blocks)
            self.account.usage = said.usage or Usage(output=said.tokens, estimated=True)

    @property
    def is_lost(self) -> bool:
        """Whether the stream is no longer ours to write."""
        return self.lost is not None

    @property
    def has_said_nothing(self) -> bool:
        """Whether nothing of the answer is in the log, but perhaps an error."""
        return not self._has_content

    async def wait_until_begun(self, patience: float) -> None:
        """Waits for the first token, a failure, or until the upstream has been silent for `patience` seconds.

        As long as it waits, an upstream's failure can still be told with a status of its own (FAULTS.md 33).
        """
        left = patience
        while not self.begun.done():  # for a turn of the loop at least: the stream is made in another task's first step
            woken: asyncio.Future[None] = self._loop.create_future()
            wake = partial(_wake, woken)
            timer = self._loop.call_later(left, wake)
            self.begun.add_done_callback(wake)
            try:
                await woken
            finally:
                self.begun.remove_done_callback(wake)
                timer.cancel()
            left = self.heard_at + patience - self._loop.time()
            if left <= 0:
                return
            left = max(left, LEAST_PAUSE)

    def pause(self, is_paused: bool) -> None:
        """Stops or resumes reading from the upstream."""
        self._is_paused = is_paused
        if self._attempt is not None:
            self._attempt.pause(is_paused)

    def lose(self, error: LogError) -> None:
        """Ends the work, not the stream: it can no longer be written from here."""
        if self.lost is None:
            self.lost = error
        self.stop(Failure(Fault.STORE_UNAVAILABLE, str(error)))

    async def _write(self, begin: Callable[[], Awaitable[Going | None]]) -> None:
        limit = self._begin()
        try:
            if self.stopped is not None:  # before its first step
                raise UpstreamFailed(self.stopped)
            going = await begin()  # its steps are over then: what waits for hours is only what follows
            while going is not None:
                going = await self._see_through(*going)
        except UpstreamFailed as failed:
            await self._end_with(failed.failure)
        except asyncio.CancelledError:
            if self.stopped is None:
                raise
            await self._end_with(self.stopped)
        except Exception:  # the task's root: whatever it is, the reader must not wait for ever
            await self._end_with(Failure(Fault.INTERNAL, "the gateway has failed; its log says how"))
            raise
        finally:
            limit.cancel()
            if not self.begun.done():
                self.begun.set_result(False)

    async def _begin_answer(self) -> Going:
        if not self.is_durable:
            self.epoch = await self._log.create(self.stream, keep=False)
        return await self._first_to(self._ask_for_stream)

    async def _continue_for_another(self) -> Going | None:
        return await self._first_to_continue(Failure(Fault.CUT, "the process that wrote the answer has died"))

    async def _ask_for_stream(self, target: Target, upstream: Upstream) -> StreamAttempt:
        return await self._open(target, upstream, self._question(self._request, target, upstream))

    async def _open(self, target: Target, upstream: Upstream, question: Question) -> StreamAttempt:
        """An attempt that writes the log."""
        former = self._fail, self._take_note
        self._fail, self._take_note = question.fail, question.take_note
        self._is_account_due = True
        try:
            new_lane = None if question.take_note is not None else self._new_lane
            return await self._open_stream(target, upstream, question, self._append, new_lane)
        except BaseException:
            self._fail, self._take_note = former  # what this attempt held back was never said
            raise

    async def _see_through(self, attempt: StreamAttempt, upstream: Upstream) -> Going | None:
        """Waits for the end of an attempt that has begun, and books it; gives what goes on with it if it failed."""
        failure: Failure | None = None
        try:
            await attempt.ended
        except UpstreamFailed as failed:
            failure = upstream.without_secrets(failed.failure)
            failed.__traceback__ = None  # through its frames it holds the attempt, which holds the error
        finally:
            self._attempt = None
            relay = attempt.relay
            self.account.first_token_at = self.account.first_token_at or attempt.first_token_at
            self.account.usage = relay.usage or Usage(output=relay.deltas, estimated=True)
            self._means.upstreams.ended(upstream, self._request, failure, self._loop.time())
        if failure is None:
            return None
        if self.stopped is not None:
            raise UpstreamFailed(failure)
        return await self._first_to_continue(failure)

    async def _recall(self) -> None:
        if not self.is_durable:
            try:
                held = await self._log.read(self.stream, Offset(0))
            except OffsetUnknown:
                self.said.forget()
            else:
                self.said.recall([entry.block for entry in held])

    def _end_well(self, ending: Ending) -> None:
        if ending.usage is not None:
            self.account.usage = ending.usage
        self._append(ending.blocks, True)

    def _new_lane(self, template: Template, gaps: list[int]) -> Lane | None:
        """A lane to the only client of a plain stream, or to the log of a durable one."""
        if not fits(template):
            return None
        if self.is_durable:
            return self._new_durable_lane(template, gaps)
        client = self.client
        if client is None or not client.is_chunked:
            return None
        lane = Lane(template, client.to, gaps=gaps, loop=self._loop)
        run = Run(template.block_before, template.block_after, lane.texts)
        if not self._means.log.begin_run(self.stream, self.epoch, run, most=MAX_BYTES, on_over=lane.leave):
            return None
        client.lane = lane
        return lane

    def _new_durable_lane(self, template: Template, gaps: list[int]) -> Lane | None:
        before, after = template.block_before, template.block_after
        writer = None
        if self._durable_log is not None:
            writer = self._durable_log.text_writer(self.stream, self.epoch, before, after)
        if writer is None:
            return None
        lane = Lane(template, writer=writer, gaps=gaps, loop=self._loop)
        self.said.begin_run(Run(before, after, lane.texts))
        return lane

    def _append(self, blocks: Sequence[Block], ends: bool) -> None:
        note = self._take_note() if self._take_note is not None else b""
        try:
            if self.is_durable:
                self._append_durably(blocks, ends, note)
            else:
                self._log.append(self.stream, self.epoch, blocks, ends=ends)
        except LogError as error:
            if self.is_durable and not isinstance(error, StreamTooLong):
                return self.lose(error)
            return self.stop(Failure(Fault.INTERNAL, str(error)))
        if self.is_durable:  # the log has what is committed only
            self.said.take(blocks, note)
        elif note:
            self.said.note += note
        if not self._has_content:
            self._has_content = True
            self.state = next_state(self.state, Step.CONTENT)
            self.begun.set_result(True)
        if ends:
            self.state = next_state(self.state, Step.FINISH)
            if self._on_whole is not None:
                self._on_whole(blocks[-1])

    def _append_durably(self, blocks: Sequence[Block], ends: bool, note: bytes) -> None:
        account = b""
        if ends or self._is_account_due:
            self._is_account_due = False
            account = self._account(State.FINISHED if ends else State.RUNNING)
        self._log.append(self.stream, self.epoch, blocks, ends=ends, note=note, account=account)

    def _account(self, state: State, error: ApiError | None = None) -> bytes:
        """What the store is told of the answer; its usage once it is over."""
        account, usage = self.account, self.account.usage
        if self._attempt is not None and state.is_terminal:
            usage = self._attempt.relay.usage or Usage(output=self._attempt.relay.deltas, estimated=True)
        return write_account(
            StreamAccount(
                state=state.value,
                model=account.model,
                upstream=account.upstream,
                attempts=account.attempts,
                usage=usage,
                continuations=tuple(account.continuations),
                error=None
                if error is None
                else ToldError(error.status, error.message, error.type, error.code, error.param),
            )
        )

    async def _end_with(self, failure: Failure) -> None:
        """The terminal block of a stream that failed: the dialect's error event (law 1)."""
        self._note_failure(failure)
        if self.is_lost:
            return
        error = api_error(failure, self.account.upstream)
        # What an attempt held back was never said: its numbers count for nothing.
        blocks = self._fail_in_the_middle(error) if self._has_content else [self._dialect.write_error_event(error)]
        account = self._account(self.state, error) if self.is_durable else b""
        deadline, pause = self._loop.time() + END_PATIENCE_SECONDS, FIRST_PAUSE
        while not self.is_lost:
            try:
                return self._append_end_in_some_way(blocks, error, account)
            except StoreUnavailable as no_room:
                if self._loop.time() >= deadline:  # another will go on with it, even with what was cancelled
                    return self.lose(no_room)
            except LogError as refusal:  # nobody may add to it from here any more: what was sent stays as it is
                if self.is_durable:
                    self.lose(refusal)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _append_end_in_some_way(self, blocks: Sequence[Block], error: ApiError, account: bytes) -> None:
        try:
            self._append_end(blocks, account)
        except StreamTooLong:  # the end of a response repeats all of it
            self._append_end([self._dialect.write_error_event(error)], account)

    def _append_end(self, blocks: Sequence[Block], account: bytes) -> None:
        self._log.append(self.stream, self.epoch, blocks, ends=True, account=account)

    def _fail_in_the_middle(self, error: ApiError) -> list[Block]:
        if self._fail is not None:
            return self._fail(error)
        return self._error_behind(error)


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)
