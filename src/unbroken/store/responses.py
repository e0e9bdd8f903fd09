"""Responses that a client may ask for again or go on from: what every store of them promises, and the one in memory."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from msgspec import Raw

MAX_RESPONSES = 1000
MAX_RESPONSE_BYTES = 64 << 20  # in all, input included


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A whole response with what was said before it."""

    id: str
    #: Name of the key that asked for it; only this one may see it.
    owner: str
    #: All input items, those of earlier responses included, each with an id.
    items: tuple[Raw, ...]
    body: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body) + sum(len(bytes(item)) for item in self.items)


class ResponseStore(Protocol):
    """Keeps responses by id."""

    def put(self, response: StoredResponse) -> None:
        """Keeps a response; older ones may have to go. What is asked for afterwards in this process sees it."""
        ...

    async def get(self, id: str, owner: str) -> StoredResponse | None:
        """The response, None if there is none of this owner's; raises StoreUnavailable."""
        ...

    async def delete(self, id: str, owner: str) -> bool:
        """Removes it; whether it was there. Raises StoreUnavailable."""
        ...


class MemoryResponseStore:
    """`ResponseStore` in this process's memory, bounded: the ones not asked for the longest go first."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_RESPONSE_BYTES) -> None:
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._responses)

    def put(self, response: StoredResponse) -> None:
        if response.size > self._max_bytes:
            return
        if (former := self._responses.pop(response.id, None)) is not None:
            self._bytes -= former.size
        self._responses[response.id] = response
        self._bytes += response.size
        while len(self._responses) > self._max_responses or self._bytes > self._max_bytes:
            _, oldest = self._responses.popitem(last=False)
            self._bytes -= oldest.size

    async def get(self, id: str, owner: str) -> StoredResponse | None:
        found = self._responses.get(id)
        if found is None or found.owner != owner:
            return None
        self._responses.move_to_end(id)
        return found

    async def delete(self, id: str, owner: str) -> bool:
        if await self.get(id, owner) is None:
            return False
        self._bytes -= self._responses.pop(id).size
        return True
