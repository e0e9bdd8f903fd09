"""Streams on a Valkey or Redis server, for gateways on several hosts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from unbroken.chat.stream import Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store.log import (
    LogError,
    OffsetUnknown,
    StaleEpoch,
    StoreUnavailable,
    StreamEnded,
    StreamExists,
    StreamTooLong,
    StreamUnknown,
)
from unbroken.store.storage import Append, OnNews, Stored
from unbroken.store.valkey_connection import PREFIX, TIMEOUT, Script, ValkeyConnection, load_script
from unbroken.store.valkey_message import write_append
from unbroken.store.valkey_news import ValkeyNews

AT_ONCE = 64  # statuses asked for by one script, each with its request's body: other clients of the server wait for it
MAX_DOUBTFUL = 10_000  # streams whose creation or claim was sent and not answered; they are given up when it is back

_APPEND, _CLAIM, _CREATE = load_script("append"), load_script("claim"), load_script("create")
_FORGET, _NOTES, _READ = load_script("forget"), load_script("notes"), load_script("read")
_RELEASE, _RENEW = load_script("release"), load_script("renew")
_STATUS, _WATCH = load_script("status"), load_script("watch")


class ValkeyStorage:
    """`StreamStorage` on a server; see there for what each method promises.

    Every change is one script, which the server runs whole or not at all, a commit of many streams too. A script may
    be sent again after a lost connection, and does nothing that it has done already. The bound, the claims and the list
    of live streams are shared by all streams, so a cluster, which would part them, is refused.

    A stream has a hash `<prefix>{id}`, a list of its blocks and a string of its notes. They expire `retention` seconds
    after its end; before it they have no time to live, so that no `volatile-` policy drops them. Leases are in one
    sorted set and are measured by the server's clock. What the server loses (it dies without persistence, a replica
    that lags takes its place) is lost: such streams are unknown afterwards. `lease` and `retention` are in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        lease: float,
        retention: float,
        max_live_bytes: int,
        prefix: str = PREFIX,
        timeout: float = TIMEOUT,
    ) -> None:
        self.connection = ValkeyConnection(url, timeout=timeout)
        self.prefix = prefix
        self.retention = retention
        self._lease = round(lease * 1000)
        self._retention = round(retention * 1000)
        self._max_live_bytes = max_live_bytes
        self._before_close: list[Callable[[], Awaitable[None]]] = []
        self._owner = OwnerId("")
        self._held: set[StreamId] = set()  # those that we know to be ours
        self._doubtful: dict[StreamId, None] = {}
        self._lost: list[StreamId] = []  # told by the last renewal, which the server is to hear of
        self._commits = 0
        self._unanswered: list[Append] = []  # the last commit, as long as we do not know whether it is written
        self._news = ValkeyNews(self.connection, self._key, self.read)

    async def start(self, owner: OwnerId) -> None:
        self._owner = owner
        await self.connection.check()
        await self.renew()

    def before_close(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Has something that uses the same connection finish its work first."""
        self._before_close.append(finish)

    async def close(self) -> None:
        await self._news.close()
        with suppress(StoreUnavailable):  # then the lease lapses by itself
            for finish in self._before_close:
                await finish()
            await self.connection.command("ZREM", f"{self.prefix}owners", self._owner)
        await self.connection.close()

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        stream = record.id
        body = msgspec.msgpack.encode(record)
        while True:
            try:
                answer = await self._run(
                    _CREATE, stream, self.prefix, stream, self._owner, record.claim, body, self._max_live_bytes
                )
            except StoreUnavailable:
                self._doubt(stream)
                raise
            match answer:
                case [b"created"]:
                    self._held.add(stream)
                    self._doubtful.pop(stream, None)
                    return None
                case [b"taken"]:
                    raise StreamExists(f"there is a stream {stream} already")
                case [b"full", found]:
                    bound = f"more than {self._max_live_bytes}"
                    raise StreamTooLong(f"{self.connection.name} holds {found} bytes of live streams, {bound}")
                case [b"claimed", other]:
                    if (status := await self._find(StreamId(other.decode()))) is not None:
                        return status
                    # it has been forgotten since, and its claim with it

    async def claim(self, stream: StreamId, *, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        is_held = stream in self._held
        self._held.add(stream)  # at once: of two calls at a time one is to have it
        try:
            answer = await self._run(
                _CLAIM,
                stream,
                self.prefix,
                stream,
                self._owner,
                int(only_lapsed),
                int(is_held),
                max(self._retention, self._lease),
            )
        except StoreUnavailable:
            if not is_held:
                self._held.discard(stream)
                self._doubt(stream)
            raise
        match answer:
            case [b"claimed", epoch, last]:
                self._lost = [lost for lost in self._lost if lost != stream]  # if it is lost again, that is news
                return Epoch(epoch), Offset(last)
            case [b"kept"]:
                if not is_held:
                    self._held.discard(stream)
                return None
        self._held.discard(stream)
        raise self._unknown(stream)

    async def release(self, stream: StreamId, epoch: Epoch) -> None:
        await self._run(_RELEASE, stream, self._owner, epoch)
        self._held.discard(stream)

    async def commit(self, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        if not appends:
            return {}
        if self._unanswered != (appends := list(appends)):
            self._commits += 1
        self._unanswered = appends
        name = f"{self._owner}/{self._commits}"
        keys = [self._key(append.stream) for append in appends]
        written = [write_append(append) for append in appends]
        answer = await self.connection.run(_APPEND, keys, self.prefix, self._retention, name, *written)
        self._unanswered = []
        refused = {
            appends[place - 1].stream: self._refusal(appends[place - 1], why, number) for place, why, number in answer
        }
        self._held.difference_update(refused)
        self._held.difference_update([append.stream for append in appends if append.ends])
        return refused

    async def read(self, stream: StreamId, after: Offset) -> Stored:
        match await self._run(_READ, stream, after):
            case [last, _, _] if last < after:
                raise OffsetUnknown(f"stream {stream} has {last} blocks, and {after} is beyond them")
            case [_, ended, blocks]:
                return Stored(Offset(after + 1), blocks, bool(ended))
        raise self._unknown(stream)

    async def notes(self, stream: StreamId) -> bytes:
        match await self._run(_NOTES, stream):
            case [bytes(notes)]:
                return notes
        raise self._unknown(stream)

    async def status(self, stream: StreamId) -> StreamStatus:
        if (status := await self._find(stream)) is None:
            raise self._unknown(stream)
        return status

    async def live(self) -> list[StreamStatus]:
        ids = await self.connection.command("ZRANGE", f"{self.prefix}live", 0, -1)
        found: list[StreamStatus] = []
        for at in range(0, len(ids), AT_ONCE):
            keys = [self._key(StreamId(id.decode())) for id in ids[at : at + AT_ONCE]]
            answers = await self.connection.run(_STATUS, keys, self.prefix)
            found += [status for answer in answers if answer and not (status := _read_status(answer)).has_ended]
        return found

    async def lapsed(self) -> list[StreamStatus]:
        return [status for status in await self.live() if not status.is_owned]

    async def watch(self, stream: StreamId, until: float) -> None:
        await self._run(_WATCH, stream, until)

    async def forget(self, stream: StreamId) -> None:
        await self._run(_FORGET, stream, self.prefix, "")
        self._held.discard(stream)

    async def renew(self) -> Sequence[StreamId]:
        keys = [f"{self.prefix}owners", f"{self.prefix}lost:{self._owner}"]
        lost = await self.connection.run(_RENEW, keys, self._owner, self._lease, *self._lost)
        self._lost = [StreamId(stream.decode()) for stream in lost]
        self._held.difference_update(self._lost)
        if doubtful := [stream for stream in self._doubtful if stream not in self._held]:
            await self.connection.run(_FORGET, [*map(self._key, doubtful)], self.prefix, self._owner)
        self._doubtful.clear()
        return self._lost

    async def follow(self, stream: StreamId, after: Offset, on_news: OnNews) -> Callable[[], None]:
        return await self._news.follow(stream, after, on_news)

    async def _run(self, script: Script, stream: StreamId, *arguments: str | bytes | float) -> Any:
        return await self.connection.run(script, [self._key(stream)], *arguments)

    async def _find(self, stream: StreamId) -> StreamStatus | None:
        (answer,) = await self._run(_STATUS, stream, self.prefix)
        return _read_status(answer) if answer else None

    def _key(self, stream: StreamId) -> bytes:
        return f"{self.prefix}{{{stream}}}".encode()

    def _doubt(self, stream: StreamId) -> None:
        self._doubtful[stream] = None
        if len(self._doubtful) > MAX_DOUBTFUL:
            del self._doubtful[next(iter(self._doubtful))]

    def _unknown(self, stream: StreamId) -> StreamUnknown:
        return StreamUnknown(f"{self.connection.name} has no stream {stream}")

    def _refusal(self, append: Append, why: bytes, number: int) -> LogError:
        """What `valkey_append.lua` means."""
        stream = append.stream
        match why:
            case b"stale":
                return StaleEpoch(f"stream {stream}: epoch {append.epoch} was given, {number} is its owner's")
            case b"ended":
                return StreamEnded(f"stream {stream} has ended after {number} blocks")
            case b"gap":  # a replica that had not heard all took its place
                lost = f"{number} blocks of stream {stream}, and {append.first} should be the next: it has lost some"
                return StreamUnknown(f"{self.connection.name} holds {lost}")
        return self._unknown(stream)


def _read_status(answer: Sequence[bytes]) -> StreamStatus:
    record, epoch, last, ended, owned, account, watched = answer
    return StreamStatus(
        record=msgspec.msgpack.decode(record, type=StreamRecord),
        epoch=Epoch(int(epoch)),
        last=Offset(int(last)),
        has_ended=ended == b"1",
        is_owned=owned == b"1",
        account=account,
        watched_until=float(watched),
    )
