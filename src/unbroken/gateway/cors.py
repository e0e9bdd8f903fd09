"""Cross-origin calls from browsers. Source: the Fetch standard, section 3.3 "CORS protocol"."""

import re
from typing import TYPE_CHECKING

from unbroken.gateway.call import Call
from unbroken.wire.rate_limits import rate_limit_names

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

#: What a page may read beside a response's body: all that we send with a meaning.
EXPOSED = b", ".join(
    (
        *(b"x-request-id", b"request-id", b"retry-after", b"x-should-retry"),
        *(b"unbroken-stream", b"unbroken-replayed", b"unbroken-dropped", b"unbroken-estimated"),
        *rate_limit_names(),
    )
)
PREFLIGHT_SECONDS = b"600"  # for which a browser need not ask again

_HEADER_NAMES = re.compile(rb"[\w!#$%&'*+.^`|~-]+(\s*,\s*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)
_MAX_HEADER_NAMES = 1000  # bytes of them that are repeated to a browser
_USUAL_HEADERS = b"authorization, content-type, x-request-id, idempotency-key, unbroken-durable, last-event-id"


def cors_headers(origin: bytes, allowed: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    """The response headers for a page of `origin`: with them it may read the response, or only caches are told."""
    vary = (b"vary", b"origin")
    if "*" in allowed:
        granted = b"*"  # no cookie opens the gateway, so that nobody need be told apart
    elif origin.decode("latin-1") in allowed:
        granted = origin
    else:
        return [vary]
    return [(b"access-control-allow-origin", granted), (b"access-control-expose-headers", EXPOSED), vary]


async def preflight(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Answers OPTIONS, which is above all a browser's question whether it may send the real request."""
    methods = gateway.methods_at(call.path).encode()
    headers = [(b"allow", methods)]
    if any(name == b"access-control-allow-origin" for name, _ in call.own_headers):
        wanted = call.headers.get(b"access-control-request-headers", b"")
        is_clean = len(wanted) <= _MAX_HEADER_NAMES and _HEADER_NAMES.fullmatch(wanted)
        headers += [
            (b"access-control-allow-methods", methods),
            (b"access-control-allow-headers", wanted if is_clean else _USUAL_HEADERS),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]
    await call.respond(204, b"", *headers)
