"""A gateway in front of a gateway, in each dialect: nine pairs of a client and an upstream, one real engine."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.acceptance.processes import GatewayProcess, gateway_process

UPSTREAMS = ["openai-chat", "openai-responses", "anthropic-messages"]
MODEL = "unbroken-demo"
QUESTION = "Tell me a joke about programmers."
WEATHER = "What's the weather in Berlin?"
GREEDY = {"temperature": 0}  # Anthropic's SDK has no argument of its own for it any more
PARAMETERS: Any = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}

#: The text that a client gets, streamed or whole, and the arguments of the tool that it is told to call.
Ask = Callable[[GatewayProcess, bool], str]
Call = Callable[[GatewayProcess], Any]


def openai_at(gateway: GatewayProcess) -> OpenAI:
    return OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=60)


def anthropic_at(gateway: GatewayProcess) -> Anthropic:
    return Anthropic(base_url=gateway.address, api_key="none", max_retries=0, timeout=60)


def ask_chat(gateway: GatewayProcess, is_streamed: bool) -> str:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with openai_at(gateway) as sdk:
        if not is_streamed:
            whole = sdk.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=200)
            return whole.choices[0].message.content or ""
        stream = sdk.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=200, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def ask_responses(gateway: GatewayProcess, is_streamed: bool) -> str:
    asked: Any = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 200}
    with openai_at(gateway) as sdk:
        if not is_streamed:
            return sdk.responses.create(**asked).output_text
        with sdk.responses.stream(**asked) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            assert text == stream.get_final_response().output_text
            return text


def ask_messages(gateway: GatewayProcess, is_streamed: bool) -> str:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with anthropic_at(gateway) as sdk:
        if not is_streamed:
            whole = sdk.messages.create(model=MODEL, messages=messages, max_tokens=200, extra_body=GREEDY)
            return "".join(block.text for block in whole.content if block.type == "text")
        with sdk.messages.stream(model=MODEL, messages=messages, max_tokens=200, extra_body=GREEDY) as stream:
            text = "".join(stream.text_stream)
            assert text == stream.get_final_text()
            return text


def call_chat(gateway: GatewayProcess) -> Any:
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
    messages: Any = [{"role": "user", "content": WEATHER}]
    with (
        openai_at(gateway) as sdk,
        sdk.chat.completions.stream(model=MODEL, messages=messages, tools=tools, temperature=0) as stream,
    ):
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    return call.function.name, json.loads(call.function.arguments)


def call_responses(gateway: GatewayProcess) -> Any:
    tools: Any = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}]
    with (
        openai_at(gateway) as sdk,
        sdk.responses.stream(model=MODEL, input=WEATHER, tools=tools, temperature=0) as stream,
    ):
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    return call.name, json.loads(call.arguments)


def call_messages(gateway: GatewayProcess) -> Any:
    tools: Any = [{"name": "get_weather", "input_schema": PARAMETERS}]
    messages: Any = [{"role": "user", "content": WEATHER}]
    with (
        anthropic_at(gateway) as sdk,
        sdk.messages.stream(model=MODEL, messages=messages, tools=tools, max_tokens=200, extra_body=GREEDY) as stream,
    ):
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert call.type == "tool_use"
    return call.name, call.input


ASKING: dict[str, Ask] = {
    "openai-chat": ask_chat,
    "openai-responses": ask_responses,
    "anthropic-messages": ask_messages,
}
CALLING: dict[str, Call] = {
    "openai-chat": call_chat,
    "openai-responses": call_responses,
    "anthropic-messages": call_messages,
}


@pytest.fixture(scope="module")
def fronts(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, GatewayProcess]]:
    """One gateway for each dialect that it speaks to the gateway with the engine."""
    with ExitStack() as stack:
        running = {}
        for dialect in UPSTREAMS:
            config: Path = tmp_path_factory.mktemp("front") / "unbroken.toml"
            config.write_text(
                f'[[upstream]]\nname = "behind"\ndialect = "{dialect}"\nbase_url = "{gateway.base_url}"\n'
                f'models = ["{MODEL}"]\n'
            )
            running[dialect] = stack.enter_context(gateway_process(config))
        yield running


@pytest.fixture(scope="module")
def straight(gateway: GatewayProcess) -> str:
    """What the engine says without a second gateway."""
    return ask_chat(gateway, True)


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("client", ASKING)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_the_text_is_the_same_through_every_pair(
    fronts: dict[str, GatewayProcess], straight: str, upstream: str, client: str, is_streamed: bool
) -> None:
    assert len(straight.split()) >= 5
    assert ASKING[client](fronts[upstream], is_streamed) == straight


@pytest.mark.parametrize("client", CALLING)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_tool_is_called_through_every_pair(
    fronts: dict[str, GatewayProcess], gateway: GatewayProcess, upstream: str, client: str
) -> None:
    name, arguments = CALLING[client](fronts[upstream])
    assert name == "get_weather"
    assert "Berlin" in arguments["location"]
    assert (name, arguments) == call_chat(gateway)


def test_tokens_are_counted_through_a_gateway(fronts: dict[str, GatewayProcess], gateway: GatewayProcess) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with anthropic_at(gateway) as behind, anthropic_at(fronts["anthropic-messages"]) as front:
        expected = behind.messages.count_tokens(model=MODEL, messages=messages).input_tokens
        assert front.messages.count_tokens(model=MODEL, messages=messages).input_tokens == expected


def test_an_upstream_that_cannot_count_has_its_tokens_estimated(fronts: dict[str, GatewayProcess]) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with anthropic_at(fronts["openai-responses"]) as sdk:
        counted = sdk.messages.with_raw_response.count_tokens(model=MODEL, messages=messages)
    assert counted.headers["unbroken-estimated"] == "true"
    assert counted.parse().input_tokens > 5


def test_what_a_dialect_has_no_word_for_is_refused_by_name(fronts: dict[str, GatewayProcess]) -> None:
    with openai_at(fronts["anthropic-messages"]) as sdk, pytest.raises(Exception, match="n: ") as raised:
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}], n=2)
    assert getattr(raised.value, "param", None) == "n"
