"""Requests in Anthropic's shape: checked in its words, kept whole on the diagonal."""

import json
from typing import Any

import pytest

from unbroken.chat.error import RequestRefused
from unbroken.wire.anthropic_messages.request import read_count_request, read_request, write_request

ASKED: dict[str, Any] = {"model": "claude-x", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


def body(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**ASKED, **changes}.items() if value != "absent"}).encode()


def test_what_routing_needs_is_read_and_the_rest_is_kept() -> None:
    request = read_request(body(stream=True, hologram={"a": [1.50]}))
    assert (request.model, request.stream, request.include_usage, request.choices) == ("claude-x", True, True, 1)
    written = write_request(request, model="theirs")
    assert json.loads(written) == json.loads(body(stream=True, hologram={"a": [1.50]}, model="theirs"))
    assert b'{"a": [1.5]}' in written, "untouched, white space included"


def test_fields_of_ours_are_added() -> None:
    assert json.loads(write_request(read_request(body()), model="m", more={"top_k": 1}))["top_k"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "absent"}, "model: Field required"),
        ({"messages": "absent"}, "messages: Field required"),
        ({"max_tokens": "absent"}, "max_tokens: Field required"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"model": 1}, "model: Input should be a valid string, found integer"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: Input should be 'user', 'assistant' or"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content: Input should be a valid string or list"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer, found string"),
        ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
        ({"stop_sequences": "x"}, "stop_sequences: Input should be a valid list, found string"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean, found string"),
        ({"tools": {}}, "tools: Input should be a valid list, found object"),
    ],
)
def test_a_wrong_field_is_named_as_anthropic_names_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_request(body(**changes))
    error = refused.value.error
    assert error.message.startswith(message)
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", message.partition(":")[0])


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "it is empty"),
        (b'{"model":', "it ends too early"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"model":"\xff"}', "byte 10 cannot be decoded"),
        (b"[]", "body: Input should be a valid object"),
    ],
)
def test_a_body_that_is_no_object_says_why(sent: bytes, message: str) -> None:
    with pytest.raises(RequestRefused, match=message):
        read_request(sent)


def test_a_count_needs_no_max_tokens() -> None:
    assert read_count_request(body(max_tokens="absent")).model == "claude-x"
    with pytest.raises(RequestRefused, match="messages: Field required"):
        read_count_request(body(messages="absent"))
