"""The engine dies: it is waited for, and nobody is sent to what is left of it meanwhile (K6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.engine_shared import EngineTold, SharedEngines, engine_id
from unbroken.upstream.engine_state import EngineAddress, EnginePhase, EngineState
from unbroken.upstream.scripted import (
    Gate,
    Reset,
    Script,
    ScriptedUpstream,
    cut_after,
    error,
    error_event,
    hold_after,
    text,
)

from .conftest import Reading, Serve, Served, upstream_settings

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # s, of a test whose answer would wait for ever
WORDS = "The quick brown fox jumps over the lazy dog. It ran away."
SETTINGS = UpstreamSettings(name="local", engine="llama.cpp", path="demo", models=("m",), continuation="match")
ID = engine_id(SETTINGS)


class Local:
    """An engine that lives and dies by the test's word; a scripted upstream answers for it."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.engines = SharedEngines(lambda message: None)
        self._address = EngineAddress(None, "127.0.0.1", upstream.port, "a key of the engine", 0)

    def lives(self) -> None:
        """It is ready, for the first time or again."""
        self._address = replace(self._address, life=self._address.life + 1)
        self._tell(EnginePhase.READY, self._address)

    def is_started_again(self) -> None:
        self._tell(EnginePhase.RESTARTING)

    def fails(self) -> None:
        self._tell(EnginePhase.FAILED)

    def _tell(self, phase: EnginePhase, address: EngineAddress | None = None) -> None:
        self.engines.hear(EngineTold(ID, EngineState(phase, f'engine "local" is {phase.value}'), address))


@pytest.fixture
def local(upstream: ScriptedUpstream) -> Local:
    upstream.always(text(WORDS))
    return Local(upstream)


@pytest.fixture
def serve_engine(serve: Serve, local: Local) -> Serve:
    """Serves a gateway whose first upstream is the engine, which is ready."""

    async def start(*others: UpstreamSettings, **sections: object) -> Served:
        gateway = await serve(SETTINGS, *others, new_engine=local.engines.engine, **sections)
        local.lives()
        return gateway

    return start


@asynccontextmanager
async def broken_off(gateway: Served, local: Local, readers: int = 1) -> AsyncIterator[list[Reading]]:
    """Answers that the engine has begun, and that its death has cut, all at once."""
    gate, begun = Gate(), len(local.upstream.requests)
    local.upstream.script(*[text(WORDS) | hold_after(4, gate) | cut_after(5) for _ in range(readers)])
    async with AsyncExitStack() as stack:
        reading = [await stack.enter_async_context(gateway.reading()) for _ in range(readers)]
        for one in reading:
            await one.read_text("The quick")
        assert len(local.upstream.requests) == begun + readers
        gate.open()
        await turns(gateway)
        yield reading


async def turns(gateway: Served) -> None:
    """Lets the gateway do what it can do by now."""
    for _ in range(5):
        await gateway.turn()


async def test_a_dead_engine_is_not_asked_before_it_has_come_back(serve_engine: Serve, local: Local) -> None:
    gateway = await serve_engine()
    async with broken_off(gateway, local) as (reading,):
        local.is_started_again()
        await turns(gateway)
        assert len(local.upstream.requests) == 1
        local.lives()
        assert (await reading.read_to_end()).text == WORDS
    assert (await gateway.wait_for_line())["attempts"] == 2


async def test_what_had_sent_nothing_waits_for_the_engine_too(serve_engine: Serve, local: Local) -> None:
    gateway = await serve_engine()
    local.upstream.script(Script((Reset(),)))
    async with asyncio.TaskGroup() as tasks:
        streamed, whole = (tasks.create_task(ask()) for ask in (gateway.stream, gateway.ask))
        await local.upstream.wait_for_requests(1)
        await turns(gateway)
        asked = len(local.upstream.requests)
        late = tasks.create_task(gateway.stream())
        await turns(gateway)
        assert len(local.upstream.requests) == asked
        local.is_started_again()
        local.lives()
    assert {streamed.result().text, late.result().text} == {WORDS}
    assert whole.result().json()["choices"][0]["message"]["content"] == WORDS


async def test_all_answers_that_an_engine_was_giving_when_it_died_go_on(serve_engine: Serve, local: Local) -> None:
    """One death is one, however many answers it cuts: no circuit opens before an engine that is started again."""
    gateway = await serve_engine(retries={"breaker_failures": 2})
    async with broken_off(gateway, local, readers=6) as readers:
        local.is_started_again()
        local.lives()
        assert [(await reading.read_to_end()).text for reading in readers] == [WORDS] * 6


async def test_an_engine_that_dies_again_and_again_of_one_answer_is_left_at_last(
    serve_engine: Serve, local: Local
) -> None:
    gateway = await serve_engine(retries={"attempts": 3})
    local.upstream.always(text(WORDS) | cut_after(5))
    async with gateway.reading() as reading:
        for attempt in (1, 2, 3):
            await local.upstream.wait_for_requests(attempt)
            await turns(gateway)
            assert len(local.upstream.requests) == attempt
            local.is_started_again()
            local.lives()
        answer = await reading.read_to_end()
    assert answer.error is not None
    assert "no upstream could go on with it" in answer.error["message"]
    assert not answer.is_done


async def test_where_another_can_go_on_an_engine_is_not_waited_for_long(
    serve_engine: Serve, local: Local, other: ScriptedUpstream
) -> None:
    other.always(text(WORDS))
    gateway = await serve_engine(upstream_settings("other", other, weight=0.0, continuation="match"))
    async with asyncio.timeout(PATIENCE), broken_off(gateway, local) as (reading,):
        local.is_started_again()
        assert (await reading.read_to_end()).text == WORDS
    assert len(other.requests) == 1


async def test_an_engine_that_has_failed_for_good_is_not_waited_for(serve_engine: Serve, local: Local) -> None:
    gateway = await serve_engine()
    async with broken_off(gateway, local) as (reading,):
        local.fails()
        answer = await reading.read_to_end()
    assert answer.error is not None
    assert "no upstream could go on with it" in answer.error["message"]
    assert len(local.upstream.requests) == 1


async def test_an_engine_that_has_failed_for_good_is_left_alone(serve_engine: Serve, local: Local) -> None:
    gateway = await serve_engine(retries={"attempts": 1, "breaker_failures": 2})
    local.fails()
    assert [(await gateway.ask()).status_code for _ in range(3)] == [502, 502, 503]


# What llama.cpp answers 500 to though the request is at fault, and the code that the caller gets.
AT_FAULT = {
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj": "unsupported",
    "audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj": "unsupported",
    "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error at line 1": None,
    "Failed to parse messages: Missing 'role' in message: {}": None,
    "Failed to parse tools: Missing tool type: 5; tools = [5]": None,
    "Cannot use both json_schema and grammar": None,
    "Unknown reasoning format: zz": None,
}


@pytest.mark.parametrize("said", AT_FAULT)
async def test_a_request_that_an_engine_cannot_read_is_the_callers_fault(
    serve_engine: Serve, local: Local, said: str
) -> None:
    """It is told so, the engine is not asked again, and stays in use for others."""
    gateway = await serve_engine(retries={"attempts": 4, "breaker_failures": 1})
    local.upstream.always(error(500, said, type="server_error", code=500))
    for answer in (await gateway.stream(), await gateway.stream()):
        assert (answer.status, answer.error and answer.error["message"]) == (400, said)
        assert answer.error
        assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", AT_FAULT[said])
    assert (await gateway.ask()).status_code == 400
    assert len(local.upstream.requests) == 3
    local.upstream.always(text(WORDS))
    assert (await gateway.stream()).text == WORDS


async def test_no_error_of_an_engine_takes_it_from_others(serve_engine: Serve, local: Local) -> None:
    """It is about the one request, whatever it says; how the engine fares its process tells."""
    gateway = await serve_engine(retries={"attempts": 1, "breaker_failures": 2})
    said = "The model produced output that does not match the expected peg-native format"
    local.upstream.always(error(500, said, type="server_error", code=500))
    assert [(await gateway.ask(question)).status_code for question in "abcd"] == [500] * 4
    local.upstream.always(text(WORDS) | error_event(said, code=500, after=3))
    assert [(await gateway.stream(question)).status for question in "abcd"] == [200] * 4
    local.upstream.always(text(WORDS))
    assert (await gateway.stream()).text == WORDS


async def test_what_an_engine_cannot_see_another_upstream_may(
    serve_engine: Serve, local: Local, other: ScriptedUpstream
) -> None:
    gateway = await serve_engine(upstream_settings("other", other))
    local.upstream.always(error(500, "image input is not supported - hint: x", type="server_error", code=500))
    assert (await gateway.stream()).text == "one two three"
