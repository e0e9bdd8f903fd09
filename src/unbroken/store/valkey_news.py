"""Followers of streams that other processes write: one subscribed connection for all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto

from unbroken.chat.stream import Offset, StreamId
from unbroken.store.log import OffsetUnknown, StoreUnavailable, StreamUnknown
from unbroken.store.storage import OnNews, Stored
from unbroken.store.valkey_connection import Line, ValkeyConnection
from unbroken.store.valkey_message import read_news

QUIET = 10.0  # seconds of silence after which the server is asked whether it is still there
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


class _Step(Enum):
    SUBSCRIBING = auto()
    READING = auto()
    OPEN = auto()
    OVER = auto()


class _Following:
    __slots__ = ("at", "is_behind", "on_news", "step", "stream")

    def __init__(self, stream: StreamId, after: Offset, on_news: OnNews) -> None:
        self.stream = stream
        self.at: int = after  # offset of the last block that it has been given
        self.on_news = on_news
        self.step = _Step.SUBSCRIBING
        self.is_behind = False  # something came while it was reading

    def take(self, news: Stored) -> Stored | None:
        """What of the news it has not had; the blocks before them must have been given."""
        known = self.at + 1 - news.first
        if known >= len(news.blocks) and not news.has_ended:
            return None
        blocks = news.blocks[known:] if known > 0 else news.blocks
        first, self.at = Offset(self.at + 1), self.at + len(blocks)
        return Stored(first, blocks, news.has_ended)

    def tell(self, news: Stored) -> None:
        if self.step is not _Step.OVER:
            self.on_news(self.stream, news)
            if news.has_ended:
                self.step = _Step.OVER


class _Channel:
    __slots__ = ("followings", "is_heard", "name", "stream")

    def __init__(self, name: bytes, stream: StreamId) -> None:
        self.name = name
        self.stream = stream
        self.followings: list[_Following] = []
        self.is_heard = asyncio.Event()  # the server has said that we are subscribed


class ValkeyNews:
    """Hears what is committed anywhere, in order and each block once; what was missed is read.

    It is connected only while something is followed. After a lost connection all that is followed is read again from
    where each follower stands. What a follower raises goes to the loop, and the others go on.
    """

    def __init__(
        self,
        connection: ValkeyConnection,
        channel_of: Callable[[StreamId], bytes],
        read: Callable[[StreamId, Offset], Awaitable[Stored]],
    ) -> None:
        self._connection = connection
        self._channel_of = channel_of
        self._read = read
        self._channels: dict[bytes, _Channel] = {}
        self._behind: set[bytes] = set()
        self._line: Line | None = None
        self._listening: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._pause = FIRST_PAUSE

    async def follow(self, stream: StreamId, after: Offset, on_news: OnNews) -> Callable[[], None]:
        """As `StreamStorage.follow`."""
        name = self._channel_of(stream)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(name, stream)
            self._subscribe(channel)
        following = _Following(stream, after, on_news)
        channel.followings.append(following)
        try:
            await self._wait_for_subscription(channel)
            following.step = _Step.READING
            held = await self._read(stream, after)
            if (unknown := following.take(held)) is not None:
                following.tell(unknown)
        except BaseException:
            self._stop(channel, following)
            raise
        if held.has_ended:
            self._stop(channel, following)
        elif following.step is _Step.READING:
            following.step = _Step.OPEN
            if following.is_behind:
                self._catch_up(channel)
        return lambda: self._stop(channel, following)

    async def close(self) -> None:
        """Ends all that is followed."""
        for channel in [*self._channels.values()]:
            for following in [*channel.followings]:
                self._stop(channel, following)
        tasks = [task for task in (self._listening, self._catching_up, *self._sending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_subscription(self, channel: _Channel) -> None:
        patience = self._connection.timeout
        try:
            async with asyncio.timeout(patience):
                await channel.is_heard.wait()
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._connection.name}: no subscription within {patience} s") from error

    def _subscribe(self, channel: _Channel) -> None:
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        elif self._line is not None:
            self._send(self._line, b"SUBSCRIBE", channel.name)
        # else it is connecting, and subscribes to all channels then

    def _stop(self, channel: _Channel, following: _Following) -> None:
        following.step = _Step.OVER
        self._remove(channel, following)

    def _remove(self, channel: _Channel, following: _Following) -> None:
        if following in channel.followings:
            channel.followings.remove(following)
            if not channel.followings and self._channels.get(channel.name) is channel:
                del self._channels[channel.name]
                if self._line is not None:
                    self._send(self._line, b"UNSUBSCRIBE", channel.name)

    def _send(self, line: Line, *command: bytes) -> None:
        """Sends in the order of calls: each task writes in its first step."""
        task = asyncio.create_task(self._try_to_send(line, command))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _try_to_send(self, line: Line, command: tuple[bytes, ...]) -> None:
        with suppress(StoreUnavailable):  # the line is lost: who listens to it hears that too, and subscribes anew
            if command[0] == b"SUBSCRIBE" or command[1] not in self._channels:  # else it is followed again by now
                await line.send(*command)

    async def _listen(self) -> None:
        while self._channels:
            try:
                async with self._connection.open_line() as self._line:
                    await self._line.send(b"SUBSCRIBE", *self._channels)
                    await self._hear(self._line)
            except StoreUnavailable:
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            finally:
                self._line = None
                for channel in self._channels.values():
                    channel.is_heard.clear()

    async def _hear(self, line: Line) -> None:
        is_asked = False
        while self._channels:
            heard = await line.receive(QUIET)
            if heard is None and is_asked:
                raise StoreUnavailable(f"{self._connection.name} says nothing any more")
            if is_asked := heard is None:
                await line.send(b"PING")
                continue
            match heard:
                case [b"message", name, message] if channel := self._channels.get(name):
                    self._spread(channel, read_news(message))
                case [b"subscribe", name, _] if channel := self._channels.get(name):
                    self._pause = FIRST_PAUSE
                    channel.is_heard.set()
                    self._catch_up(channel)  # whoever had followed before may have missed something

    def _spread(self, channel: _Channel, news: Stored) -> None:
        for following in [*channel.followings]:
            match following.step:
                case _Step.OPEN if news.first <= following.at + 1:
                    self._give(channel, following, news)
                case _Step.OPEN:
                    self._catch_up(channel)
                case _Step.READING:
                    following.is_behind = True
                case _Step.SUBSCRIBING | _Step.OVER:
                    pass  # it has yet to read, or wants no more

    def _give(self, channel: _Channel, following: _Following, news: Stored) -> None:
        if (unknown := following.take(news)) is not None:
            asyncio.get_running_loop().call_soon(following.tell, unknown)
            if unknown.has_ended:
                self._remove(channel, following)

    def _catch_up(self, channel: _Channel) -> None:
        for following in channel.followings:
            following.is_behind = following.is_behind or following.step is _Step.READING
        if any(following.step is _Step.OPEN for following in channel.followings):
            self._behind.add(channel.name)
            if self._catching_up is None or self._catching_up.done():
                self._catching_up = asyncio.create_task(self._read_what_was_missed())

    async def _read_what_was_missed(self) -> None:
        while self._behind:
            channel = self._channels.get(self._behind.pop())
            open_ones = [other for other in channel.followings if other.step is _Step.OPEN] if channel else []
            if channel is None or not open_ones:
                continue
            try:
                held = await self._read(channel.stream, Offset(min(following.at for following in open_ones)))
            except (StreamUnknown, OffsetUnknown):  # forgotten, or lost by the server: nothing will ever come
                for following in open_ones:
                    self._stop(channel, following)
            except StoreUnavailable:
                self._behind.add(channel.name)
                await asyncio.sleep(self._pause)
            else:
                for following in open_ones:
                    self._give(channel, following, held)
