"""Requests: what is wrong is named, what is not ours goes up untouched."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.error import RequestRefused
from unbroken.chat.request import ChatRequest
from unbroken.wire.openai_chat.request import as_stream, read_request, write_request

MESSAGES = b'"messages":[{"role":"user","content":"Hi"}]'


def body(more: bytes = b"") -> bytes:
    return b'{"model":"m",' + MESSAGES + (b"," + more if more else b"") + b"}"


def written(request: ChatRequest, *, ask_usage: bool = False) -> bytes:
    return write_request(request, model="theirs", ask_usage=ask_usage)


def refusal(data: bytes) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        read_request(data)
    assert caught.value.error.status == 400
    assert caught.value.error.type == "invalid_request_error"
    return caught.value


WRONG_FIELDS: dict[str, tuple[bytes, str, str]] = {
    # name: (body, param, message)
    "model missing": (b"{" + MESSAGES + b"}", "model", "Missing required parameter: 'model'."),
    "messages missing": (b'{"model":"m"}', "messages", "Missing required parameter: 'messages'."),
    "role missing": (
        b'{"model":"m","messages":[{"role":"user"},{"content":"x"}]}',
        "messages[1].role",
        "Missing required parameter: 'messages[1].role'.",
    ),
    "model a number": (
        b'{"model":1}',
        "model",
        "Invalid value for 'model': expected a string, but found an integer.",
    ),
    "model null": (b'{"model":null}', "model", "Invalid value for 'model': expected a string, but found null."),
    "model empty": (b'{"model":""}', "model", "Invalid value for 'model': expected a string that is not empty."),
    "messages empty": (
        b'{"model":"m","messages":[]}',
        "messages",
        "Invalid value for 'messages': expected an array that is not empty.",
    ),
    "messages text": (
        b'{"model":"m","messages":"Hi"}',
        "messages",
        "Invalid value for 'messages': expected an array, but found a string.",
    ),
    "a message text": (
        b'{"model":"m","messages":["Hi"]}',
        "messages[0]",
        "Invalid value for 'messages[0]': expected an object, but found a string.",
    ),
    "role a number": (
        b'{"model":"m","messages":[{"role":5}]}',
        "messages[0].role",
        "Invalid value for 'messages[0].role': expected a string, but found an integer.",
    ),
    "content a number": (
        b'{"model":"m","messages":[{"role":"user","content":1.5}]}',
        "messages[0].content",
        "Invalid value for 'messages[0].content': expected a string or an array, but found a number.",
    ),
    "content part text": (
        b'{"model":"m","messages":[{"role":"user","content":["Hi"]}]}',
        "messages[0].content[0]",
        "Invalid value for 'messages[0].content[0]': expected an object, but found a string.",
    ),
    "tool_calls an object": (
        b'{"model":"m","messages":[{"role":"assistant","tool_calls":{}}]}',
        "messages[0].tool_calls",
        "Invalid value for 'messages[0].tool_calls': expected an array, but found an object.",
    ),
    "stream text": (
        body(b'"stream":"true"'),
        "stream",
        "Invalid value for 'stream': expected a boolean, but found a string.",
    ),
    "stream_options a list": (
        body(b'"stream_options":[]'),
        "stream_options",
        "Invalid value for 'stream_options': expected an object, but found an array.",
    ),
    "include_usage text": (
        body(b'"stream_options":{"include_usage":"yes"}'),
        "stream_options.include_usage",
        "Invalid value for 'stream_options.include_usage': expected a boolean, but found a string.",
    ),
    "n 0": (body(b'"n":0'), "n", "Invalid value for 'n': expected an integer of at least 1."),
    "n 129": (body(b'"n":129'), "n", "Invalid value for 'n': expected an integer of at most 128."),
    "n negative": (body(b'"n":-1'), "n", "Invalid value for 'n': expected an integer of at least 1."),
    "n huge": (body(b'"n":99999999999999999999'), "n", "Invalid value for 'n': expected an integer of at most 128."),
    "n beyond all integers": (
        body(b'"n":1' + b"0" * 5000),
        "n",
        "Invalid value for 'n': integer value out of range.",
    ),
    "n a fraction": (body(b'"n":1.5'), "n", "Invalid value for 'n': expected an integer, but found a number."),
    "n true": (body(b'"n":true'), "n", "Invalid value for 'n': expected an integer, but found a boolean."),
    "temperature text": (
        body(b'"temperature":"hot"'),
        "temperature",
        "Invalid value for 'temperature': expected a number, but found a string.",
    ),
    "temperature infinite": (
        body(b'"temperature":1e999'),
        "temperature",
        "Invalid value for 'temperature': number out of range.",
    ),
    "max_tokens text": (
        body(b'"max_tokens":"5"'),
        "max_tokens",
        "Invalid value for 'max_tokens': expected an integer, but found a string.",
    ),
    "stop a number": (
        body(b'"stop":5'),
        "stop",
        "Invalid value for 'stop': expected a string or an array, but found an integer.",
    ),
    "stop a list of numbers": (
        body(b'"stop":["a",5]'),
        "stop[1]",
        "Invalid value for 'stop[1]': expected a string, but found an integer.",
    ),
    "a tool text": (
        body(b'"tools":["f"]'),
        "tools[0]",
        "Invalid value for 'tools[0]': expected an object, but found a string.",
    ),
    "tool_choice a list": (
        body(b'"tool_choice":[]'),
        "tool_choice",
        "Invalid value for 'tool_choice': expected a string or an object, but found an array.",
    ),
    "response_format text": (
        body(b'"response_format":"json"'),
        "response_format",
        "Invalid value for 'response_format': expected an object, but found a string.",
    ),
    "logit_bias a list": (
        body(b'"logit_bias":[]'),
        "logit_bias",
        "Invalid value for 'logit_bias': expected an object, but found an array.",
    ),
    "metadata text": (
        body(b'"metadata":"x"'),
        "metadata",
        "Invalid value for 'metadata': expected an object, but found a string.",
    ),
    "user a number": (body(b'"user":1'), "user", "Invalid value for 'user': expected a string, but found an integer."),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_is_named_with_what_was_expected_and_found(name: str) -> None:
    data, param, message = WRONG_FIELDS[name]
    error = refusal(data).error
    assert (error.param, error.message) == (param, message)
    assert error.code in {"invalid_type", "invalid_value", "missing_required_parameter"}


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "white space": (b" \n", "it is empty"),
    "cut off": (b'{"model":"m', "it ends too early"),
    "not JSON": (b"model=m", "invalid character (byte 0)"),
    "single quotes": (b"{'model':'m'}", "object keys must be strings (byte 1)"),
    "NaN": (body(b'"temperature":NaN'), "invalid character"),
    "Infinity": (body(b'"x":[-Infinity]'), "invalid character"),
    "trailing comma": (b'{"model":"m",}', "trailing comma"),
    "two objects": (b"{}{}", "trailing characters"),
    "a raw control character": (b'{"model":"a\x01"}', "invalid character"),
    "a bad escape": (body(b'"x":"\\q"'), "invalid escape"),
    "half a surrogate pair": (b'{"model":"\\ud83d"}', "one half of a UTF-16 surrogate pair"),
    "half a pair where nobody looks": (body(b'"x":"\\ude00"'), "one half of a UTF-16 surrogate pair"),
    "a byte order mark": (b"\xef\xbb\xbf" + body(), "invalid character (byte 0)"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_is_not_json_is_refused_with_the_place(name: str) -> None:
    data, problem = UNREADABLE[name]
    message = refusal(data).error.message
    assert message.startswith("The request body is not valid JSON: ")
    assert problem in message


@pytest.mark.parametrize(("data", "found"), [(b"[]", "an array"), (b"5", "an integer"), (b'"x"', "a string")])
def test_a_body_that_is_no_object_is_refused(data: bytes, found: str) -> None:
    assert refusal(data).error.message == f"Invalid request body: expected an object, but found {found}."


@pytest.mark.parametrize("more", [b'"user":"\xff"', b'"unknown":"\xc3\x28"', b'"metadata":{"a":"\xed\xa0\x80"}'])
def test_bytes_that_are_not_utf8_are_refused_wherever_they_are(more: bytes) -> None:
    data = body(more)
    at = next(at for at, byte in enumerate(data) if byte > 127)
    assert refusal(data).error.message == f"The request body is not UTF-8: byte {at} cannot be decoded."


BOMBS: dict[str, bytes] = {
    "an unknown field": b'{"x":',
    "messages": b'{"model":"m","messages":',
    "a content part": b'{"model":"m","messages":[{"role":"user","content":[{"a":',
    "metadata": b'{"metadata":{"a":',
    "stream_options": b'{"stream_options":{"a":',
    "tools": b'{"tools":[{"a":',
}


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_brackets_is_refused_quickly(name: str, bracket: bytes) -> None:
    begin = time.perf_counter()
    error = refusal(BOMBS[name] + bracket * 100_000).error
    assert error.message == "The request body is nested too deeply to be read."
    assert time.perf_counter() - begin < 1


def test_unknown_fields_go_up_byte_for_byte() -> None:
    more = rb'"seed":12345678901234567890,"zz": {"a" : [1.0, 1e-7, 1E400, -0], "\u00e9":"\u00e9\/"},"temperature":0.70'
    up = written(read_request(body(more)))
    assert up == b'{"model":"theirs",' + MESSAGES + b"," + more.replace(b'"zz": ', b'"zz":') + b"}"


def test_content_parts_and_tools_go_up_byte_for_byte() -> None:
    parts = rb'[{"type":"image_url","image_url":{"url":"data:image/png;base64,\/\/8="}}, {"type":"zz","zz":1.0}]'
    data = rb'{"messages":[{"role":"user","content":%b}],"tools":[{ "type":"zz" }],"model":"m"}' % parts
    assert written(read_request(data)) == data.replace(b'"model":"m"', b'"model":"theirs"')


def test_any_role_and_empty_content_are_taken() -> None:
    data = b'{"model":"m","messages":[{"role":"developer","content":""},{"role":"zz","content":null},{"role":"tool"}]}'
    assert read_request(data).model == "m"


SMUGGLED: dict[str, bytes] = {
    "twice": b'{"model":"first","model":"second",' + MESSAGES + b"}",
    "once escaped": rb'{"model":"first","mod\u0065l":"second",' + MESSAGES + b"}",
    "escaped first": rb'{"mod\u0065l":"first","model":"second",' + MESSAGES + b"}",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_key_twice_cannot_say_one_thing_to_us_and_another_to_the_upstream(name: str) -> None:
    request = read_request(SMUGGLED[name])
    assert request.model == "second"
    up = json.loads(written(request), object_pairs_hook=list)
    assert [value for key, value in up if key == "model"] == ["theirs"]


def test_stream_twice_is_read_as_it_goes_up() -> None:
    request = read_request(body(rb'"stream":false,"str\u0065am":true,"n":1,"n":2'))
    assert (request.stream, request.choices) == (True, 2)
    up = json.loads(written(request), object_pairs_hook=list)
    assert [value for key, value in up if key in ("stream", "n")] == [True, 2]


@pytest.mark.parametrize(
    ("more", "stream", "include_usage", "choices"),
    [
        (b"", False, False, 1),
        (b'"stream":null,"stream_options":null,"n":null', False, False, 1),
        (b'"stream":true', True, False, 1),
        (b'"stream":true,"stream_options":{}', True, False, 1),
        (b'"stream":true,"stream_options":{"include_usage":true},"n":3', True, True, 3),
        (b'"stream":true,"stream_options":{"include_usage":null}', True, False, 1),
        (b'"n":128', False, False, 128),
    ],
)
def test_what_the_gateway_needs_is_read(more: bytes, stream: bool, include_usage: bool, choices: int) -> None:
    request = read_request(body(more))
    assert (request.stream, request.include_usage, request.choices) == (stream, include_usage, choices)


@pytest.mark.parametrize(
    ("more", "options"),
    [
        (b'"stream":true', b'{"include_usage":true}'),
        (b'"stream":true,"stream_options":null', b'{"include_usage":true}'),
        (b'"stream":true,"stream_options":{"include_usage":false}', b'{"include_usage":true}'),
        (
            b'"stream":true,"stream_options":{"zz":1.0,"include_obfuscation":false}',
            b'{"zz":1.0,"include_obfuscation":false,"include_usage":true}',
        ),
        (b'"stream":true,"stream_options":{"zz":1e999}', b'{"zz":1e999,"include_usage":true}'),
    ],
)
def test_asking_for_usage_leaves_the_other_stream_options(more: bytes, options: bytes) -> None:
    """C3."""
    assert b'"stream_options":' + options in written(read_request(body(more)), ask_usage=True)


@pytest.mark.parametrize("more", [b"", b'"stream":true,"stream_options":{ "include_usage":true }'])
def test_usage_is_not_asked_for_where_it_is_not_needed(more: bytes) -> None:
    assert written(read_request(body(more)), ask_usage=True) == written(read_request(body(more)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text().map(lambda name: "x-" + name), VALUES, max_size=5))
def test_whatever_is_unknown_goes_up_as_it_came(unknown: dict[str, object]) -> None:
    said = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **unknown}
    up = json.loads(written(read_request(json.dumps(said).encode("utf-8"))))
    assert up == {**said, "model": "theirs"}


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(RequestRefused):
        read_request(data)


def test_a_question_can_be_asked_for_an_answer_in_pieces() -> None:
    asked = as_stream(read_request(b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":false,"seed":1}'))
    body = json.loads(write_request(asked, model="theirs", ask_usage=True, more={"return_progress": True}))
    assert (body["stream"], body["stream_options"], body["return_progress"]) == (True, {"include_usage": True}, True)
    assert body["model"] == "theirs"
