"""An answer that is over is freed at once: what waits for the garbage collector is memory that the next cannot have."""

import gc
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from unbroken.upstream.scripted import ScriptedUpstream, cut_after, error, text

from .conftest import Serve, Served, upstream_settings

pytestmark = pytest.mark.anyio

OURS = (
    "unbroken.chat",
    "unbroken.gateway",
    "unbroken.rules",
    "unbroken.store",
    "unbroken.wire",
    "unbroken.upstream.http",
)
KINDS = (types.FunctionType, types.CoroutineType, types.MethodType)


def is_ours(found: object) -> bool:
    """Whether it is of the gateway's making; clients and fakes in this process may do as they like."""
    if isinstance(found, types.MethodType):
        found = found.__func__
    if isinstance(found, types.CoroutineType):
        return "/unbroken/gateway/" in found.cr_code.co_filename
    module = found.__module__ if isinstance(found, types.FunctionType) else type(found).__module__
    return str(module).startswith(OURS)


def name_of(found: Any) -> str:
    return found.__qualname__ if isinstance(found, KINDS) else type(found).__qualname__


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Of what the collector, and nobody before it, would free of all that was made within: how many by their names."""
    left: Counter[str] = Counter()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield left
        gc.collect()
        left.update(name_of(found) for found in gc.garbage if is_ours(found))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def stream(gateway: Served) -> None:
    assert (await gateway.stream()).is_done


async def whole(gateway: Served) -> None:
    assert (await gateway.ask()).status_code == 200


async def durable_stream(gateway: Served) -> None:
    assert (await gateway.stream(headers={"unbroken-durable": "true"})).is_done


async def durable_whole(gateway: Served) -> None:
    assert (await gateway.ask(headers={"unbroken-durable": "true"})).status_code == 200


async def message(gateway: Served) -> None:
    body = {**gateway.body(), "max_tokens": 100, "stream": True}
    assert (await gateway.client.post("/messages", json=body)).text.endswith('"message_stop"}\n\n')


async def response(gateway: Served) -> None:
    body = {"model": "m", "input": "hello", "stream": True}
    assert "response.completed" in (await gateway.client.post("/responses", json=body)).text


async def client_that_leaves(gateway: Served) -> None:
    async with gateway.reading() as reading:
        await reading.read_text("one")


ASKED: tuple[Callable[[Served], Awaitable[None]], ...] = (
    stream,
    whole,
    durable_stream,
    durable_whole,
    message,
    response,
    client_that_leaves,
)


@pytest.mark.parametrize("ask", ASKED)
async def test_answer_that_is_over_leaves_no_garbage(
    serve: Serve, upstream: ScriptedUpstream, ask: Callable[[Served], Awaitable[None]]
) -> None:
    upstream.always(text("one two three four five six"))
    gateway = await serve(upstream)
    await ask(gateway)  # what is made once is not looked at
    await gateway.wait_until_idle()
    with garbage() as left:
        for _ in range(2):
            await ask(gateway)
            await gateway.wait_until_idle()
    assert not left


async def test_answer_that_failed_leaves_no_garbage(serve: Serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    upstream.always(text("one two three") | cut_after(2))
    await gateway.stream()
    with garbage() as left:
        await gateway.stream()
        await gateway.wait_until_idle()
        upstream.script(error(400, "no"))
        assert (await gateway.stream()).status == 400
        await gateway.wait_until_idle()
    assert not left


@pytest.mark.parametrize("headers", [{}, {"unbroken-durable": "true"}])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_answer_that_another_upstream_had_to_go_on_with_leaves_no_garbage(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream, headers: dict[str, str], goes_on: bool
) -> None:
    upstream.always(text("one two three") | cut_after(3))
    other.always(text("one two three") if goes_on else error(500, "no"))
    upstreams = (upstream_settings(f"up{n}", one, continuation="match") for n, one in enumerate((upstream, other)))
    gateway = await serve(*upstreams, retries={"breaker_failures": 100})
    assert (await gateway.stream(headers=headers)).is_done == goes_on
    await gateway.wait_until_idle()
    with garbage() as left:
        assert (await gateway.stream(headers=headers)).is_done == goes_on
        await gateway.wait_until_idle()
    assert not left


async def test_upstream_that_was_asked_in_vain_leaves_no_garbage(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(error(500, "no"))
    other.always(text("one two three"))
    gateway = await serve(upstream, other, retries={"breaker_failures": 100})
    await stream(gateway)
    await gateway.wait_until_idle()
    with garbage() as left:
        await stream(gateway)
        await whole(gateway)
        await gateway.wait_until_idle()
    assert not left
