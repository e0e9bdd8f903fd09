"""Requests as they came in, and the reader that takes them out of the bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from unbroken.upstream.scripted.steps import ScriptError

MAX_HEAD_BYTES = 1 << 20  # a test may send absurd headers on purpose
MAX_BODY_BYTES = 256 << 20  # far above any gateway's body limit

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Received:
    """One request: `number` counts from 1 over the whole server, `connection` says on which connection it came."""

    number: int
    connection: int
    method: str
    target: str
    headers: Headers
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """Give the first header of that name, in any case, or None."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        """Give every header of that name, in any case, in order."""
        return [value for found, value in self.headers if found.lower() == name.lower()]

    def json(self) -> Any:
        """Give the body as JSON; raises msgspec.DecodeError where it is none."""
        return msgspec.json.decode(self.body)

    def fields(self) -> dict[str, Any]:
        """Give the body's JSON object, or an empty one where the body is something else."""
        try:
            found = self.json()
        except msgspec.DecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def wants_stream(self) -> bool:
        """Tell whether the request asks for a stream."""
        return self.fields().get("stream") is True

    def wants_usage(self) -> bool:
        """Tell whether the request asks for a usage chunk."""
        options = self.fields().get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    headers: Headers
    length: int | None  # None: chunked


class RequestReader:
    """Takes whole requests out of one connection's bytes."""

    def __init__(self, connection: int, next_number: Callable[[], int]) -> None:
        self._connection = connection
        self._next_number = next_number
        self._unread = bytearray()
        self._head: _Head | None = None
        self._body = bytearray()

    def feed(self, data: bytes) -> list[Received]:
        """Give the requests that are complete with these bytes; raises ScriptError on bad HTTP."""
        self._unread += data
        complete = []
        while (request := self._next_request()) is not None:
            complete.append(request)
        return complete

    def _next_request(self) -> Received | None:
        if self._head is None:
            self._head = self._read_head()
        head = self._head
        if head is None or not (self._read_chunks() if head.length is None else self._read_length(head.length)):
            return None
        body, self._body, self._head = bytes(self._body), bytearray(), None
        return Received(self._next_number(), self._connection, head.method, head.target, head.headers, body)

    def _read_head(self) -> _Head | None:
        text = self._take_until(b"\r\n\r\n", MAX_HEAD_BYTES)
        if text is None:
            return None
        first, *lines = text.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise ScriptError(f"not an HTTP/1 request line: {first!r}")
        headers = tuple((name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines))
        return _Head(words[0], words[1], headers, _body_length(headers))

    def _read_length(self, length: int) -> bool:
        if len(self._unread) < length:
            return False
        self._body += self._take(length)
        return True

    def _read_chunks(self) -> bool:
        while (end := self._unread.find(b"\r\n")) >= 0:
            size = _chunk_size(bytes(self._unread[:end]))
            if len(self._unread) < end + 2 + size + 2:
                return False
            self._take(end + 2)
            self._body += self._take(size)
            if self._take(2) != b"\r\n":
                raise ScriptError(f"a chunk of {size} bytes is not followed by a line end (trailers are not read)")
            if size == 0:
                return True
            _check_bound(len(self._body), MAX_BODY_BYTES)
        return False

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    def _take_until(self, mark: bytes, bound: int) -> bytes | None:
        end = self._unread.find(mark)
        _check_bound(len(self._unread) if end < 0 else end, bound)
        if end < 0:
            return None
        taken = self._take(end)
        self._take(len(mark))
        return taken


def _body_length(headers: Headers) -> int | None:
    values = {name.lower(): value for name, value in headers}
    if "transfer-encoding" in values:
        if values["transfer-encoding"].lower() != "chunked" or "content-length" in values:
            raise ScriptError(f"a body framed in two ways or in an unknown one: {headers}")
        return None
    length = values.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise ScriptError(f"not a content length: {length!r}")
    _check_bound(int(length), MAX_BODY_BYTES)
    return int(length)


def _chunk_size(line: bytes) -> int:
    try:
        size = int(line.partition(b";")[0], 16)
    except ValueError:
        raise ScriptError(f"not a chunk size: {line!r}") from None
    _check_bound(size, MAX_BODY_BYTES)
    return size


def _check_bound(size: int, bound: int) -> None:
    if size > bound:
        raise ScriptError(f"a request of more than {bound} bytes")
