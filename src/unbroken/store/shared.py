"""Values that many streams have in common, as one object each: what a chunk needs of it is never far to fetch."""

from functools import lru_cache
from typing import TypeVar

Shared = TypeVar("Shared", bytes, int)


@lru_cache(maxsize=1024)
def shared(value: Shared) -> Shared:
    """The one object for all that have this value: what stands behind the texts of a model's chunks, or a size."""
    return value
