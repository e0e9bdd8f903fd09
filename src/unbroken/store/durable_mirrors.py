"""Streams as they are followed here: what is committed of them, in memory for as long as somebody needs it."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from unbroken.chat.stream import Offset, StreamId
from unbroken.store.log import Follower, OffsetUnknown, StoreUnavailable, StreamUnknown
from unbroken.store.memory import MemoryStreamLog
from unbroken.store.storage import Stored, StreamStorage

RETRY_SECONDS = 0.5  # before a feed that could not be opened is tried again


class _Mirror:
    """The feed of a stream that another process writes."""

    __slots__ = ("stop",)

    def __init__(self) -> None:
        self.stop: Callable[[], None] = _stop_nothing


class Mirrors:
    """The cache of live streams: those written here are fed by the committer, the others by the storage.

    A mirror is there for its followers and goes with the last of them, or when its stream has ended.
    """

    def __init__(self, storage: StreamStorage, cache: MemoryStreamLog) -> None:
        self._storage = storage
        self._cache = cache
        self._mirrors: dict[StreamId, _Mirror] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends all feeds."""
        for mirror in self._mirrors.values():
            mirror.stop()
        self._mirrors.clear()
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Does it without being waited for, until `close`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def follow(self, stream: StreamId, after: Offset, follower: Follower) -> Callable[[], None]:
        """Follows any stream; raises StreamUnknown, OffsetUnknown, StoreUnavailable."""
        held = self._cache.held(stream)
        if held is None or after > held.last:  # the caller may have read more of it elsewhere
            stored = await self._storage.read(stream, Offset(0))
            last = stored.first - 1 + len(stored.blocks)
            if not 0 <= after <= last:
                raise OffsetUnknown(f"stream {stream} has {last} blocks, and {after} is not among them")
            if stored.has_ended:
                self.feed(stream, stored)  # it may have come into the cache meanwhile
                follower(Offset(after + 1), stored.blocks[after:], True)
                return _stop_nothing
            self._take_in(stream, stored)
        stop = self._cache.attach(stream, after, follower)

        def unfollow() -> None:
            stop()
            self._drop_if_alone(stream)

        return unfollow

    def _take_in(self, stream: StreamId, stored: Stored) -> None:
        """Makes a mirror of what was read, or adds to the one that has come meanwhile."""
        if self._cache.held(stream) is None:
            self._cache.begin(stream, keep=True)
            self._open(stream)
        self.feed(stream, stored)

    def _drop_if_alone(self, stream: StreamId) -> None:
        if stream in self._mirrors:
            held = self._cache.held(stream)
            if held is None or not held.followers:
                self.drop(stream)

    def drop(self, stream: StreamId) -> None:
        """Takes a stream out of the cache: its followers are not called again."""
        if (mirror := self._mirrors.pop(stream, None)) is not None:
            mirror.stop()
        self._cache.drop(stream)

    def feed(self, stream: StreamId, stored: Stored) -> bool:
        """Gives the followers what is new of it; whether it joined on to what they have."""
        if not self._cache.take(stream, stored.first, stored.blocks, stored.has_ended):
            return False
        if stored.has_ended:
            self.drop(stream)
        return True

    def go_on(self, stream: StreamId) -> None:
        """Lets the followers of a stream that was written here follow it elsewhere."""
        if self._cache.held(stream) is not None and stream not in self._mirrors:
            self._open(stream)
            self._drop_if_alone(stream)

    def _open(self, stream: StreamId) -> None:
        mirror = self._mirrors[stream] = _Mirror()
        self.in_background(self._feed_from(stream, mirror))

    async def _feed_from(self, stream: StreamId, mirror: _Mirror) -> None:
        """Opens the feed of a mirror, behind what is in the cache."""

        def on_news(stream: StreamId, stored: Stored) -> None:
            if self._mirrors.get(stream) is mirror and not self.feed(stream, stored):
                mirror.stop()
                self._open(stream)  # something is missing: from where we are

        while self._mirrors.get(stream) is mirror and (held := self._cache.held(stream)) is not None:
            try:
                stop = await self._storage.follow(stream, held.last, on_news)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except (StreamUnknown, OffsetUnknown):  # it has been forgotten
                return self._drop_mirror(stream, mirror)
            if self._mirrors.get(stream) is mirror:
                mirror.stop = stop
            else:
                stop()
            return

    def _drop_mirror(self, stream: StreamId, mirror: _Mirror) -> None:
        if self._mirrors.get(stream) is mirror:
            self.drop(stream)

    async def make_whole(self, stream: StreamId, last: Offset) -> int | None:
        """Brings the cache up to where a claim begins and ends the feed; the bytes held, None if it has ended."""
        if (mirror := self._mirrors.pop(stream, None)) is not None:
            mirror.stop()
        try:
            while (held := self._cache.held(stream)) is None or held.last < last:
                stored = await self._storage.read(stream, Offset(0) if held is None else held.last)
                if held is None and not stored.has_ended and self._cache.held(stream) is None:
                    self._cache.begin(stream, keep=True)
                self.feed(stream, stored)
                if stored.has_ended:
                    return None
        except StoreUnavailable:
            self.go_on(stream)
            raise
        return self._cache.size(stream)


def _stop_nothing() -> None:
    """For what has stopped by itself, or has not begun."""
