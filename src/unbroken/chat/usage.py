"""Tokens used by one answer."""

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Tokens of one answer; the details are parts of their totals, never added to them."""

    input: int = 0
    output: int = 0
    cached_read: int = 0
    reasoning: int = 0
    #: Input tokens that were written to the provider's cache.
    cache_write: int = 0
    #: True where nobody reported it and we counted the chunks that were sent.
    estimated: bool = False
