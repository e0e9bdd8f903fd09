"""Without a configuration the upstreams are found: by keys in the environment, on this machine, in the package."""

import pytest

from tests.conftest import NO_OLLAMA
from unbroken.gateway.discover import with_found_upstreams
from unbroken.rules.routing import RoutingTable, Served
from unbroken.settings.read import SettingsInvalid, read_settings
from unbroken.settings.tree import Settings, UpstreamSettings
from unbroken.upstream.scripted import Answer, Script, ScriptedUpstream, Stall, body, error

pytestmark = pytest.mark.anyio


async def found(environment: dict[str, str], settings: Settings | None = None) -> dict[str, UpstreamSettings]:
    environment = NO_OLLAMA | environment
    settings = await with_found_upstreams(settings or read_settings(None, environment), environment)
    return {upstream.name: upstream for upstream in settings.upstream}


async def test_the_demo_model_is_always_there() -> None:
    upstreams = await found({})
    assert upstreams["demo"].engine == "llama.cpp"
    assert list(upstreams) == ["demo"]


async def test_keys_in_the_environment_name_their_providers() -> None:
    upstreams = await found({"OPENAI_API_KEY": "sk-openai-key", "ANTHROPIC_API_KEY": "sk-ant-key"})
    assert (upstreams["openai"].dialect, upstreams["openai"].api_key) == ("openai-chat", "sk-openai-key")
    assert (upstreams["anthropic"].dialect, upstreams["anthropic"].api_key) == ("anthropic-messages", "sk-ant-key")
    assert upstreams["anthropic"].models == ("claude-*",)


async def test_a_configuration_with_upstreams_is_left_alone() -> None:
    own = UpstreamSettings(name="own", base_url="http://127.0.0.1:1/v1")
    assert list(await found({"OPENAI_API_KEY": "sk-openai-key"}, Settings(upstream=(own,)))) == ["own"]


async def test_an_ollama_is_found_with_its_models() -> None:
    async with ScriptedUpstream(models=["llama3.2:latest", "qwen3:4b"]) as ollama:
        upstreams = await found({"UNBROKEN_OLLAMA_BASE_URL": ollama.base_url})
    assert upstreams["ollama"].models == ("llama3.2:latest", "qwen3:4b")
    assert upstreams["ollama"].base_url == ollama.base_url
    assert [request.path for request in ollama.requests] == ["/v1/models"]


@pytest.mark.parametrize(
    "answer",
    [
        body(b'{"object":"list","data":null}'),
        body(b'{"object":"list","data":[]}'),
        body(b"<html>"),
        body(b'{"x":' + b"[" * 100_000),
        body(b'{"data":[{"id":"\xff"}]}'),
        error(500, "no"),
        Script((Stall(),)),
    ],
    ids=["no models", "an empty list", "nonsense", "a deep one", "no UTF-8", "an error", "silence"],
)
async def test_what_lists_no_models_is_no_ollama(answer: Answer | Script) -> None:
    async with ScriptedUpstream() as other:
        other.answer_with(lambda request: answer)
        assert list(await found({"UNBROKEN_OLLAMA_BASE_URL": other.base_url})) == ["demo"]


async def test_an_empty_variable_is_none() -> None:
    upstreams = await found({"OPENAI_API_KEY": "sk-openai-key", "UNBROKEN_OPENAI_BASE_URL": ""})
    assert upstreams["openai"].base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize("provider", ["OPENAI", "ANTHROPIC", "OLLAMA"])
async def test_an_address_that_is_none_is_told(provider: str) -> None:
    variable = f"UNBROKEN_{provider}_BASE_URL"
    with pytest.raises(SettingsInvalid, match=rf'environment: {variable}: base_url is "localhost", expected http://'):
        await found({f"{provider}_API_KEY": "sk-some-long-key", variable: "localhost"})


async def test_models_of_openai_are_known_by_their_names() -> None:
    models = (await found({"OPENAI_API_KEY": "sk-openai-key"}))["openai"].models
    table = RoutingTable([Served("openai", models)])
    known = "gpt-4o-mini gpt-5 chatgpt-4o-latest o1 o3-mini o4-mini-deep-research o5 codex-mini-latest ft:gpt-4o:me::1"
    assert [name for name in known.split() if not table.tiers(name)] == []
    others = "unbroken-demo claude-sonnet-4 olmo-2 text-embedding-3-small llama3.2:latest"
    assert [name for name in others.split() if table.tiers(name)] == []
