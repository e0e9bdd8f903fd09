"""An engine that another process runs: what is told of it is what is known of it."""

import asyncio
from dataclasses import replace

import pytest

from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.engine_shared import (
    EngineReleased,
    EngineTold,
    EngineWanted,
    SharedEngine,
    SharedEngines,
    engine_id,
)
from unbroken.upstream.engine_state import EngineAddress, EngineFailed, EnginePhase, EngineState

pytestmark = pytest.mark.anyio

UPSTREAM = UpstreamSettings(name="demo", engine="llama.cpp", path="demo")
ID = engine_id(UPSTREAM)
ADDRESS = EngineAddress("/somewhere/engine.sock", "engine", 0, "a key")
READY = EngineTold(ID, EngineState(EnginePhase.READY, "runs"), ADDRESS, 4096)
LOADING = EngineTold(ID, EngineState(EnginePhase.LOADING, "loads"))
FAILED = EngineTold(ID, EngineState(EnginePhase.FAILED, "has failed"))


@pytest.fixture
def engines() -> SharedEngines:
    """Those of a process to which nobody listens."""
    return SharedEngines(lambda message: None)


@pytest.fixture
def engine(engines: SharedEngines) -> SharedEngine:
    """That of the upstream."""
    return engines.engine(UPSTREAM)


async def wait_for_one_that_fails(engines: SharedEngines, engine: SharedEngine) -> None:
    """Somebody waits for the engine, it fails, and whoever waits is told why."""
    waiting = asyncio.ensure_future(engine.wait_until_ready())
    await asyncio.sleep(0)
    engines.hear(FAILED)
    with pytest.raises(EngineFailed, match="has failed"):
        await waiting


async def test_who_waits_gets_the_address_when_it_is_told(engines: SharedEngines, engine: SharedEngine) -> None:
    waiting = asyncio.ensure_future(engine.wait_until_ready())
    engines.hear(LOADING)
    await asyncio.sleep(0)
    assert not waiting.done()
    engines.hear(READY)
    assert await waiting == ADDRESS
    assert engine.context_length == 4096


async def test_one_that_restarts_is_waited_for_again(engines: SharedEngines, engine: SharedEngine) -> None:
    engines.hear(READY)
    engines.hear(EngineTold(ID, EngineState(EnginePhase.RESTARTING, "is started again"), None, 4096))
    assert engine.address is None
    waiting = asyncio.ensure_future(engine.wait_until_ready())
    await asyncio.sleep(0)
    engines.hear(READY)
    assert await waiting == ADDRESS


async def test_who_waits_for_one_that_fails_is_told_why(engines: SharedEngines, engine: SharedEngine) -> None:
    await wait_for_one_that_fails(engines, engine)


NEXT_LIFE = replace(ADDRESS, life=2)
READY_AGAIN = EngineTold(ID, EngineState(EnginePhase.READY, "runs"), NEXT_LIFE, 4096)


async def test_nobody_is_sent_where_a_connection_broke_before_the_engine_has_come_back(
    engines: SharedEngines, engine: SharedEngine
) -> None:
    engines.hear(READY)
    engine.doubt(ADDRESS)
    waiting = asyncio.ensure_future(engine.wait_until_ready())
    for told in (READY, EngineTold(ID, EngineState(EnginePhase.RESTARTING, "is started again")), LOADING):
        engines.hear(told)
        await asyncio.sleep(0)
        assert not waiting.done()
    engines.hear(READY_AGAIN)
    assert await waiting == NEXT_LIFE


async def test_an_engine_that_has_not_died_after_all_is_trusted_again(
    engines: SharedEngines, engine: SharedEngine
) -> None:
    engines.hear(READY)
    engine.doubt(ADDRESS, 0.0)
    assert await engine.wait_until_ready() == ADDRESS


async def test_a_connection_to_a_former_life_says_nothing_about_the_engine(
    engines: SharedEngines, engine: SharedEngine
) -> None:
    engine.doubt(ADDRESS)
    engines.hear(READY_AGAIN)
    engine.doubt(ADDRESS)
    assert await engine.wait_until_ready(0) == NEXT_LIFE
    engine.doubt(NEXT_LIFE)
    engine.doubt(ADDRESS)
    with pytest.raises(EngineFailed):
        await engine.wait_until_ready(0)


async def test_who_is_in_doubt_about_an_engine_that_fails_is_told_why(
    engines: SharedEngines, engine: SharedEngine
) -> None:
    engines.hear(READY)
    engine.doubt(ADDRESS)
    await wait_for_one_that_fails(engines, engine)


async def test_a_limit_to_the_wait_is_kept(engine: SharedEngine) -> None:
    with pytest.raises(EngineFailed, match="has not been started; not ready within 0 s"):
        await engine.wait_until_ready(0)


async def test_what_was_told_before_is_known_at_once(engines: SharedEngines) -> None:
    engines.hear(READY)
    assert await engines.engine(UPSTREAM).wait_until_ready() == ADDRESS


async def test_it_is_wanted_once_and_released_once() -> None:
    said: list[EngineWanted | EngineReleased] = []
    engine = SharedEngines(said.append).engine(UPSTREAM)
    await engine.stop()
    assert said == []
    for act in (engine.start, engine.start, engine.stop, engine.stop):
        await act()
    assert said == [EngineWanted(ID), EngineReleased(ID)]
    with pytest.raises(EngineFailed, match="is stopped"):
        await engine.wait_until_ready()


async def test_an_upstream_that_is_exchanged_leaves_its_engine_to_the_next(engines: SharedEngines) -> None:
    """A reload that changes an upstream, but not its engine: the new one is made before the old one ends."""
    former, later = engines.engine(UPSTREAM), engines.engine(UPSTREAM)
    await former.start()
    await later.start()
    engines.hear(READY)
    await former.stop()
    assert await later.wait_until_ready() == ADDRESS
    await later.stop()
    assert engines.engine(UPSTREAM).address is None, "what nobody uses is not remembered"
