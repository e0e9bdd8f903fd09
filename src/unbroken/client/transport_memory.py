"""What a transport remembers from one request to the next: servers that it knows, and questions that were lost."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

MAX_SERVERS = 256  # a client has one or a few
MAX_LOST = 1024  # questions whose failure the SDK has in hand; one that is forgotten is asked under a new key


@dataclass(frozen=True, slots=True)
class Lost:
    """A question without a good answer, whose key may have begun one."""

    key: str
    since: float


Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory:
    """May be used by several threads."""

    def __init__(self, new_key: Callable[[], str] = lambda: str(uuid4())) -> None:
        self._new_key = new_key
        self._servers: dict[str, None] = {}
        self._lost: dict[bytes, Lost] = {}
        self._lock = threading.Lock()

    def knows(self, origin: str) -> bool:
        """Whether the server there is Unbroken."""
        return origin in self._servers

    def meet(self, origin: str) -> None:
        """The server there is Unbroken."""
        with self._lock:
            _put(self._servers, origin, None, MAX_SERVERS)

    def lose(self, question: bytes, key: str, since: float) -> None:
        """The question with this digest failed: if the SDK asks it again, then under the same key."""
        with self._lock:
            _put(self._lost, question, Lost(key, since), MAX_LOST)

    def find(self, question: bytes) -> Lost | None:
        """How the question with this digest was lost; gives it once, so that no two requests share a key."""
        with self._lock:
            return self._lost.pop(question, None)

    def new_key(self) -> str:
        """A key that nobody has."""
        return self._new_key()


def _put(kept: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keep one more, and forget the oldest of too many."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
