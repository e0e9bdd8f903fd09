"""A storage, and a store of responses, of whose failures the health of the store hears."""

from collections.abc import Callable, Mapping, Sequence

from unbroken.chat.stream import Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store.health import StoreHealth
from unbroken.store.log import LogError
from unbroken.store.responses import ResponseStore, StoredResponse
from unbroken.store.storage import Append, OnNews, Stored, StreamStorage


class HeardStorage:
    """`StreamStorage`, of whose failures its health hears, whoever asked and whatever is made of them."""

    def __init__(self, storage: StreamStorage, health: StoreHealth) -> None:
        self._storage = storage
        self._health = health

    async def start(self, owner: OwnerId) -> None:
        await self._storage.start(owner)  # whoever starts it hears of that

    async def close(self) -> None:
        self._health.close()
        await self._storage.close()

    async def create(self, record: StreamRecord) -> StreamStatus | None:
        with self._health:
            return await self._storage.create(record)

    async def claim(self, stream: StreamId, *, only_lapsed: bool) -> tuple[Epoch, Offset] | None:
        with self._health:
            return await self._storage.claim(stream, only_lapsed=only_lapsed)

    async def release(self, stream: StreamId, epoch: Epoch) -> None:
        with self._health:
            await self._storage.release(stream, epoch)

    async def commit(self, appends: Sequence[Append]) -> Mapping[StreamId, LogError]:
        with self._health:
            return await self._storage.commit(appends)

    async def read(self, stream: StreamId, after: Offset) -> Stored:
        with self._health:
            return await self._storage.read(stream, after)

    async def notes(self, stream: StreamId) -> bytes:
        with self._health:
            return await self._storage.notes(stream)

    async def status(self, stream: StreamId) -> StreamStatus:
        with self._health:
            return await self._storage.status(stream)

    async def live(self) -> list[StreamStatus]:
        with self._health:
            return await self._storage.live()

    async def lapsed(self) -> list[StreamStatus]:
        with self._health:
            return await self._storage.lapsed()

    async def watch(self, stream: StreamId, until: float) -> None:
        with self._health:
            await self._storage.watch(stream, until)

    async def forget(self, stream: StreamId) -> None:
        with self._health:
            await self._storage.forget(stream)

    async def renew(self) -> Sequence[StreamId]:
        with self._health:
            claimed = await self._storage.renew()
        self._health.renewed()
        return claimed

    async def follow(self, stream: StreamId, after: Offset, on_news: OnNews) -> Callable[[], None]:
        with self._health:
            return await self._storage.follow(stream, after, on_news)


class HeardResponseStore:
    """`ResponseStore`, of whose failures the health of the store hears that it is part of."""

    def __init__(self, responses: ResponseStore, health: StoreHealth) -> None:
        self._responses = responses
        self._health = health

    def put(self, response: StoredResponse) -> None:
        self._responses.put(response)

    async def get(self, id: str, owner: str) -> StoredResponse | None:
        with self._health:
            return await self._responses.get(id, owner)

    async def delete(self, id: str, owner: str) -> bool:
        with self._health:
            return await self._responses.delete(id, owner)
