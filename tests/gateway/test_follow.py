"""Followers of plain streams: the pace of a client is the upstream's from the head of the response on (L9)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from unbroken.upstream.scripted import Gate, Hold, ScriptedUpstream, before_head, hold_after, text

from .conftest import Dial, Line, Serve, Served

pytestmark = pytest.mark.anyio

WORDS = "one two three four five six"


class FilledByHeads:
    """A client's transport whose buffer every head of a response fills."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._transport = connection, connection.transport
        #: Called when a head has filled it.
        self.on_full: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        if data.startswith(b"HTTP/"):
            self._connection.pause_writing()
            self.on_full()

    def drain(self) -> None:
        """The client has read it all."""
        self._connection.resume_writing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def filled_by_heads(gateway: Served, dial: Dial) -> tuple[Line, FilledByHeads]:
    """A client that asks for a stream, and its transport."""
    line = await dial(gateway)
    await gateway.wait_until_connections(1)
    (connection,) = gateway.connections
    connection.transport = FilledByHeads(connection)
    line.post(gateway.body(stream=True))
    return line, connection.transport


async def turns(gateway: Served) -> None:
    for _ in range(50):
        await gateway.turn()


async def rest_of(line: Line) -> bytes:
    async with asyncio.timeout(15):  # comments come for ever
        return b"".join([chunk async for chunk in line.read_chunks()])


async def test_client_whose_buffer_is_full_from_the_head_on_slows_the_upstream(
    serve: Serve, upstream: ScriptedUpstream, dial: Dial
) -> None:
    """L9: nothing more is read for it until it reads, and then it gets all of it."""
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(3, gate))
    gateway = await serve(upstream)
    line, transport = await filled_by_heads(gateway, dial)
    await line.read_head()
    await turns(gateway)
    gate.open()
    await upstream.wait_until_idle()
    await turns(gateway)
    (production,) = gateway.gateway.productions
    assert not production.state.is_terminal, "the end has been sent, and nobody has read it"
    transport.drain()
    body = await rest_of(line)
    assert b"one" in body
    assert b"six" in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_client_whose_buffer_is_full_before_an_upstream_is_asked_slows_it_too(
    serve: Serve, upstream: ScriptedUpstream, dial: Dial
) -> None:
    """L9: the head goes out before there is anything to read where the first token is late."""
    gate = Gate()
    upstream.script(text(WORDS) | before_head(Hold(gate)))
    gateway = await serve(upstream, keep_alive={"first": 0.01})
    line, transport = await filled_by_heads(gateway, dial)
    await line.read_head()
    await turns(gateway)
    gate.open()
    await upstream.wait_until_idle()
    await turns(gateway)
    (production,) = gateway.gateway.productions
    assert not production.state.is_terminal
    transport.drain()
    assert b"six" in await rest_of(line)


async def test_client_that_reads_on_at_once_is_not_held_up(
    serve: Serve, upstream: ScriptedUpstream, dial: Dial
) -> None:
    """A buffer that is empty again before the producer was told that it is full stops nothing."""
    gate = Gate()
    upstream.script(text(WORDS) | hold_after(3, gate))
    gateway = await serve(upstream)
    line, transport = await filled_by_heads(gateway, dial)
    loop = asyncio.get_running_loop()
    transport.on_full = lambda: loop.call_soon(transport.drain)
    await line.read_head()
    await turns(gateway)
    gate.open()
    assert b"six" in await rest_of(line)
