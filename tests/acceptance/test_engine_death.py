"""The engine dies, the gateway dies: what the reader gets, and what is left behind."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.acceptance.processes import GatewayProcess, gateway_process, http, is_alive, kill, read_text, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the engine in /proc")

HELLO: Any = [{"role": "user", "content": "Hello, how are you?"}]
COUNT: Any = [{"role": "user", "content": "Count as far as you can: <count>"}]


@contextmanager
def sdk(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway with the demo model and no configuration at all, for one test."""
    with gateway_process(cwd=tmp_path) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def counting_gateway(tmp_path: Path, slow_model: Path) -> Iterator[GatewayProcess]:
    """A gateway with a model that takes most of a minute for an answer."""
    with gateway_process(None, "--model", str(slow_model), cwd=tmp_path) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_an_engine_killed_before_the_first_token_is_started_again_and_answers(
    own_gateway: GatewayProcess, is_streamed: bool
) -> None:
    first = own_gateway.engine_pid
    kill(first, signal.SIGSTOP)  # it takes the request and says nothing
    with sdk(own_gateway) as client, ThreadPoolExecutor(1) as thread:
        asked = thread.submit(
            lambda: list(client.chat.completions.create(model="unbroken-demo", messages=HELLO, stream=is_streamed))
        )
        wait_for(lambda: own_gateway.metric("unbroken_upstream_open_requests") == 1, "the engine has the request")
        kill(first)
        answer: Any = asked.result(60)
    if is_streamed:
        assert answer[-1].choices[0].finish_reason == "stop"
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in answer)) > 10
    else:
        assert len(dict(answer)["choices"][0].message.content) > 10
    assert own_gateway.engine_pid not in (None, first)


def test_an_engine_killed_in_mid_answer_goes_on_from_the_very_tokens(counting_gateway: GatewayProcess) -> None:
    """K1: exact, again and again, in one envelope, and every token once."""
    received: list[str] = []
    deaths = {" 1 2 3 4" * 2, " 1 2 3 4" * 5 + " 1"}

    def die(text: str) -> None:
        if text in deaths:
            deaths.discard(text)
            kill(counting_gateway.engine_pid)

    with sdk(counting_gateway) as client:
        stream = client.chat.completions.create(
            model="counter",
            messages=COUNT,
            stream=True,
            max_tokens=60,
            temperature=0,
            stream_options={"include_usage": True},
            extra_headers={"unbroken-durable": "true"},
        )
        chunks = read_text(stream, received, die)
        assert "".join(received) == " 1 2 3 4" * 15
        assert not deaths
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("length") == 1
        assert chunks[-1].usage.completion_tokens == 60
    status = http.get(f"{counting_gateway.base_url}/streams/{chunks[0].id}").json()
    assert status["tier"] == "exact"
    assert len(status["continuations"]) == 2


def test_no_done_follows_the_error_of_an_engine_that_keeps_dying(counting_gateway: GatewayProcess) -> None:
    body = {"model": "counter", "messages": COUNT, "stream": True}
    seen: set[int] = set()
    with httpx2.stream("POST", f"{counting_gateway.base_url}/chat/completions", json=body, timeout=60) as response:
        rest = []
        for line in response.iter_lines():
            rest += [line] if line.startswith("data:") else []
            engine = counting_gateway.engine_pid
            if " 3" in line and engine is not None and engine not in seen:
                seen.add(engine)
                with suppress(ProcessLookupError):
                    os.kill(engine, signal.SIGKILL)
    assert rest[-1].startswith('data: {"error":')
    assert "data: [DONE]" not in rest


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_gateway_that_ends_leaves_no_engine_behind(tmp_path: Path, number: signal.Signals) -> None:
    with gateway_process(cwd=tmp_path) as running:
        running.wait_until_ready()
        engine = running.engine_pid
        kill(running.pid, number)
        running.process.wait(60)
        assert engine is not None
        wait_for(lambda: not is_alive(engine), "the engine has ended")


def test_a_gateway_killed_in_mid_answer_leaves_no_engine_behind(counting_gateway: GatewayProcess) -> None:
    engine = counting_gateway.engine_pid
    assert engine is not None
    with sdk(counting_gateway) as client:
        stream = client.chat.completions.create(model="counter", messages=COUNT, stream=True)
        with pytest.raises(openai.APIConnectionError):
            read_text(stream, [], lambda text: counting_gateway.process.kill())
    wait_for(lambda: not is_alive(engine), "the engine has ended")


def test_sigterm_lets_an_answer_finish(tmp_path: Path, slow_model: Path) -> None:
    with gateway_process(None, "--model", str(slow_model), cwd=tmp_path) as running, sdk(running) as client:
        running.wait_until_ready()
        stream = client.chat.completions.create(model="counter", messages=COUNT, stream=True, max_tokens=100)
        received = ""
        for chunk in stream:
            if chunk.choices[0].delta.role:  # the first one
                kill(running.pid, signal.SIGTERM)
            received += chunk.choices[0].delta.content or ""
        assert received == " 1 2 3 4" * 25
        assert running.process.wait(60) == 0


def test_without_any_configuration_the_demo_model_answers(own_gateway: GatewayProcess) -> None:
    with sdk(own_gateway) as client:
        assert [model.id for model in client.models.list()] == ["unbroken-demo"]
        answer = client.chat.completions.create(model="unbroken-demo", messages=HELLO)
    assert len(answer.choices[0].message.content or "") > 10


def test_two_gateways_on_one_machine_do_not_meet(own_gateway: GatewayProcess, tmp_path: Path) -> None:
    with gateway_process(cwd=tmp_path) as other:
        other.wait_until_ready()
        assert other.base_url != own_gateway.base_url
        kill(other.engine_pid)
        with sdk(own_gateway) as client:
            assert client.chat.completions.create(model="unbroken-demo", messages=HELLO).choices[0].message.content
