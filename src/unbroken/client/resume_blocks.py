"""Blocks of a durable stream as an SDK may see them: whole, without ids, each once; sans-I/O."""

import re
from collections.abc import Mapping, Set
from typing import Any

import msgspec

from unbroken.wire.sse import MAX_EVENT_BYTES

_BLOCK_END = re.compile(rb"\n\n|\r\n\r\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\r|\n")

#: The event types that end an answer, by the end of the path that was asked. Chat Completions has no types.
TERMINAL: Mapping[str, Set[bytes]] = {
    "/chat/completions": frozenset(),
    "/responses": frozenset({b"response.completed", b"response.failed", b"response.incomplete", b"error"}),
    "/messages": frozenset({b"message_stop", b"error"}),
}


class _Said(msgspec.Struct):
    """What of a block's data may tell the end of a chat completion."""

    error: Any = None


_read_said = msgspec.json.Decoder(_Said).decode


class BlockReader:
    """Feeds on the bytes of a durable stream, of one line after the other, and gives what the SDK is to see.

    Ids, comments and blocks without data are left out, for SDKs fail on them; so are blocks that were given before.
    """

    def __init__(self, path_end: str, limit: int = MAX_EVENT_BYTES) -> None:
        self._terminal = TERMINAL[path_end]
        self._limit = limit
        self._rest = b""
        #: The offset of the last block that was given (L3); 0 before the first.
        self.offset = 0
        #: Whether all blocks so far had ids, so that `offset` can be trusted.
        self.has_offset = True
        #: Whether the answer's terminal event was given: nothing follows it (L1).
        self.is_over = False
        #: What makes the rest of this line useless; None while it is sound.
        self.trouble: str | None = None
        #: New blocks and whole comments so far: while this grows the server is alive.
        self.heard = 0

    def feed(self, data: bytes) -> bytes:
        """What `data` completes, to be handed on at once; nothing once there is trouble, or the answer is over."""
        *blocks, self._rest = _BLOCK_END.split(self._rest + data)
        given = b"".join([self._read(block) for block in blocks])
        self._drop_comments()
        if len(self._rest) > self._limit:
            self.trouble, self._rest = f"a block is larger than {self._limit} bytes", b""
        return given

    def begin_line(self) -> None:
        """Forget the half block that the last line left behind: the next one brings it whole."""
        self._rest, self.trouble = b"", None

    def _drop_comments(self) -> None:
        """Comments have a single line end (S2) and stand before a block: they are read as they come."""
        while self._rest.startswith(b":") and (end := self._rest.find(b"\n")) >= 0:
            self._rest = self._rest[end + 1 :]
            self.heard += 1

    def _read(self, block: bytes) -> bytes:
        if self.is_over or self.trouble is not None:
            return b""
        lines, data, offset, kind = [], [], None, b""
        for line in _LINE_END.split(block):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            match name:
                case b"data":
                    data.append(value)
                    lines.append(line)
                case b"event":
                    kind = value
                    lines.append(line)
                case b"id":
                    offset = int(value) if value.isdigit() else None
        if not data:
            self.heard += block.startswith(b":")
            return b""
        if not self._is_due(offset, kind):
            return b""
        self.heard += 1
        self.is_over = kind in self._terminal or (not self._terminal and _ends_chat(b"\n".join(data)))
        return b"\n".join(lines) + b"\n\n"

    def _is_due(self, offset: int | None, kind: bytes) -> bool:
        """Whether this block is to be given; takes its offset down."""
        if offset is None:
            self.has_offset &= kind == b"ping"  # pings are not counted (L3)
            return True
        if offset <= self.offset:
            return False
        if offset > self.offset + 1:
            self.trouble = f"block {offset} came where {self.offset + 1} was due"
            return False
        self.offset = offset
        return True


def _ends_chat(data: bytes) -> bool:
    """Whether this is the end of a chat completion: its marker, or an error (C8)."""
    if data == b"[DONE]":
        return True
    if b'"error"' not in data:
        return False
    try:
        return _read_said(data).error is not None
    except msgspec.DecodeError:
        return False
