"""One request and its response on a client's connection: uvicorn's, without what a stream that waits has no use for.

A stream may wait for hours, and there are thousands of them: each `asyncio.Event` of uvicorn's has a deque of 0.7 KiB,
each of its objects a dict. Here are the same with the same meaning, in a tenth of the memory.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

Headers = Iterable[tuple[bytes, bytes]]

#: The first line of a response by its status; two of them are no standard's: nginx' word and Anthropic's.
STATUS_LINES = {
    **STATUS_LINE,
    499: b"HTTP/1.1 499 Client Closed Request\r\n",
    529: b"HTTP/1.1 529 Overloaded\r\n",
}


class Flag:
    """An `asyncio.Event` that has something to remember waiters in only while there are some."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def set(self) -> None:
        """Wakes whoever waits, and lets through whoever comes."""
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Makes wait whoever comes."""
        self._is_set = False

    async def wait(self) -> None:
        """Waits until it is set."""
        if self._is_set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters = (*self._waiters, waiter)
        try:
            await waiter
        finally:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)


class Flow(FlowControl):
    """The flow control of one connection."""

    __slots__ = ("_is_writable_event", "_transport", "read_paused", "write_paused")  # all that uvicorn's has

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._is_writable_event = cast(asyncio.Event, Flag(is_set=True))


class Pipeline(list[Any]):
    """The requests that wait for the answers before them; the next one is the last."""

    __slots__ = ()

    def appendleft(self, waiting: Any) -> None:
        """Adds one that has to wait for all others."""
        self.insert(0, waiting)


class Exchange(RequestResponseCycle):
    """A request, and what has been sent of its response."""

    __slots__ = (  # all that uvicorn's has
        "body",
        "chunked_encoding",
        "default_headers",
        "disconnected",
        "expected_content_length",
        "flow",
        "keep_alive",
        "message_event",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "transport",
        "waiting_for_100_continue",
    )

    scope: Any
    logger = logging.getLogger("uvicorn.error")
    access_log = False  # the gateway's own log has its line of each request

    def __init__(
        self,
        scope: Any,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        *,
        expects_100: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        self.scope = scope
        self.transport = transport
        self.flow = flow
        self.default_headers = default_headers
        self.message_event = Flag()  # type: ignore[assignment]
        self.on_response = on_response
        self.disconnected = False
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expects_100
        self.body = bytearray()
        self.more_body = True
        self.response_started = self.response_complete = False
        self.chunked_encoding: bool | None = None
        self.expected_content_length = 0

    def take_whole_body(self) -> bytes | None:
        """The request's body if all of it is here, as nearly always; it is taken once."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        self.flow.resume_reading()  # a large one that waited for its turn has paused it
        body, self.body = bytes(self.body), bytearray()
        return body

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response: in one write, where uvicorn's way takes two system calls.

        Raises:
            ValueError: a header's value holds a line end.
        """
        if not await self._may_write():
            return
        sent = [*headers, (b"content-length", b"%d" % len(body))] if status != 204 else headers
        if self.scope["method"] == "HEAD":
            body = b""
        self.transport.write(b"%b%b" % (self._head(status, sent), body))
        self._complete()

    async def begin_stream(self, headers: Headers, *, is_chunked: bool) -> None:
        """Sends the head of a response whose body comes as it is made; what was asked is let go of.

        Raises:
            ValueError: a header's value holds a line end.
        """
        if not await self._may_write():
            return
        self.chunked_encoding = is_chunked and self.scope["method"] != "HEAD"
        sent = [*headers, (b"transfer-encoding", b"chunked")] if self.chunked_encoding else headers
        self.transport.write(self._head(200, sent))
        self.scope["headers"].clear()
        self.scope.clear()

    async def end_stream(self) -> None:
        """Sends the end of the body, which has been written to the transport."""
        if await self._may_write():
            if self.chunked_encoding:
                self.transport.write(b"0\r\n\r\n")
            self._complete()

    async def _may_write(self) -> bool:
        if self.flow.write_paused:
            await self.flow.drain()
        return not self.disconnected

    def _head(self, status: int, headers: Headers) -> bytes:
        sent = [*self.default_headers, *headers]
        if not self.keep_alive:
            sent.append((b"connection", b"close"))
        head = b"%b%b\r\n" % (STATUS_LINES[status], write_headers(sent))
        self.response_started = True
        return head

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def exchange_with(connection: HttpToolsProtocol) -> Exchange:
    """The exchange that begins with the head which the connection's parser has just read.

    Its scope has what our own application looks at: the exchange and its connection as extensions, no addresses.
    """
    parser = connection.parser
    url = httptools.parse_url(connection.url)
    path, version = url.path.decode("ascii"), parser.get_http_version()
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": version,
        "method": parser.get_method().decode("ascii"),
        "path": unquote(path) if "%" in path else path,
        "query_string": url.query or b"",
        "headers": connection.headers,
    }
    exchange = Exchange(
        scope,
        connection.transport,
        connection.flow,
        connection.server_state.default_headers,
        expects_100=connection.expect_100_continue,
        keep_alive=version != "1.0" and parser.should_keep_alive(),
        on_response=connection.on_response_complete,
    )
    scope["extensions"] = {"unbroken": {"connection": connection, "exchange": exchange}}
    return exchange


def write_headers(headers: Headers) -> bytes:
    """The lines of `headers`; raises ValueError where a value would be more than one."""
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise ValueError("a header's value holds a line end")
    return head
