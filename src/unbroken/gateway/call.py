"""One HTTP call from a client: its request, and the response that is given to it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from unbroken.chat.error import ApiError, RequestRefused, invalid
from unbroken.gateway.connection import ClientConnection, headers_of
from unbroken.gateway.exchange import Exchange
from unbroken.gateway.ids import request_id
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.anthropic_messages.errors import status_of
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.sse import KEEP_ALIVE

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")

PING = b'event: ping\ndata: {"type": "ping"}\n\n'  # Anthropic's keep-alive; it is no block and has no offset
MAX_TOLD = 4000  # characters of a header that tells; proxies take heads of 8 kB

#: Headers of which two would let two readers of one request see two requests.
_ONLY_ONCE = (b"host", b"authorization", b"content-type", b"content-length", b"origin", b"idempotency-key")


class ClientLeft(Exception):
    """The client closed the connection before it had its answer."""


class Call:
    """An ASGI request and response, with what every response of ours carries."""

    __slots__ = (
        "_exchange",
        "_scope",
        "asked_model",
        "connection",
        "dialect",
        "headers",
        "is_noted",
        "key_name",
        "method",
        "own_headers",
        "path",
        "refused_for",
        "refused_param",
        "request_id",
        "rest",
        "route",
        "status",
    )

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        # Taken out: the exchange holds the scope, and a circle of the two would wait for the garbage collector.
        ours = scope.pop("extensions")["unbroken"]
        self.connection: ClientConnection = ours["connection"]
        self.request_id = request_id(self.headers.get(b"x-request-id", b""))
        #: Headers for the response, whatever it will be.
        self.own_headers: list[tuple[bytes, bytes]] = [(b"x-request-id", self.request_id)]
        #: Status of the response, 0 until it has been sent.
        self.status = 0
        #: For the log and the metrics: the route's pattern, the name of the caller's key, the model that was asked for,
        #: the code of a refusal and the parameter that it names.
        self.route = self.key_name = self.asked_model = ""
        #: The dialect that the client speaks: its errors and keep-alives are in it.
        self.dialect: Dialect = OPENAI_CHAT
        self.refused_for: str | None = None
        self.refused_param: str | None = None
        #: What the handler has left to be done once it is through: a stream may wait for hours, and the handler, with
        #: all that it has, need not wait with it.
        self.rest: Awaitable[None] | None = None
        #: Whether the log has its line of this call.
        self.is_noted = False
        self._scope = scope
        self._exchange: Exchange = ours["exchange"]

    @property
    def query(self) -> Mapping[str, str]:
        """The last value of each parameter of the query."""
        given = parse_qs(self._scope["query_string"].decode("latin-1"))
        return {name: values[-1] for name, values in given.items()}

    @property
    def keep_alive(self) -> bytes:
        """What is sent into silence."""
        return PING if self.dialect is ANTHROPIC_MESSAGES else KEEP_ALIVE

    def speak(self, dialect: Dialect) -> None:
        """Takes `dialect` for the client's."""
        self.dialect = dialect
        if dialect is ANTHROPIC_MESSAGES:
            self.own_headers.append((b"request-id", self.request_id))

    def tell_of(self, dropped: Sequence[str], limits: Iterable[tuple[bytes, bytes]]) -> None:
        """Tells the client which settings the model's own dialect has no word for, and what limits it is under."""
        self.own_headers += limits
        if dropped:
            told = ", ".join(dropped)[:MAX_TOLD]
            # Some of them are keys of the client's own, which may hold anything.
            printable = "".join(letter if " " <= letter <= "~" else "?" for letter in told)
            self.own_headers.append((b"unbroken-dropped", printable.encode("ascii")))

    def header(self, name: bytes) -> str:
        """A request header's value, empty if it was not sent."""
        return self.headers.get(name, b"").decode("latin-1")

    def check_headers(self) -> None:
        """Refuses a request that could be read in two ways.

        Raises:
            RequestRefused: 400, a header that there may be one of is there twice, or Host is missing.
        """
        sent = self._scope["headers"]
        if len(sent) != len(self.headers):
            names = [name for name, _ in sent]
            if twice := next((name for name in _ONLY_ONCE if names.count(name) > 1), b""):
                raise invalid(f"The header `{twice.decode()}` was sent more than once.")
        if b"host" not in self.headers and self._scope["http_version"] == "1.1":
            raise invalid("The header `host` is missing.")

    async def read_json_body(self, limit: int) -> bytes:
        """The request's body, which must say that it is JSON.

        Raises:
            RequestRefused: 415, or 413 for more than `limit` bytes.
            ClientLeft: it went away in the middle.
        """
        given = self.headers.get(b"content-type", b"")
        if given != b"application/json":
            self._check_content_type(given.decode("latin-1"))
        if b"content-encoding" in self.headers:
            self._check_content_encoding(self.header(b"content-encoding"))
        length = self.headers.get(b"content-length", b"0")
        if int(length) > limit:  # digits only: the parser has seen to it
            raise _too_large(limit)
        whole = self._exchange.take_whole_body()
        if whole is not None:
            if len(whole) > limit:
                raise _too_large(limit)
            return whole
        parts: list[bytes] = []
        size = 0
        while True:
            message: Any = await self._exchange.receive()
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
        await self._exchange.respond(status, [*headers, *self.own_headers], body)
        self.status = status

    async def respond_json(self, body: bytes, status: int = 200) -> None:
        """Sends a JSON response."""
        await self.respond(status, body, JSON)

    async def respond_error(self, error: ApiError) -> None:
        """Sends an error in the dialect's envelope."""
        if self.connection.has_much_unread():
            self.status = error.status
            body = self.dialect.write_error(error, self.request_id.decode())
            return self.connection.refuse(error, self.own_headers, body)
        body = self.dialect.write_error(error, self.request_id.decode())
        status = status_of(error) if self.dialect is ANTHROPIC_MESSAGES else error.status
        await self.respond(status, body, JSON, *headers_of(error))

    async def begin_event_stream(self) -> None:
        """Sends the head of a stream that nothing on the way may hold back (FAULTS.md 32)."""
        self.status = 200
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
            *self.own_headers,
        ]
        # Clients of HTTP/1.0 know no chunks: the end of the body is the end of the connection.
        is_chunked = self.connection.is_chunked = self._scope["http_version"] != "1.0"
        await self._exchange.begin_stream(headers, is_chunked=is_chunked)
        self.connection.begin_stream()
        self.headers = {}

    async def end_event_stream(self) -> None:
        """Sends the end of the stream's body."""
        self.connection.end_stream()
        await self._exchange.end_stream()

    def give_up(self) -> None:
        """There will be no more of the response: uvicorn, which knows one request of a connection, is told."""
        self._exchange.disconnected = True

    def abort(self) -> None:
        """Cuts the connection: what was sent can be no answer, and must not look like one."""
        self.give_up()
        self.connection.transport.abort()

    @staticmethod
    def _check_content_type(given: str) -> None:
        kind = given.partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            found = f'"{kind}"' if kind else "none"
            raise invalid(f'Content-Type is {found}, expected "application/json".', status=415)

    @staticmethod
    def _check_content_encoding(given: str) -> None:
        if given.strip().lower() not in ("", "identity"):
            message = f'Content-Encoding is "{given[:100]}": request bodies are taken only as they are, not encoded.'
            # RFC 7694: so a client knows that it is the encoding and not the type.
            raise RequestRefused(ApiError(415, message, headers={"accept-encoding": "identity"}))


def _too_large(limit: int) -> RequestRefused:
    return invalid(f"The request body is larger than {limit} bytes.", status=413, code="request_too_large")
