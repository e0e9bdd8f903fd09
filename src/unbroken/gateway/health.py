"""Operation: is it alive, can it answer, what has it done."""

import asyncio
from typing import TYPE_CHECKING

import msgspec

from unbroken.chat.error import RequestRefused
from unbroken.gateway.admission import caller_name
from unbroken.gateway.call import Call

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

HEALTHY = b'{"status":"ok"}'  # by which the chat, too, knows a gateway

_write = msgspec.json.Encoder().encode


async def healthz(gateway: "Gateway", call: Call, key_name: str) -> None:
    """200 as long as the process serves requests."""
    await call.respond_json(HEALTHY)


async def readyz(gateway: "Gateway", call: Call, key_name: str) -> None:
    """200 once at least one upstream can be asked, 503 otherwise; the reasons are for those who have a key."""
    now = asyncio.get_running_loop().time()
    is_ready = not gateway.is_draining and any(upstream.is_ready(now) for upstream in gateway.upstreams)
    body: dict[str, object] = {"status": "ready" if is_ready else "not ready"}
    if _may_know_why(gateway, call):
        body["upstreams"] = {upstream.name: upstream.describe(now) for upstream in gateway.upstreams}
    await call.respond_json(_write(body), 200 if is_ready else 503)


async def metrics(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Prometheus' exposition text, of all workers."""
    own = gateway.metrics
    body = own.render() if own.of_all_workers is None else await own.of_all_workers()
    await call.respond(200, body, (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"))


def _may_know_why(gateway: "Gateway", call: Call) -> bool:
    try:
        caller_name(gateway.keyring, call.headers.get(b"authorization", b""))
    except RequestRefused:
        return False
    return True
