"""Escapes of half a UTF-16 surrogate pair: legal in JSON's grammar, and no character.

Servers whose strings are UTF-16 send an emoji cut in two; their clients join the halves again. Strict readers of
JSON, ours among them, refuse it.
"""

import re

_HALF = re.compile(  # pairs and other escapes are matched so that a half is found only where one stands
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


def without_halves(data: bytes) -> bytes:
    """JSON text with U+FFFD in the place of each half; every byte stays where it was."""
    return _HALF.sub(lambda escape: rb"\ufffd" if escape["half"] else escape[0], data)


def has_halves(data: bytes) -> bool:
    """Whether JSON text has half a pair anywhere."""
    return any(escape["half"] for escape in _HALF.finditer(data))
