"""What goes wrong is told so that the official SDK raises what its users catch."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.acceptance.conftest import GatewayBefore
from tests.acceptance.processes import GatewayProcess, bare_environment, gateway_process, read_text, scripted_process

KEY = "acceptance-key-of-the-app"
UPSTREAM_KEY = "acceptance-key-of-the-upstream"
HELLO: Any = [{"role": "user", "content": "Hello, how are you?"}]

#: Models of one fake provider each: its script, and what the SDK makes of it.
FAULTY: dict[str, tuple[str, type[openai.APIError], str]] = {
    "busy": ("rate_limited=60", openai.RateLimitError, ""),
    "broken": ("error=500", openai.InternalServerError, ""),
    "overloaded": ("overloaded=503", openai.InternalServerError, ""),
    "behind-a-proxy": ("html_error=502", openai.InternalServerError, ""),
    "gone": ("cut", openai.InternalServerError, ""),
    "picky": ("error=400", openai.BadRequestError, ""),
    "cut": ("cut_after=4", openai.APIError, "word1"),
    "error-inside": ("error_event=4", openai.APIError, "word1"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that wants a key, before providers that fail each in its own way."""
    with ExitStack() as stack:
        lines = [f'[keys]\napp = "{KEY}"\n[retries]\nattempts = 2\nbackoff_first = 0.01\nbreaker_failures = 1000']
        for model, (script, _, _) in FAULTY.items():
            base_url = stack.enter_context(scripted_process(script, model=model))
            lines.append(
                f'[[upstream]]\nname = "{model}"\nbase_url = "{base_url}"\napi_key = "{UPSTREAM_KEY}"\n'
                f'models = ["{model}"]'
            )
        config = tmp_path_factory.mktemp("faulty") / "unbroken.toml"
        config.write_text("\n".join(lines))
        yield stack.enter_context(gateway_process(config))


@pytest.fixture(scope="module")
def caller(faulty: GatewayProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=faulty.base_url, api_key=KEY, max_retries=0, timeout=30) as sdk:
        yield sdk


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("model", [model for model, (_, _, sent) in FAULTY.items() if not sent])
def test_a_provider_that_fails_before_the_first_word(caller: OpenAI, model: str, is_streamed: bool) -> None:
    expected = FAULTY[model][1]
    with pytest.raises(expected) as raised:
        list(caller.chat.completions.create(model=model, messages=HELLO, stream=is_streamed))
    assert isinstance(raised.value, openai.APIStatusError)
    assert raised.value.request_id
    assert isinstance(raised.value.body, dict)
    assert raised.value.body.keys() == {"message", "type", "param", "code"}
    assert UPSTREAM_KEY not in str(raised.value)


@pytest.mark.parametrize("model", [model for model, (_, _, sent) in FAULTY.items() if sent])
def test_a_provider_that_fails_in_mid_answer(caller: OpenAI, model: str) -> None:
    received: list[str] = []
    stream = caller.chat.completions.create(model=model, messages=HELLO, stream=True)
    with pytest.raises(FAULTY[model][1]) as raised:
        read_text(stream, received)
    assert "".join(received).startswith(FAULTY[model][2])
    assert raised.value.message


def test_a_busy_provider_s_wish_to_wait_is_handed_on(caller: OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        caller.chat.completions.create(model="busy", messages=HELLO)
    assert int(raised.value.response.headers["retry-after"]) > 0


def test_a_key_that_is_not_known(faulty: GatewayProcess) -> None:
    with OpenAI(base_url=faulty.base_url, api_key="wrong-key-of-somebody", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as raised:
            stranger.chat.completions.create(model="busy", messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    assert raised.value.code == "invalid_api_key"
    assert "wrong-key" not in str(raised.value)


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_a_model_that_does_not_exist(client: OpenAI, is_streamed: bool) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nobody-99", messages=HELLO, stream=is_streamed)
    assert raised.value.code == "model_not_found"
    assert "unbroken-demo" in raised.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody-99")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=lambda value: str(value),
)
def test_a_request_that_cannot_be_answered(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="unbroken-demo", messages=HELLO, extra_body=wrong)
    assert param in str(raised.value)


def test_a_prompt_that_is_longer_than_the_model_s_context(client: OpenAI) -> None:
    long: Any = [{"role": "user", "content": "Hello, how are you? " * 4000}]
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="unbroken-demo", messages=long, stream=True)
    assert raised.value.code == "context_length_exceeded"
    assert client.chat.completions.create(model="unbroken-demo", messages=HELLO).choices[0].message.content


def test_a_gateway_that_is_gone(gateway_before: GatewayBefore) -> None:
    with scripted_process("gap=0.05", model="slow", words=1000) as upstream:
        with gateway_before(upstream, "slow") as running:
            sdk = OpenAI(base_url=running.base_url, api_key="none", max_retries=0)
            stream = iter(sdk.chat.completions.create(model="slow", messages=HELLO, stream=True))
            next(stream)
            running.process.kill()
            with pytest.raises(openai.APIConnectionError):
                list(stream)
        with sdk, pytest.raises(openai.APIConnectionError):
            sdk.chat.completions.create(model="slow", messages=HELLO)


def test_strangers_are_not_served_without_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unbroken", "serve", "--port", "0", "--host", "0.0.0.0"]
    done = subprocess.run(
        command, cwd=tmp_path, env=bare_environment(), capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 1
    assert "no key is configured" in done.stderr
    assert "Traceback" not in done.stderr
