"""A changed configuration, and hours of streams: nothing is dropped, nothing stays behind (FAULTS.md 44, 45)."""

import asyncio
import gc
import tracemalloc

import pytest

from unbroken.upstream.scripted import (
    Gate,
    Hold,
    ScriptedUpstream,
    before_head,
    cut_after,
    error,
    error_event,
    hold_after,
    rate_limited,
    text,
)

from .conftest import Served, settings_of, upstream_settings

pytestmark = pytest.mark.anyio


async def test_a_reload_in_mid_stream_drops_nothing(serve, upstream: ScriptedUpstream, other: ScriptedUpstream) -> None:
    """FAULTS.md 44: the upstream is gone from the configuration, and the answer that it gives goes on."""
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream)
    async with gateway.reading() as reading:
        await reading.read_text("one")
        gateway.gateway.apply(settings_of(upstream_settings("new", other)))
        assert (await gateway.stream()).is_done
        assert len(other.requests) == 1
        gate.open()
        answer = await reading.read_to_end()
    assert answer.text == "one two three"
    assert answer.is_done
    lines = [line for line in gateway.log_lines() if line["event"] == "request"]
    assert {(line["upstream"], line["outcome"]) for line in lines} == {("up0", "finished"), ("new", "finished")}
    await upstream.wait_until_unconnected()


async def test_a_reload_that_changes_an_upstream_leaves_its_running_answer_alone(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """FAULTS.md 44: the same name, another address; each counts its own requests."""
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate), text("x") | cut_after(0))
    gateway = await serve(upstream)
    async with gateway.reading() as reading:
        await reading.read_text("one")
        gateway.gateway.apply(settings_of(other))
        assert (await gateway.metrics())['unbroken_upstream_open_requests{upstream="up0"}'] == 0
        gate.open()
        assert (await reading.read_to_end()).is_done
    await gateway.wait_until_idle()
    assert (await gateway.metrics())['unbroken_upstream_open_requests{upstream="up0"}'] == 0
    assert (await gateway.stream()).is_done
    assert len(other.requests) == 1
    await upstream.wait_until_unconnected()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reload_while_an_upstream_is_being_tried_does_not_lose_the_next(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, stream: bool
) -> None:
    """FAULTS.md 44: the upstreams of an answer are those with which it began."""
    gate = Gate()
    upstream.always(error(500, "no") | before_head(Hold(gate)))
    gateway = await serve(upstream, other)
    asking = asyncio.ensure_future(gateway.stream() if stream else gateway.ask())
    await gate.wait_until_reached()
    gateway.gateway.apply(settings_of(upstream_settings("unrelated", other, models=("another",))))
    gate.open()
    answer = await asking
    assert (answer.text if stream else answer.json()["choices"][0]["message"]["content"]) == "one two three"
    await upstream.wait_until_unconnected()


async def test_a_reload_that_changes_nothing_keeps_the_connections(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    assert (await gateway.stream()).is_done
    gateway.gateway.apply(settings_of(upstream))
    assert (await gateway.stream()).is_done
    assert upstream.connections == 1


async def test_a_reload_changes_the_bounds_of_an_upstream_that_stays(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(error(500, "no"))
    gateway = await serve(upstream, retries={"attempts": 1})
    gateway.gateway.apply(settings_of(upstream, retries={"attempts": 1, "breaker_failures": 1}))
    assert (await gateway.stream()).status == 500
    assert (await gateway.stream()).error["code"] == "no_upstream"
    assert len(upstream.requests) == 1


async def test_a_reload_changes_keys_for_the_next_request(serve, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream, keys={"app": "client-key-1234"})
    async with gateway.reading() as reading:
        await reading.read_text("one")
        gateway.gateway.apply(settings_of(upstream, keys={"app": "client-key-5678"}))
        assert (await gateway.stream()).status == 401
        gate.open()
        assert (await reading.read_to_end()).is_done
    assert (await gateway.stream(headers={"authorization": "Bearer client-key-5678"})).is_done


async def test_nothing_stays_behind_after_streams_of_every_kind(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 45, in small: whole, cut, failed, refused and left answers; many hold what a few hold."""
    gateway = await serve(upstream, retries={"attempts": 2, "breaker_failures": 1000})

    async def a_round() -> None:
        upstream.script(text("one two three"), text("one two three") | cut_after(3), text("x y") | cut_after(0))
        upstream.script(text("x y") | error_event("no", after=1), rate_limited(99), text("x y"), error(400, "no"))
        for _ in range(6):
            await gateway.stream()
        upstream.script(text("one two three") | hold_after(2, Gate()))
        async with gateway.reading() as reading:
            await reading.read_text("one")
        await gateway.ask()
        await gateway.wait_until_idle()

    async def held_after(rounds: int) -> int:
        for _ in range(rounds):
            await a_round()
        upstream.counters.errors.clear()
        gateway.gateway.journal.flush()
        _forget_what_the_test_keeps(gateway, upstream)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    await held_after(5)
    tracemalloc.start()
    try:
        before = await held_after(10)
        after = await held_after(20)
    finally:
        tracemalloc.stop()
    assert after - before < 150_000, "less than a kilobyte for each of 160 answers"
    assert len(gateway.gateway.log) == 0
    assert not gateway.gateway.productions
    (state,) = gateway.gateway.upstreams
    assert state.open_requests == 0
    metrics = await gateway.metrics()
    assert metrics["unbroken_open_streams"] == 0
    assert upstream.open_answers == 0


def _forget_what_the_test_keeps(gateway: Served, upstream: ScriptedUpstream) -> None:
    gateway.forget_log()
    upstream._requests.clear()
