"""Who is told of an upstream's response, as it comes from the connection."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from unbroken.chat.fault import Failure, Fault, UpstreamFailed

MAX_WHOLE_BYTES = 64 << 20  # a response that is read whole; base64 audio is the largest there is

Headers = Sequence[tuple[bytes, bytes]]


class ResponseSink(Protocol):
    """What a response is told to; each call comes straight from the connection."""

    #: Whether it wants the connection lent where that is between two chunks; looked at behind each piece of the body.
    wants_lane: bool

    def open_lane(self) -> None:
        """Wants it, and may have it."""

    def head(self, status: int, headers: Headers) -> None:
        """The status and the headers, names in lower case."""

    def data(self, data: bytes) -> None:
        """A piece of the body."""

    def end(self) -> None:
        """The body is complete as far as HTTP can tell."""

    def lost(self, failure: Failure) -> None:
        """The connection broke before the end."""


class WholeResponse:
    """A sink that gathers a response; await `complete` for its status and body."""

    wants_lane = False

    def __init__(self, limit: int = MAX_WHOLE_BYTES) -> None:
        self.complete: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.headers: Headers = ()
        self._status = 0
        self._parts: list[bytes] = []
        self._left = limit

    def head(self, status: int, headers: Headers) -> None:
        self._status, self.headers = status, headers

    def open_lane(self) -> None: ...

    def data(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.lost(Failure(Fault.TOO_LARGE, "the response is too large to be read whole"))
        else:
            self._parts.append(data)

    def end(self) -> None:
        if not self.complete.done():
            self.complete.set_result((self._status, b"".join(self._parts)))

    def lost(self, failure: Failure) -> None:
        self._parts.clear()
        if not self.complete.done():
            self.complete.set_exception(UpstreamFailed(failure))


class Nobody:
    """A sink for the rest of a response that nobody needs."""

    wants_lane = False

    def head(self, status: int, headers: Headers) -> None: ...

    def open_lane(self) -> None: ...

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self, failure: Failure) -> None: ...
