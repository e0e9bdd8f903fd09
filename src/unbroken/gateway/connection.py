"""A client's connection: uvicorn's protocol with limits, errors in our envelope, and a direct way to the socket.

uvicorn keeps parsing, keep-alive, pipelining, bodies and shutdown. What is added: bounds on the head and on the
time that head and body may take, a callback when the client leaves, and a transport that a follower writes to
without a task switch (docs/decisions/0002-direct-writes.md).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.wire.openai_chat.errors import write_error

_HOP_HEADERS = (b"connection", b"upgrade", b"http2-settings")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The bounds of one connection; see the settings of the same names."""

    header_bytes: int
    header_timeout: float
    body_timeout: float
    connections: int


class ClientConnection(HttpToolsProtocol):
    """One client's connection. Each request's scope has it as `extensions["unbroken"]`."""

    limits: ConnectionLimits  # set on the subclass that `connection_class` makes

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.on_lost: Callable[[], None] | None = None
        self.on_pause: Callable[[bool], None] | None = None
        self.is_lost = False
        self._head_bytes = 0
        self._in_head = self._in_body = False
        self._was_asked = False
        self._upgrade_ignored = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._watched = ""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            return self._refuse(ApiError(503, "Too many open connections; try again shortly.", "server_error"))
        self._watch("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._watch("")
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
        if self.transport.is_closing():
            return
        if not self._in_body:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._continue_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            return self._refuse(_refusal(error))
        if self._in_head and self._head_bytes > self.limits.header_bytes:
            return self._refuse(self._head_too_large())
        self._watch("head" if self._in_head else "body" if self._in_body else "")

    # httptools

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._was_asked = True
        self.scope["extensions"] = {"unbroken": {"connection": self}}

    def on_headers_complete(self) -> None:
        limit = self.limits.header_bytes
        if self._head_bytes > limit and sum(len(n) + len(v) + 4 for n, v in self.headers) + len(self.url) > limit:
            raise RequestRefused(self._head_too_large())
        if self.parser.should_upgrade() and not self._upgrade_ignored:
            return  # feed_data raises HttpParserUpgrade next
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._in_head:
            return
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.on_lost = self.on_pause = None
        super().on_response_complete()

    def _continue_without_upgrade(self, rest: bytes) -> None:
        """Serves a request that offers an upgrade (HTTP/2, say) as if it had not, as RFC 9110, 7.8 allows.

        The parser stops at such a head and would leave the body unread, so it is fed the head once more without it.
        """
        head = b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        head += b"".join(b"%b: %b\r\n" % (n, v) for n, v in self.headers if n not in _HOP_HEADERS)
        self.parser = httptools.HttpRequestParser(self)
        self._upgrade_ignored = True
        try:
            self.parser.feed_data(head + b"\r\n" + rest)
        finally:
            self._upgrade_ignored = False

    # limits

    def _watch(self, part: str) -> None:
        """Bounds the time that the head or the body of a request may take to come."""
        if part == self._watched:
            return
        self._watched = part
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if part:
            seconds = self.limits.header_timeout if part == "head" else self.limits.body_timeout
            self._watchdog = self.loop.call_later(seconds, self._too_slow, part, seconds)

    def _too_slow(self, part: str, seconds: float) -> None:
        if part == "head" and not self._in_head and not self._was_asked:
            self.transport.close()  # nothing was ever asked
            return
        words = "headers" if part == "head" else "body"
        self._refuse(ApiError(408, f"The request's {words} did not come within {seconds:g} s.", code="request_timeout"))

    def _head_too_large(self) -> ApiError:
        limit = self.limits.header_bytes
        return ApiError(431, f"The request's headers are larger than {limit} bytes.", code="headers_too_large")

    def _refuse(self, error: ApiError) -> None:
        """Answers outside of any request and closes; in the middle of a response it only closes."""
        if self.transport.is_closing():
            return
        self._watch("")
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and (self.cycle.response_started or self.pipeline):
            self.transport.abort()
            return
        body = write_error(error)
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[error.status], len(body), body)
        )
        if is_answering:
            self.cycle.disconnected = True  # a handler that waits for the body hears that there is none
            self.cycle.message_event.set()
        self.transport.close()


def connection_class(limits: ConnectionLimits) -> type[ClientConnection]:
    """The protocol class that serves connections within `limits`."""
    return type("LimitedClientConnection", (ClientConnection,), {"limits": limits})


def _refusal(error: httptools.HttpParserError) -> ApiError:
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    if isinstance(cause, RequestRefused):
        return cause.error
    return ApiError(400, f"The request is not valid HTTP/1.1: {str(cause or error).rstrip('.')}.")
