"""Cross-origin calls from browsers. Source: the Fetch standard, section 3.3 "CORS protocol"."""

from typing import TYPE_CHECKING

from unbroken.gateway.call import Call

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

EXPOSED = b"x-request-id, retry-after"


def cors_headers(origin: str, allowed: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    """The response headers that let a page of `origin` read the response; none where it may not."""
    if origin not in allowed and "*" not in allowed:
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"origin"),
    ]


async def preflight(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Answers a browser's question whether it may send the real request."""
    headers = []
    if any(name == b"access-control-allow-origin" for name, _ in call.own_headers):
        headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
            (b"access-control-allow-headers", call.headers.get(b"access-control-request-headers", b"*")),
            (b"access-control-max-age", b"600"),
        ]
    await call.respond(204, b"", *headers)
