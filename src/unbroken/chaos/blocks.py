"""Blocks of a durable stream as its readers see them, with their offsets (D7); sans-I/O."""

import re
from dataclasses import dataclass

_BLOCK_END = b"\n\n"
_COMMENTS = re.compile(rb"\A(?::[^\n]*\n)+")
_ID = re.compile(rb"\Aid: ([0-9]+)\n")
_PING = b"event: ping\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """A block as it came, without its id."""

    #: None where none was said.
    offset: int | None
    block: bytes


class OffsetReader:
    """Takes whole blocks out of bytes; comments and pings, which have no place in the stream, are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Seen]:
        """The blocks that `data` completes."""
        self._rest += data
        *blocks, self._rest = self._rest.split(_BLOCK_END)
        found = [_read(block + _BLOCK_END) for block in blocks]
        return [seen for seen in found if seen is not None]


def _read(block: bytes) -> Seen | None:
    block = _COMMENTS.sub(b"", block).lstrip(b"\n")
    if not block or block.startswith(_PING):
        return None
    named = _ID.match(block)
    return Seen(int(named[1]), block[named.end() :]) if named else Seen(None, block)
