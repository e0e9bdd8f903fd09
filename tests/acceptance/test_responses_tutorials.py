"""Programs that use OpenAI's Responses API, with nothing set but OPENAI_BASE_URL and OPENAI_API_KEY."""

import json
import re

import pytest

from tests.acceptance.processes import GatewayProcess, run_python


@pytest.mark.parametrize("program", ["responses_stream.py", "responses_async.py"])
def test_the_loop_that_prints_each_delta(gateway: GatewayProcess, program: str) -> None:
    printed = run_python(program, gateway.environment())
    assert len(printed.split()) >= 2
    assert program == "responses_async.py" or printed.endswith("\nstatus: completed\n")


def test_an_answer_in_one_piece(gateway: GatewayProcess) -> None:
    *content, status, tokens = run_python("responses_whole.py", gateway.environment()).splitlines()
    assert len(re.findall(r"[A-Z][a-z]+", "\n".join(content))) >= 5
    assert status == "status: completed"
    given, said, total = map(int, tokens.removeprefix("tokens: ").split())
    assert given > 0
    assert said > 5
    assert total == given + said


def test_the_stream_helper_of_the_sdk(gateway: GatewayProcess) -> None:
    streamed, _, final = run_python("responses_helper.py", gateway.environment()).partition("\nfinal: ")
    assert streamed == final.removesuffix("\n")
    assert len(streamed.split()) >= 5


def test_a_function_call_and_the_answer_from_its_output(gateway: GatewayProcess) -> None:
    call, answer = run_python("responses_tools.py", gateway.environment()).split("\n", 1)
    name, arguments = json.loads(call.removeprefix("call: "))
    assert name == "get_weather"
    assert list(arguments) == ["location"]
    assert "Berlin" in arguments["location"]
    assert len(answer.removeprefix("answer:").split()) >= 3


def test_a_conversation_grows_from_the_previous_response(gateway: GatewayProcess) -> None:
    turns = run_python("responses_conversation.py", gateway.environment()).splitlines()
    input_tokens = [int(turn.partition(":")[0]) for turn in turns]
    assert len(turns) == 3
    assert input_tokens == sorted(set(input_tokens))
    assert all(len(turn) > 15 for turn in turns)


def test_a_pydantic_model_comes_back_filled(gateway: GatewayProcess) -> None:
    event = json.loads(run_python("responses_structured_output.py", gateway.environment()))
    assert event.keys() == {"name", "day", "participants"}
    assert isinstance(event["day"], int)
