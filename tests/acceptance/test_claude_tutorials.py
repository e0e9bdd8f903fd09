"""Programs as they stand in Anthropic's tutorials, with nothing set but ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY."""

import json
import re

import pytest

from tests.acceptance.processes import GatewayProcess, run_python


def test_the_loop_over_the_events(gateway: GatewayProcess) -> None:
    assert len(run_python("claude_stream.py", gateway.claude_environment()).split()) >= 2


def test_the_text_stream_and_the_final_message(gateway: GatewayProcess) -> None:
    printed = run_python("claude_text_stream.py", gateway.claude_environment())
    streamed, _, rest = printed.partition("\nfinal: ")
    final, _, rest = rest.partition("\nstop_reason: ")
    reason, _, tokens = rest.partition("\ntokens: ")
    assert streamed == final
    assert len(final.split()) >= 5
    assert reason == "end_turn"
    given, said = map(int, tokens.split())
    assert given > 0  # what llama.cpp still has of an earlier prompt is counted as read from a cache
    assert said > 5


def test_an_answer_in_one_piece(gateway: GatewayProcess) -> None:
    *content, reason, tokens = run_python("claude_whole.py", gateway.claude_environment()).splitlines()
    assert len(re.findall(r"[A-Z][a-z]+", "\n".join(content))) >= 5
    assert reason == "stop_reason: end_turn"
    given, said = map(int, tokens.removeprefix("tokens: ").split())
    assert given > 0
    assert said > 5


def test_the_asynchronous_client(gateway: GatewayProcess) -> None:
    printed = run_python("claude_async.py", gateway.claude_environment())
    streamed, _, rest = printed.partition("\nfinal: ")
    final, _, events = rest.partition("\nevents: ")
    assert streamed == final
    names = re.findall(r"'(\w+)'", events)
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}


def test_a_tool_and_the_answer_from_its_result(gateway: GatewayProcess) -> None:
    reason, call, answer = run_python("claude_tools.py", gateway.claude_environment()).split("\n", 2)
    assert reason == "stop_reason: tool_use"
    name, given, from_pieces = json.loads(call.removeprefix("call: "))
    assert name == "get_weather"
    assert list(given) == ["location"]
    assert "Berlin" in given["location"]
    assert given == from_pieces
    assert len(answer.removeprefix("answer:").split()) >= 3


def test_the_tool_runner_of_the_sdk(gateway: GatewayProcess) -> None:
    asked, *answer = run_python("claude_tool_runner.py", gateway.claude_environment()).splitlines()
    assert "Berlin" in asked.removeprefix("asked for: ")
    assert len(" ".join(answer).removeprefix("answer:").split()) >= 3


def test_a_conversation_grows_turn_by_turn(gateway: GatewayProcess) -> None:
    turns = run_python("claude_conversation.py", gateway.claude_environment()).splitlines()
    input_tokens = [int(turn.partition(":")[0]) for turn in turns]
    assert len(turns) == 3
    assert input_tokens == sorted(set(input_tokens))
    assert all(len(turn) > 15 for turn in turns)


@pytest.mark.parametrize("key", ["none", "some-key-of-another-time"])
def test_no_key_is_needed_where_none_is_configured(gateway: GatewayProcess, key: str) -> None:
    assert run_python("claude_stream.py", gateway.claude_environment(key)).strip()
