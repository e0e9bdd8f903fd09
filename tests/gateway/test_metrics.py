"""`/metrics`: what Prometheus reads."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from unbroken.gateway.metrics import MAX_SERIES
from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.scripted import Gate, ScriptedUpstream, all_at_once, cut_after, error, hold_after, text

pytestmark = pytest.mark.anyio


class Scrape(dict):
    """Values by sample name and label values."""

    def value(self, name: str, **labels: str) -> float:
        return self[name, tuple(sorted(labels.items()))]

    def names(self) -> set[str]:
        return {name for name, _ in self}


async def scrape(gateway) -> Scrape:
    response = await gateway.client.get(f"http://127.0.0.1:{gateway.port}/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = Scrape()
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "a sample is there twice"
            found[key] = sample.value
    return found


async def test_requests_tokens_and_times_are_counted(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    await gateway.ask()
    await gateway.stream()
    await gateway.stream()
    found = await scrape(gateway)
    here = {"model": "m", "upstream": "up0"}
    assert found.value("unbroken_requests_total", **here, outcome="finished") == 3
    assert found.value("unbroken_responses_total", route="/v1/chat/completions", status="200") == 3
    assert found.value("unbroken_tokens_total", **here, direction="output") > 0
    assert found.value("unbroken_tokens_total", **here, direction="input") > 0
    assert found.value("unbroken_first_token_seconds_count", **here) == 2
    assert found.value("unbroken_first_token_seconds_sum", **here) > 0
    assert found.value("unbroken_duration_seconds_count", **here) == 3
    assert found.value("unbroken_inter_token_seconds_bucket", **here, le="+Inf") >= 1
    assert found.value("unbroken_upstream_up", upstream="up0") == 1
    assert found.value("unbroken_upstream_open_requests", upstream="up0") == 0
    assert found.value("unbroken_open_streams") == 0


async def test_the_time_between_tokens_is_that_of_the_gaps_that_are_counted(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    upstream.script(text("one two three") | all_at_once())
    await gateway.stream()
    found, here = await scrape(gateway), {"model": "m", "upstream": "up0"}
    assert found.value("unbroken_inter_token_seconds_count", **here) == 0
    assert found.value("unbroken_inter_token_seconds_sum", **here) == 0


async def test_buckets_only_grow(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    for _ in range(5):
        await gateway.stream()
    found = await scrape(gateway)
    for name in ("first_token", "inter_token", "duration"):
        rows = {
            float(dict(labels)["le"]): value
            for (sample, labels), value in found.items()
            if sample == f"unbroken_{name}_seconds_bucket"
        }
        values = [rows[bound] for bound in sorted(rows)]
        assert values == sorted(values)
        assert values[-1] == found.value(f"unbroken_{name}_seconds_count", model="m", upstream="up0")


async def test_failures_retries_and_refusals_are_counted(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    upstream.script(error(500, "busy"), text("well"))
    await gateway.ask()
    upstream.script(text("one two three") | cut_after(3))
    await gateway.stream()
    await gateway.ask(model="unknown")
    line = await dial(gateway)
    line.send(b"nonsense\r\n\r\n")
    await line.read_response()
    found = await scrape(gateway)
    assert found.value("unbroken_retries_total", upstream="up0", fault="server_error") == 1
    assert found.value("unbroken_requests_total", model="m", upstream="up0", outcome="cut") == 1
    assert found.value("unbroken_responses_total", route="/v1/chat/completions", status="404") == 1
    assert found.value("unbroken_responses_total", route="", status="400") == 1


async def test_open_streams_are_a_gauge(serve, upstream: ScriptedUpstream, dial) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.post(gateway.body(stream=True))
    await line.read_head()
    found = await scrape(gateway)
    assert found.value("unbroken_open_streams") == 1
    assert found.value("unbroken_upstream_open_requests", upstream="up0") == 1
    gate.open()
    await line.read_chunk()
    while await line.read_chunk():
        pass
    assert (await scrape(gateway)).value("unbroken_open_streams") == 0


async def test_an_upstream_that_is_left_alone_is_down(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, retries={"breaker_failures": 1, "attempts": 1})
    upstream.script(error(500, "broken"))
    await gateway.ask()
    assert (await scrape(gateway)).value("unbroken_upstream_up", upstream="up0") == 0


@pytest.mark.parametrize("model", ['quo"te', "back\\slash", "new\nline", "\u2028", "émoji 🎈", "a" * 200])
async def test_any_name_makes_a_valid_line(serve, upstream: ScriptedUpstream, model: str) -> None:
    gateway = await serve(UpstreamSettings(name='a"b\\c', base_url=upstream.base_url, models=("*",)))
    await gateway.ask(model=model)
    found = await scrape(gateway)
    (labels,) = [dict(labels) for name, labels in found if name == "unbroken_requests_total"]
    assert labels["upstream"] == 'a"b\\c'
    assert labels["model"] == model


async def test_names_that_clients_invent_are_bounded(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(UpstreamSettings(name="any", base_url=upstream.base_url, models=("*",)))
    for number in range(MAX_SERIES + 20):
        gateway.gateway.metrics.answered(f"invented-{number}", "any").requests["finished"] = 1
    for number in range(5):
        await gateway.client.get(f"/invented/{number}")
        await gateway.ask(model=f"more-{number}")
    found = await scrape(gateway)
    models = {dict(labels)["model"] for name, labels in found if name == "unbroken_requests_total"}
    assert len(models) == MAX_SERIES + 1
    assert found.value("unbroken_requests_total", model="other", upstream="any", outcome="finished") >= 5
    assert {dict(labels)["route"] for name, labels in found if name == "unbroken_responses_total"} <= {
        "", "/v1/chat/completions", "/metrics"
    }  # fmt: skip


async def test_with_keys_the_figures_need_one(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"prometheus": "sk-scrape-secret"})
    assert (await scrape(gateway)).names()
    line = await dial(gateway)
    line.get("/metrics")
    assert (await line.read_response()).status == 401
