"""One HTTP call from a client: its request, and the response that is given to it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from unbroken.chat.error import ApiError, RequestRefused, invalid
from unbroken.gateway.connection import ClientConnection
from unbroken.wire.openai_chat.errors import write_error

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")


class ClientLeft(Exception):
    """The client closed the connection before it had its answer."""


class Call:
    """An ASGI request and response, with what every response of ours carries."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.connection: ClientConnection = scope["extensions"]["unbroken"]["connection"]
        #: Headers for the response, whatever it will be.
        self.own_headers: list[tuple[bytes, bytes]] = []
        #: Status of the response, 0 until it has been sent.
        self.status = 0
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> str:
        """A request header's value, empty if it was not sent."""
        return self.headers.get(name, b"").decode("latin-1")

    async def read_json_body(self, limit: int) -> bytes:
        """The request's body, which must say that it is JSON.

        Raises:
            RequestRefused: 415, or 413 for more than `limit` bytes.
            ClientLeft: it went away in the middle.
        """
        kind = self.header(b"content-type").partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            found = f'"{kind}"' if kind else "none"
            raise invalid(f'Content-Type is {found}, expected "application/json".', status=415)
        length = self.header(b"content-length")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            body = message["body"]
            size += len(body)
            if size > limit:
                raise _too_large(limit)
            if not message["more_body"]:
                return body if not parts else b"".join([*parts, body])
            parts.append(body)

    async def respond(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Sends a whole response."""
        self.status = status
        length = (b"content-length", b"%d" % len(body))
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, length, *self.own_headers]}
        )
        await self._send({"type": "http.response.body", "body": body})

    async def respond_json(self, body: bytes, status: int = 200) -> None:
        """Sends a JSON response."""
        await self.respond(status, body, JSON)

    async def respond_error(self, error: ApiError) -> None:
        """Sends an error in the dialect's envelope."""
        more = [(name.encode(), value.encode("latin-1")) for name, value in error.headers.items()]
        if error.status == 413:
            more.append((b"connection", b"close"))  # the rest of the body is not read
        await self.respond(error.status, write_error(error), JSON, *more)

    async def begin_event_stream(self) -> None:
        """Sends the head of a stream that nothing on the way may hold back (FAULTS.md 32)."""
        self.status = 200
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
            *self.own_headers,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def end_event_stream(self) -> None:
        """Sends the end of the stream's body."""
        await self._send({"type": "http.response.body", "body": b""})


def _too_large(limit: int) -> RequestRefused:
    return invalid(f"The request body is larger than {limit} bytes.", status=413, code="request_too_large")
