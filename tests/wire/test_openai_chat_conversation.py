"""Requests of Chat Completions into words, and words into requests."""

import json
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.wire.matrix_conversations import CONVERSATIONS
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
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT

USER = {"role": "user", "content": "Hi"}


def read(messages: list[dict[str, Any]] | None = None, **fields: Any) -> Conversation:
    body = json.dumps({"model": "m", "messages": messages or [USER], **fields}).encode()
    return OPENAI_CHAT.read_conversation(OPENAI_CHAT.read_request(body))


def write(conversation: Conversation, model: str = "m", *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OPENAI_CHAT.write_conversation(conversation, model=model, stream=stream).body)
    return body


def said(*parts: Part, role: Role = Role.USER) -> Conversation:
    return Conversation((Message(role, parts),))


def dropped(conversation: Conversation) -> tuple[str, ...]:
    return OPENAI_CHAT.write_conversation(conversation, model="m", stream=False).dropped


MESSAGES: dict[str, tuple[list[dict[str, Any]], list[Message]]] = {
    "text": ([USER], [Message(Role.USER, (Text("Hi"),))]),
    "system": ([{"role": "system", "content": "S"}], [Message(Role.SYSTEM, (Text("S"),))]),
    "developer": ([{"role": "developer", "content": "S"}], [Message(Role.SYSTEM, (Text("S"),))]),
    "no content": ([{"role": "user", "content": ""}], [Message(Role.USER, ())]),
    "same role twice": ([USER, USER], [Message(Role.USER, (Text("Hi"),)), Message(Role.USER, (Text("Hi"),))]),
    "a name": ([{**USER, "name": "Ann"}], [Message(Role.USER, (Text("Hi"),), "Ann")]),
    "an image by url": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a", "detail": "low"}}]}],
        [Message(Role.USER, (Image(url="https://a", detail="low"),))],
    ),
    "an image in the request": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
        [Message(Role.USER, (Image(data="AAAA", media_type="image/png"),))],
    ),
    "sound": (
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}],
        [Message(Role.USER, (Audio("AA", "wav"),))],
    ),
    "a file": (
        [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:a/b;base64,AA", "filename": "f"}}]}],
        [Message(Role.USER, (Document(data="AA", media_type="a/b", name="f"),))],
    ),
    "a file by its id": (
        [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}],
        [Message(Role.USER, (Document(file_id="x"),))],
    ),
    "a cache mark on a part": (
        [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}],
        [Message(Role.USER, (Text("a", Raw(b'{"type": "ephemeral"}')),))],
    ),
    "a cache mark on a message": (
        [{**USER, "cache_control": {"type": "ephemeral"}}],
        [Message(Role.USER, (Text("Hi", Raw(b'{"type": "ephemeral"}')),))],
    ),
    "calls and results": (
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                    {"id": "a", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "b", "content": "1"},
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "2"}]},
            USER,
        ],
        [
            Message(Role.ASSISTANT, (ToolCall("b", "f", '{"x": 1}'), ToolCall("a", "g", "{}"))),
            Message(Role.USER, (ToolResult("b", (Text("1"),)), ToolResult("a", (Text("2"),)))),
            Message(Role.USER, (Text("Hi"),)),
        ],
    ),
    "a function's result": (
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        [
            Message(Role.ASSISTANT, (ToolCall("call_0", "f", "{}"),)),
            Message(Role.USER, (ToolResult("call_0", (Text("1"),)),)),
        ],
    ),
    "refusal": (
        [{"role": "assistant", "content": None, "refusal": "No"}],
        [Message(Role.ASSISTANT, (Refusal("No"),))],
    ),
    "what an SDK adds": (
        [{"role": "assistant", "content": "a", "refusal": None, "audio": None, "annotations": [], "tool_calls": None}],
        [Message(Role.ASSISTANT, (Text("a"),))],
    ),
    "reasoning": (
        [{"role": "assistant", "content": "a", "reasoning_content": "r"}],
        [Message(Role.ASSISTANT, (Thinking("r"), Text("a")))],
    ),
    "sealed reasoning": (
        [
            {
                "role": "assistant",
                "content": "a",
                "reasoning_content": "r",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "r", "signature": "s", "index": 0},
                    {"type": "redacted_thinking", "data": "d"},
                ],
            }
        ],
        [Message(Role.ASSISTANT, (Thinking("r", "s"), SealedThinking("d"), Text("a")))],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_read(name: str) -> None:
    messages, words = MESSAGES[name]
    assert list(read(messages).messages) == words


def test_sources_stay_with_their_text() -> None:
    source = {"type": "url_citation", "url_citation": {"url": "u"}}
    (message,) = read([{"role": "assistant", "content": "a", "annotations": [source]}]).messages
    (text,) = message.parts
    assert isinstance(text, Text)
    assert json.loads(bytes(text.citations or b"")) == [source]
    assert write(Conversation((message,)))["messages"][0]["annotations"] == [source]


SETTINGS: dict[str, tuple[dict[str, Any], Conversation]] = {
    "nothing": ({}, Conversation(())),
    "numbers": (
        {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "frequency_penalty": 1, "presence_penalty": -1},
        Conversation((), temperature=0.5, top_p=0.9, top_k=3, seed=7, frequency_penalty=1, presence_penalty=-1),
    ),
    "max_tokens": ({"max_tokens": 5}, Conversation((), max_tokens=5)),
    "max_completion_tokens": ({"max_completion_tokens": 5}, Conversation((), max_tokens=5)),
    "both limits": ({"max_completion_tokens": 5, "max_tokens": 5}, Conversation((), max_tokens=5)),
    "one stop": ({"stop": "a"}, Conversation((), stop=("a",))),
    "stops": ({"stop": ["a", "b"]}, Conversation((), stop=("a", "b"))),
    "tool choice": ({"tool_choice": "required"}, Conversation((), tool_choice=ToolUse.REQUIRED)),
    "a named tool": (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        Conversation((), tool_choice=NamedTool("f")),
    ),
    "parallel": ({"parallel_tool_calls": False}, Conversation((), parallel_tools=False)),
    "JSON": ({"response_format": {"type": "json_object"}}, Conversation((), format=JsonFormat())),
    "text": ({"response_format": {"type": "text"}}, Conversation(())),
    "effort": ({"reasoning_effort": "low"}, Conversation((), reasoning=Reasoning(effort="low"))),
    "no effort": ({"reasoning_effort": "none"}, Conversation((), reasoning=Reasoning(False, "none"))),
    "logprobs": ({"logprobs": True}, Conversation((), top_logprobs=0)),
    "top logprobs": ({"logprobs": True, "top_logprobs": 3}, Conversation((), top_logprobs=3)),
    "user": ({"user": "u"}, Conversation((), user="u")),
    "safety_identifier": ({"safety_identifier": "u"}, Conversation((), user="u")),
    "user twice": ({"safety_identifier": "u", "user": "v"}, Conversation((), user="u", extras={"user": Raw(b'"v"')})),
    "service tier": ({"service_tier": "flex"}, Conversation((), service_tier="flex")),
    "n": ({"n": 2}, Conversation((), choices=2)),
    "extras": ({"verbosity": "low"}, Conversation((), extras={"verbosity": Raw(b'"low"')})),
    "an unknown format": (
        {"response_format": {"type": "grammar"}},
        Conversation((), extras={"response_format": Raw(b'{"type": "grammar"}')}),
    ),
    "what asks for nothing": (
        {"store": False, "modalities": ["text"], "metadata": {}, "logit_bias": None, "stream": True},
        Conversation(()),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_read(name: str) -> None:
    fields, words = SETTINGS[name]
    assert replace(read(**fields), messages=()) == words


def test_tools_keep_their_schema_to_the_byte() -> None:
    schema = b'{ "type" : "object", "properties":{"b":{},"a":{}} }'
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":'
        b'{"name":"f","description":"d","strict":true,"parameters":%b}}]}' % schema
    )
    conversation = OPENAI_CHAT.read_conversation(OPENAI_CHAT.read_request(body))
    assert conversation.tools == (Tool("f", "d", Raw(schema), True),)
    assert schema in OPENAI_CHAT.write_conversation(conversation, model="m", stream=False).body


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a custom tool": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
    "a hosted tool": ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    "allowed tools": ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    "an unknown choice": ({"tool_choice": "perhaps"}, "tool_choice"),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "two limits": ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "a role": ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
    "a part": (
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    "a part of another's": (
        {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        "messages[0].content[0].type",
    ),
    "a member": ({"messages": [USER, {"role": "assistant", "content": "a", "prefix": True}]}, "messages[1].prefix"),
    "a result of no call": ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
    "a function's result": ({"messages": [{"role": "function", "name": "f", "content": "a"}]}, "messages[0].name"),
    "a wrong type": ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content"),
    "thinking": (
        {"messages": [{"role": "assistant", "thinking_blocks": [{"type": "guess"}]}]},
        "messages[0].thinking_blocks[0]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_word_is_refused_by_name(name: str) -> None:
    fields, param = REFUSED[name]
    with pytest.raises(RequestRefused) as refused:
        read(**fields)
    assert refused.value.error.status == 400
    assert (refused.value.error.param or "").startswith(param)


NOT_WRITTEN: dict[str, tuple[Conversation, str]] = {
    "an image in a result": (said(ToolResult("a", (Image(url="u"),))), "an image in a tool's result"),
    "a document by url": (said(Document(url="u")), 'a document given by its "url"'),
    "sound in an answer": (said(Audio("a", "wav"), role=Role.ASSISTANT), "sound in an assistant's message"),
    "an image in the system's": (said(Image(url="u"), role=Role.SYSTEM), "an image in a system's message"),
    "a field": (Conversation((), extras={"mcp_servers": Raw(b"[]")}), "'mcp_servers'"),
    "a tool's field": (Conversation((), extras={"tools.0.allowed_callers": Raw(b"[]")}), "'tools.0.allowed_callers'"),
}


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_cannot_be_said_is_refused(name: str) -> None:
    conversation, told = NOT_WRITTEN[name]
    with pytest.raises(RequestRefused, match=told) as refused:
        write(conversation)
    assert refused.value.error.status == 400


MARK = Raw(b'{"type":"ephemeral"}')

DROPPED: dict[str, tuple[Conversation, tuple[str, ...]]] = {
    "top_k": (Conversation((), top_k=3), ("top_k",)),
    "a budget": (Conversation((), reasoning=Reasoning(True, budget=1024)), ("reasoning.budget",)),
    "thinking as such": (Conversation((), reasoning=Reasoning(True)), ("reasoning.enabled",)),
    "a summary": (Conversation((), reasoning=Reasoning(effort="low", summary="auto")), ("reasoning.summary",)),
    "a tier": (Conversation((), service_tier="standard_only"), ("service_tier",)),
    "cache marks, once": (said(Text("a", MARK), Text("b", MARK)), ("cache_control",)),
    "a failed tool": (said(ToolResult("a", (Text("b"),), is_error=True)), ("is_error",)),
    "a mere setting": (Conversation((), extras={"truncation": Raw(b'"auto"')}), ("truncation",)),
    "another's sources": (
        said(Text("a", citations=Raw(b'[{"type":"char_location"}]')), role=Role.ASSISTANT),
        ("citations",),
    ),
}


@pytest.mark.parametrize("name", DROPPED)
def test_a_setting_without_a_word_is_dropped_and_told(name: str) -> None:
    conversation, names = DROPPED[name]
    assert dropped(conversation) == names


def test_each_result_becomes_a_message_in_its_place() -> None:
    parts = (ToolResult("b", (Text("1"),)), ToolResult("a", (Text("2"), Text("3"))), Text("Go on"))
    assert write(said(*parts))["messages"] == [
        {"role": "tool", "tool_call_id": "b", "content": "1"},
        {
            "role": "tool",
            "tool_call_id": "a",
            "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}],
        },
        {"role": "user", "content": "Go on"},
    ]


def test_a_document_that_is_text_goes_as_text() -> None:
    assert write(said(Document(text="a")))["messages"][0]["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "max_tokens"),
        ("llama-3.3", "max_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("gpt-5.1", "max_completion_tokens"),
        ("openai/gpt-5", "max_completion_tokens"),
        ("o1000", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_model_knows(model: str, name: str) -> None:
    assert write(Conversation((), max_tokens=5), model)[name] == 5


def test_a_stream_is_asked_for_with_its_usage() -> None:
    body = write(Conversation(()), stream=True)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_words_about_tools_are_left_out_where_there_are_none() -> None:
    body = write(Conversation((), tool_choice=ToolUse.AUTO, parallel_tools=False))
    assert body == {"model": "m", "messages": []}


def normal(messages: tuple[Message, ...]) -> list[Message]:
    """Messages with neighbouring tools' results in one, and reasoning that no seal parts in one."""
    runs = groupby(messages, lambda message: bool(message.parts) and isinstance(message.parts[0], ToolResult))
    joined: list[Message] = []
    for is_result, run in runs:
        several = list(run)
        if is_result:
            several = [Message(Role.USER, tuple(part for message in several for part in message.parts))]
        joined += several
    return joined


@settings(deadline=None)
@given(CONVERSATIONS)
def test_written_and_read_a_conversation_is_the_same(conversation: Conversation) -> None:
    written = OPENAI_CHAT.write_conversation(conversation, model="m", stream=True)
    assert written.dropped == ()
    again = OPENAI_CHAT.read_conversation(OPENAI_CHAT.read_request(written.body))
    assert normal(again.messages) == normal(conversation.messages)
    assert replace(again, messages=()) == replace(conversation, messages=())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "text", "auto", "tool", "user", "function"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "function", "name", "id", "image_url", "url", "file", "tool_calls"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "stop",
        "response_format",
        "reasoning_effort",
        "top_logprobs",
    ]
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "function", "odd"])
MEMBERS = st.sampled_from(
    ["content", "tool_calls", "thinking_blocks", "function_call", "name", "annotations", "cache_control", "odd"]
)
ANY_MESSAGE = st.builds(lambda role, members: {**members, "role": role}, ROLES, st.dictionaries(MEMBERS, VALUES))


@settings(deadline=None)
@given(st.lists(ANY_MESSAGE, min_size=1, max_size=3), st.dictionaries(NAMES, VALUES, max_size=2))
def test_any_body_is_read_or_refused_with_400(messages: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    status = 0
    try:
        read(messages, **fields)
    except RequestRefused as refused:
        status = refused.error.status
    assert status in (0, 400)
