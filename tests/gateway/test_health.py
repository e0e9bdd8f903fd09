"""Probes: alive, and ready."""

import pytest

from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.scripted import ScriptedUpstream, error

pytestmark = pytest.mark.anyio


async def probe(gateway, path: str, **headers: str):
    return await gateway.client.get(f"http://127.0.0.1:{gateway.port}{path}", headers=headers)


async def test_a_gateway_is_alive_whatever_its_upstreams_are(serve) -> None:
    gateway = await serve()
    response = await probe(gateway, "/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_a_gateway_is_ready_while_an_upstream_may_be_asked(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, retries={"breaker_failures": 1, "attempts": 1})
    response = await probe(gateway, "/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    upstream.script(error(500, "broken"))
    await gateway.ask()
    response = await probe(gateway, "/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "not ready", "upstreams": {"up0": "left alone"}}


async def test_an_upstream_that_is_probed_next_is_on_trial(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, retries={"breaker_failures": 1, "attempts": 1, "breaker_cooldown": 0})
    upstream.script(error(500, "broken"))
    await gateway.ask()
    response = await probe(gateway, "/readyz")
    assert response.json() == {"status": "ready", "upstreams": {"up0": "on trial"}}


async def test_a_gateway_without_upstreams_is_not_ready(serve) -> None:
    assert (await probe(await serve(), "/readyz")).status_code == 503


async def test_a_model_that_cannot_be_run_is_not_ready(serve, tmp_path) -> None:
    path = tmp_path / "no.gguf"
    gateway = await serve(UpstreamSettings(name="own", engine="llama.cpp", path=str(path), models=("m",)))
    response = await probe(gateway, "/readyz")
    assert response.status_code == 503
    assert "own" in response.json()["upstreams"]


async def test_a_draining_gateway_is_not_ready(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    gateway.gateway.is_draining = True
    assert (await probe(gateway, "/readyz")).status_code == 503


async def test_strangers_hear_whether_but_not_why(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keys={"app": "sk-app-secret"})
    response = await probe(gateway, "/readyz", authorization="Bearer wrong")
    assert response.json() == {"status": "ready"}
    response = await probe(gateway, "/readyz", authorization="Bearer sk-app-secret")
    assert response.json() == {"status": "ready", "upstreams": {"up0": "well"}}


async def test_probes_do_not_fill_the_log(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await probe(gateway, path)).status_code == 200
    assert not gateway.log_lines()
