"""`GET /v1/models` and `GET /v1/models/{id}`: what can be asked for."""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.gateway.call import Call
from unbroken.gateway.upstreams import Upstream
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.anthropic_messages.models import ModelRow, write_model, write_models

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

LIST_SECONDS = 2.0  # that an upstream gets to say what it serves
KEPT_SECONDS = 10.0  # for which its list, or its silence, is not asked for again
MAX_LISTED = 10_000  # models of one upstream
MAX_NAMED = 50  # models in an error message

_PLAIN = re.compile(r"[\w./:@+-]{1,100}")  # a name that may stand in an example of the configuration

_write = msgspec.json.Encoder().encode

Row = dict[str, Any]


class ModelLists:
    """What the upstreams say they serve, asked for at most every few seconds, by one caller for all."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._lists: dict[Upstream, tuple[float, list[Row]]] = {}
        self._asking: dict[Upstream, asyncio.Task[list[Row]]] = {}

    async def of(self, upstreams: Iterable[Upstream]) -> list[list[Row]]:
        """The lists of `upstreams`; one that does not answer in time has what it last said."""
        return await asyncio.gather(*(self._list(upstream) for upstream in upstreams))

    def keep_only(self, upstreams: Iterable[Upstream]) -> None:
        """Forgets the lists of all others."""
        kept = set(upstreams)
        self._lists = {upstream: found for upstream, found in self._lists.items() if upstream in kept}

    async def _list(self, upstream: Upstream) -> list[Row]:
        until, rows = self._lists.get(upstream, (0.0, []))
        if self._time() < until:
            return rows
        if (task := self._asking.get(upstream)) is None:
            task = self._asking[upstream] = asyncio.create_task(self._ask(upstream, rows))
        return await asyncio.shield(task)

    async def _ask(self, upstream: Upstream, last: list[Row]) -> list[Row]:
        rows = last
        try:
            async with asyncio.timeout(LIST_SECONDS):
                rows = (await upstream.listed_models())[:MAX_LISTED] or last
        except TimeoutError:
            pass  # a list is worth no more waiting
        finally:
            self._lists[upstream] = (self._time() + KEPT_SECONDS, rows)
            del self._asking[upstream]
        return rows


async def list_models(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves the list of models."""
    models = await gateway.models()
    if call.dialect is ANTHROPIC_MESSAGES:
        return await call.respond_json(write_models([ModelRow(name) for name in models]))
    await call.respond_json(_write({"object": "list", "data": list(models.values())}))


async def get_model(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves one model; its name may contain slashes."""
    name = call.path.removeprefix("/v1/models/")
    models = await gateway.models()
    found = models.get(name)
    if found is None and gateway.upstreams.table.tiers(name):
        found = _object(name, "unbroken")
    if found is None:
        raise RequestRefused(unknown_model(name, list(models), gateway.upstreams.table.globs()))
    await call.respond_json(write_model(ModelRow(name)) if call.dialect is ANTHROPIC_MESSAGES else _write(found))


def unknown_model(name: str, known: Sequence[str], globs: Sequence[str] = ()) -> ApiError:
    """The refusal of a model that does not exist, with those that do, and how one of them would get its name."""
    shown = ", ".join(known[:MAX_NAMED]) or "none: see `unbroken doctor`"
    more = f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
    message = f"The model '{name[:200]}' does not exist here. Models that do: {shown}{more}."
    if globs:
        message += f" Any name such as these is taken, too: {', '.join(globs[:MAX_NAMED])}."
    if _PLAIN.fullmatch(name):
        message += f' To give a model this name, add "{name} = NAME" to the models of an upstream that calls it NAME.'
    return ApiError(404, message, "invalid_request_error", "model_not_found", "model")


async def listed(gateway: "Gateway") -> dict[str, Row]:
    """Every model that can be asked for by name: the configured ones, and what servers with a glob or no list say."""
    models = {name: _object(name, "unbroken") for name in gateway.upstreams.table.names()}
    for upstream in gateway.upstreams:
        if facts := upstream.engine_facts():
            for name in models:
                if _serves(gateway, upstream, name):
                    models[name] |= facts
    asked = [upstream for upstream in gateway.upstreams if upstream.lists_itself()]
    for upstream, rows in zip(asked, await gateway.model_lists.of(asked), strict=True):
        for row in rows:
            name = str(row["id"])
            if name not in models and _serves(gateway, upstream, name):
                models[name] = {**_object(name, upstream.name), **row}
    return models


def _object(name: str, owner: str) -> Row:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _serves(gateway: "Gateway", upstream: Upstream, name: str) -> bool:
    return any(target.upstream == upstream.name for tier in gateway.upstreams.table.tiers(name) for target in tier)
