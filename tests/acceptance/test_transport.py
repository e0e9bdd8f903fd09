"""The SDKs over the resuming transport and a proxy that cuts lines, before a real gateway (D3, D5, D8)."""

import itertools
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai import OpenAI

import unbroken
from tests.acceptance.processes import GatewayProcess, bare_environment, gateway_process, http, run, wait_for
from tests.client.durable_server import CuttingProxy
from tests.client.sdk_readers import CHAT, MESSAGES, READERS, RESPONSES, Dialect, Reader
from unbroken.wire.sse import SseReader

LONG = "Tell me what you know of streams, at length."
ASKED: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": LONG}], "max_tokens": 120},
    "responses": {"input": LONG, "max_output_tokens": 120},
    "messages": {"messages": [{"role": "user", "content": LONG}], "max_tokens": 120},
}
TEXT_OF_EVENT: Mapping[str, Callable[[Any], str]] = {
    "chat": lambda said: "".join(choice["delta"].get("content") or "" for choice in said["choices"]),
    "responses": lambda said: said["delta"] if said["type"] == "response.output_text.delta" else "",
    "messages": lambda said: said["delta"].get("text", "") if said["type"] == "content_block_delta" else "",
}


def text_in_log(gateway: GatewayProcess, stream: str, dialect: str) -> str:
    """The text of a stream as whoever comes last reads it, without any of the transport."""
    answer = http.get(f"{gateway.base_url}/streams/{stream}", headers={"accept": "text/event-stream"})
    answer.raise_for_status()
    events = [event.data for event in SseReader().feed(answer.content) if event.data != b"[DONE]"]
    return "".join(TEXT_OF_EVENT[dialect](msgspec.json.decode(data)) for data in events)


def asking(reader: Reader, name: str) -> Reader:
    dialect: Dialect = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES}[name]
    return replace(reader, dialect=replace(dialect, asked={"model": "unbroken-demo", **ASKED[name]}))


@pytest.mark.parametrize("name", READERS)
def test_an_answer_over_cut_lines_is_what_the_log_holds(gateway: GatewayProcess, name: str) -> None:
    chance = random.Random(name)
    sizes = itertools.chain([1_000], iter(lambda: chance.randint(1_000, 7_000), 0))  # the largest block must pass once
    told: list[unbroken.Resumed] = []
    dialect = name.partition(" ")[0]
    with CuttingProxy(int(gateway.address.rpartition(":")[2]), lambda: next(sizes)) as proxy:
        text = asking(READERS[name], dialect).read(proxy.root, on_resume=told.append)
    assert told
    (stream,) = {resumed.stream for resumed in told}
    assert text
    assert text == text_in_log(gateway, stream, dialect)


def test_a_stream_is_listed_while_it_runs_and_cancelled_when_it_is_left(tmp_path: Path, slow_model: Path) -> None:
    seen: list[str] = []
    hooks = {"response": [lambda response: seen.append(response.headers["unbroken-stream"])]}
    with (
        gateway_process(None, "--model", str(slow_model), cwd=tmp_path) as counting,
        unbroken.http_client(event_hooks=hooks) as client,
    ):
        sdk = OpenAI(base_url=counting.base_url, api_key="none", http_client=client)
        question = [{"role": "user", "content": "Count as far as you can: <count>"}]
        with sdk.chat.completions.create(model="counter", messages=question, stream=True) as stream:  # type: ignore[call-overload]
            next(stream)
            listed = run(
                [sys.executable, "-m", "unbroken", "streams", "--base-url", counting.base_url], bare_environment()
            )
            assert seen[0] in listed
            assert status(counting, seen[0])["state"] == "running"
        wait_for(lambda: status(counting, seen[0])["state"] == "cancelled", "the stream is cancelled")


def status(gateway: GatewayProcess, stream: str) -> Any:
    """What the gateway says of a stream (D4)."""
    return http.get(f"{gateway.base_url}/streams/{stream}").raise_for_status().json()
