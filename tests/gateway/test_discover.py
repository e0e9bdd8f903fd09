"""Without a configuration the upstreams are found: by keys in the environment, on this machine, in the package."""

import pytest

from unbroken.gateway.discover import with_found_upstreams
from unbroken.settings.read import read_settings
from unbroken.settings.tree import Settings, UpstreamSettings

pytestmark = pytest.mark.anyio


async def found(environment: dict[str, str], settings: Settings | None = None) -> dict[str, UpstreamSettings]:
    settings = await with_found_upstreams(settings or read_settings(None, environment), environment)
    return {upstream.name: upstream for upstream in settings.upstream}


async def test_the_demo_model_is_always_there() -> None:
    upstreams = await found({})
    assert upstreams["demo"].engine == "llama.cpp"
    assert "openai" not in upstreams
    assert "anthropic" not in upstreams


async def test_keys_in_the_environment_name_their_providers() -> None:
    upstreams = await found({"OPENAI_API_KEY": "sk-openai-key", "ANTHROPIC_API_KEY": "sk-ant-key"})
    assert (upstreams["openai"].dialect, upstreams["openai"].api_key) == ("openai-chat", "sk-openai-key")
    assert (upstreams["anthropic"].dialect, upstreams["anthropic"].api_key) == ("anthropic-messages", "sk-ant-key")
    assert upstreams["anthropic"].models == ("claude-*",)


async def test_a_configuration_with_upstreams_is_left_alone() -> None:
    own = UpstreamSettings(name="own", base_url="http://127.0.0.1:1/v1")
    assert list(await found({"OPENAI_API_KEY": "sk-openai-key"}, Settings(upstream=(own,)))) == ["own"]
