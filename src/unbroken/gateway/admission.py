"""Who may call: static keys, and which web pages."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from unbroken.chat.error import ApiError, RequestRefused

_NO_KEY = bytes(32)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class Keyring:
    """The keys that open the gateway, held as keyed hashes only."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._salt = secrets.token_bytes(32)
        # Looked up by hash, then compared in constant time: neither step tells how much of a guess was right.
        self._known = {digest: (digest, name) for name, key in keys.items() for digest in (self._hash(key),)}

    def __len__(self) -> int:
        return len(self._known)

    def name_of(self, key: str) -> str | None:
        """The name under which `key` is known, None if it is not."""
        digest = self._hash(key)
        known, name = self._known.get(digest, (_NO_KEY, None))
        return name if hmac.compare_digest(known, digest) else None

    def _hash(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=self._salt, digest_size=32).digest()


def caller_name(keyring: Keyring, authorization: str) -> str:
    """The name of the caller's key; empty where the gateway asks for none.

    Raises:
        RequestRefused: 401, the key is missing or unknown. What was sent is not repeated.
    """
    if not len(keyring):
        return ""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = "No API key given: send `Authorization: Bearer KEY`."
        raise RequestRefused(_unauthorized(message))
    name = keyring.name_of(key.strip())
    if name is None:
        raise RequestRefused(_unauthorized("The API key is not known here."))
    return name


def allows_origin(origin: str, allowed: tuple[str, ...], *, has_keys: bool) -> bool:
    """Whether a web page of `origin` may cause answers.

    Without keys any page that the user visits could call a gateway on loopback; a browser always says from where.
    """
    if not origin or has_keys or "*" in allowed or origin in allowed:
        return True
    return urlsplit(origin).hostname in LOOPBACK_HOSTS


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine only."""
    return host in LOOPBACK_HOSTS or host.startswith("127.")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, "invalid_request_error", "invalid_api_key", headers={"www-authenticate": "Bearer"})
