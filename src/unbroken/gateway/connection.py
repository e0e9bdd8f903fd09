"""A client's connection: uvicorn's protocol with limits, errors in our envelope, and a direct way to the socket.

uvicorn keeps parsing, keep-alive, bodies and shutdown. What is added: bounds on the head and on the time that head
and body may take, refusals that a client gets to read, a callback when the client leaves, and a transport that a
follower writes to without a task switch (docs/decisions/0002-direct-writes.md).

What a client sends while its answer is being given is put aside and parsed when the answer has ended: it can neither
land in the middle of a stream nor end it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.gateway.exchange import STATUS_LINES, Flow, Headers, Pipeline, exchange_with, write_headers
from unbroken.gateway.ids import request_id
from unbroken.settings.tree import ServerSettings
from unbroken.wire.openai_chat.errors import write_error

MAX_PIPELINED = 32  # requests that wait for the answers before them; clients that pipeline send a handful
MAX_UNREAD = 1 << 20  # bytes of a body that is read only to keep the connection, behind an early answer
MAX_TURNED_AWAY = 100  # connections beyond the limit that are kept long enough to be told so
LINGER_SECONDS = 2.0  # for a client to read why it was refused: closing with bytes unread would reset the line
CHUNK_SLACK = 8  # bytes of chunk framing to a byte of body, at the most; one byte a chunk has 5

_HOP_HEADERS = (b"connection", b"upgrade", b"http2-settings")
_HEADERS_TO_HEED = frozenset((b"expect", b"transfer-encoding"))
_ALLOWED = "GET, HEAD, POST, OPTIONS"
_REFUSAL_HEADERS = ((b"content-type", b"application/json"), (b"connection", b"close"))

Awaited = Literal["", "idle", "head", "body", "farewell"]
"""What a connection waits for within a time; nothing while an answer is given."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The bounds of one connection: of its head, of how many there may be, and of each wait in seconds."""

    header_bytes: int
    connections: int
    seconds: Mapping[Awaited, float]


def connection_limits(settings: ServerSettings) -> ConnectionLimits:
    """The limits as they are set."""
    seconds: dict[Awaited, float] = {
        "idle": settings.idle_timeout,
        "head": settings.header_timeout,
        "body": settings.body_timeout,
        "farewell": LINGER_SECONDS,
    }
    return ConnectionLimits(settings.header_limit, settings.connections, seconds)


OnRefused = Callable[[ApiError, bytes], None]
"""Hears of each request that was refused before any handler saw it, with its id."""


class ClientConnection(HttpToolsProtocol):
    """One client's connection. Each request's scope has it as `extensions["unbroken"]["connection"]`."""

    # Our own, and all that uvicorn's keeps: in a dict so many are 1.5 KiB.
    __slots__ = (
        *("_aside", "_awaited", "_chunk_slack", "_due", "_head_bytes", "_in_body", "_in_head", "_is_refused"),
        *("_is_too_many", "_refusal_due", "_timer", "_unread", "is_chunked", "is_lost", "on_lost", "on_pause"),
        *("refused_with", "access_log", "access_logger", "app", "app_state", "asgi_version", "client", "config"),
        *("connections", "cycle", "expect_100_continue", "flow", "headers", "limit_concurrency", "logger", "loop"),
        *("parser", "pipeline", "root_path", "scheme", "scope", "server", "server_state", "tasks"),
        *("timeout_keep_alive", "timeout_keep_alive_task", "transport", "url", "ws_protocol_class"),
    )

    parser: Any  # None while a stream is sent
    limits: ConnectionLimits  # set on the subclass that `connection_class` makes
    on_refused: OnRefused

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.pipeline = Pipeline()  # type: ignore[assignment]
        self.on_lost: Callable[[], None] | None = None
        self.on_pause: Callable[[bool], None] | None = None
        self.is_lost = False
        #: Whether the body of a stream goes out in chunks; a client of HTTP/1.0 knows none.
        self.is_chunked = True
        #: Status of a refusal that was written in place of the answer, 0 if there was none.
        self.refused_with = 0
        self._is_too_many = False
        self._is_refused = False  # nothing more is read or written
        self._refusal_due: ApiError | None = None  # for what came behind the request that is being answered
        self._aside = b""
        self._head_bytes = self._chunk_slack = self._unread = 0
        self._in_head = self._in_body = False
        self._awaited: Awaited = ""
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport)
        beyond = len(self.connections) - self.limits.connections
        self._is_too_many = beyond > 0
        if beyond > MAX_TURNED_AWAY:
            transport.abort()
        else:
            self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_pause is not None:
            self.on_pause(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_pause is not None:
            self.on_pause(False)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        if self._is_answering():
            self._put_aside(data)
        else:
            self._feed(data)

    def shutdown(self) -> None:
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()

    # httptools

    def on_message_begin(self) -> None:
        """In place of uvicorn's: the scope is made when all of the head is here."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: none of ours, and no handler may take it for a header
        name = name.lower()
        if name in _HEADERS_TO_HEED:
            value_said = value.lower()
            if name == b"expect":
                self.expect_100_continue = value_said == b"100-continue"
            elif value_said != b"chunked" or self.parser.get_http_version() != "1.1":
                raise RequestRefused(ApiError(501, "The only transfer coding that is taken is chunked, in HTTP/1.1."))
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade():
            return  # feed_data raises HttpParserUpgrade next
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self._chunk_slack, self._unread = self.limits.header_bytes, MAX_UNREAD
        former = self.cycle
        self.cycle = exchange = exchange_with(self)
        if former is None or former.response_complete:
            self._start_asgi_task(exchange, self.app)
        else:
            self.pipeline.appendleft((exchange, self.app))
            self.flow.resume_reading()  # else nobody would hear that the client has left

    def on_body(self, body: bytes) -> None:
        self._chunk_slack += CHUNK_SLACK * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_head:
            return  # of an upgrade
        self._in_body = False
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # paused by a large last piece, it would not hear that the client has left

    def on_response_complete(self) -> None:
        """Goes on with what was put aside; in place of uvicorn's, whose idle timer costs each request two calls."""
        self.on_lost = self.on_pause = None
        self.server_state.total_requests += 1
        if self._is_refused or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._refusal_due is not None and not self._is_answering():
            self.refuse(self._refusal_due)
        elif self._aside and not self._is_answering():
            data, self._aside = self._aside, b""
            self._feed(data)
        else:
            self._wait_for("" if self._is_answering() else "body" if self._in_body else "idle")

    # answering

    def begin_stream(self) -> None:
        """A stream begins: as long as it lasts nothing is parsed and nothing is due; what is for that is 1.5 KiB."""
        if self._timer is not None and not self._awaited:
            self._timer.cancel()
            self._timer = None
        if not (self._in_head or self._in_body or self.pipeline):
            self.parser = None  # it has read one request, and nothing of another

    def end_stream(self) -> None:
        """A stream ends: requests are read again."""
        if self.parser is None and not self.is_lost:
            self._renew_parser()

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def refuse(self, error: ApiError, headers: Headers | None = None, body: bytes = b"") -> None:
        """Answers with an error in place of any handler, and closes once the client has read it.

        `headers` are those of the response, its request id included; without them the id is made here. `body` is the
        error in the client's dialect, where that is known.
        """
        if self._is_refused or self.transport.is_closing():
            return
        cycle = self.cycle
        is_asked = cycle is not None and not cycle.response_complete
        if self._is_answering() and headers is None:
            self._refusal_due = error
            self._aside = b""
            return
        if self._in_body and not (is_asked and not cycle.response_started):
            return self._farewell()  # this request has had its answer
        if headers is None:
            given = dict(self.headers or ()).get(b"x-request-id", b"")
            own_id = request_id(given)
            headers = [(b"x-request-id", own_id)]
            self.on_refused(error, own_id)
        body = body or write_error(error)
        head = write_headers([*_REFUSAL_HEADERS, (b"content-length", b"%d" % len(body)), *headers, *headers_of(error)])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINES[error.status], head, body))
        self.refused_with = error.status
        if is_asked:
            cycle.disconnected = True  # a handler that waits for the body hears that there is none
            cycle.message_event.set()
        self._farewell()

    def has_much_unread(self) -> bool:
        """Whether the request's body is not all here, so that an answer now would best close the connection."""
        if not self._in_body or self.pipeline:
            return False
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        return not length.isdigit() or int(length) > MAX_UNREAD

    def _farewell(self) -> None:
        """Says that nothing more will be written, and reads on for a while: a reset would undo what was."""
        self._is_refused = True
        self._aside = b""
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._wait_for("farewell")
        else:
            self.transport.close()

    # inside

    def _is_answering(self) -> bool:
        """Whether a request that has come whole still waits for its answer, or for the end of it."""
        if self.pipeline:
            return True
        cycle = self.cycle
        return cycle is not None and not self._in_body and not cycle.response_complete

    def _put_aside(self, data: bytes) -> None:
        if self._refusal_due is None:
            self._aside += data
            if len(self._aside) > self.limits.header_bytes:
                self.flow.pause_reading()

    def _feed(self, data: bytes) -> None:
        limit = self.limits.header_bytes
        if not self._in_body:
            self._head_bytes += len(data)
        elif self.cycle.response_complete:
            self._unread -= len(data)
        else:
            self._chunk_slack -= len(data)
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                continue
            except httptools.HttpParserError as error:
                return self.refuse(_refusal(error))
            break
        if self._in_body:
            if self._unread < 0:
                return self._farewell()
            if self._chunk_slack < 0:
                return self.refuse(ApiError(400, "The request's body is hardly anything but framing."))
        elif self._head_bytes > limit:
            return self.refuse(self._head_too_large())
        self._wait_for("" if self._is_answering() else "body" if self._in_body else "head")

    def _check_head(self) -> None:
        limit = self.limits.header_bytes
        if self._head_bytes > limit and sum(len(n) + len(v) + 4 for n, v in self.headers) + len(self.url) > limit:
            raise RequestRefused(self._head_too_large())
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise RequestRefused(ApiError(505, "The HTTP versions that are served are 1.1 and 1.0."))
        if self.parser.get_method() == b"CONNECT":
            allow = {"allow": _ALLOWED}
            raise RequestRefused(ApiError(405, "This is no proxy.", code="method_not_allowed", headers=allow))
        if len(self.pipeline) >= MAX_PIPELINED:
            raise RequestRefused(ApiError(400, f"More than {MAX_PIPELINED} requests wait for their answers."))
        if self._is_too_many:
            error = ApiError(503, "Too many open connections; try again shortly.", "server_error", "too_busy")
            raise RequestRefused(error)

    def _head_without_upgrade(self) -> bytes:
        """The head once more, as if it had not offered an upgrade (to HTTP/2, say), as RFC 9110, 7.8 allows.

        The parser stops at a head that offers one and would leave its body unread.
        """
        said = b"".join(value for name, value in self.headers if name == b"connection").lower()
        head = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        head += b"".join(b"%b: %b\r\n" % (n, v) for n, v in self.headers if n not in _HOP_HEADERS)
        self._renew_parser()
        return head + (b"connection: close\r\n\r\n" if b"close" in said else b"\r\n")

    def _wait_for(self, what: Awaited) -> None:
        """Bounds the time until the next thing comes; a timer that is set too early looks again when that is due."""
        if what == self._awaited:
            return
        self._awaited = what
        if not what:
            return
        self._due = self.loop.time() + self.limits.seconds[what]
        if self._timer is None or self._due < self._timer.when():
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        what = self._awaited
        if not what:
            return
        if self.loop.time() < self._due:
            return self._set_timer()
        if what == "farewell":
            self.transport.abort()
        elif what == "body" or self._in_head:
            words = "headers" if what == "head" else "body"
            message = f"The request's {words} did not come within {self.limits.seconds[what]:g} s."
            self.refuse(ApiError(408, message, code="request_timeout"))
        else:
            self.transport.close()  # nothing was asked

    def _head_too_large(self) -> ApiError:
        limit = self.limits.header_bytes
        return ApiError(431, f"The request's headers are larger than {limit} bytes.", code="headers_too_large")


def connection_class(limits: ConnectionLimits, on_refused: OnRefused) -> type[ClientConnection]:
    """The protocol class that serves connections within `limits`, which may be exchanged on it later."""
    members = {"limits": limits, "on_refused": staticmethod(on_refused)}
    return type("LimitedClientConnection", (ClientConnection,), members)


def headers_of(error: ApiError) -> list[tuple[bytes, bytes]]:
    """The headers that an error brings, as they are sent."""
    return [(name.encode(), value.encode("latin-1")) for name, value in error.headers.items()]


def _refusal(error: httptools.HttpParserError) -> ApiError:
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    if isinstance(cause, RequestRefused):
        return cause.error
    return ApiError(400, f"The request is not valid HTTP/1.1: {str(cause or error).rstrip('.')}.")
