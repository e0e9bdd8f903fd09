"""Conversations to and from the Responses API: nothing is lost in silence (FAULTS 36-40)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
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
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.openai_responses.request import read_request

PARAMS = TypeAdapter[Any](ResponseCreateParamsNonStreaming)
USER = Message(Role.USER, (Text("Hello"),))


def read(**fields: object) -> Conversation:
    body = json.dumps({"model": "m", "input": "Hello", **fields}).encode()
    return OPENAI_RESPONSES.read_conversation(read_request(body))


def write(conversation: Conversation) -> tuple[dict[str, Any], tuple[str, ...]]:
    written = OPENAI_RESPONSES.write_conversation(conversation, model="m", stream=False)
    return json.loads(written.body), written.dropped


def refusal_of(**fields: object) -> tuple[str | None, str]:
    with pytest.raises(RequestRefused) as refused:
        read(**fields)
    assert refused.value.error.status == 400
    return refused.value.error.param, refused.value.error.message


def test_instructions_come_first_and_a_text_is_the_users() -> None:
    assert read(instructions="Be brief.").messages == (Message(Role.SYSTEM, (Text("Be brief."),)), USER)


def test_items_become_messages_in_their_order() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Look:"}, _IMAGE, _PICTURE, _FILE, _SOUND]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Hm"}],
            "encrypted_content": "s",
        },
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "sealed"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"x":1}', "id": "fc_1"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}, _IMAGE]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "So", "annotations": [{"type": "url_citation"}]},
                {"type": "refusal", "refusal": "No"},
            ],
        },
        {"role": "user", "content": "And?"},
        {"role": "user", "content": "Well?"},
    ]
    image = Image(url="https://example.org/a.png", detail="low")
    assert read(input=items).messages[1:] == (
        Message(
            Role.USER,
            (
                Text("Look:"),
                image,
                Image(data="QUJD", media_type="image/png"),
                Document(data="QUJD", media_type="application/pdf", name="a.pdf"),
                Audio("QUJD", "wav"),
            ),
        ),
        Message(
            Role.ASSISTANT,
            (Thinking("Hm", "s"), SealedThinking("sealed"), ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}")),
        ),
        Message(Role.USER, (ToolResult("a", (Text("1"),)), ToolResult("b", (Text("2"), image)))),
        Message(Role.ASSISTANT, (Text("So", citations=Raw(b'[{"type": "url_citation"}]')), Refusal("No"))),
        Message(Role.USER, (Text("And?"),)),
        Message(Role.USER, (Text("Well?"),)),
    )


_IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"}
_PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,QUJD"}
_FILE = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}
_SOUND = {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}


def test_settings_are_read() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    read_ = read(
        tools=[{"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        user="u",
        service_tier="flex",
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        truncation="disabled",
        store=True,
        background=False,
        prompt_cache_key="k",
    )
    raw = Raw(json.dumps(schema).encode())
    assert read_ == Conversation(
        messages=(USER,),
        tools=(Tool("f", "d", raw, True),),
        tool_choice=NamedTool("f"),
        parallel_tools=False,
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        format=JsonFormat(raw, "n", None, True),
        reasoning=Reasoning(effort="high", summary="auto"),
        user="u",
        service_tier="flex",
        extras={"prompt_cache_key": Raw(b'"k"'), "verbosity": Raw(b'"low"')},
    )


@pytest.mark.parametrize("tool", ["web_search", "file_search", "code_interpreter", "computer_use_preview", "mcp"])
def test_a_hosted_tool_is_refused_by_name(tool: str) -> None:
    """O7."""
    param, message = refusal_of(tools=[{"type": "function", "name": "f"}, {"type": tool}])
    assert param == "tools[1].type"
    assert f'"{tool}"' in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "name": "sql"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": "1"}]}, "input[0].call_id"),
        ({"input": [{"role": "critic", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": 5}]}]}, "input[0].content[0].type"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ],
)
def test_what_has_no_word_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    assert refusal_of(**fields)[0] == param


def test_a_conversation_is_written_as_the_api_describes_it() -> None:
    conversation = Conversation(
        messages=(
            Message(Role.SYSTEM, (Text("Be brief."),)),
            Message(Role.SYSTEM, (Text("In verse."),)),
            Message(Role.USER, (Text("Look:"), Image(data="QUJD", media_type="image/png"))),
            Message(Role.ASSISTANT, (Thinking("Hm", "seal"), Text("I call."), ToolCall("a", "f", "{}"))),
            Message(Role.USER, (ToolResult("a", (Text("broken"),), is_error=True), Text("Go on"))),
        ),
        tools=(Tool("f", None, None), Tool("g", "d", Raw(b'{"type":"object"}'), True)),
        tool_choice=ToolUse.REQUIRED,
        format=JsonFormat(),
        reasoning=Reasoning(enabled=True),
        extras={"verbosity": Raw(b'"high"'), "prompt_cache_key": Raw(b'"k"')},
    )
    body, dropped = write(conversation)
    assert dropped == ("reasoning.enabled",)
    assert body == {
        "model": "m",
        "stream": False,
        "store": False,
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "In verse."}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look:"},
                    {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
                ],
            },
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "Hm"}],
                "encrypted_content": "seal",
            },
            {"type": "message", "role": "assistant", "content": "I call."},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "broken", "status": "incomplete"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go on"}]},
        ],
        "tools": [
            {"type": "function", "name": "f", "strict": False, "parameters": {"type": "object", "properties": {}}},
            {"type": "function", "name": "g", "strict": True, "description": "d", "parameters": {"type": "object"}},
        ],
        "tool_choice": "required",
        "text": {"format": {"type": "json_object"}, "verbosity": "high"},
        "reasoning": {"summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
    }


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (Conversation((USER,), stop=("END",)), "stop"),
        (Conversation((USER,), choices=2), "n"),
        (Conversation((USER,), extras={"logit_bias": Raw(b'{"5":1}')}), "logit_bias"),
        (Conversation((USER,), extras={"never_heard_of": Raw(b"1")}), "never_heard_of"),
        (Conversation((Message(Role.ASSISTANT, (Image(url="u"),)),)), "messages[0]"),
        (Conversation((USER, Message(Role.USER, (Audio("QUJD", "wav"),)))), "messages[1]"),
    ],
)
def test_what_changes_the_answer_and_has_no_word_is_refused(conversation: Conversation, param: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        write(conversation)
    assert refused.value.error.param == param


def test_mere_settings_are_dropped_and_told() -> None:
    cache = Raw(b'{"type":"ephemeral"}')
    conversation = Conversation(
        (
            Message(Role.SYSTEM, (Text("s", cache=cache),)),
            Message(Role.USER, (Text("a"),), name="bob"),
            Message(Role.ASSISTANT, (Thinking("Hm"), Text("b"))),
            USER,
        ),
        tools=(Tool("f", cache=cache),),
        seed=1,
        top_k=5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        reasoning=Reasoning(enabled=True, budget=1024),
        extras={"metadata": Raw(b"{}")},
    )
    body, dropped = write(conversation)
    assert sorted(dropped) == [
        *("cache_control", "frequency_penalty", "metadata", "name", "presence_penalty"),
        *("reasoning", "reasoning.budget", "seed", "top_k"),
    ]
    assert body["input"][0]["role"] == "developer"
    assert "seed" not in body


def test_models_that_do_not_think_are_not_asked_for_sealed_thoughts() -> None:
    assert "include" not in write(Conversation((USER,)))[0]
    assert "include" not in write(Conversation((USER,), reasoning=Reasoning(enabled=False)))[0]
    assert write(Conversation((USER,), reasoning=Reasoning(enabled=False)))[0]["reasoning"] == {"effort": "none"}


# What this dialect can say, as its reader gives it.

NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
JSON_TEXTS = st.dictionaries(NAMES, st.integers() | TEXTS, max_size=2).map(json.dumps)
SCHEMAS = JSON_TEXTS.map(lambda text: Raw(text.encode()))
BASE64 = st.sampled_from(["QUJD", "AA==", ""])
TYPES = st.sampled_from(["image/png", "application/pdf", "text/plain;charset=utf-8"])
IMAGES = st.builds(Image, data=BASE64, media_type=TYPES, detail=st.sampled_from(["auto", "low"])) | st.builds(
    Image, url=NAMES.map(lambda name: f"https://example.org/{name}"), detail=st.just("auto")
)
DOCUMENTS = st.one_of(
    st.builds(Document, data=BASE64, media_type=TYPES, name=NAMES),
    st.builds(Document, url=NAMES, name=st.none() | NAMES),
    st.builds(Document, file_id=NAMES),
)
PLAIN_TEXTS = TEXTS.map(Text)
RESULTS = st.builds(
    ToolResult,
    NAMES,
    st.lists(st.one_of(PLAIN_TEXTS, IMAGES, DOCUMENTS), min_size=1, max_size=2).map(tuple),
    st.booleans(),
)
SAID: st.SearchStrategy[Part] = st.one_of(
    PLAIN_TEXTS,
    TEXTS.map(Refusal),
    st.builds(Thinking, TEXTS, TEXTS),
    TEXTS.map(SealedThinking),
    st.builds(ToolCall, NAMES, NAMES, JSON_TEXTS),
)
MESSAGES = st.one_of(
    st.lists(PLAIN_TEXTS, min_size=1, max_size=2).map(lambda parts: Message(Role.SYSTEM, tuple(parts))),
    st.lists(st.one_of(PLAIN_TEXTS, IMAGES, DOCUMENTS), min_size=1, max_size=3).map(
        lambda parts: Message(Role.USER, tuple(parts))
    ),
    st.lists(RESULTS, min_size=1, max_size=3).map(lambda parts: Message(Role.USER, tuple(parts))),
    st.lists(SAID, min_size=1, max_size=4).map(lambda parts: Message(Role.ASSISTANT, tuple(parts))),
)
CONVERSATIONS = st.builds(
    Conversation,
    messages=st.lists(MESSAGES, min_size=1, max_size=5).map(tuple),
    tools=st.lists(st.builds(Tool, NAMES, st.none() | TEXTS, SCHEMAS, st.booleans()), max_size=2).map(tuple),
    tool_choice=st.none() | st.sampled_from(ToolUse) | NAMES.map(NamedTool),
    parallel_tools=st.none() | st.booleans(),
    max_tokens=st.none() | st.integers(16, 99),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    format=st.none()
    | st.builds(JsonFormat)
    | st.builds(JsonFormat, SCHEMAS, NAMES, st.none() | TEXTS, st.none() | st.booleans()),
    reasoning=st.none()
    | st.builds(Reasoning, effort=st.sampled_from(["low", "high"]), summary=st.none() | st.just("auto"))
    | st.just(Reasoning(enabled=False, effort="none")),
    user=st.none() | NAMES,
    service_tier=st.none() | st.just("flex"),
    extras=st.just({}) | st.just({"truncation": Raw(b'"auto"'), "verbosity": Raw(b'"low"')}),
)


@given(CONVERSATIONS)
def test_what_is_written_is_read_again(conversation: Conversation) -> None:
    written = OPENAI_RESPONSES.write_conversation(conversation, model="m", stream=True)
    assert written.dropped == ()
    body = json.loads(written.body)
    for item in body["input"]:
        if item["type"] == "reasoning":
            item["id"] = "rs_1"  # the API itself takes them without, and refuses another than the sealed one
    PARAMS.validate_python({**body, "stream": False})
    again = OPENAI_RESPONSES.read_conversation(read_request(written.body))
    assert _turns(again.messages) == _turns(conversation.messages)
    for name in Conversation.__dataclass_fields__:
        if name not in ("messages", "format"):
            assert getattr(again, name) == getattr(conversation, name), name
    assert again.format == conversation.format


def _turns(messages: tuple[Message, ...]) -> list[tuple[Role, Part]]:
    """Who says what: how pieces of one turn are bundled says nothing."""
    return [(message.role, part) for message in messages for part in message.parts]
