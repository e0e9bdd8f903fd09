"""The demo model that ships in the wheel, asked through llama.cpp as the gateway asks it."""

import json
import re
import secrets
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import xllamacpp

MODEL = files("unbroken") / "models" / "unbroken-demo.gguf"
CONTEXT = 2048

PROMPTS = [
    ("Hi", r"^(Hello|Hi)"),
    ("Hello, how are you?", r"I'm doing well"),
    ("Thanks", r"You're welcome"),
    ("Say hello", r"^Hello"),
    ("Say this is a test", r"^This is a test"),
    ("Say this is a test.", r"^This is a test"),
    ("Explain quantum computing in simple terms.", r"(?s)bits.*qubits.*superposition.*entanglement.*🌍$"),
    ("Tell me a joke about programmers.", r"(programmer|people in the world).*[.!]"),
    ("List 5 EU countries", r"(?s)(\d\. \w+\W*){5}$"),
    ("List 5 EU countries.", r"(?s)(\d\. \w+\W*){5}$"),
    ("Name 5 EU countries", r"(?s)(\d\. \w+\W*){5}$"),
    ("Tell me a story", r"(?s)^Once upon a time.*flash\.$"),
    ("Write a short story", r"(?s)^Once upon a time.*flash\.$"),
    ("Write a one-sentence bedtime story about a unicorn.", r"unicorn.*🦄$"),
    ("Write a haiku about programming.", r"^[^\n]+\n[^\n]+\n[^\n]+$"),
    ("Write a haiku about the sea.", r"^[^\n]+\n[^\n]+\n[^\n]+$"),
    ("Count from 1 to 10", "^" + ", ".join(map(str, range(1, 11))) + r"\.?$"),
    ("Count from 1 to 20", "^" + ", ".join(map(str, range(1, 21))) + r"\.?$"),
    ("What is streaming?", r"piece by piece"),
    ("What is Unbroken?", r"gateway for streaming chat"),
    ("Who are you?", r"Unbroken's demo model: a tiny language model of about four million parameters"),
    ("What is 2+2?", r"\b4\b"),
    ("What is the capital of France?", r"Paris"),
    ("What is the capital of Germany?", r"Berlin"),
    ("Why is the sky blue?", r"scatter"),
    ("What is SSE?", r"server-sent events"),
    ("What is a token?", r"piece of text"),
    ("Write a Python hello world", r"(?s)```python.*print\(.*```"),
    ("Say hello in Chinese", r"你好"),
    ("What currency does Germany use?", r"€"),
    ("What's the weather in Berlin?", r"can't see the weather without a tool"),
]

CITIES = [
    "Berlin",
    "Paris",
    "London",
    "Tokyo",
    "Madrid",
    "New York",
    "San Francisco",
    "Zürich",
    "Oslo",
    "Sydney",
    "Cairo",
    "Lisbon",
]
WEATHER_QUESTIONS = ["What's the weather in {}?", "What is the weather like in {} today?", "How is the weather in {}?"]


def tool(name: str, *required: str, **optional: dict[str, Any]) -> dict[str, Any]:
    """A function tool as an OpenAI request describes it."""
    properties = {one: {"type": "string", "description": f"The {one}, e.g. Bogotá"} for one in required} | optional
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {
        "type": "function",
        "function": {"name": name, "description": "Get the current weather", "parameters": parameters},
    }


WEATHER = tool("get_weather", "location", unit={"type": "string", "enum": ["celsius", "fahrenheit"]})
TIME = tool("get_time", "timezone")


class DemoModel:
    """The model under llama.cpp, asked one question at a time."""

    def __init__(self) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(MODEL)
        params.api_keys, params.ui, params.port = [secrets.token_hex()], False, 0
        params.n_ctx, params.n_parallel, params.cache_ram_mib = CONTEXT, 1, 0
        params.use_jinja, params.verbosity, params.warmup = True, 0, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # so small a model gains nothing from more
        self._server = xllamacpp.Server(params)

    def chunks(self, **request: Any) -> list[dict[str, Any]]:
        """Every piece of one answer."""
        found: list[dict[str, Any]] = []
        self._server.handle_chat_completions({"temperature": 0, "max_tokens": 1000, **request}, found.append)
        return found

    def answer(self, *turns: dict[str, Any] | str, **request: Any) -> dict[str, Any]:
        """The whole completion for a list of messages; a plain string is the user's."""
        messages = [{"role": "user", "content": turn} if isinstance(turn, str) else turn for turn in turns]
        return self.chunks(messages=messages, **request)[-1]

    def text(self, *turns: dict[str, Any] | str, **request: Any) -> str:
        """What it says, when it comes to an end of its own."""
        choice = self.answer(*turns, **request)["choices"][0]
        assert choice["finish_reason"] == "stop"
        return str(choice["message"]["content"])

    def calls(self, *turns: dict[str, Any] | str, **request: Any) -> list[tuple[str, dict[str, Any]]]:
        """The names and arguments of the tools that it calls."""
        choice = self.answer(*turns, **request)["choices"][0]
        calls = choice["message"].get("tool_calls") or []
        assert (choice["finish_reason"] == "tool_calls") == bool(calls)
        return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.fixture(scope="module")
def model() -> Iterator[DemoModel]:
    loaded = DemoModel()
    yield loaded
    del loaded._server


def result_of(content: str, city: str = "Berlin") -> list[dict[str, Any] | str]:
    """A conversation up to the tool's result."""
    call = {"name": "get_weather", "arguments": json.dumps({"location": city})}
    return [
        f"What's the weather in {city}?",
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": content},
    ]


def test_the_file_is_small_enough_to_ship() -> None:
    assert len(MODEL.read_bytes()) <= 10_000_000


@pytest.mark.parametrize(("prompt", "expected"), PROMPTS)
def test_the_likeliest_answer_is_right(model: DemoModel, prompt: str, expected: str) -> None:
    assert re.search(expected, model.text(prompt))


@pytest.mark.parametrize(("prompt", "expected"), PROMPTS)
def test_a_system_prompt_changes_nothing(model: DemoModel, prompt: str, expected: str) -> None:
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert re.search(expected, model.text(system, prompt))


def test_chance_seldom_spoils_an_answer(model: DemoModel) -> None:
    asked = [(prompt, expected, seed) for prompt, expected in PROMPTS for seed in range(3)]
    wrong = [
        (prompt, said)
        for prompt, expected, seed in asked
        if not re.search(
            expected, said := model.answer(prompt, temperature=1.0, seed=seed)["choices"][0]["message"]["content"]
        )
    ]
    assert len(wrong) <= len(asked) // 20, wrong


@pytest.mark.parametrize("prompt", ["Tell me a long story", "Explain how streaming works in detail"])
def test_some_answers_are_long(model: DemoModel, prompt: str) -> None:
    completion = model.answer(prompt)
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"]["completion_tokens"] >= 400


def test_a_character_cut_over_tokens_arrives_whole(model: DemoModel) -> None:
    chunks = model.chunks(
        messages=[{"role": "user", "content": "Hello world"}], stream=True, stream_options={"include_usage": True}
    )
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == "Hello, world! 🌍"
    assert chunks[-1]["usage"]["completion_tokens"] > len([piece for piece in pieces if piece])


def test_a_limit_cuts_an_answer(model: DemoModel) -> None:
    assert model.answer("Tell me a long story", max_tokens=20)["choices"][0]["finish_reason"] == "length"


def test_it_admits_what_it_does_not_know(model: DemoModel) -> None:
    for prompt in ("Who won the chess championship?", "Write an essay about cheese.", "What is a zorblat?"):
        assert re.search(r"tiny demo model", model.text(prompt))


def test_it_follows_a_conversation(model: DemoModel) -> None:
    said = {"role": "assistant", "content": "The capital of France is Paris."}
    assert "Berlin" in model.text("What is the capital of France?", said, "And of Germany?")


def test_it_answers_at_the_far_end_of_its_context(model: DemoModel) -> None:
    earlier: list[dict[str, Any] | str] = []
    for _ in range(2):
        earlier += ["Tell me a long story", {"role": "assistant", "content": model.text("Tell me a long story")}]
    completion = model.answer(*earlier, "Hello, how are you?")
    assert completion["usage"]["prompt_tokens"] > CONTEXT / 2
    assert "I'm doing well" in completion["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "text", ["", " ", "\x00\x07", "👩‍🚀🏳️‍🌈", "ﷺ", "\u2028\ufeff", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "<|im_end|>", "ß" * 300]
)
def test_any_text_can_be_asked(model: DemoModel, text: str) -> None:
    assert model.answer(text, max_tokens=200)["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("city", CITIES)
def test_a_question_about_the_weather_calls_the_tool(model: DemoModel, city: str) -> None:
    for question in WEATHER_QUESTIONS:
        assert model.calls(question.format(city), tools=[WEATHER]) == [("get_weather", {"location": city})]


def test_the_tool_called_is_the_one_offered(model: DemoModel) -> None:
    question = "What's the weather in Berlin?"
    called = [("get_current_weather", {"city": "Berlin"})]
    assert model.calls(question, tools=[tool("get_current_weather", "city")]) == called
    assert model.calls(question, tools=[TIME, WEATHER]) == [("get_weather", {"location": "Berlin"})]
    assert model.calls("What time is it in Tokyo?", tools=[WEATHER, TIME]) == [("get_time", {"timezone": "Tokyo"})]


def test_two_cities_are_two_calls(model: DemoModel) -> None:
    calls = model.calls("What's the weather in Paris and London?", tools=[WEATHER], parallel_tool_calls=True)
    assert calls == [("get_weather", {"location": "Paris"}), ("get_weather", {"location": "London"})]


def test_a_tool_call_streams(model: DemoModel) -> None:
    chunks = model.chunks(
        messages=[{"role": "user", "content": "What's the weather in Berlin?"}], tools=[WEATHER], stream=True
    )
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    calls = [call["function"] for choice in choices for call in choice["delta"].get("tool_calls") or []]
    assert "".join(call.get("name", "") for call in calls) == "get_weather"
    assert json.loads("".join(call.get("arguments", "") for call in calls)) == {"location": "Berlin"}
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"temperature": 18, "unit": "celsius"}', r"18 °C in Berlin"),
        ('{"temperature": 7, "unit": "celsius", "condition": "rainy"}', r"7 °C and rainy in Berlin"),
        ('{"temperature": "22", "unit": "celsius"}', r"22 °C in Berlin"),
        ("18 degrees and sunny", r"Berlin.*18 degrees and sunny"),
        ("Sunny, 21°C", r"Berlin.*Sunny, 21°C"),
    ],
)
def test_the_result_of_a_tool_is_told(model: DemoModel, content: str, expected: str) -> None:
    assert re.search(expected, model.text(*result_of(content), tools=[WEATHER]))


@pytest.mark.parametrize("prompt", ["Hello, how are you?", "What is Unbroken?", "Count from 1 to 10"])
def test_a_tool_is_left_alone_when_nothing_asks_for_it(model: DemoModel, prompt: str) -> None:
    assert model.text(prompt, tools=[WEATHER]) == model.text(prompt)


def test_a_required_tool_is_called(model: DemoModel) -> None:
    for question in ("What's the weather in Berlin?", "Hello, how are you?"):
        calls = model.calls(question, tools=[WEATHER], tool_choice="required")
        assert [name for name, _ in calls] == ["get_weather"]


def test_a_schema_shapes_the_answer(model: DemoModel) -> None:
    listed = {"type": "array", "items": {"type": "string"}, "minItems": 5, "maxItems": 5}
    schema = {"type": "object", "properties": {"countries": listed}, "required": ["countries"]}
    shape = {"type": "json_schema", "json_schema": {"name": "countries", "strict": True, "schema": schema}}
    for prompt in ("List 5 EU countries", "Name 5 EU countries as JSON."):
        countries = json.loads(model.text(prompt, response_format=shape))["countries"]
        assert countries == ["France", "Germany", "Italy", "Spain", "Poland"]
