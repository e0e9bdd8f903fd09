"""Responses in the SQLite store."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
from msgspec import Raw

from unbroken.store import sqlite_statements as sql
from unbroken.store.log import StoreUnavailable
from unbroken.store.responses import MAX_RESPONSE_BYTES, MAX_RESPONSES, StoredResponse
from unbroken.store.sqlite import SqliteStorage
from unbroken.store.sqlite_rows import transaction

_write_items = msgspec.msgpack.Encoder().encode
_read_items = msgspec.msgpack.Decoder(list[bytes]).decode

MAX_AGE_SECONDS = 30 * 86400.0
MAX_WAITING_BYTES = 64 << 20  # put and not yet written: what comes while the disk is slow


class SqliteResponseStore:
    """`ResponseStore` in the file of a storage, bounded by number, bytes and age: the ones not asked for go first.

    What is put is written in the background; where it cannot be written it is not kept.
    """

    def __init__(
        self,
        storage: SqliteStorage,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_RESPONSE_BYTES,
        *,
        max_age: float = MAX_AGE_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._now = now
        self._waiting = 0

    def put(self, response: StoredResponse) -> None:
        size = response.size
        if size > self._max_bytes or self._waiting + size > MAX_WAITING_BYTES:
            return

        def written(result: "asyncio.Future[None]") -> None:
            self._waiting -= size
            if not result.cancelled():
                result.exception()  # which nobody waits for

        with suppress(StoreUnavailable):
            self._storage.write(lambda connection: self._put(connection, response)).add_done_callback(written)
            self._waiting += size

    def _put(self, connection: sqlite3.Connection, response: StoredResponse) -> None:
        now = self._now()
        items = _write_items([bytes(item) for item in response.items])
        with transaction(connection):
            connection.execute(sql.DROP_OLD_RESPONSES, (now - self._max_age,))
            connection.execute(sql.DROP_RESPONSE, (response.id,))
            values = (response.id, response.owner, response.body, items, response.size, now, now)
            connection.execute(sql.PUT_RESPONSE, values)
            while self._is_too_much(connection):
                connection.execute(sql.DROP_RESPONSE, connection.execute(sql.LEAST_USED_RESPONSE).fetchone())

    def _is_too_much(self, connection: sqlite3.Connection) -> bool:
        number: int
        size: int
        number, size = connection.execute(sql.RESPONSES_TOTAL).fetchone()
        return number > self._max_responses or size > self._max_bytes

    async def get(self, id: str, owner: str) -> StoredResponse | None:
        def read(connection: sqlite3.Connection) -> StoredResponse | None:
            now = self._now()
            found = connection.execute(sql.GET_RESPONSE, (id, owner, now - self._max_age)).fetchone()
            if found is None:
                return None
            connection.execute(sql.USE_RESPONSE, (now, id))
            body, items = found
            return StoredResponse(id, owner, tuple(map(Raw, _read_items(items))), body)

        return await self._storage.write(read)

    async def delete(self, id: str, owner: str) -> bool:
        def remove(connection: sqlite3.Connection) -> bool:
            removed: int = connection.execute(sql.DELETE_RESPONSE, (id, owner)).rowcount
            return removed > 0

        return await self._storage.write(remove)
