"""Responses on a Valkey or Redis server, where every gateway finds them."""

import asyncio

import msgspec
from msgspec import Raw

from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import MAX_RESPONSE_BYTES, StoredResponse
from unbroken.store.valkey import ValkeyStorage
from unbroken.store.valkey_connection import load_script

MAX_ONE_RESPONSE = 16 << 20  # bytes; the server and its other clients wait while one is sent
PAUSE = 1.0  # seconds before a put is tried again

_PUT, _DELETE = load_script("put_response"), load_script("delete_response")


class ValkeyResponseStore:
    """`ResponseStore` on the server of a storage: each is kept for the storage's retention after it was put there.

    A put is written in the background. While the server is down what was put waits here, up to `max_waiting` bytes:
    what has waited the longest goes first. It is found by this process, and is written before the storage closes.
    """

    def __init__(
        self, storage: ValkeyStorage, *, max_bytes: int = MAX_ONE_RESPONSE, max_waiting: int = MAX_RESPONSE_BYTES
    ) -> None:
        self._connection = storage.connection
        self._prefix = storage.prefix
        self._retention = round(storage.retention * 1000)
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._waiting: dict[str, StoredResponse] = {}  # oldest first
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._is_written = asyncio.Lock()  # held while a response is on its way
        storage.before_close(self._finish)

    def put(self, response: StoredResponse) -> None:
        if response.size > self._max_bytes:
            return
        self._take_back(response.id)
        self._waiting[response.id] = response
        self._waiting_bytes += response.size
        while self._waiting_bytes > self._max_waiting:
            self._take_back(next(iter(self._waiting)))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())

    async def get(self, id: str, owner: str) -> StoredResponse | None:
        if (found := self._waiting.get(id)) is None:
            found = await self._read(id)
        return found if found is not None and found.owner == owner else None

    async def delete(self, id: str, owner: str) -> bool:
        async with self._is_written:
            was_waiting = (found := self._waiting.get(id)) is not None and found.owner == owner
            if was_waiting:
                self._take_back(id)
            was_there = await self._connection.run(_DELETE, [self._key(id)], owner)
        return was_waiting or bool(was_there)

    async def _finish(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        while self._waiting:
            await self._write_oldest()

    async def _write_all(self) -> None:
        while self._waiting:
            try:
                await self._write_oldest()
            except StoreUnavailable:
                await asyncio.sleep(PAUSE)

    async def _write_oldest(self) -> None:
        async with self._is_written:
            response = next(iter(self._waiting.values()), None)
            if response is None:
                return
            items = msgspec.msgpack.encode([bytes(item) for item in response.items])
            await self._connection.run(
                _PUT, [self._key(response.id)], self._retention, response.owner, items, response.body
            )
            if self._waiting.get(response.id) is response:
                self._take_back(response.id)

    def _take_back(self, id: str) -> None:
        if (response := self._waiting.pop(id, None)) is not None:
            self._waiting_bytes -= response.size

    async def _read(self, id: str) -> StoredResponse | None:
        owner, items, body = await self._connection.command("HMGET", self._key(id), "owner", "items", "body")
        if owner is None:
            return None
        raw = msgspec.msgpack.decode(items, type=tuple[bytes, ...])
        return StoredResponse(id, owner.decode(), tuple(map(Raw, raw)), body)

    def _key(self, id: str) -> str:
        return f"{self._prefix}response:{id}"
