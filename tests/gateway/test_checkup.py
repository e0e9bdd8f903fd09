"""What `unbroken doctor` finds: no fault where all is well, and every fault where it is not."""

import socket
from typing import Any

import pytest

from unbroken.gateway.checkup import Finding, examine
from unbroken.settings.tree import Settings
from unbroken.upstream.scripted import ScriptedUpstream, body

from .conftest import settings_of, upstream_settings

pytestmark = pytest.mark.anyio


async def found(settings: Settings) -> dict[str, Finding]:
    """Each finding under its first word."""
    return {finding.what.partition(" ")[0]: finding async for finding in examine(settings)}


async def test_a_gateway_that_runs_at_the_address_is_no_fault(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    findings = await found(settings_of(upstream, server={"port": gateway.port}))
    assert findings["address"] == Finding(f"address 127.0.0.1:{gateway.port}", True, "a gateway runs here")
    assert all(finding.is_well for finding in findings.values())


async def test_another_server_at_the_address_is_a_fault(upstream: ScriptedUpstream) -> None:
    port = int(upstream.base_url.split(":")[2].partition("/")[0])
    upstream.answer_with(lambda request: body(b'{"status":"up"}'))
    address = (await found(settings_of(upstream, server={"port": port})))["address"]
    assert not address.is_well
    assert "Address already in use" in address.found
    assert "another port" in address.advice


async def test_a_server_that_says_nothing_is_a_fault_too(upstream: ScriptedUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = (await found(settings_of(upstream, server={"port": taken.getsockname()[1]})))["address"]
    assert not address.is_well


@pytest.mark.parametrize(
    ("host", "keys", "is_well", "said"),
    [
        ("127.0.0.1", {}, True, "none: only this machine is served"),
        ("0.0.0.0", {}, False, "none"),
        ("0.0.0.0", {"app": "sk-app-secret"}, True, "app"),
    ],
)
async def test_address_and_keys_agree(
    upstream: ScriptedUpstream, host: str, keys: dict[str, str], is_well: bool, said: str
) -> None:
    findings = await found(settings_of(upstream, server={"host": host, "port": 0}, keys=keys))
    assert (findings["address"].is_well, findings["keys"].is_well) == (is_well, is_well)
    assert findings["keys"].found == said


@pytest.mark.parametrize(
    ("models", "more", "expected"),
    [
        (("m",), {}, Finding("models", True, "m")),
        ((), {}, Finding("models", True, "whatever the upstreams list")),
        (("m", "far"), {}, Finding("models", True, "m, far")),
        (("m",), {"far": ("far",)}, Finding("models", False, "m; without an upstream that is well: far")),
        (("m",), {"far": ("m",)}, Finding("models", True, "m")),
        (None, {"far": ("m", "far")}, Finding("models", False, "none; without an upstream that is well: m, far")),
        (None, {"far": ()}, Finding("models", False, "none: no upstream is well")),
        (None, {}, Finding("models", False, "none")),
    ],
)
async def test_models_are_well_where_an_upstream_of_theirs_is(
    upstream: ScriptedUpstream,
    other: ScriptedUpstream,
    models: tuple[str, ...] | None,
    more: dict[str, Any],
    expected: Finding,
) -> None:
    await other.stop()
    near = [] if models is None else [upstream_settings("near", upstream, models=models)]
    far = [upstream_settings(name, other, models=listed) for name, listed in more.items()]
    finding = (await found(settings_of(*near, *far, server={"port": 0})))["models"]
    assert (finding.is_well, finding.found) == (expected.is_well, expected.found)
    assert bool(finding.advice) is not finding.is_well
