"""A reader who leaves stops the model; the proof is llama.cpp's own account of what it generates."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from tests.acceptance.processes import PROGRAMS, EngineAlone, GatewayProcess, engine_alone, gateway_process, wait_for

QUIET_SECONDS = 1.5  # llama.cpp looks for those who left without a token when nobody has asked it for one second
ENDLESS = "Count as far as you can: <count>"


@pytest.fixture(scope="module")
def counting(slow_model: Path) -> Iterator[EngineAlone]:
    """An engine that needs most of a minute for an answer, and can give one at a time."""
    with engine_alone(slow_model, slots=1) as running:
        yield running


@pytest.fixture(scope="module")
def before_it(counting: EngineAlone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway before it."""
    config = tmp_path_factory.mktemp("leaving") / "unbroken.toml"
    config.write_text(
        f'[[upstream]]\nname = "counting"\nbase_url = "{counting.base_url}"\napi_key = "{counting.key}"\n'
        'models = ["counter"]\n'
    )
    with gateway_process(config) as running:
        yield running


def wait_until_all_is_still(gateway: GatewayProcess, engine: EngineAlone) -> None:
    """Waits until nothing is generated, and checks that this is not because the answer had reached its end."""
    wait_for(engine.is_idle, "the engine has stopped", every=QUIET_SECONDS)
    wait_for(lambda: gateway.metric("unbroken_open_streams") == 0, "the gateway has no open stream")
    wait_for(lambda: gateway.metric("unbroken_upstream_open_requests") == 0, "the gateway waits for no upstream")
    assert engine.slots()[0]["n_prompt_tokens"] < engine.slots()[0]["n_ctx"] / 2


@pytest.mark.parametrize("program", ["stop_early.py", "stop_early_async.py"])
def test_a_break_out_of_the_loop_stops_the_model(
    before_it: GatewayProcess, counting: EngineAlone, program: str
) -> None:
    running = subprocess.Popen(
        [sys.executable, str(PROGRAMS / program)],
        env=before_it.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with running:
        assert running.stdout
        printed = [running.stdout.readline(), running.stdout.readline()]
        assert printed == [" 1 2 3 4\n", "Press Enter to quit\n"]
        wait_until_all_is_still(before_it, counting)  # while the program lives on
        running.communicate("\n")
    assert running.returncode == 0


def test_a_program_that_is_killed_stops_the_model(before_it: GatewayProcess, counting: EngineAlone) -> None:
    running = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "count_for_ever.py")],
        env=before_it.environment(),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with running:
        assert running.stdout
        assert running.stdout.readline()
        running.kill()
    wait_until_all_is_still(before_it, counting)


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_a_reader_who_leaves_before_the_first_token_stops_the_model(
    before_it: GatewayProcess, counting: EngineAlone, is_streamed: bool
) -> None:
    async def leave() -> None:
        async with AsyncOpenAI(base_url=before_it.base_url, api_key="none", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "one two three four five six seven " * 200 + ENDLESS}]
            asking = client.chat.completions.create(model="counter", messages=messages, stream=is_streamed)
            asked = asyncio.create_task(asking)
            while counting.is_idle():
                await asyncio.sleep(0)
            assert asked.cancel()

    asyncio.run(leave())
    wait_until_all_is_still(before_it, counting)


def test_one_who_comes_after_is_answered_at_once(before_it: GatewayProcess) -> None:
    with OpenAI(base_url=before_it.base_url, api_key="none", max_retries=0) as client:
        for _ in range(3):
            with client.chat.completions.create(
                model="counter", messages=[{"role": "user", "content": ENDLESS}], stream=True
            ) as stream:
                assert "".join(next(iter(stream)).choices[0].delta.content or "" for _ in range(3)) == " 1 2"


def test_who_leaves_a_translated_stream_stops_the_model(before_it: GatewayProcess, counting: EngineAlone) -> None:
    messages: Any = [{"role": "user", "content": ENDLESS}]
    with (
        Anthropic(base_url=before_it.address, api_key="none", max_retries=0) as claude,
        claude.messages.stream(model="counter", max_tokens=16000, messages=messages) as stream,
    ):
        assert next(iter(stream.text_stream))
    wait_until_all_is_still(before_it, counting)
    with OpenAI(base_url=before_it.base_url, api_key="none", max_retries=0) as client:
        with client.responses.create(model="counter", input=ENDLESS, stream=True) as events:
            assert next(event for event in events if event.type == "response.output_text.delta")
        wait_until_all_is_still(before_it, counting)


def test_who_leaves_a_translated_answer_in_one_piece_stops_the_model(
    before_it: GatewayProcess, counting: EngineAlone
) -> None:
    async def leave() -> None:
        async with AsyncAnthropic(base_url=before_it.address, api_key="none", max_retries=0, timeout=60) as claude:
            messages: Any = [{"role": "user", "content": ENDLESS}]
            asked = asyncio.create_task(claude.messages.create(model="counter", max_tokens=16000, messages=messages))
            while counting.is_idle():
                await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(leave())
    wait_until_all_is_still(before_it, counting)
