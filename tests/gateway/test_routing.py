"""Which upstream is asked, for which model, and under whose name the answer comes (FAULTS.md 17)."""

import asyncio
import random

import pytest

from unbroken.upstream.scripted import Gate, Hold, ScriptedUpstream, before_head, error, overloaded, text

from .conftest import upstream_settings

pytestmark = pytest.mark.anyio


async def test_ours_equals_theirs_asks_for_their_name_and_answers_with_ours(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream_settings("up0", upstream, models=("ours = vendor/theirs-70b",)))
    answer = await gateway.stream(model="ours")
    assert upstream.requests[0].json()["model"] == "vendor/theirs-70b"
    assert {chunk["model"] for chunk in answer.chunks} == {"ours"}
    response = await gateway.ask(model="ours")
    assert response.json()["model"] == "ours"


async def test_a_glob_serves_what_it_matches_and_an_exact_name_goes_first(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R6."""
    gateway = await serve(
        upstream_settings("up0", upstream, models=("llama-*", "our-* = their-*")),
        upstream_settings("up1", other, models=("llama-3",)),
    )
    await gateway.ask(model="llama-3")
    assert len(other.requests) == 1
    await gateway.ask(model="llama-4")
    await gateway.ask(model="our-large")
    assert [request.json()["model"] for request in upstream.requests] == ["llama-4", "their-large"]
    answer = await gateway.stream(model="mistral")
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"


async def test_a_route_says_the_order_and_another_model_to_fall_back_to(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """FAULTS.md 17: the answer and the log name the model that answered."""
    upstream.always(overloaded())
    gateway = await serve(
        upstream_settings("up0", upstream, models=("large",)),
        upstream_settings("up1", other, models=("small = their-small",)),
        route=[{"model": "large", "upstreams": ["up0", "up1:small"]}],
    )
    answer = await gateway.stream(model="large")
    assert {chunk["model"] for chunk in answer.chunks} == {"small"}
    assert other.requests[0].json()["model"] == "their-small"
    line = await gateway.wait_for_line()
    assert (line["model"], line["answered"], line["upstream"]) == ("large", "small", "up1")
    metrics = await gateway.metrics()
    assert metrics['unbroken_requests_total{model="small",outcome="finished",upstream="up1"}'] == 1


async def test_a_route_comes_before_the_order_of_the_upstreams(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R6."""
    gateway = await serve(upstream, other, route=[{"model": "m", "upstreams": ["up1", "up0"]}])
    for _ in range(3):
        await gateway.ask()
    assert len(other.requests) == 3
    assert not upstream.requests


async def test_among_equals_the_least_busy_is_asked(serve, upstream: ScriptedUpstream, other: ScriptedUpstream) -> None:
    """R6."""
    gate = Gate()
    for scripted in (upstream, other):
        scripted.always(text("one two three") | before_head(Hold(gate)))
    gateway = await serve(upstream, other)
    streams = []
    for n in range(6):
        streams.append(asyncio.ensure_future(gateway.stream()))
        await (upstream, other)[n % 2].wait_for_requests(n // 2 + 1)
    gate.open()
    assert all(answer.is_done for answer in await asyncio.gather(*streams))
    assert len(upstream.requests) == len(other.requests) == 3


async def test_weights_share_the_requests_among_equals(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """A weight of 3 beside one of 1 gets three quarters."""
    gateway = await serve(
        upstream_settings("up0", upstream, weight=3),
        upstream_settings("up1", other),
        chance=random.Random(1).random,
    )
    for _ in range(40):
        await gateway.ask()
    assert len(upstream.requests) + len(other.requests) == 40
    assert 24 <= len(upstream.requests) <= 36


async def test_failed_attempts_are_not_billed(serve, upstream: ScriptedUpstream, other: ScriptedUpstream) -> None:
    """FAULTS.md 17: one request, the usage of the upstream that answered, and that one's name."""
    upstream.always(error(500, "a very long error " * 50))
    other.script(text("one two three", usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}))
    gateway = await serve(upstream, other)
    await gateway.stream()
    line = await gateway.wait_for_line()
    assert (line["attempts"], line["input_tokens"], line["output_tokens"]) == (3, 7, 3)
    metrics = await gateway.metrics()
    assert metrics['unbroken_tokens_total{direction="output",model="m",upstream="up1"}'] == 3
    assert metrics['unbroken_retries_total{fault="server_error",upstream="up0"}'] == 2
    assert not any(name.startswith("unbroken_tokens") and "up0" in name and value for name, value in metrics.items())


async def test_requests_and_answers_pass_with_fields_that_nobody_here_knows(serve, upstream: ScriptedUpstream) -> None:
    """L8: unknown request fields go up untouched, unknown response fields come back untouched."""
    strange = {"x_vendor": {"deep": [1, 2.50, None, "é\u2028"]}, "reasoning_effort": "high"}
    gateway = await serve(upstream)
    whole = await gateway.ask(**strange)
    assert whole.json()["system_fingerprint"] == "fp_scripted"
    answer = await gateway.stream(**strange, messages=[{"role": "user", "content": "x", "x_part": [1]}])
    assert {chunk["system_fingerprint"] for chunk in answer.chunks} == {"fp_scripted"}
    for request in upstream.requests:
        assert {name: request.json()[name] for name in strange} == strange
    assert upstream.requests[1].json()["messages"] == [{"role": "user", "content": "x", "x_part": [1]}]
