"""What a request says about the durability of its answer (D1, D8, D9)."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from unbroken.chat.error import ApiError, RequestRefused, invalid
from unbroken.settings.tree import StoreSettings

_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_SECONDS = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,3})?")
_TRUE = (b"true", b"1")


@dataclass(frozen=True, slots=True)
class Durability:
    """How an answer is to be kept."""

    #: The caller's idempotency key, empty if it sent none.
    key: bytes = b""
    #: Seconds that it goes on without a reader; None is without limit.
    orphan_grace: float | None = None
    #: Whether the reader of the stream wants to be told offsets.
    wants_ids: bool = False
    is_background: bool = False

    def claim(self, key_name: str) -> str:
        """The name of the claim in the store, empty without a key; the key itself is not written down."""
        if not self.key:
            return ""
        return hashlib.sha256(b"%b\0%b" % (key_name.encode(), self.key)).hexdigest()


def read_durability(
    headers: Mapping[bytes, bytes], settings: StoreSettings, key_name: str, *, is_background: bool
) -> Durability | None:
    """What the caller of that key wishes; None for a plain answer.

    Raises:
        RequestRefused: 400, a header has a value that says nothing.
    """
    key, durable = headers.get(b"idempotency-key"), headers.get(b"unbroken-durable", b"").lower()
    wants_ids = durable in _TRUE
    if durable and not wants_ids and durable not in (b"false", b"0"):
        raise _wrong("Unbroken-Durable", "`true` or `false`")
    if key is None and not wants_ids and not is_background:
        return None
    if key is not None and not _KEY.fullmatch(key):
        raise _wrong("Idempotency-Key", "1 to 255 printable ASCII characters")
    grace = None if is_background else _orphan_grace(headers.get(b"unbroken-orphan-grace"), settings, key_name)
    return Durability(key or b"", grace, wants_ids, is_background)


def fingerprint(path: str, body: bytes) -> str:
    """What tells a repeated request from another one."""
    return hashlib.sha256(b"%b\0%b" % (path.encode(), body)).hexdigest()


def key_reused() -> RequestRefused:
    """The refusal of another request under a key that is taken."""
    message = "This Idempotency-Key was used for another request: the same request has the same path and body."
    headers = {"x-should-retry": "false"}
    return RequestRefused(ApiError(409, message, "invalid_request_error", "idempotency_key_reused", None, headers))


def _orphan_grace(given: bytes | None, settings: StoreSettings, key_name: str) -> float:
    if given is None:
        return _graces(settings.orphan_grace_of).get(key_name, settings.orphan_grace)
    if not _SECONDS.fullmatch(given):
        raise _wrong("Unbroken-Orphan-Grace", "a number of seconds")
    return min(float(given), settings.orphan_grace_most)


@cache
def _graces(pairs: tuple[str, ...]) -> Mapping[str, float]:
    split = (pair.partition("=") for pair in pairs)
    return {name.strip(): float(seconds) for name, _, seconds in split}


def _wrong(header: str, expected: str) -> RequestRefused:
    return invalid(f"Invalid value of the header `{header}`: expected {expected}.", param=header, code="invalid_value")
