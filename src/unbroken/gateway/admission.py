"""Who may call: static keys, and which web pages."""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from unbroken.chat.error import ApiError, RequestRefused

_NO_KEY = bytes(32)


class Keyring:
    """The keys that open the gateway, held as keyed hashes only."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._salted = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)
        # Looked up by hash, then compared in constant time: neither step tells how much of a guess was right.
        self._known = {digest: (digest, name) for name, key in keys.items() for digest in self._hashes(key)}

    def __len__(self) -> int:
        return len(self._known)

    def name_of(self, key: bytes) -> str | None:
        """The name under which `key` is known, None if it is not."""
        digest = self._hash(key)
        known, name = self._known.get(digest, (_NO_KEY, None))
        return name if hmac.compare_digest(known, digest) else None

    def _hash(self, key: bytes) -> bytes:
        hashed = self._salted.copy()
        hashed.update(key)
        return hashed.digest()

    def _hashes(self, key: str) -> set[bytes]:
        """Of each way in which clients write a key into a header: UTF-8 or Latin-1."""
        key = key.strip()  # as a header's value is
        latin = {self._hash(key.encode("latin-1"))} if all(ord(letter) < 256 for letter in key) else set()
        return {self._hash(key.encode("utf-8", "surrogateescape")), *latin}


def caller_name(keyring: Keyring, authorization: bytes, api_key: bytes = b"") -> str:
    """The name of the caller's key; empty where the gateway asks for none.

    Raises:
        RequestRefused: 401, the key is missing or unknown. What was sent is not repeated.
    """
    if not len(keyring):
        return ""
    scheme, _, key = authorization.partition(b" ")
    if api_key and not authorization:
        scheme, key = b"bearer", api_key
    key = key.strip()
    if not key or scheme.lower() != b"bearer":
        raise RequestRefused(_unauthorized("No API key given: send `Authorization: Bearer KEY` or `x-api-key: KEY`."))
    name = keyring.name_of(key)
    if name is None:
        raise RequestRefused(_unauthorized("The API key is not known here."))
    return name


def allows_origin(origin: str, allowed: tuple[str, ...], *, has_keys: bool) -> bool:
    """Whether a web page of `origin` may cause answers.

    Without keys any page that the user visits could call a gateway on loopback; a browser always says from where.
    """
    if not origin or has_keys or "*" in allowed or origin in allowed:
        return True
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host == "localhost" or (host is not None and _is_loopback_address(host))


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine only: all that a name stands for must be.

    Raises:
        OSError: the name stands for nothing.
    """
    found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return all(_is_loopback_address(str(address[0])) for *_, address in found)


def _is_loopback_address(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, "invalid_request_error", "invalid_api_key", headers={"www-authenticate": "Bearer"})
