"""The engine dies, the gateway dies: what the reader gets, and what is left behind."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.acceptance.processes import GatewayProcess, gateway_process, http, is_alive, kill, read_text, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the engine in /proc")

HELLO: Any = [{"role": "user", "content": "Hello, how are you?"}]
TOKENS = 400  # of an answer that outlasts its engine twice, on a machine with other work to do
AT_ONCE = 8
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


@pytest.mark.parametrize("workers", [1, 2])
def test_an_engine_killed_in_mid_answer_goes_on_from_the_very_tokens(
    tmp_path: Path, slow_model: Path, workers: int
) -> None:
    """K1: exact, again and again, in one envelope, and every token once."""
    more = ("--workers", str(workers), "--model", str(slow_model))
    with gateway_process(None, *more, cwd=tmp_path) as gateway:
        gateway.wait_until_ready()
        with sdk(gateway) as client:
            stream = client.chat.completions.create(
                model="counter",
                messages=COUNT,
                stream=True,
                max_tokens=TOKENS,
                temperature=0,
                stream_options={"include_usage": True},
                extra_headers={"unbroken-durable": "true"},
            )
            chunks, received, died = [], "", 0
            for chunk in stream:
                chunks.append(chunk)
                received += "".join(choice.delta.content or "" for choice in chunk.choices)
                if died < 2 and len(received) > 20 * (died + 1):
                    die_in_mid_answer(gateway, chunk.id, died)
                    died += 1
        assert received == " 1 2 3 4" * (TOKENS // 4)
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("length") == 1
        assert chunks[-1].usage.completion_tokens == TOKENS
        status = stream_status(gateway, chunks[0].id)
    assert status["tier"] == "exact"
    assert len(status["continuations"]) == 2


def test_an_answer_goes_on_behind_an_engine_that_froze(tmp_path: Path, slow_model: Path, write_config: Any) -> None:
    """Nothing closes when a process is frozen: whether it lives has to be asked."""
    engine = f'[[upstream]]\nname = "local"\nengine = "llama.cpp"\npath = "{slow_model}"\n'
    config = write_config(f"{engine}[upstream.engine_options]\nhang_timeout = 2\n")
    with gateway_process(config, cwd=tmp_path) as gateway:
        gateway.wait_until_ready()
        with sdk(gateway) as client:
            request = {"model": "counter", "messages": COUNT, "stream": True, "max_tokens": 100, "temperature": 0}
            stream: Any = client.chat.completions.create(**request)
            pieces: list[str] = []
            frozen: list[int | None] = []

            def freeze(text: str) -> None:
                if len(text) > 20 and not frozen:
                    frozen.append(gateway.engine_pid)
                    kill(frozen[0], signal.SIGSTOP)

            read_text(stream, pieces, freeze)
        assert "".join(pieces) == " 1 2 3 4" * 25
        assert gateway.engine_pid not in (None, *frozen)


def die_in_mid_answer(gateway: GatewayProcess, stream: str, died: int) -> None:
    """Kills the engine; what is read may be of its former life, so it must first be seen to go on with the answer."""
    wait_for(lambda: len(stream_status(gateway, stream)["continuations"]) == died, "the engine goes on")
    kill(gateway.engine_pid)


def stream_status(gateway: GatewayProcess, stream: str) -> dict[str, Any]:
    return http.get(f"{gateway.base_url}/streams/{stream}").raise_for_status().json()


def test_all_answers_that_a_killed_engine_was_giving_go_on(tmp_path: Path, slow_model: Path, write_config: Any) -> None:
    """More of them than failures in a row open a circuit."""
    config = write_config(
        f"""
        [[upstream]]
        name = "counter"
        engine = "llama.cpp"
        path = "{slow_model}"
        engine_options = {{ slots = {AT_ONCE} }}
        """
    )
    begun = Barrier(AT_ONCE)

    def read() -> str:
        with sdk(gateway) as client:
            stream = client.chat.completions.create(
                model="counter", messages=COUNT, stream=True, max_tokens=60, temperature=0
            )
            chunks = iter(stream)
            received = next(chunks).choices[0].delta.content or ""
            if begun.wait(60) == 0:
                kill(gateway.engine_pid)
            return received + "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with gateway_process(config, cwd=tmp_path) as gateway, ThreadPoolExecutor(AT_ONCE) as threads:
        gateway.wait_until_ready()
        answers = [threads.submit(read) for _ in range(AT_ONCE)]
        assert [answer.result(60) for answer in answers] == [" 1 2 3 4" * 15] * AT_ONCE
        assert gateway.metric("unbroken_upstream_up") == 1


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
