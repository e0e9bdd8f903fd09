"""A keep-alive HTTP/1.1 client on raw protocols: what an upstream sends reaches the sink without a task switch.

The bytes of a response are handed to a `ResponseSink` straight from the protocol's `data_received`; pausing the
connection is the backpressure. TLS, connecting and the pool are asyncio's and ours; parsing is httptools' (llhttp).
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.upstream.acknowledging import acknowledge_later
from unbroken.upstream.chunked import only_chunk
from unbroken.upstream.sinks import Nobody, ResponseSink, WholeResponse

FROM_ROOT = "//"  # begins a path that is the server's own, not below its base URL; one slash of it stays
MAX_HEAD_BYTES = 64 << 10  # a response's headers
IDLE_SECONDS = 60.0  # after which an idle connection is not used again, unless its server is known to be quicker
DRAIN_SECONDS = 1.0  # for the last bytes of a response whose answer is complete


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream listens: host and port, or the path of a unix socket."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    unix_path: str | None = None

    def __str__(self) -> str:
        return self.unix_path or f"{self.host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection to an upstream, carrying one request at a time."""

    __slots__ = (
        "_early",
        "_has_head",
        "_head_bytes",
        "_headers",
        "_is_complete",
        "_is_framed",
        "_keeps_alive",
        "_parser",
        "_parts",
        "_paused",
        "_pool",
        "_sink",
        "_transport",
        "idle_since",
        "is_closed",
        "is_reused",
    )

    def __init__(self, pool: "HttpClient") -> None:
        self._pool = pool
        self._sink: ResponseSink | None = None
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser: Any = None  # that of the latest response; it holds us
        self.idle_since = 0.0
        self.is_reused = False
        self.is_closed = False
        self._paused = False
        self._early = b""  # what came before anything was asked: a server that is full says so at once

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, sink: ResponseSink) -> None:
        """Sends one request; `sink` is told of the response."""
        self._sink = sink
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._head_bytes = 0
        self._has_head = self._is_complete = self._is_framed = False
        self._keeps_alive = False
        if self._early or self.is_closed:
            asyncio.get_running_loop().call_soon(self._receive_early)  # once the caller knows its connection
        if not self.is_closed:
            self._transport.write(request)

    def pause(self) -> None:
        """Stops reading: the upstream is slowed by its full socket."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads again."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def lend(self, protocol: asyncio.Protocol) -> None:
        """Lets another protocol have what comes, which is whole small chunks, until it is taken back."""
        self._transport.set_protocol(protocol)
        acknowledge_later(self._transport)

    def take_back(self) -> None:
        """Takes what comes again; the response goes on where it was lent, as far as the parser knows."""
        self._transport.set_protocol(self)

    def close(self) -> None:
        """Drops the connection at once; the sink hears nothing more."""
        self._sink = None
        self.is_closed = True
        self._transport.abort()

    def release(self) -> None:
        """The answer is complete: the connection is used again if the response ends soon, and dropped if not."""
        if self._sink is not None:
            self._sink = Nobody()
            self.resume()
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._drop_if_undrained, self._sink)

    def _drop_if_undrained(self, sink: ResponseSink) -> None:
        if self._sink is sink:
            self.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            return self._take_unasked(data)
        if not self._has_head:
            self._head_bytes += len(data)
        problem: Failure | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            problem = Failure(Fault.MALFORMED, f"the response is not HTTP: {error}")
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            problem = Failure(Fault.TOO_LARGE, f"the response's headers are larger than {MAX_HEAD_BYTES} bytes")
        if self._parts:
            parts, self._parts = self._parts, []
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if self._sink is not None:  # what its head said may have been enough
                self._sink.data(body)
            if self._sink is not None and self._sink.wants_lane and _is_one_chunk(data, body):
                self._sink.open_lane()
        if self._is_complete and self._sink is not None:
            sink, self._sink = self._sink, None
            self._keeps_alive &= problem is None  # what follows a whole response does not spoil it
            self._give_back()
            sink.end()
        elif problem is not None:
            self._break(problem)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._parser = None
        self._pool.forget(self)
        self._tell_lost(exc)

    def _tell_lost(self, exc: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self._has_head and not self._is_framed and exc is None:
            sink.end()  # the body is whatever came until the connection closed
            return
        if self.is_reused and not self._head_bytes:
            self._pool.close_idle()  # its sisters have been closed with it
            sink.lost(Failure(Fault.STALE, "the kept connection had been closed"))
            return
        where = "in the middle of the response" if self._has_head else "before the response's headers"
        reason = f": {exc.strerror or exc}" if isinstance(exc, OSError) else ""
        fault = Fault.CUT if self._has_head else Fault.RESET
        sink.lost(Failure(fault, f"the connection was closed {where}{reason}"))

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer
        name = name.lower()
        self._headers.append((name, value))
        self._is_framed |= name in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # 100 Continue, 103 Early Hints
        self._has_head = True
        self._keeps_alive = self._parser.should_keep_alive()
        if self._sink is not None:
            self._sink.head(status, self._headers)
        self._headers = []  # a response may take hours

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
        else:
            self._headers, self._is_framed = [], False

    def _take_unasked(self, data: bytes) -> None:
        """Bytes while no request is under way: a new connection's first answer, an idle one's junk."""
        if self.is_reused or len(self._early) + len(data) > MAX_HEAD_BYTES:
            return self.close()
        self._early += data

    def _receive_early(self) -> None:
        early, self._early = self._early, b""
        if early and self._sink is not None:
            self.data_received(early)
        if self.is_closed:
            self._tell_lost(None)

    def _give_back(self) -> None:
        self.resume()
        has_sent_all = not self._transport.get_write_buffer_size()  # it may answer before it has read the request
        if self._keeps_alive and has_sent_all and not self._transport.is_closing():
            self._pool.give_back(self)
        else:
            self.close()

    def _break(self, failure: Failure) -> None:
        sink = self._sink
        self.close()
        if sink is not None:
            sink.lost(failure)


def _is_one_chunk(data: bytes, body: bytes) -> bool:
    """Whether the read `data`, in which the parser has found `body`, was one whole chunk.

    In the middle of a chunk that only looks as if others were in it, the body begins where the read does.
    """
    return only_chunk(data) == body and not data.startswith(body)


class HttpClient:
    """Sends requests to one base URL over a pool of connections."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        ca_file: str = "",
        unix_path: str | None = None,
        max_idle: int = 100,
        idle_seconds: float = IDLE_SECONDS,
        connect_timeout: float = 5.0,
    ) -> None:
        url = urlsplit(base_url)
        secure = url.scheme == "https"
        host = url.hostname or "localhost"
        context = _tls_context(ca_file) if secure else None
        self.address = Address(host, url.port or (443 if secure else 80), context, unix_path)
        self._path = url.path.rstrip("/")
        given = {"accept-encoding": "identity", "user-agent": "unbroken", **(headers or {})}
        self._head = f"host: {url.netloc.rpartition('@')[2]}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in given.items())
        self._heads: dict[str, bytes] = {}
        self._idle: list[Connection] = []
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self.connect_timeout = connect_timeout
        self._is_closed = False

    async def post(
        self, path: str, body: bytes, sink: ResponseSink, *, accept: str = "*/*", more_headers: bytes = b""
    ) -> Connection:
        """Sends `body` (JSON) to `path`; gives the connection once the request is on its way.

        `more_headers` are whole lines, for this request only.

        Raises:
            UpstreamFailed: no connection could be had.
        """
        head = self._heads.get(path + accept)
        if head is None:
            place = path[1:] if path.startswith(FROM_ROOT) else self._path + path
            start = f"POST {place} HTTP/1.1\r\n{self._head}content-type: application/json\r\n"
            head = f"{start}accept: {accept}\r\ncontent-length: ".encode("latin-1")
            self._heads[path + accept] = head
        connection = self._take_idle() or await self._connect()
        connection.send(b"%b%d\r\n%b\r\n%b" % (head, len(body), more_headers, body), sink)
        return connection

    async def get(self, path: str, *, timeout: float = 5.0, more_headers: bytes = b"") -> tuple[int, bytes]:
        """Status and body of a GET.

        Raises:
            UpstreamFailed: it could not be had within `timeout` seconds.
        """
        sink = WholeResponse()
        connection = await self._connect()
        try:
            head = f"GET {self._path}{path} HTTP/1.1\r\n{self._head}".encode("latin-1")
            connection.send(b"%b%b\r\n" % (head, more_headers), sink)
            async with asyncio.timeout(timeout):
                return await sink.complete
        except TimeoutError:
            raise UpstreamFailed(Failure(Fault.HEADERS_TIMEOUT, f"no answer within {timeout:g} s")) from None
        finally:
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keeps a connection for the next request, or closes it where there are enough."""
        if self._is_closed or len(self._idle) >= self._max_idle:
            connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        connection.is_reused = True
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Takes a closed connection out of the pool."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close_idle(self) -> None:
        """Closes what is not in use."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Closes what is not in use now and the rest when it is done; running answers are not cut (FAULTS.md 44)."""
        self._is_closed = True
        self.close_idle()

    def _take_idle(self) -> Connection | None:
        if not self._idle:
            return None
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed and now - connection.idle_since < self._idle_seconds:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        at = self.address
        try:
            async with asyncio.timeout(self.connect_timeout):
                if at.unix_path is not None:
                    _, made = await loop.create_unix_connection(lambda: Connection(self), at.unix_path)
                else:
                    _, made = await loop.create_connection(lambda: Connection(self), at.host, at.port, ssl=at.tls)
        except TimeoutError:
            message = f"no connection to {at} within {self.connect_timeout:g} s"
            raise UpstreamFailed(Failure(Fault.CONNECT_TIMEOUT, message)) from None
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of {at} is not trusted: {error.verify_message}"
            raise UpstreamFailed(Failure(Fault.CONNECT, message)) from None
        except ssl.SSLError as error:
            message = f"no TLS connection to {at}: {error.reason or error}"
            raise UpstreamFailed(Failure(Fault.CONNECT, message)) from None
        except OSError as error:
            raise UpstreamFailed(Failure(Fault.CONNECT, f"cannot connect to {at}: {error.strerror or error}")) from None
        except UnicodeError:
            raise UpstreamFailed(Failure(Fault.CONNECT, f"{at} cannot be the name of a host")) from None
        return made


def _tls_context(ca_file: str) -> ssl.SSLContext:
    if ca_file:
        return ssl.create_default_context(cafile=ca_file)
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not ssl.get_default_verify_paths().capath:
        import certifi  # a Python that brings no authorities of its own

        context.load_verify_locations(certifi.where())
    return context
