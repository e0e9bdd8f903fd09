"""What Anthropic's SDK can do beside the tutorials: counting, listing, every event, errors that its users catch."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.acceptance.processes import GatewayProcess, gateway_process, http, scripted_process

KEY = "acceptance-key-of-the-app"
UPSTREAM_KEY = "acceptance-key-of-the-upstream"
HELLO: Any = [{"role": "user", "content": "Hello, how are you?"}]
STORY: Any = [{"role": "user", "content": "Tell me a long story"}]
MODEL = "claude-sonnet-5-5"


def test_tokens_are_counted_as_the_engine_counts_them(claude: Anthropic) -> None:
    """A7, A8."""
    message = claude.messages.create(model=MODEL, max_tokens=8, system="Be brief.", messages=HELLO)
    counted = claude.messages.count_tokens(model=MODEL, system="Be brief.", messages=HELLO)
    usage = message.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    assert counted.input_tokens == usage.input_tokens + read + written


def test_more_text_counts_more_and_tools_count_too(claude: Anthropic) -> None:
    tools: Any = [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"location": {}}}}]
    short = claude.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    assert claude.messages.count_tokens(model=MODEL, messages=HELLO * 3).input_tokens > short
    assert claude.messages.count_tokens(model=MODEL, messages=HELLO, tools=tools).input_tokens > short


def test_the_models_that_there_are(claude: Anthropic) -> None:
    models = list(claude.models.list())
    assert [model.id for model in models] == ["unbroken-demo"]
    assert models[0].type == "model"
    assert models[0].created_at.year == 1970
    assert claude.models.retrieve("unbroken-demo").display_name == "unbroken-demo"
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("nobody-99")


def test_what_is_asked_for_is_what_answers(claude: Anthropic) -> None:
    message = claude.messages.create(model=MODEL, max_tokens=64, messages=HELLO)
    assert message.id.startswith("msg_")
    assert message.role == "assistant"
    assert message.model == MODEL
    assert message._request_id


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_a_limit_cuts_and_says_so(claude: Anthropic, is_streamed: bool) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 5, "messages": STORY}
    if is_streamed:
        with claude.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**asked)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5


def test_a_stop_sequence_ends_the_answer_before_it(claude: Anthropic) -> None:
    message = claude.messages.create(model=MODEL, max_tokens=64, messages=STORY, stop_sequences=["e", "a"])
    text = "".join(block.text for block in message.content if block.type == "text")
    assert not {"e", "a"} & set(text)
    assert message.stop_reason in ("stop_sequence", "end_turn")  # llama.cpp does not say which


def test_what_the_engine_has_no_word_for_is_named(claude: Anthropic) -> None:
    own: Any = {"top_k": 1}  # the SDK has no argument of its own for it any more
    response = claude.messages.with_raw_response.create(model=MODEL, max_tokens=8, messages=HELLO, extra_body=own)
    assert "top_k" in response.headers["unbroken-dropped"]


def test_a_server_tool_is_refused_by_name(claude: Anthropic) -> None:
    search: Any = [{"type": "web_search_20250305", "name": "web_search"}]
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        claude.messages.create(model=MODEL, max_tokens=8, messages=HELLO, tools=search)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": None}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=lambda value: str(value),
)
def test_a_request_that_cannot_be_answered(claude: Anthropic, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=named) as raised:
        claude.messages.create(model=MODEL, max_tokens=8, messages=HELLO, extra_body=wrong)
    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_a_model_that_does_not_exist(claude: Anthropic, is_streamed: bool) -> None:
    with pytest.raises(anthropic.NotFoundError, match="unbroken-demo") as raised:
        claude.messages.create(model="nobody-99", max_tokens=8, messages=HELLO, stream=is_streamed)
    assert raised.value.type == "not_found_error"
    assert raised.value.request_id


def test_a_prompt_that_is_longer_than_the_model_s_context(claude: Anthropic) -> None:
    long: Any = [{"role": "user", "content": "Hello, how are you? " * 4000}]
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model=MODEL, max_tokens=8, messages=long, stream=True)


def test_a_conversation_that_we_should_keep_is_refused_as_the_sdk_knows_it(claude: Anthropic) -> None:
    """A10."""
    with pytest.raises(anthropic.BadRequestError) as raised:
        claude.beta.messages.create(model=MODEL, max_tokens=8, messages=HELLO, thread={"type": "create"})
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["details"]["error_code"] == "thread_unsupported_request"


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
def test_a_header_of_this_dialect_does_not_change_what_other_routes_speak(gateway: GatewayProcess, path: str) -> None:
    asked = {"model": "nobody-99", "messages": HELLO, "input": "Hello"}
    answer = http.post(f"{gateway.base_url}{path}", json=asked, headers={"anthropic-version": "2023-06-01"})
    assert answer.json()["error"]["code"] == "model_not_found"


def test_pings_before_the_first_word_are_passed_over(tmp_path: Path) -> None:
    with scripted_process("ok", model="slow") as upstream:
        config = tmp_path / "unbroken.toml"
        config.write_text(
            f'[keep_alive]\nfirst = 0\n[[upstream]]\nname = "only"\nbase_url = "{upstream}"\nmodels = ["slow"]\n'
        )
        with gateway_process(config) as running, Anthropic(base_url=running.address, api_key="none") as sdk:
            asked: Any = {"model": "slow", "max_tokens": 64, "messages": HELLO}
            raw = http.post(f"{running.base_url}/messages", json={**asked, "stream": True}).text
            with sdk.messages.stream(**asked) as stream:
                text = stream.get_final_text()
    assert raw.startswith('event: ping\ndata: {"type": "ping"}\n\n')
    assert text == "word1 word2 word3 word4 word5 word6 word7 word8"


#: Models of one fake provider each: its script, and what the SDK makes of it.
FAULTY: dict[str, tuple[str, type[anthropic.APIStatusError], str]] = {
    "busy": ("rate_limited=60", anthropic.RateLimitError, ""),
    "broken": ("error=500", anthropic.InternalServerError, ""),
    "overloaded": ("overloaded=503", anthropic.OverloadedError, ""),
    "gone": ("cut", anthropic.InternalServerError, ""),
    "picky": ("error=400", anthropic.BadRequestError, ""),
    "cut": ("cut_after=4", anthropic.APIStatusError, "word1"),
    "error-inside": ("error_event=4", anthropic.APIStatusError, "word1"),
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
        config: Path = tmp_path_factory.mktemp("faulty") / "unbroken.toml"
        config.write_text("\n".join(lines))
        yield stack.enter_context(gateway_process(config))


@pytest.fixture(scope="module")
def caller(faulty: GatewayProcess) -> Iterator[Anthropic]:
    with Anthropic(base_url=faulty.address, api_key=KEY, max_retries=0, timeout=30) as sdk:
        yield sdk


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("model", [model for model, (_, _, sent) in FAULTY.items() if not sent])
def test_a_provider_that_fails_before_the_first_word(caller: Anthropic, model: str, is_streamed: bool) -> None:
    with pytest.raises(FAULTY[model][1]) as raised:
        caller.messages.create(model=model, max_tokens=64, messages=HELLO, stream=is_streamed)
    assert raised.value.request_id
    assert isinstance(raised.value.body, dict)
    assert raised.value.body.keys() == {"type", "error", "request_id"}
    assert UPSTREAM_KEY not in str(raised.value)


@pytest.mark.parametrize("model", [model for model, (_, _, sent) in FAULTY.items() if sent])
def test_a_provider_that_fails_in_mid_answer(caller: Anthropic, model: str) -> None:
    received: list[str] = []
    with (
        caller.messages.stream(model=model, max_tokens=64, messages=HELLO) as stream,
        pytest.raises(FAULTY[model][1]) as raised,
    ):
        received.extend(stream.text_stream)
    assert "".join(received).startswith(FAULTY[model][2])
    assert raised.value.message


def test_a_busy_provider_s_wish_to_wait_is_handed_on(caller: Anthropic) -> None:
    with pytest.raises(anthropic.RateLimitError) as raised:
        caller.messages.create(model="busy", max_tokens=64, messages=HELLO)
    assert int(raised.value.response.headers["retry-after"]) > 0


def test_the_key_is_taken_from_either_header(faulty: GatewayProcess) -> None:
    with Anthropic(base_url=faulty.address, api_key=None, auth_token=KEY, max_retries=0) as bearer:
        assert "picky" in [model.id for model in bearer.models.list()]


def test_a_key_that_is_not_known(faulty: GatewayProcess) -> None:
    with Anthropic(base_url=faulty.address, api_key="wrong-key-of-somebody", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as raised:
            stranger.messages.create(model="busy", max_tokens=64, messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError):
            stranger.models.list()
    assert raised.value.type == "authentication_error"
    assert "wrong-key" not in str(raised.value)
