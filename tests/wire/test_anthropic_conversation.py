"""Conversations read from Anthropic's requests and written as such (FAULTS 36, 37, 39, 40)."""

import json
import string
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types import message_create_params
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from pydantic import TypeAdapter

from unbroken.chat.conversation import (
    Audio,
    Conversation,
    Document,
    Image,
    JsonFormat,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Refusal,
    Role,
    SealedThinking,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    ToolUse,
)
from unbroken.chat.error import RequestRefused
from unbroken.wire.anthropic_messages.abilities import abilities_of
from unbroken.wire.anthropic_messages.count import write_count_conversation
from unbroken.wire.anthropic_messages.read_conversation import read_conversation
from unbroken.wire.anthropic_messages.request import read_request
from unbroken.wire.anthropic_messages.write_conversation import write_conversation
from unbroken.wire.dialects import Written

OLD, BETWEEN, NEW = "claude-sonnet-4-5-20250929", "claude-opus-4-6", "claude-opus-4-8"
CACHE = Raw(b'{"type":"ephemeral","ttl":"1h"}')
SCHEMA = Raw(b'{"type":"object","properties":{"x":{"type":"integer"}},"$defs":{}}')
CITATIONS = Raw(
    b'[{"type":"char_location","cited_text":"c","document_index":0,"document_title":null,'
    b'"start_char_index":0,"end_char_index":1}]'
)


def user(*parts: Part) -> Message:
    return Message(Role.USER, parts)


def assistant(*parts: Part) -> Message:
    return Message(Role.ASSISTANT, parts)


def system(text: str) -> Message:
    return Message(Role.SYSTEM, (Text(text),))


HI = user(Text("hi"))


def write(conversation: Conversation, model: str = OLD) -> tuple[dict[str, Any], tuple[str, ...]]:
    written = write_conversation(conversation, model=model, stream=False)
    return json.loads(written.body), written.dropped


def said(*messages: Message, **more: Any) -> Conversation:
    return Conversation(messages, **more)


def read(**fields: Any) -> Conversation:
    asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return read_conversation(read_request(json.dumps(asked).encode()))


def refused(asked: Conversation, model: str = OLD) -> str | None:
    with pytest.raises(RequestRefused) as failed:
        write(asked, model)
    assert failed.value.error.status == 400
    assert failed.value.error.param is not None
    assert failed.value.error.param in failed.value.error.message
    return failed.value.error.param


# --- there and back -------------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=8)
stops = words.filter(str.strip)
ids = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)
caches = st.sampled_from([None, CACHE])
objects = st.dictionaries(words, st.one_of(words, st.integers(), st.booleans()), max_size=2).map(json.dumps)
plain = st.builds(Text, words, caches)
images = st.one_of(
    st.builds(Image, url=words.map("https://example.org/".__add__), cache=caches),
    st.builds(Image, data=st.just("aGk="), media_type=st.sampled_from(["image/png", "image/webp"]), cache=caches),
)
documents = st.one_of(
    st.builds(Document, url=words.map("https://example.org/".__add__), name=st.none() | words, cache=caches),
    st.builds(Document, data=st.just("aGk="), media_type=st.just("application/pdf"), cache=caches),
    st.builds(Document, text=words, name=st.none() | words),
    st.builds(Document, file_id=ids.map("file_".__add__)),
)
results = st.builds(ToolResult, ids, st.lists(plain | images | documents, max_size=2).map(tuple), st.booleans(), caches)
users = st.tuples(st.lists(results, max_size=2), st.lists(plain | images | documents, min_size=1, max_size=3)).map(
    lambda parts: user(*parts[0], *parts[1])
)
spoken: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, words, caches, st.sampled_from([None, CITATIONS])),
    st.builds(Thinking, words, words),
    st.builds(SealedThinking, words),
    st.builds(ToolCall, ids, words, objects, caches),
)
assistants = st.lists(spoken, min_size=1, max_size=3).map(lambda parts: assistant(*parts))
tools = st.builds(Tool, ids, st.none() | words, st.just(SCHEMA), st.sampled_from([None, True, False]), cache=caches)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message(Role.SYSTEM, tuple(draw(st.lists(plain, min_size=1, max_size=2))))] * draw(st.integers(0, 1))
    for _ in range(draw(st.integers(1, 3))):
        messages.append(draw(users))
        if draw(st.booleans()):
            messages.append(Message(Role.SYSTEM, tuple(draw(st.lists(plain, min_size=1, max_size=2)))))
        messages.append(draw(assistants))
    given_tools = tuple(draw(st.lists(tools, max_size=2)))
    choice = draw(st.sampled_from([None, *ToolUse, NamedTool("f")])) if given_tools else None
    parallel = draw(st.sampled_from([None, True, False])) if choice not in (None, ToolUse.NONE) else None
    reasoning = draw(
        st.sampled_from(
            [None, Reasoning(False), Reasoning(True), Reasoning(True, "max", summary="omitted"), Reasoning(True, "low")]
        )
    )
    return Conversation(
        messages=tuple(messages),
        tools=given_tools,
        tool_choice=choice,
        parallel_tools=parallel,
        max_tokens=draw(st.integers(0, 99999)),
        stop=tuple(draw(st.lists(stops, max_size=2))),
        format=draw(st.sampled_from([None, JsonFormat(SCHEMA)])),
        reasoning=reasoning,
        user=draw(st.none() | words),
        service_tier=draw(st.sampled_from([None, "auto", "standard_only"])),
        extras=draw(st.sampled_from([{}, {"container": Raw(b'"c"'), "thinking": Raw(b'{"type":"between_tools"}')}]))
        if reasoning is None
        else {},
    )


@given(conversations())
def test_what_is_written_reads_as_what_was_said(conversation: Conversation) -> None:
    written = write_conversation(conversation, model=NEW, stream=False)
    assert written.dropped == ()
    again = read_conversation(read_request(written.body))
    assert replace(again, extras={}) == replace(conversation, extras={})
    assert dict(again.extras) == dict(conversation.extras)


_params: TypeAdapter[Any] = TypeAdapter(message_create_params.MessageCreateParamsNonStreaming)


@given(conversations())
def test_what_is_written_is_right_by_the_types_of_the_sdk(conversation: Conversation) -> None:
    _params.validate_python(json.loads(write_conversation(conversation, model=NEW, stream=False).body))


@given(conversations())
def test_what_is_counted_is_what_would_be_asked(conversation: Conversation) -> None:
    asked = json.loads(write_conversation(conversation, model=NEW, stream=False).body)
    counted = json.loads(write_count_conversation(conversation, model=NEW).body)
    assert "max_tokens" not in counted
    assert counted == {name: asked[name] for name in counted}


# --- messages -------------------------------------------------------------------------------------------------------


def test_results_of_tools_come_first_in_the_one_turn_behind_the_calls() -> None:
    calls = assistant(ToolCall("a", "f", "{}"), ToolCall("b", "g", '{"x": 1}'))
    results = [user(ToolResult("a", (Text("1"),))), user(Text("and")), user(ToolResult("b", (), is_error=True))]
    asked, dropped = write(said(HI, calls, *results))
    assert asked["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "b", "is_error": True},
        {"type": "text", "text": "and"},
    ]
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
    assert dropped == ()


def test_an_id_that_the_api_refuses_becomes_one_that_fits_everywhere_the_same() -> None:
    """T6."""
    asked, _ = write(said(HI, assistant(ToolCall("f:0", "f", "")), user(ToolResult("f:0", ()))))
    id = asked["messages"][1]["content"][0]["id"]
    assert id.startswith("toolu_")
    assert asked["messages"][2]["content"][0]["tool_use_id"] == id
    assert asked["messages"][1]["content"][0]["input"] == {}


def test_the_first_system_messages_are_the_system_prompt() -> None:
    asked, _ = write(said(system("a"), HI))
    assert asked["system"] == "a"
    asked, _ = write(said(system("a"), system("b"), HI))
    assert asked["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize("late", [(system("late"), user(Text("go"))), (user(Text("go")), system("late"))])
def test_a_later_system_message_stands_behind_the_users_turn_where_the_model_takes_it(late: tuple[Message]) -> None:
    asked, dropped = write(said(system("a"), HI, assistant(Text("yo")), *late), NEW)
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user", "system"]
    assert (asked["system"], asked["messages"][3]["content"], dropped) == ("a", "late", ())


def test_a_later_system_message_goes_up_where_the_model_does_not_take_it_and_the_caller_is_told() -> None:
    asked, dropped = write(said(HI, assistant(Text("yo")), system("late"), user(Text("go"))), OLD)
    assert (asked["system"], len(asked["messages"]), dropped) == ("late", 3, ("messages.2.role",))
    asked, dropped = write(said(HI, assistant(Text("yo")), system("late")), NEW)
    assert (asked["system"], dropped) == ("late", ("messages.2.role",))


def test_empty_texts_and_turns_are_left_out() -> None:
    asked, _ = write(said(HI, assistant(Text("")), user(Text(""), Text("go"))))
    assert asked["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "go"}]}
    ]


def test_a_question_that_is_empty_is_refused() -> None:
    assert refused(said(system("a"))) == "messages"
    assert refused(said(HI, assistant(Text("yo")), user(Text("")))) == "messages.2.content"


def test_a_last_turn_of_the_assistant_stays_the_last() -> None:
    asked, _ = write(said(HI, assistant(Text("The answer is ("))))
    assert asked["messages"][-1] == {"role": "assistant", "content": "The answer is ("}


def test_images_and_documents_are_understood_however_they_are_said() -> None:
    parts = (
        Image(url="data:image/jpg;base64,aGk="),
        Image(data="aGk=", media_type="image/png", detail="low"),
        Document(data="data:application/pdf;base64,aGk=", name="a.pdf"),
        Document(data="aGk=", name="b.pdf"),
        Refusal("no"),
    )
    asked, dropped = write(said(user(*parts)))
    content = asked["messages"][0]["content"]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    assert [block.get("source") for block in content] == [
        {"type": "base64", "media_type": "image/jpeg", "data": "aGk="},
        {"type": "base64", "media_type": "image/png", "data": "aGk="},
        pdf,
        pdf,
        None,
    ]
    assert content[-1] == {"type": "text", "text": "no"}
    assert dropped == ("messages.0.content.1.detail",)


@pytest.mark.parametrize(
    "part",
    [
        Audio("aGk=", "wav"),
        Image(data="aGk=", media_type="image/tiff"),
        Image(url="data:image/png,aGk"),
        Image(),
        Document(data="aGk=", media_type="text/csv"),
        Document(),
        ToolCall("a", "f", '{"x":'),
        ToolCall("a", "f", "[]"),
    ],
)
def test_a_part_without_a_word_is_refused_by_its_place(part: Part) -> None:
    assert refused(said(HI, user(Text("a"), part))) == "messages.1.content.1"


def test_what_only_its_own_provider_takes_back_is_left_out_by_name() -> None:
    """T7."""
    foreign = Raw(b'[{"type":"url_citation","url":"https://example.org"}]')
    asked, dropped = write(said(HI, assistant(Thinking("hm"), Text("yo", citations=foreign))))
    assert asked["messages"][1] == {"role": "assistant", "content": "yo"}
    assert dropped == ("messages.1.content.0", "messages.1.content.1.citations")
    assert write(said(replace(HI, name="ann")))[1] == ("messages.0.name",)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-3-haiku-20240307", 4096),
        ("claude-3-5-sonnet-20241022", 8192),
        ("claude-opus-4-20250514", 8192),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 8192),
        ("claude-opus-4-1@20250805", 8192),
        ("claude-opus-4-8", 16384),
        ("claude-sonnet-5", 16384),
        ("claude-mythos-preview", 16384),
        ("llama-3", 4096),
    ],
)
def test_max_tokens_is_made_up_where_the_caller_need_not_say_it(model: str, most: int) -> None:
    """T8."""
    assert write(said(HI), model)[0]["max_tokens"] == most
    assert write(said(HI, max_tokens=7), model)[0]["max_tokens"] == 7


def test_new_models_take_later_system_messages_and_no_settings_of_chance() -> None:
    for model in (NEW, "claude-opus-5-5", "claude-haiku-5-5", "claude-fable-5-2", "anthropic/claude-opus-4.8"):
        assert abilities_of(model).has_later_system, model
        assert not abilities_of(model).has_sampling
    for model in (OLD, BETWEEN, "claude-3-opus-20240229", "claude-2.1", "gpt-5"):
        assert not abilities_of(model).has_later_system, model
        assert abilities_of(model).has_sampling


def test_settings_without_a_word_are_left_out_by_name() -> None:
    """T2."""
    asked, dropped = write(
        said(
            HI, seed=1, frequency_penalty=0.5, presence_penalty=0.0, service_tier="flex", extras={"store": Raw(b"true")}
        )
    )
    assert dropped == ("service_tier", "seed", "frequency_penalty", "store")
    assert asked.keys() == {"model", "max_tokens", "messages"}


def test_settings_of_chance_are_left_out_by_name_where_the_model_takes_none() -> None:
    chance = said(HI, temperature=0.5, top_p=0.9, top_k=3)
    assert write(chance, NEW)[1] == ("temperature", "top_p", "top_k")
    asked, dropped = write(chance, OLD)
    assert (asked["temperature"], asked["top_k"], dropped) == (0.5, 3, ("top_p",))
    assert write(chance, "claude-3-opus")[1] == ()
    assert write(said(HI, temperature=1.0, top_p=1.0), NEW)[1] == (), "what is the default anyway is not missed"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"choices": 2}, "n"),
        ({"stop": ("\n",)}, "stop"),
        ({"top_logprobs": 0}, "logprobs"),
        ({"temperature": 1.2}, "temperature"),
        ({"format": JsonFormat()}, "response_format"),
        ({"tool_choice": ToolUse.REQUIRED}, "tool_choice"),
        ({"reasoning": Reasoning(effort="extreme")}, "reasoning_effort"),
        ({"extras": {"audio": Raw(b"{}"), "modalities": Raw(b'["text","audio"]')}}, "modalities"),
        ({"extras": {"web_search_options": Raw(b'{"a":1}')}}, "web_search_options"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    assert refused(said(HI, **more)) == param


def test_extras_that_say_nothing_are_no_reason_to_refuse() -> None:
    extras = {"modalities": Raw(b'["text"]'), "logit_bias": Raw(b"{}"), "audio": Raw(b"null")}
    assert write(said(HI, extras=extras))[1] == ()


def test_one_tool_at_a_time_is_said_with_the_choice() -> None:
    tool = Tool("f")
    asked, _ = write(said(HI, tools=(tool,), parallel_tools=False))
    assert asked["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert asked["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert "tool_choice" not in write(said(HI, tools=(tool,), parallel_tools=True))[0]
    assert "tool_choice" not in write(said(HI, tool_choice=ToolUse.AUTO))[0]


@pytest.mark.parametrize(
    ("model", "wished", "thinking", "effort", "most"),
    [
        (OLD, Reasoning(effort="low"), {"type": "enabled", "budget_tokens": 2048}, None, 8192 + 2048),
        (OLD, Reasoning(True, budget=5000), {"type": "enabled", "budget_tokens": 5000}, None, 8192 + 5000),
        (OLD, Reasoning(effort="none"), {"type": "disabled"}, None, 8192),
        (BETWEEN, Reasoning(True, budget=5000), {"type": "enabled", "budget_tokens": 5000}, None, 16384 + 5000),
        (BETWEEN, Reasoning(effort="minimal"), {"type": "adaptive"}, "low", 16384),
        (NEW, Reasoning(effort="xhigh", summary="auto"), {"type": "adaptive", "display": "summarized"}, "xhigh", 16384),
        (NEW, Reasoning(True, budget=5000), {"type": "adaptive"}, None, 16384),
    ],
)
def test_thinking_is_asked_for_as_the_model_takes_it(
    model: str, wished: Reasoning, thinking: dict[str, Any], effort: str | None, most: int
) -> None:
    asked, dropped = write(said(HI, reasoning=wished), model)
    assert asked["thinking"] == thinking
    assert asked.get("output_config", {}).get("effort") == effort
    assert asked["max_tokens"] == most
    assert dropped == (("thinking.budget_tokens",) if model == NEW and wished.budget else ())


def test_thinking_that_has_no_room_is_left_out_by_name() -> None:
    asked, dropped = write(said(HI, reasoning=Reasoning(effort="high"), max_tokens=100))
    assert "thinking" not in asked
    assert dropped == ("reasoning_effort",)
    asked, _ = write(said(HI, reasoning=Reasoning(effort="high"), max_tokens=4000))
    assert asked["thinking"]["budget_tokens"] == 3999


def test_thinking_with_a_budget_needs_the_thoughts_behind_the_calls() -> None:
    """FAULTS 36: they are there where the client's dialect could carry them."""
    call, result = ToolCall("a", "f", "{}"), user(ToolResult("a", ()))
    wished = Reasoning(effort="low")
    asked, dropped = write(said(HI, assistant(call), result, reasoning=wished))
    assert "thinking" not in asked
    assert dropped == ("reasoning_effort",)
    assert "thinking" in write(said(HI, assistant(Thinking("t", "s"), call), result, reasoning=wished))[0]
    assert "thinking" in write(said(HI, assistant(call), result, reasoning=wished), NEW)[0]


def test_a_stream_is_asked_for() -> None:
    written: Written = write_conversation(said(HI), model=OLD, stream=True)
    assert json.loads(written.body)["stream"] is True


# --- what is refused on the way out of the dialect -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"system": [{"type": "image"}]}, "system.0.source"),
        *(
            ({"messages": [{"role": role, "content": [block]}]}, f"messages.0.content.0{path}")
            for role, block, path in [
                ("user", {"text": "a"}, ".type"),
                ("user", {"type": "text"}, ".text"),
                ("user", {"type": "search_result", "content": []}, ".type"),
                ("assistant", {"type": "server_tool_use", "id": "a"}, ".type"),
                ("user", {"type": "image", "source": {"type": "file", "file_id": "a"}}, ".source.type"),
                ("user", {"type": "image", "source": {"type": "base64", "data": "a"}}, ".source"),
                (
                    "user",
                    {"type": "document", "source": {"type": "url", "url": "u"}, "citations": {"enabled": True}},
                    ".citations",
                ),
                ("user", {"type": "tool_use", "id": "a", "name": "f", "input": {}}, ""),
                ("assistant", {"type": "tool_result", "tool_use_id": "a"}, ""),
                ("assistant", {"type": "tool_use", "id": "a", "name": "f", "input": "{}"}, ".input"),
                (
                    "user",
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "thinking"}]},
                    ".content.0.thinking",
                ),
            ]
        ),
    ],
)
def test_what_cannot_leave_the_dialect_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestRefused) as failed:
        read(**fields)
    assert failed.value.error.param == param


def test_fields_without_a_word_are_kept_by_name() -> None:
    asked = read(
        container="c",
        inference_geo=None,
        metadata={"user_id": "u", "team": "t"},
        output_config={"effort": "low", "speed": 2},
        tools=[{"name": "f", "input_schema": {}, "input_examples": [{}], "defer_loading": False}],
    )
    assert {name: bytes(raw) for name, raw in asked.extras.items()} == {
        "container": b'"c"',
        "metadata.team": b'"t"',
        "output_config.speed": b"2",
        "tools.0.input_examples": b"[{}]",
    }
    assert (asked.user, asked.reasoning) == ("u", Reasoning(effort="low"))
