"""One attempt at one upstream: its response becomes blocks, or a failure.

Everything that runs per chunk is here and in what it calls: `data` → `SseReader` → `ChunkRelay` → `on_blocks`; and in
the `Lane` that takes their place for as long as chunks only add text.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from unbroken.chat.counted import counted
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.gateway.lane import Lane, NewLane
from unbroken.gateway.metrics import GAP_BOUNDS, Buckets
from unbroken.gateway.response_heads import why_refused, why_unreadable
from unbroken.settings.tree import TimeoutSettings
from unbroken.upstream.http import Connection
from unbroken.upstream.sinks import Headers, WholeResponse
from unbroken.wire.dialects import ErrorReader, Relay
from unbroken.wire.progress import Progress
from unbroken.wire.sse import EventTooLarge, SseReader
from unbroken.wire.template import Template

MAX_ERROR_BYTES = 1 << 20  # of an error response; what is longer is no message
# Timers run before sockets are read: when a limit has passed, what came in time may lie there unread, above all if this
# process was held up itself (a suspend, SIGSTOP). So there is one more look; another if even that one is so late.
LAST_LOOK_SECONDS = 0.05
HELD_UP_SECONDS = 0.5
# Chunks that fit one template before a lane is opened for it; twice as many each time that one took few chunks.
FITS_BEFORE_LANE, MAX_FITS_BEFORE_LANE = 1, 128
LANE_OF_USE = 8
MAX_HELD_BYTES = 1 << 20  # before the first piece of the answer; a role chunk has some two hundred


# Looked up once: in Python 3.11 a member of an enum costs as much as a call.
_OPEN, _ENDED = Progress.OPEN, Progress.ENDED


class StreamAttempt:
    """A sink for an upstream's streamed response.

    Until the first piece of the answer its blocks are held back, for the upstream may still fail and another be
    asked (law 4); `begun` is done when that piece is there. From then on `on_blocks` gets them as they come.
    """

    __slots__ = (
        "_all_gaps",
        "_connection",
        "_error",
        "_fits",
        "_fitted",
        "_gaps",
        "_has_passed",
        "_held",
        "_held_bytes",
        "_is_over",
        "_is_paused",
        "_lane",
        "_lane_after",
        "_last",
        "_loop",
        "_new_lane",
        "_on_blocks",
        "_read",
        "_read_error",
        "_reader",
        "_relay",
        "_secret",
        "_status",
        "_tells_progress",
        "_time",
        "_timeouts",
        "_timer",
        "_uncounted",
        "_waits_for",
        "begun",
        "ended",
        "first_token_at",
        "headers",
        "relay",
        "wants_lane",
    )

    def __init__(
        self,
        relay: Relay,
        on_blocks: Callable[[list[Block], bool], None],
        timeouts: TimeoutSettings,
        *,
        gaps: Buckets,
        secret: str = "",
        tells_progress: bool = False,
        read_error: ErrorReader,
        new_lane: NewLane | None = None,
    ) -> None:
        """`read_error` knows the upstream's dialect; `new_lane` makes lanes for chunks that only add text.

        `tells_progress`: the upstream says how far it is with the prompt, and is not silent as long as it does.
        """
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self.relay = relay
        self._on_blocks = on_blocks
        self._timeouts = timeouts
        self._secret = secret
        self._tells_progress = tells_progress
        self._read_error = read_error
        self._reader = SseReader()
        self._read = self._reader.feed
        self._relay = relay.feed
        self._held: list[Block] = []
        self._held_bytes = 0
        self._error: WholeResponse | None = None
        self._all_gaps, self._gaps = gaps, gaps.counts
        self._new_lane = new_lane
        self._lane: Lane | None = None
        self._fitted: Template | None = None  # by the last chunks
        self._fits = 0  # so many of them, one behind the other
        self._lane_after = FITS_BEFORE_LANE
        self.wants_lane = False
        self._is_paused = False
        self._is_over = False
        self._status = 0
        #: The response's headers, names in lower case.
        self.headers: Headers = ()
        self._waits_for = Fault.HEADERS_TIMEOUT
        self._last = 0.0  # when the upstream last gave a sign of life, or was asked
        self._uncounted = 0.0  # seconds behind the first token that are in no gap: `_last` has gone on without one
        self._timer: asyncio.TimerHandle | None = None
        self._has_passed = False  # the limit, when it was looked at last
        self._connection: Connection | None = None
        #: Loop time of the first piece of the answer, 0.0 before it.
        self.first_token_at = 0.0
        #: Done with the first piece of the answer; or fails with `UpstreamFailed`.
        self.begun: asyncio.Future[None] = self._loop.create_future()
        #: Done when the answer is whole; or fails with `UpstreamFailed` after `begun`.
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def sent(self, connection: Connection) -> None:
        """The request is on its way over `connection`: the time for the response's headers runs."""
        self._connection = connection
        self._last = self._time()
        self._arm(self._last + self._timeouts.headers)
        if self._is_paused:
            connection.pause()

    # ResponseSink

    def head(self, status: int, headers: Headers) -> None:
        self._status, self.headers = status, headers
        if status != 200:
            self._error = WholeResponse(MAX_ERROR_BYTES)
            self._error.head(status, headers)
        elif (unreadable := why_unreadable(headers, "text/event-stream")) is not None:
            self._fail(unreadable)
        else:
            self._last = self._time()
            self._waits_for = Fault.FIRST_TOKEN_TIMEOUT
            self._arm(self._last + self._timeouts.first_token)

    def data(self, data: bytes) -> None:
        if self._error is not None:
            return self._error.data(data)
        shortcut = self.relay.shortcut
        if shortcut is not None and self._reader.is_between and (block := shortcut.fill(data)) is not None:
            self.relay.deltas += 1
            self._pass_on([block])
            if self._new_lane is not None and type(shortcut) is Template:
                self._fits = self._fits + 1 if shortcut is self._fitted else 1
                self._fitted = shortcut
                self.wants_lane = self._fits >= self._lane_after
            return
        self._fits, self.wants_lane = 0, False
        failure = None
        blocks: list[Block] = []
        try:
            events = self._read(data)
            if len(events) == 1:
                blocks = self._relay(events[0])
            else:
                for event in events:
                    blocks += self._relay(event)
        except UpstreamFailed as failed:
            failure = failed.failure
        except EventTooLarge as error:
            failure = Failure(Fault.TOO_LARGE, str(error))
        progress = self.relay.progress
        if blocks:
            if self.first_token_at:
                self._pass_on(blocks, progress is _ENDED)
            else:
                failure = self._hold(blocks, self._time()) or failure
        elif self._tells_progress:
            self._go_on()
        if progress is not _OPEN or failure is not None:
            self._settle(progress, failure)

    def _pass_on(self, blocks: list[Block], ends: bool = False) -> None:
        now = self._time()
        self._gaps[bisect_right(GAP_BOUNDS, now - self._last)] += 1
        self._last = now
        self._on_blocks(blocks, ends)

    def _go_on(self) -> None:
        """Has the time run from now, without counting what has passed as a gap between tokens."""
        now = self._time()
        if self.first_token_at:
            self._uncounted += now - self._last
        self._last = now

    def open_lane(self) -> None:
        if self._fitted is None or self._new_lane is None or self._connection is None or self._is_over:
            return
        self._lane = self._new_lane(self._fitted, self._gaps)
        if self._lane is not None:
            self._lane.open(self._connection, self._leave_lane)

    def _leave_lane(self, taken: int) -> None:
        """Goes on behind a lane that has taken so many chunks."""
        if self._lane is not None:
            self._last = self._lane.heard_at
        self._lane = None
        was_of_use = taken > LANE_OF_USE
        self._lane_after = FITS_BEFORE_LANE if was_of_use else min(2 * self._lane_after, MAX_FITS_BEFORE_LANE)
        self._fits, self.wants_lane = 0, False
        self.relay.deltas += taken

    def _settle(self, progress: Progress, failure: Failure | None) -> None:
        """What follows from a read beside its blocks: a failure, the end, or the wait for it."""
        if failure is not None:
            self._fail(failure)
        elif progress is Progress.ENDED:
            self._end()
        elif progress is Progress.FINISHED and self._waits_for is not Fault.CUT:
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
        if self._error is not None:
            self._fail_with_response(self._error)  # the status has said it
        elif self.relay.progress is Progress.FINISHED:
            self._finish()  # all of the answer had come
        elif self.first_token_at:
            chunks = counted(self.relay.deltas, "chunk")
            self._fail(replace(failure, message=f"{failure.message} after {chunks}"))
        else:
            self._fail(failure)

    # control

    def pause(self, is_paused: bool) -> None:
        """Stops or resumes reading from the upstream; while paused no limit between tokens runs."""
        self._is_paused = is_paused
        if self._lane is not None:
            self._lane.leave()
        if self.first_token_at:
            self._go_on()
        if self._connection is not None and not self._is_over:
            if is_paused:
                self._connection.pause()
            else:
                self._connection.resume()

    def cancel(self, failure: Failure) -> None:
        """Ends the attempt from our side and closes the upstream's connection."""
        self._fail(failure)

    def abandon(self) -> None:
        """Ends an attempt that nobody waits for."""
        self.begun.cancel()
        self._close()

    # inside

    def _hold(self, blocks: list[Block], now: float) -> Failure | None:
        """Keeps blocks back until one of them is a piece of the answer; gives what speaks against more of them."""
        self._held += blocks
        self._held_bytes += sum(map(len, blocks))
        if self.relay.progress is Progress.WAITING:
            if self._held_bytes <= MAX_HELD_BYTES:
                return None
            return Failure(Fault.TOO_LARGE, f"more than {MAX_HELD_BYTES} bytes came before the first token")
        held, self._held = self._held, []
        self._last = self.first_token_at = now
        if self._waits_for is Fault.FIRST_TOKEN_TIMEOUT:
            self._waits_for = Fault.BETWEEN_TOKENS_TIMEOUT
            self._arm(self._last + self._timeouts.between_tokens)
        self._on_blocks(held, self.relay.progress is Progress.ENDED)
        if not self.begun.done():
            self.begun.set_result(None)
        return None

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
        if self._is_over:
            return
        self._is_over = True
        self._disarm()
        self._add_gaps()
        if self._connection is not None:
            self._connection.release()
        if not self.ended.done():
            self.ended.set_result(None)

    def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._disarm()
        if self._lane is not None:
            self._lane.leave()
        self._add_gaps()
        if self._connection is not None:
            self._connection.close()

    def _add_gaps(self) -> None:
        """Adds the time of the gaps that were counted: up to the last of them, and not to the end."""
        if self.first_token_at:
            self._all_gaps.total += self._last - self.first_token_at - self._uncounted

    def _fail(self, failure: Failure) -> None:
        if self._is_over:
            return
        self._close()
        waiter = self.ended if self.begun.done() else self.begun
        if not waiter.done():
            waiter.set_exception(UpstreamFailed(failure))

    def _fail_with_response(self, response: WholeResponse) -> None:
        response.end()
        body = b"" if response.complete.exception() else response.complete.result()[1]
        self._fail(why_refused(self._status, self.headers, body, self._read_error, secret=self._secret))

    def _arm(self, at: float, *, has_passed: bool = False) -> None:
        self._has_passed = has_passed
        if self._timer is None or at < self._timer.when():  # one that is set too early looks again when that is due
            self._disarm()
            self._timer = self._loop.call_at(at, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """A limit may have passed; it is measured from the last sign of life, so that no chunk moves a timer."""
        now = self._time()
        if self._lane is not None:
            self._last = self._lane.heard_at
        limits = {
            Fault.HEADERS_TIMEOUT: self._timeouts.headers,
            Fault.FIRST_TOKEN_TIMEOUT: self._timeouts.first_token,
            Fault.BETWEEN_TOKENS_TIMEOUT: self._timeouts.between_tokens,
            Fault.CUT: self._timeouts.after_finish,
        }
        limit = limits[self._waits_for]
        late = now - self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        if self._is_paused or now < self._last + limit:
            self._arm((now if self._is_paused else self._last) + limit)
        elif not self._has_passed or late > HELD_UP_SECONDS:
            self._arm(now + LAST_LOOK_SECONDS + min(late, limit), has_passed=True)
        elif self._error is not None:
            self._fail_with_response(self._error)
        elif self._waits_for is Fault.CUT:
            self._finish()
        else:
            self._fail(Failure(self._waits_for, _TOO_SLOW[self._waits_for].format(limit)))


_TOO_SLOW = {
    Fault.HEADERS_TIMEOUT: "no response within {:g} s",
    Fault.FIRST_TOKEN_TIMEOUT: "no first token within {:g} s",
    Fault.BETWEEN_TOKENS_TIMEOUT: "no further token within {:g} s",
}
