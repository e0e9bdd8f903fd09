"""One gateway process with the demo model for all tests that do no harm to it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.acceptance.processes import EngineAlone, GatewayProcess, engine_alone, gateway_process
from tests.upstream.conftest import write_successor_model
from unbroken.upstream.engine import DEMO_MODEL

#: The demo model under its own name and under those that tutorials ask for.
TUTORIAL_CONFIG = """
[[upstream]]
name = "demo"
engine = "llama.cpp"
path = "demo"
models = ["unbroken-demo", "gpt-* = unbroken-demo", "claude-* = unbroken-demo"]
"""

WriteConfig = Callable[[str], Path]
GatewayBefore = Callable[..., AbstractContextManager[GatewayProcess]]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that serves the demo model to every tutorial."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "unbroken.toml").write_text(TUTORIAL_CONFIG)
    with gateway_process(cwd=folder) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    """The official SDK, pointed at the gateway."""
    with OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=60) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def claude(gateway: GatewayProcess) -> Iterator[Anthropic]:
    """Anthropic's official SDK, pointed at the gateway."""
    with Anthropic(base_url=gateway.address, api_key="none", max_retries=0, timeout=60) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def engine() -> Iterator[EngineAlone]:
    """The demo model in an engine with no gateway in front."""
    with engine_alone(DEMO_MODEL) as running:
        yield running


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that counts for ever after `<count>`, some milliseconds a number: time to leave in the middle."""
    path = tmp_path_factory.mktemp("model") / "counter.gguf"
    return write_successor_model(path, width=512, layers=8, feed_forward=4096, context=16384)


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "unbroken.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def gateway_before(write_config: WriteConfig) -> GatewayBefore:
    """Starts a gateway before one OpenAI-compatible server, with further lines of configuration."""

    def start(
        base_url: str, model: str, *, api_key: str = "upstream-key", continuation: str = "auto", more: str = ""
    ) -> AbstractContextManager[GatewayProcess]:
        upstream = f'name = "only"\nbase_url = "{base_url}"\napi_key = "{api_key}"\nmodels = ["{model}"]'
        upstream += f'\ncontinuation = "{continuation}"'
        return gateway_process(write_config(f"{more}\n[[upstream]]\n{upstream}\n"))

    return start
