"""`curl -N`, as in every README: the first chunk is there before the last exists."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import GatewayProcess, bare_environment, gateway_process, needed, run, scripted_process

ASK = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Tell me a joke about programmers."}],
    "stream": True,
}


def command(gateway: GatewayProcess, *arguments: str, **fields: object) -> list[str]:
    body = json.dumps(ASK | fields)
    headers = ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer none"]
    return [needed("curl"), "-sS", "-N", *arguments, f"{gateway.base_url}/chat/completions", *headers, "-d", body]


@pytest.fixture
def counting_gateway(tmp_path: Path, slow_model: Path) -> Iterator[GatewayProcess]:
    with gateway_process(None, "--model", str(slow_model), cwd=tmp_path) as running:
        yield running


def test_each_event_is_a_line_and_the_last_says_done(gateway: GatewayProcess) -> None:
    output = run(command(gateway), bare_environment())
    blocks = output.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    text = "".join(json.loads(block[6:])["choices"][0]["delta"].get("content") or "" for block in blocks[:-1])
    assert len(text.split()) >= 5


def test_the_first_chunk_comes_before_the_last_exists(counting_gateway: GatewayProcess) -> None:
    question = [{"role": "user", "content": "<count>"}]
    running = subprocess.Popen(
        command(counting_gateway, model="counter", messages=question), stdout=subprocess.PIPE, encoding="utf-8"
    )
    with running:
        assert running.stdout
        try:
            assert next(line for line in running.stdout if '" 1"' in line)
            # The model would count for a minute more; what came so far is a beginning.
            assert counting_gateway.metric("unbroken_open_streams") == 1
            assert running.poll() is None
        finally:
            running.kill()


def test_the_headers_forbid_that_anybody_holds_it_back(gateway: GatewayProcess) -> None:
    head = run(command(gateway, "-o", "/dev/null", "-D", "-"), bare_environment()).lower()
    assert head.startswith("http/1.1 200")
    assert "content-type: text/event-stream" in head
    assert "x-accel-buffering: no" in head
    assert "no-transform" in head
    assert "content-encoding" not in head


def test_an_error_is_json_with_its_status(gateway: GatewayProcess) -> None:
    output = run(command(gateway, "-w", "\n%{http_code} %{content_type}", model="nobody-99"), bare_environment())
    body, _, status = output.rpartition("\n")
    assert status == "404 application/json"
    assert json.loads(body)["error"]["code"] == "model_not_found"


def test_a_cut_answer_is_told_in_the_stream(tmp_path: Path) -> None:
    with scripted_process("cut_after=3", model="fragile") as upstream:
        config = tmp_path / "unbroken.toml"
        config.write_text(f'[[upstream]]\nname = "only"\nbase_url = "{upstream}"\nmodels = ["fragile"]\n')
        with gateway_process(config) as running:
            output = run(command(running, model="fragile"), bare_environment())
    assert output.rstrip("\n").rpartition("\n")[2].startswith('data: {"error":')
    assert "[DONE]" not in output
