"""The ids that the gateway makes: of requests, which need be unique only, and of streams, which nobody may guess."""

import os
import random
import re

_POOL_BYTES = 4096  # of the system's randomness, taken at a time: asking for it is a system call
_TAKEN_OVER = re.compile(rb"[\x21-\x7e]{1,128}")  # printable, and nothing that could end a header


def request_id(given: bytes) -> bytes:
    """The id that a request has in its response and in the log: the client's own where it is fit to be repeated."""
    if given and _TAKEN_OVER.fullmatch(given):
        return given
    return b"req_%024x" % random.getrandbits(96)


class SecretIds:
    """Makes ids that are as hard to guess as keys."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def new(self) -> str:
        """28 hexadecimal digits."""
        start = self._at
        if start + 14 > len(self._pool):
            self._pool, start = os.urandom(_POOL_BYTES), 0
        self._at = start + 14
        return self._pool[start : self._at].hex()
