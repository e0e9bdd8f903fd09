"""`GET /v1/models` and `GET /v1/models/{id}`: what can be asked for."""

from typing import TYPE_CHECKING, Any

import msgspec

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.gateway.call import Call
from unbroken.rules.routing import Target

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

_write = msgspec.json.Encoder().encode


async def list_models(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves the list of models."""
    await call.respond_json(_write({"object": "list", "data": list((await gateway.models()).values())}))


async def get_model(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves one model; its name may contain slashes."""
    name = call.path.removeprefix("/v1/models/")
    models = await gateway.models()
    found: dict[str, Any] | None = models.get(name)
    if found is None and gateway.upstreams.table.tiers(name):
        found = {"id": name, "object": "model", "created": 0, "owned_by": "unbroken"}
    if found is None:
        message = f"The model '{name[:200]}' does not exist here. Models that do: {', '.join(models) or 'none'}."
        raise RequestRefused(ApiError(404, message, "invalid_request_error", "model_not_found", "model"))
    await call.respond_json(_write(found))


async def listed(gateway: "Gateway") -> dict[str, dict[str, Any]]:
    """Every model that can be asked for by name: the configured ones, and what servers with a glob or no list say."""
    names = {name: _object(name, "unbroken") for name in gateway.upstreams.table.names()}
    for upstream in gateway.upstreams:
        facts = upstream.engine_facts()
        for name in names:
            if facts and any(target.upstream == upstream.name for tier in _tiers(gateway, name) for target in tier):
                names[name] |= facts
        if upstream.lists_itself():
            for row in await upstream.listed_models():
                name = str(row["id"])
                if name not in names and any(
                    target.upstream == upstream.name for tier in _tiers(gateway, name) for target in tier
                ):
                    names[name] = {**_object(name, upstream.name), **row}
    return names


def _object(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _tiers(gateway: "Gateway", name: str) -> tuple[tuple[Target, ...], ...]:
    return gateway.upstreams.table.tiers(name)
