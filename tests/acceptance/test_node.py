"""What users write in JavaScript, with the official SDK and without: `tests/node/*.mjs`, run by Node."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import GatewayBefore
from tests.acceptance.processes import GatewayProcess, gateway_process, missing, needed, run, scripted_process, wait_for

NODE = Path(__file__).parent.parent / "node"


def node(program: str) -> list[str]:
    """The command that runs a program; `npm ci` must have been run."""
    for package in ("openai", "@anthropic-ai/sdk"):
        if not (NODE / "node_modules" / package).is_dir():
            missing(f"the package {package} is not installed in tests/node (npm ci)")
    return [needed("node"), str(NODE / program)]


@pytest.mark.parametrize("program", ["stream.mjs", "fetch.mjs"])
def test_for_await_and_plain_fetch(gateway: GatewayProcess, program: str) -> None:
    printed = run(node(program), gateway.environment())
    assert len(printed.split()) >= 5
    assert program == "stream.mjs" or printed.endswith("\ndone\n")


def test_an_answer_in_one_piece(gateway: GatewayProcess) -> None:
    content, finish = run(node("whole.mjs"), gateway.environment()).splitlines()
    assert len(json.loads(content)) > 15
    reason, tokens = finish.split()
    assert reason == "stop"
    assert int(tokens) > 10


def test_a_tool_call_by_index(gateway: GatewayProcess) -> None:
    call = json.loads(run(node("tools.mjs"), gateway.environment()))
    assert call["name"] == "get_weather"
    assert "Berlin" in call["arguments"]["location"]
    assert call["finishReason"] == "tool_calls"


@pytest.mark.parametrize("program", ["run_tools.mjs", "claude_run_tools.mjs"])
def test_the_tool_runner_of_the_sdk(gateway: GatewayProcess, program: str) -> None:
    environment = gateway.environment() | gateway.claude_environment()
    asked, _, answer = run(node(program), environment).partition("\n")
    assert "Berlin" in asked
    assert len(answer.removeprefix("answer:").split()) >= 3


def test_an_unknown_model_is_the_sdk_s_not_found(gateway: GatewayProcess) -> None:
    assert run(node("errors.mjs"), gateway.environment()).split() == ["true", "404", "model_not_found", "true"]


def test_for_await_over_a_message_s_events(gateway: GatewayProcess) -> None:
    assert len(run(node("claude_stream.mjs"), gateway.claude_environment()).split()) >= 5


def test_the_message_helper_and_an_error_of_anthropic_s_sdk(gateway: GatewayProcess) -> None:
    answer, error = run(node("claude_helper.mjs"), gateway.claude_environment()).splitlines()
    streamed, final, reason = json.loads(answer)
    assert streamed == final
    assert len(final.split()) >= 5
    assert reason == "end_turn"
    assert error.split() == ["true", "404", "not_found_error", "true"]


def test_a_tool_and_the_answer_from_its_result(gateway: GatewayProcess) -> None:
    called, answer = run(node("claude_tools.mjs"), gateway.claude_environment()).split("\n", 1)
    call = json.loads(called)
    assert call["name"] == "get_weather"
    assert "Berlin" in call["input"]["location"]
    assert call["stopReason"] == "tool_use"
    assert len(answer.removeprefix("answer:").split()) >= 3


def test_for_await_over_a_response_s_events(gateway: GatewayProcess) -> None:
    answer, is_numbered = run(node("responses_stream.mjs"), gateway.environment()).splitlines()
    said = json.loads(answer)
    assert said["text"] == said["last"]
    assert len(said["text"].split()) >= 5
    assert is_numbered == "true"


def test_a_function_call_and_the_response_that_goes_on_from_it(gateway: GatewayProcess) -> None:
    called, answer = run(node("responses_tools.mjs"), gateway.environment()).split("\n", 1)
    call = json.loads(called)
    assert call["name"] == "get_weather"
    assert "Berlin" in call["arguments"]["location"]
    assert len(answer.removeprefix("answer:").split()) >= 3


def test_a_cut_answer_is_an_error_and_not_an_end(gateway_before: GatewayBefore) -> None:
    with scripted_process("cut_after=4", model="fragile") as upstream, gateway_before(upstream, "fragile") as running:
        is_error, text, *message = run(node("cut.mjs"), running.environment()).split(maxsplit=2)
    assert is_error == "true"
    assert text.startswith('"word1')
    assert message


@pytest.fixture
def counting_gateway(tmp_path: Path, slow_model: Path) -> Iterator[GatewayProcess]:
    with gateway_process(None, "--model", str(slow_model), cwd=tmp_path) as running:
        yield running


def test_an_abort_stops_the_answer(counting_gateway: GatewayProcess) -> None:
    running = subprocess.Popen(
        node("abort.mjs"),
        env=counting_gateway.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with running:
        assert running.stdout
        text, last = running.stdout.readline(), running.stdout.readline()
        assert text.startswith(" 1 2 3 4")  # the SDK still hands out what it had read by then
        assert last == "Press Enter to quit\n"
        gone = {"model": "counter", "outcome": "client_left"}
        wait_for(lambda: counting_gateway.metric("unbroken_requests_total", **gone) == 1, "the answer has ended")
        assert counting_gateway.metric("unbroken_upstream_open_requests") == 0
        running.communicate("\n")
    assert running.returncode == 0
