"""What llama.cpp can do works through the gateway, asked for with the official SDK."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

MODEL = "unbroken-demo"
PROMPTS = [
    "Hello, how are you?",
    "Explain quantum computing in simple terms.",
    "Tell me a joke about programmers.",
    "List 5 EU countries",
]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


def ask(client: OpenAI, prompt: str = PROMPTS[1], **fields: Any) -> ChatCompletion:
    fields = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}
    answer = client.chat.completions.create(**fields)
    assert isinstance(answer, ChatCompletion)
    return answer


def stream(client: OpenAI, prompt: str = PROMPTS[1], **fields: Any) -> list[ChatCompletionChunk]:
    fields = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}
    return list(client.chat.completions.create(stream=True, **fields))


def text(answer: ChatCompletion | list[ChatCompletionChunk], index: int = 0) -> str:
    if isinstance(answer, ChatCompletion):
        return answer.choices[index].message.content or ""
    pieces = (choice for chunk in answer for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in pieces)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_stream_has_one_id_one_role_and_one_finish(client: OpenAI, prompt: str) -> None:
    chunks = stream(client, prompt)
    choices = [chunk.choices[0] for chunk in chunks]
    assert len({(chunk.id, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].id.startswith("chatcmpl-")
    assert chunks[0].object == "chat.completion.chunk"
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert choices[-1].finish_reason == "stop"
    assert not any(chunk.usage for chunk in chunks)
    assert len(text(chunks)) > 15


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_or_whole_the_answer_is_the_same(client: OpenAI, prompt: str) -> None:
    assert text(stream(client, prompt, temperature=0)) == text(ask(client, prompt, temperature=0))


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo", MODEL])
def test_the_models_of_the_tutorials_are_served_under_their_names(client: OpenAI, model: str) -> None:
    assert {chunk.model for chunk in stream(client, PROMPTS[0], model=model)} == {model}
    assert ask(client, PROMPTS[0], model=model).model == model


def test_the_same_seed_gives_the_same_answer(client: OpenAI) -> None:
    first, second = (text(stream(client, seed=42, temperature=1.5, max_tokens=40)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("fields", [{"n": 5}, {"max_tokens": -5}], ids=["n", "max_tokens"])
def test_a_number_out_of_bounds_is_refused_by_its_name(client: OpenAI, fields: dict[str, int]) -> None:
    for attempt in (ask, stream):
        with pytest.raises(BadRequestError) as refused:
            attempt(client, **fields)
        assert [refused.value.param] == list(fields)


def test_the_likeliest_words_are_the_same_every_time(client: OpenAI) -> None:
    assert len({text(ask(client, temperature=0)) for _ in range(3)}) == 1


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_an_answer_that_reached_its_limit_says_length(client: OpenAI, limit: str) -> None:
    wish: Any = {limit: 7}
    chunks = stream(client, stream_options={"include_usage": True}, **wish)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 7
    whole = ask(client, **wish)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage
    assert whole.usage.completion_tokens == 7


def test_an_answer_ends_before_a_stop_word(client: OpenAI) -> None:
    whole = text(ask(client, temperature=0))
    word = whole.split()[5]
    for stopped in (ask(client, temperature=0, stop=[word]), stream(client, temperature=0, stop=word)):
        assert text(stopped) == whole[: whole.index(word)]
        reasons = [
            choice.finish_reason
            for chunk in (stopped if isinstance(stopped, list) else [stopped])
            for choice in chunk.choices
        ]
        assert reasons[-1] == "stop"


def test_two_choices(client: OpenAI) -> None:
    whole = ask(client, PROMPTS[2], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert all(choice.message.content for choice in whole.choices)
    chunks = stream(client, PROMPTS[2], n=2, stream_options={"include_usage": True})
    finishes = [(choice.index, choice.finish_reason) for chunk in chunks for choice in chunk.choices]
    assert sorted(finish for finish in finishes if finish[1]) == [(0, "stop"), (1, "stop")]
    assert text(chunks, 0)
    assert text(chunks, 1)
    assert len({chunk.id for chunk in chunks}) == 1
    roles = [choice.index for chunk in chunks for choice in chunk.choices if choice.delta.role]
    assert sorted(roles) == [0, 1]


def test_logprobs(client: OpenAI) -> None:
    whole = ask(client, PROMPTS[0], logprobs=True, top_logprobs=3, temperature=0).choices[0]
    assert whole.logprobs
    assert whole.logprobs.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in whole.logprobs.content)
    chunks = stream(client, PROMPTS[0], logprobs=True, top_logprobs=3, temperature=0)
    found = [logprobs for chunk in chunks if (logprobs := chunk.choices[0].logprobs)]
    streamed = [token.token for logprobs in found for token in logprobs.content or ()]
    assert "".join(streamed).startswith(text(chunks))


def test_a_schema_is_kept_to(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Berlin", "Paris", "Rome"]},
            "celsius": {"type": "integer", "minimum": -40, "maximum": 50},
            "is_sunny": {"type": "boolean"},
        },
        "required": ["city", "celsius", "is_sunny"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}
    for answer in (ask(client, response_format=wanted), stream(client, response_format=wanted)):
        found = json.loads(text(answer))
        assert found.keys() == {"city", "celsius", "is_sunny"}
        assert found["city"] in ("Berlin", "Paris", "Rome")
        assert -40 <= found["celsius"] <= 50
        assert isinstance(found["is_sunny"], bool)


def test_arguments_of_a_tool_call_come_in_pieces_by_index(client: OpenAI) -> None:
    chunks = stream(client, "What's the weather in Berlin?", tools=[WEATHER], temperature=0)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert {call.index for call in calls} == {0}
    assert [call.id for call in calls if call.id] == [calls[0].id]
    assert calls[0].type == "function"
    assert calls[0].function
    assert calls[0].function.name == "get_weather"
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert len(calls) > 2
    assert "Berlin" in json.loads(arguments)["location"]


def test_a_tool_that_may_not_be_called_is_not(client: OpenAI) -> None:
    answer = ask(client, "What's the weather in Berlin?", tools=[WEATHER], tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_reach_the_model(client: OpenAI, role: str) -> None:
    question = {"role": "user", "content": PROMPTS[0]}
    alone = ask(client, messages=[question])
    instructed = ask(client, messages=[{"role": role, "content": "You are a helpful assistant."}, question])
    assert alone.usage
    assert instructed.usage
    assert instructed.usage.prompt_tokens > alone.usage.prompt_tokens
    assert len(text(instructed)) > 15


def test_content_in_parts_is_what_it_is_in_one_piece(client: OpenAI) -> None:
    parts = [{"type": "text", "text": PROMPTS[3]}]
    answer = ask(client, messages=[{"role": "user", "content": parts}], temperature=0)
    assert text(answer) == text(ask(client, PROMPTS[3], temperature=0))


def test_fields_that_only_the_engine_knows_reach_it(client: OpenAI) -> None:
    answer = ask(client, PROMPTS[0], max_tokens=60, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"


def test_many_streams_at_once_keep_apart(client: OpenAI) -> None:
    lengths = range(5, 21)

    def answer(length: int) -> list[ChatCompletionChunk]:
        usage: Any = {"include_usage": True}
        return stream(client, max_tokens=length, stream_options=usage, extra_body={"ignore_eos": True})

    with ThreadPoolExecutor(len(lengths)) as threads:
        answers = list(threads.map(answer, lengths))
    assert [chunks[-1].usage and chunks[-1].usage.completion_tokens for chunks in answers] == list(lengths)
    ids = [{chunk.id for chunk in chunks} for chunks in answers]
    assert all(len(of_one) == 1 for of_one in ids)
    assert len(set.union(*ids)) == len(lengths)
