"""The log in this process's memory: plain streams live here."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import NamedTuple

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId
from unbroken.store.held import HeldBlocks, Run, size_of
from unbroken.store.log import (
    MAX_STREAM_BYTES,
    TERMINAL_BYTES,
    Follower,
    OffsetUnknown,
    OnLost,
    StaleEpoch,
    StreamEnded,
    StreamExists,
    StreamTooLong,
    StreamUnknown,
    say_nothing,
)

MAX_SPARE_BYTES_IN_ALL = 256 << 20  # some two thousand long answers at once


class _Following:
    __slots__ = ("at", "call")

    def __init__(self, call: Follower, at: int) -> None:
        self.call: Follower | None = call  # None once it is over
        self.at = at  # offset of the last block that it has been given


class _Stream:
    __slots__ = (
        "ended",
        "epoch",
        "followings",
        "had",
        "held",
        "is_delivering",
        "keep",
        "last",
        "on_lost",
        "on_run_over",
        "only",
        "only_of",
        "run",
        "size",
    )

    def __init__(self, keep: bool, on_lost: OnLost) -> None:
        self.keep = keep
        self.on_lost = on_lost
        self.epoch = 1
        self.held = HeldBlocks()  # the latest ones; those before them have been dropped
        self.run: Run | None = None  # behind them, and not counted yet
        self.on_run_over: Callable[[], None] = _do_nothing
        self.last = 0  # offset of the last block
        self.had = 0  # offset of the last block that some follower has had
        self.size = 0  # bytes of the blocks that are held, as far as they were appended here and not taken
        self.ended = False
        self.is_delivering = False
        self.followings: tuple[_Following, ...] = ()
        # The only follower of a stream that is kept, while it is in step: it has been given all up to `had`. A method
        # and its object, apart: what binds them would be one more thing to be fetched from memory.
        self.only: Callable[[object, Offset, Sequence[Block], bool], None] | None = None
        self.only_of: object = None

    def behind(self, after: int) -> Sequence[Block]:
        return self.held.last(self.last - after)


class Held(NamedTuple):
    """How a stream in memory stands."""

    last: Offset
    followers: int


class MemoryStreamLog:
    """`StreamLog` without durability; see there for what each method promises.

    Of a stream that is not kept, `spare_bytes` may stay though they were had, as long as all streams together hold no
    more than `spare_bytes_in_all`.
    `on_follower_error` hears what a follower raised; by default the running loop's exception handler does.
    """

    def __init__(
        self,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        *,
        spare_bytes: int = 0,
        spare_bytes_in_all: int = MAX_SPARE_BYTES_IN_ALL,
        on_follower_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self._streams: dict[StreamId, _Stream] = {}
        self._max_stream_bytes = max_stream_bytes
        self._spare_bytes, self._spare_bytes_in_all = spare_bytes, spare_bytes_in_all
        self._held_bytes = 0
        self._on_follower_error = on_follower_error or _tell_loop
        self._errors: list[Exception] = []

    def __len__(self) -> int:
        return len(self._streams)

    async def create(self, stream: StreamId, *, keep: bool, on_lost: OnLost = say_nothing) -> Epoch:
        return self.begin(stream, keep=keep, on_lost=on_lost)

    def begin(self, stream: StreamId, *, keep: bool, on_lost: OnLost = say_nothing) -> Epoch:
        """`create`, at once."""
        if stream in self._streams:
            raise StreamExists(f"there is a stream {stream} already")
        self._streams[stream] = _Stream(keep, on_lost)
        return Epoch(1)

    async def claim(self, stream: StreamId, *, on_lost: OnLost = say_nothing) -> Epoch:
        found = self._find(stream)
        found.epoch += 1
        former, found.on_lost = found.on_lost, on_lost
        former(StaleEpoch(f"stream {stream}: it is another owner's since epoch {found.epoch}"))
        return Epoch(found.epoch)

    def append(
        self,
        stream: StreamId,
        epoch: Epoch,
        blocks: Sequence[Block],
        *,
        ends: bool = False,
        note: bytes = b"",
        account: bytes = b"",
    ) -> None:
        found = self._streams.get(stream) or self._find(stream)
        if found.run is not None:
            self._end_run(found)
        if epoch != found.epoch:
            raise StaleEpoch(f"stream {stream}: epoch {epoch} was given, {found.epoch} is its owner's")
        if found.ended:
            raise StreamEnded(f"stream {stream} has ended after {found.last} blocks")
        if not blocks:
            if ends:
                raise ValueError(f"stream {stream}: an end without a terminal block")
            return
        size = found.size + size_of(blocks)
        if size > self._max_stream_bytes and (not ends or size > self._max_stream_bytes + TERMINAL_BYTES):
            raise StreamTooLong(f"stream {stream}: more than {self._max_stream_bytes} bytes")
        self._held_bytes += size - found.size
        found.size = size
        self._add(found, Offset(found.last + 1), blocks, ends)

    def take(self, stream: StreamId, first: Offset, blocks: Sequence[Block], ends: bool) -> bool:
        """Appends what is new of the blocks from an offset on, which have been accepted and are counted elsewhere.

        False if some before them are missing; a stream that is not there takes nothing.
        """
        found = self._streams.get(stream)
        if found is None:
            return True
        known = found.last + 1 - first
        if not known:  # as nearly always
            self._add(found, first, blocks, ends)
        elif 0 < known < len(blocks):
            self._add(found, Offset(first + known), blocks[known:], ends)
        return known >= 0

    def _add(self, found: _Stream, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        """Holds blocks that come next, and gives them to the followers."""
        count = len(blocks.texts) if type(blocks) is Run else len(blocks)
        if not count:
            return
        found.held.add(blocks)
        found.last = last = found.last + count
        found.ended = ends
        only = found.only
        if found.is_delivering or (only is None and not found.followings):
            return
        found.is_delivering = True
        try:
            if only is not None:  # as nearly always: two objects less of each stream to be fetched from memory
                found.had, of = last, found.only_of
                try:
                    only(of, first, blocks, ends)
                except Exception as error:
                    self._part_with_only(found, MethodType(only, of), error)
            else:
                self._give_to_all(found, first, blocks, ends)
            if found.last != last:
                _fall_out_of_step(found)
                self._catch_up(found)
        finally:
            found.is_delivering = False
        if not found.keep:
            self._drop_what_is_too_much(found)
        elif found.only is None:
            _fall_into_step(found)
        if self._errors:
            self._tell_errors()

    def _give_to_all(self, found: _Stream, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        last = found.last
        for following in found.followings:
            following.at = last
            if (call := following.call) is not None:
                try:
                    call(first, blocks, ends)
                    found.had = last
                except Exception as error:
                    self._part_with(found, following, error)

    def begin_run(self, stream: StreamId, epoch: Epoch, run: Run, *, most: int, on_over: Callable[[], None]) -> bool:
        """Whether the writer may add blocks by itself, as texts of `run`, and give them to the only follower by itself.

        It adds no more than `most` bytes. The run is over with whatever is done with the stream next, an `append`
        say; `on_over` is called then, before its texts are counted.
        """
        found = self._streams.get(stream)
        if found is None or found.epoch != epoch or found.ended or found.is_delivering or found.run is not None:
            return False
        if len(found.followings) != 1 or found.size + most > self._max_stream_bytes:
            return False
        found.run, found.on_run_over = run, on_over
        return True

    async def read(self, stream: StreamId, after: Offset) -> list[Entry]:
        found = self._find(stream)
        self._check(stream, found, after)
        return [Entry(Offset(after + n), block) for n, block in enumerate(found.behind(after), 1)]

    async def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        return self.attach(stream, after, follower)

    def attach(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        """`follow`, at once."""
        found = self._find(stream)
        self._check(stream, found, after)
        following = _Following(follower, found.last)
        _fall_out_of_step(found)
        if found.is_delivering:  # called by a follower: the delivery that is under way goes on with this one too
            self._begin(stream, found, following, after)
            return partial(_unfollow, found, following)
        found.is_delivering = True
        try:
            self._begin(stream, found, following, after)
        finally:
            try:
                self._catch_up(found)
            finally:
                found.is_delivering = False
                _fall_into_step(found)
            if not found.keep and found.size > self._spare_bytes:
                self._held_bytes -= _drop_what_was_had(found)
            self._tell_errors()
        return partial(_unfollow, found, following)

    async def forget(self, stream: StreamId) -> None:
        self.drop(stream)

    def drop(self, stream: StreamId) -> None:
        """`forget`, at once."""
        if (found := self._streams.pop(stream, None)) is not None:
            self._end_run(found)
            self._held_bytes -= found.size
            found.size, found.held = 0, HeldBlocks()  # a follower may have done it, and its delivery looks at them yet
            for following in found.followings:
                _unfollow(found, following)

    def held(self, stream: StreamId) -> Held | None:
        """How the stream stands here; None if there is none."""
        found = self._streams.get(stream)
        if found is not None:
            self._end_run(found)
        return None if found is None else Held(Offset(found.last), len(found.followings))

    def size(self, stream: StreamId) -> int:
        """Bytes of the blocks that are held of a stream, which are looked at one by one."""
        return self._find(stream).held.size

    def _find(self, stream: StreamId) -> _Stream:
        found = self._streams.get(stream)
        if found is None:
            raise StreamUnknown(f"there is no stream {stream}")
        self._end_run(found)
        return found

    def _end_run(self, found: _Stream) -> None:
        """Counts what its writer has added by itself."""
        if found.run is None:
            return
        run, found.run = found.run, None
        on_over, found.on_run_over = found.on_run_over, _do_nothing
        on_over()
        if run:
            size = run.size
            found.held.add_run(run)
            found.size += size
            self._held_bytes += size
            found.last += len(run)
            found.had = found.last
            for following in found.followings:
                following.at = found.last
            if not found.keep:
                self._drop_what_is_too_much(found)

    @staticmethod
    def _check(stream: StreamId, found: _Stream, after: int) -> None:
        first_held = found.last - len(found.held) + 1
        if after > found.last:
            raise OffsetUnknown(f"stream {stream} has {found.last} blocks, and {after} is beyond them")
        if after < first_held - 1:
            raise OffsetUnknown(f"stream {stream}: {after + 1} is asked for, blocks before {first_held} are not held")

    def _begin(self, stream: StreamId, found: _Stream, following: _Following, after: Offset) -> None:
        """Gives a new follower what is there, and then counts it among the others."""
        if following.call is not None and (after < found.last or found.ended):
            following.call(Offset(after + 1), found.behind(after), found.ended)
        found.had = max(found.had, following.at)
        if self._streams.get(stream) is found:  # not forgotten by that call
            found.followings = (*found.followings, following)

    def _drop_what_is_too_much(self, found: _Stream) -> None:
        if found.size > self._spare_bytes or self._held_bytes > self._spare_bytes_in_all:
            self._held_bytes -= _drop_what_was_had(found)

    def _catch_up(self, found: _Stream) -> None:
        """Delivers what followers have appended while they were called."""
        while late := [following for following in found.followings if following.at < found.last]:
            for following in late:
                at, following.at = following.at, found.last
                if (call := following.call) is not None:
                    try:
                        call(Offset(at + 1), found.behind(at), found.ended)
                        found.had = max(found.had, following.at)
                    except Exception as error:
                        self._part_with(found, following, error)

    def _part_with(self, found: _Stream, following: _Following, error: Exception) -> None:
        _unfollow(found, following)
        self._errors.append(error)

    def _part_with_only(self, found: _Stream, only: Follower, error: Exception) -> None:
        for following in found.followings:
            if following.call == only:  # it may have stopped, and others may have begun
                return self._part_with(found, following, error)
        self._errors.append(error)

    def _tell_errors(self) -> None:
        """Tells what followers raised, once every other follower has its blocks."""
        while self._errors:
            self._on_follower_error(self._errors.pop(0))


def _do_nothing() -> None:
    """For a run that nobody needs to know the end of."""


def _fall_into_step(found: _Stream) -> None:
    """Has the next blocks go straight to the only follower, if there is one of a stream that is kept."""
    if found.keep and len(found.followings) == 1:
        call = found.followings[0].call
        if isinstance(call, MethodType):
            found.only, found.only_of, found.had = call.__func__, call.__self__, found.last


def _fall_out_of_step(found: _Stream) -> None:
    """Has every follower say again by itself how far it is."""
    if found.only is not None:
        found.only = found.only_of = None
        found.followings[0].at = found.had


def _unfollow(found: _Stream, following: _Following) -> None:
    _fall_out_of_step(found)
    following.call = None  # also in a delivery that is under way
    found.followings = tuple(other for other in found.followings if other is not following)


def _drop_what_was_had(found: _Stream) -> int:
    """The bytes that are no longer held."""
    before = found.size
    found.held.keep(found.last - found.had)
    found.size = found.held.size
    return before - found.size


def _tell_loop(error: Exception) -> None:
    context = {"message": "a follower of a stream failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
