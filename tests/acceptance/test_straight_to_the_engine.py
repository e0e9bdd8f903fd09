"""The gateway changes nothing that the engine says: the same questions with and without it."""

import json
import sys
from typing import Any

import pytest

from tests.acceptance.processes import EngineAlone, GatewayProcess, http
from unbroken.wire.sse import SseReader

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "stop": {"stop": ["."]},
    "length": {"max_tokens": 9},
    "choices": {"n": 2},
    "json": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["x", "y"]}}}},
    "engine's own": {"n_probs": 1, "top_k": 5, "repeat_penalty": 1.1, "timings_per_token": True},
}
#: What differs from one answer to the next, whoever gives it.
OWN = {"id", "created", "model", "timings", "usage"}


def body(**fields: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "Explain quantum computing in simple terms."}
    return {"model": "unbroken-demo", "messages": [question], "temperature": 0, "seed": 1, "max_tokens": 40, **fields}


def events(base_url: str, key: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    response = http.post(
        f"{base_url}/chat/completions", json={**request, "stream": True}, headers={"authorization": f"Bearer {key}"}
    )
    blocks = [bytes(event.data) for event in SseReader().feed(response.raise_for_status().content)]
    assert blocks[-1] == b"[DONE]"
    chunks = [json.loads(block) for block in blocks[:-1]]
    usage = [chunk for chunk in chunks if not chunk["choices"]]  # llama.cpp has one for each choice
    return [*(chunk for chunk in chunks if chunk["choices"]), usage[-1]]


def said(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is the same whenever it is asked for, choice by choice."""
    said = [{name: value for name, value in answer.items() if name not in OWN} for answer in answers]
    return sorted(said, key=lambda answer: answer["choices"][0]["index"] if answer["choices"] else sys.maxsize)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_whole_answer_is_the_engine_s_own(gateway: GatewayProcess, engine: EngineAlone, feature: str) -> None:
    request = body(**FEATURES[feature])
    straight, through = (
        http.post(f"{base}/chat/completions", json=request, headers={"authorization": f"Bearer {key}"}).json()
        for base, key in ((engine.base_url, engine.key), (gateway.base_url, "none"))
    )
    assert said([through]) == said([straight])
    assert through.keys() == straight.keys()


@pytest.mark.parametrize("feature", FEATURES)
def test_a_stream_is_the_engine_s_own(gateway: GatewayProcess, engine: EngineAlone, feature: str) -> None:
    request = body(**FEATURES[feature], stream_options={"include_usage": True})
    straight = events(engine.base_url, engine.key, request)
    through = events(gateway.base_url, "none", request)
    assert said(through) == said(straight)
    assert [chunk.keys() for chunk in through] == [chunk.keys() for chunk in straight]
    assert through[-1]["usage"]["completion_tokens"] == straight[-1]["usage"]["completion_tokens"]
