"""Programs as they stand in every tutorial, with nothing set but OPENAI_BASE_URL and OPENAI_API_KEY."""

import json
import re

import pytest

from tests.acceptance.conftest import GatewayBefore
from tests.acceptance.processes import GatewayProcess, run_python, scripted_process


def test_the_loop_that_prints_each_chunk(gateway: GatewayProcess) -> None:
    assert len(run_python("stream.py", gateway.environment()).split()) >= 2


def test_the_asynchronous_loop(gateway: GatewayProcess) -> None:
    assert len(run_python("stream_async.py", gateway.environment()).split()) >= 5


def test_chunks_collected_into_the_whole_text(gateway: GatewayProcess) -> None:
    count, _, reply = run_python("collect.py", gateway.environment()).partition("\n")
    assert int(count.removeprefix("Chunks: ")) > 10
    assert "qubit" in reply.lower()


def test_an_answer_in_one_piece(gateway: GatewayProcess) -> None:
    *content, finish, tokens = run_python("whole.py", gateway.environment()).splitlines()
    assert len(re.findall(r"[A-Z][a-z]+", "\n".join(content))) >= 5
    assert finish == "finish_reason: stop"
    prompt, completion, total = map(int, tokens.removeprefix("tokens: ").split())
    assert prompt > 0
    assert completion > 5
    assert total == prompt + completion


def test_a_conversation_grows_turn_by_turn(gateway: GatewayProcess) -> None:
    turns = run_python("conversation.py", gateway.environment()).splitlines()
    prompt_tokens = [int(turn.partition(":")[0]) for turn in turns]
    assert len(turns) == 3
    assert prompt_tokens == sorted(set(prompt_tokens))
    assert all(len(turn) > 15 for turn in turns)


@pytest.mark.parametrize("program", ["tools_stream.py", "tools_whole.py"])
def test_function_calling_and_the_answer_from_its_result(gateway: GatewayProcess, program: str) -> None:
    finish, call, answer = run_python(program, gateway.environment()).split("\n", 2)
    assert finish == "finish_reason: tool_calls"
    *_, name, arguments = json.loads(call.removeprefix("call: "))
    assert name == "get_weather"
    assert list(arguments) == ["location"]
    assert "Berlin" in arguments["location"]
    assert len(answer.removeprefix("answer:").split()) >= 3


def test_usage_comes_in_a_last_chunk_without_choices(gateway: GatewayProcess) -> None:
    *chunks, last = run_python("usage.py", gateway.environment()).splitlines()
    assert all(chunk == "choices: 1 usage: None" for chunk in chunks)
    assert last.startswith("choices: 0 usage: {")
    usage = json.loads(last.partition("usage: ")[2])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] >= len(chunks) // 2


def test_the_stream_helper_of_the_sdk(gateway: GatewayProcess) -> None:
    printed = run_python("stream_helper.py", gateway.environment())
    streamed, _, rest = printed.partition("\ndone: ")
    done, _, rest = rest.partition("\nfinal: ")
    final, _, finish = rest.partition("\nfinish_reason: ")
    assert streamed == done == final
    assert len(final.split()) >= 5
    assert finish.strip() == "stop"


def test_a_pydantic_model_comes_back_filled(gateway: GatewayProcess) -> None:
    event = json.loads(run_python("structured_output.py", gateway.environment()))
    assert event.keys() == {"name", "day", "participants"}
    assert isinstance(event["day"], int)


def test_the_models_that_there_are(gateway: GatewayProcess) -> None:
    assert run_python("models.py", gateway.environment()).splitlines() == ["unbroken-demo", "model"]


@pytest.mark.parametrize(("continuation", "retries"), [("none", 2), ("auto", 0)])
def test_the_retry_loop_asks_again_only_where_the_gateway_may_not(
    gateway_before: GatewayBefore, continuation: str, retries: int
) -> None:
    with (
        scripted_process("cut_after=3", "cut_after=5", "ok", model="fragile") as upstream,
        gateway_before(upstream, "fragile", continuation=continuation) as gateway,
    ):
        *attempts, answer = run_python("retry_loop.py", gateway.environment(), "fragile").splitlines()
    assert answer == "answer: word1 word2 word3 word4 word5 word6 word7 word8"
    assert [attempt[:17] for attempt in attempts] == ["attempt 1: after ", "attempt 2: after "][:retries]
    assert all("word1" in attempt for attempt in attempts)
