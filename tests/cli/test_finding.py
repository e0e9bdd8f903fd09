"""Which server a command asks: the one that is named, the one that runs here, or one of its own."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unbroken.upstream.scripted import ScriptedUpstream, text

from .conftest import Ended, Run, Serving, configuration

pytestmark = pytest.mark.anyio

ANSWERED = Ended(0, "one two three\n", "")


@contextmanager
def free_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody else will: it is bound."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


async def test_a_chat_of_its_own_has_the_models_of_the_configuration(run: Run, upstream: ScriptedUpstream) -> None:
    ours = configuration(upstream.base_url, 'models = ["mine = small"]')
    assert await run("chat", "-m", "mine", "Hi", config=ours) == ANSWERED
    assert upstream.requests[-1].json()["model"] == "small"


async def test_a_configuration_may_be_anywhere(run: Run, upstream: ScriptedUpstream, elsewhere: Path) -> None:
    (elsewhere / "other.toml").write_text(configuration(upstream.base_url, 'models = ["mine = small"]'))
    assert await run("chat", "--config", "elsewhere/other.toml", "-m", "mine", "Hi") == ANSWERED


async def test_a_chat_of_its_own_has_the_key_of_the_configuration(run: Run, upstream: ScriptedUpstream) -> None:
    keys = '[keys]\napp = "sk-app-secret"\n'
    assert await run("chat", "Hi", config=configuration(upstream.base_url, 'models = ["small"]') + keys) == ANSWERED


@pytest.mark.parametrize("command", [("chat", "Hi"), ("streams",), ("chat", "--attach", "chatcmpl-1")])
async def test_a_broken_configuration_is_told(run: Run, command: tuple[str, ...]) -> None:
    ended = await run(*command, config="[server]\nprot = 80")
    assert (ended.code, ended.output) == (1, "")
    assert ended.errors.startswith("unbroken: unbroken.toml: server.prot is not a setting; did you mean port?")


async def test_a_server_that_is_named_needs_no_configuration(run: Run, upstream: ScriptedUpstream) -> None:
    assert await run("chat", "--base-url", upstream.base_url, "Hi", config="[server]\nprot = 80") == ANSWERED


async def test_an_option_goes_before_the_environment(run: Run, upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream(models=["far"]) as named:
        ours = configuration(upstream.base_url, 'models = ["mine = small"]')
        for name in ("UNBROKEN_BASE_URL", "OPENAI_BASE_URL"):
            env = {name: named.base_url}
            assert await run("models", config=ours, env=env) == Ended(0, "far\n", "")
            assert await run("models", "--config", "unbroken.toml", env=env) == Ended(0, "mine\n", "")
            assert await run("chat", "--config", "unbroken.toml", "-m", "mine", "Hi", env=env) == ANSWERED
        assert all(request.path == "/v1/models" for request in named.requests)


async def test_the_gateway_at_the_configured_port_is_asked(
    run: Run, serving: Serving, upstream: ScriptedUpstream, elsewhere: Path
) -> None:
    """Also one that was not started by this user, whose folder of running gateways we cannot see."""
    upstream.always(text("from the gateway"))
    other_user = {"XDG_RUNTIME_DIR": str(elsewhere)}
    async with serving(config=configuration(upstream.base_url), folder=elsewhere, env=other_user) as url:
        port = int(url.split(":")[2].partition("/")[0])
        for ours in ({"config": configuration("http://127.0.0.1:1/v1", port=port)}, {"config": ""}):
            env = {} if ours["config"] else {"UNBROKEN_SERVER_PORT": str(port)}
            assert await run("chat", "Hi", **ours, env=env) == Ended(0, "from the gateway\n", "")
            assert (await run("streams", env=env)).code == 0


async def test_a_gateway_that_runs_at_another_port_is_asked(
    run: Run, serving: Serving, upstream: ScriptedUpstream, elsewhere: Path
) -> None:
    upstream.always(text("from the gateway"))
    with free_port() as free:
        async with serving(config=configuration(upstream.base_url)):
            assert await run("chat", "Hi") == Ended(0, "from the gateway\n", "")
            assert (await run("streams")).errors == "No streams are going on.\n"
            nobody = {"UNBROKEN_SERVER_PORT": str(free)}
            assert await run("chat", "Hi", folder=elsewhere, env=nobody) == Ended(0, "from the gateway\n", "")


async def test_a_gateway_of_another_configuration_is_not_the_one_that_is_meant(
    run: Run, serving: Serving, upstream: ScriptedUpstream, elsewhere: Path
) -> None:
    async with serving(config=configuration("http://127.0.0.1:1/v1", 'models = ["other"]'), folder=elsewhere) as url:
        port = int(url.split(":")[2].partition("/")[0])
        ours = configuration(upstream.base_url, 'models = ["mine = small"]', port=port)
        assert await run("chat", "-m", "mine", "Hi", config=ours) == ANSWERED
        assert "No server runs here" in (await run("streams")).errors


async def test_a_gateway_may_know_secrets_that_we_do_not(
    run: Run, serving: Serving, upstream: ScriptedUpstream
) -> None:
    ours = configuration(upstream.base_url, 'api_key = "env:THE_KEY"')
    async with serving(config=ours, env={"THE_KEY": "sk-secret"}):
        assert await run("chat", "Hi") == ANSWERED
        assert (await run("streams")).code == 0
    assert "there is no environment variable THE_KEY" in (await run("chat", "Hi")).errors


async def test_of_several_gateways_one_has_to_be_named(
    run: Run, serving: Serving, upstream: ScriptedUpstream, elsewhere: Path
) -> None:
    ours = configuration(upstream.base_url)
    with free_port() as free:
        nobody = {"UNBROKEN_SERVER_PORT": str(free)}
        async with serving(config=ours) as one, serving(config=ours) as other:
            ended = await run("chat", "Hi", folder=elsewhere, env=nobody)
            assert ended.code == 1
            assert all(url in ended.errors for url in (one, other, "--base-url"))


async def test_doctor_finds_no_fault_while_the_gateway_runs(
    run: Run, serving: Serving, upstream: ScriptedUpstream
) -> None:
    async with serving(config=configuration(upstream.base_url)) as url:
        port = url.split(":")[2].partition("/")[0]
        ended = await run("doctor", env={"UNBROKEN_SERVER_PORT": port, "UNBROKEN_STORE_STREAMS": "memory"})
    assert ended.code == 0
    assert f"✓ address 127.0.0.1:{port}  a gateway runs here" in ended.output
