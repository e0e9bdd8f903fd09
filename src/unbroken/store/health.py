"""Whether a store is well, as all find who use it; and a storage that tells of whatever fails in it."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from unbroken.chat.stream import Epoch, Offset, OwnerId, StreamId, StreamRecord, StreamStatus
from unbroken.store.log import LogError, StoreUnavailable
from unbroken.store.responses import ResponseStore, StoredResponse
from unbroken.store.storage import Append, OnNews, Stored, StreamStorage


def _tell_nobody(error: StoreUnavailable | None) -> None:
    """For a store whose health nobody watches."""


class StoreHealth:
    """Hears of every failure of a store and tells of the changes: once when it goes, once when it is back.

    A store may fail at some things only (what is small still fits on a full disk), so it is back when its lease has
    been renewed twice and nothing whatever has failed between. `with` it around what may fail.
    """

    def __init__(self) -> None:
        #: Told why when it goes, and None when it is back.
        self.on_change: Callable[[StoreUnavailable | None], None] = _tell_nobody
        self._is_well = True
        self._has_failed = False  # since the lease was renewed

    def failed(self, error: StoreUnavailable) -> None:
        """Hears that something could not be done."""
        self._has_failed = True
        if self._is_well:
            self._is_well = False
            self.on_change(error)

    def renewed(self) -> None:
        """Hears that the lease was renewed, as it is every few seconds."""
        if not self._is_well and not self._has_failed:
            self._is_well = True
            self.on_change(None)
        self._has_failed = False

    def close(self) -> None:
        """Tells nobody any more: what fails because the store is being closed is no failure of the store."""
        self.on_change = _tell_nobody

    def __enter__(self) -> None:
        """Begins something that may fail."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, StoreUnavailable):
            self.failed(error)


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
