"""Errors: ours with all four keys, an upstream's understood and without secrets (FAULTS 6, 15, 25)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Fault
from unbroken.wire.openai_chat.errors import (
    MAX_MESSAGE,
    read_error,
    read_error_event,
    without_secrets,
    write_error,
    write_error_event,
)


def test_an_error_has_all_four_keys() -> None:
    assert json.loads(write_error(ApiError(503, 'No "upstream"\n'))) == {
        "error": {"message": 'No "upstream"\n', "type": "invalid_request_error", "param": None, "code": None}
    }


def test_an_error_event_is_one_block_whatever_the_message_says() -> None:
    block = write_error_event(ApiError(502, "a\n\ndata: [DONE]\r\n\r\n", "server_error", "cut", "p"))
    assert block.startswith(b"data: {")
    assert block.endswith(b"}\n\n")
    assert block.count(b"\n") == 2
    assert block.count(b"\r") == 0
    assert json.loads(block[6:])["error"]["message"] == "a\n\ndata: [DONE]\r\n\r\n"


JSON = "application/json"

RESPONSES: dict[str, tuple[int, str, bytes, Fault, str]] = {
    # name: (status, content type, body, fault, message)
    "OpenAI bad request": (
        400,
        JSON,
        b'{"error":{"message":"Bad temperature.","type":"invalid_request_error","param":"temperature","code":null}}',
        Fault.BAD_REQUEST,
        "Bad temperature.",
    ),
    "OpenAI context length": (
        400,
        JSON,
        b'{"error":{"message":"Too long.","type":"invalid_request_error","code":"context_length_exceeded"}}',
        Fault.CONTEXT_LENGTH,
        "Too long.",
    ),
    "OpenAI quota": (
        429,
        JSON,
        b'{"error":{"message":"You exceeded your current quota.","code":"insufficient_quota"}}',
        Fault.RATE_LIMITED,
        "You exceeded your current quota.",
    ),
    "OpenAI bad key": (
        401,
        JSON,
        b'{"error":{"message":"Incorrect API key provided: sk-proj-abcdef123456.","code":"invalid_api_key"}}',
        Fault.UNAUTHORIZED,
        "Incorrect API key provided: ***",
    ),
    "OpenAI overloaded": (503, JSON, b'{"error":{"message":"Overloaded."}}', Fault.OVERLOADED, "Overloaded."),
    "OpenAI unknown model": (
        404,
        JSON,
        b'{"error":{"message":"The model does not exist.","code":"model_not_found"}}',
        Fault.MODEL_NOT_FOUND,
        "The model does not exist.",
    ),
    "Azure content filter": (
        400,
        JSON,
        b'{"error":{"message":"Filtered.","param":"prompt","code":"content_filter","status":400}}',
        Fault.CONTENT_POLICY,
        "Filtered.",
    ),
    "vLLM context length": (
        400,
        JSON,
        b'{"object":"error","message":"This model\'s maximum context length is 8 tokens.","type":"BadRequestError",'
        b'"param":null,"code":400}',
        Fault.CONTEXT_LENGTH,
        "This model's maximum context length is 8 tokens.",
    ),
    "llama.cpp context length": (
        400,
        JSON,
        b'{"error":{"code":400,"message":"the request exceeds it","type":"exceed_context_size_error","n_ctx":512}}',
        Fault.CONTEXT_LENGTH,
        "the request exceeds it",
    ),
    "llama.cpp loading": (
        503,
        JSON,
        b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
        Fault.OVERLOADED,
        "Loading model",
    ),
    "FastAPI": (
        422,
        JSON,
        b'{"detail":[{"loc":["body","n"],"msg":"bad"}]}',
        Fault.BAD_REQUEST,
        '{"detail":[{"loc":["body","n"],"msg":"bad"}]}',
    ),
    "FastAPI text": (404, JSON, b'{"detail":"Not Found"}', Fault.MODEL_NOT_FOUND, "Not Found"),
    "Ollama": (500, JSON, b'{"error":"model runner has stopped"}', Fault.SERVER_ERROR, "model runner has stopped"),
    "Gemini": (
        400,
        JSON,
        b'[{"error":{"code":400,"message":"Invalid argument.","status":"INVALID_ARGUMENT"}}]',
        Fault.BAD_REQUEST,
        "Invalid argument.",
    ),
    "Anthropic": (
        529,
        JSON,
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
        Fault.OVERLOADED,
        "Overloaded",
    ),
    "HTML": (502, "text/html; charset=utf-8", b"<html>Bad</html>", Fault.SERVER_ERROR, "answered 502 with text/html"),
    "text": (500, "text/plain", b" Internal Server Error\n", Fault.SERVER_ERROR, "Internal Server Error"),
    "empty": (504, "", b"", Fault.SERVER_ERROR, "answered 504 with no content type"),
    "null": (500, JSON, b"null", Fault.SERVER_ERROR, "answered 500 with application/json"),
    "a number": (500, JSON, b"5", Fault.SERVER_ERROR, "5"),
    "not UTF-8": (500, JSON, b'{"error":"\xff"}', Fault.SERVER_ERROR, "answered 500 with application/json"),
    "deep": (500, JSON, b"[" * 100_000, Fault.SERVER_ERROR, "answered 500 with application/json"),
    "half a surrogate pair": (500, JSON, rb'{"error":"a\ud83db"}', Fault.SERVER_ERROR, "a\ufffdb"),
    "message not text": (
        500,
        JSON,
        b'{"error":{"message":{"a":1}}}',
        Fault.SERVER_ERROR,
        '{"error":{"message":{"a":1}}}',
    ),
    "message empty": (500, JSON, b'{"error":{"message":""}}', Fault.SERVER_ERROR, '{"error":{"message":""}}'),
    "huge numbers": (
        500,
        JSON,
        b'{"error":{"code":123456789012345678901234567890}}',
        Fault.SERVER_ERROR,
        '{"error":{"code":123456789012345678901234567890}}',
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_an_upstreams_error_response_is_understood(name: str) -> None:
    status, content_type, body, fault, message = RESPONSES[name]
    failure = read_error(status, content_type, body)
    assert (failure.fault, failure.message, failure.status) == (fault, message, status)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.BAD_REQUEST),
        (401, Fault.UNAUTHORIZED),
        (403, Fault.UNAUTHORIZED),
        (404, Fault.MODEL_NOT_FOUND),
        (408, Fault.SERVER_ERROR),
        (418, Fault.BAD_REQUEST),
        (429, Fault.RATE_LIMITED),
        (500, Fault.SERVER_ERROR),
        (502, Fault.SERVER_ERROR),
        (503, Fault.OVERLOADED),
        (529, Fault.OVERLOADED),
        (302, Fault.SERVER_ERROR),
    ],
)
def test_a_status_alone_says_what_kind_of_failure_it_is(status: int, fault: Fault) -> None:
    assert read_error(status, "text/html", b"<html>").fault is fault


EVENTS: dict[str, tuple[object, Fault, str]] = {
    "a plain error": ({"error": {"message": "Sorry."}}, Fault.ERROR_EVENT, "Sorry."),
    "text": ({"error": "Sorry."}, Fault.ERROR_EVENT, "Sorry."),
    "a type": ({"error": {"message": "Sorry.", "type": "server_error"}}, Fault.SERVER_ERROR, "Sorry."),
    "a status as code": ({"error": {"message": "Slow down.", "code": 429}}, Fault.RATE_LIMITED, "Slow down."),
    "a bad request": ({"object": "error", "message": "No.", "code": 400}, Fault.BAD_REQUEST, "No."),
    "context length": (
        {"error": {"message": "exceeds the available context size", "code": 400}},
        Fault.CONTEXT_LENGTH,
        "exceeds the available context size",
    ),
    "a code that is no status": ({"error": {"message": "x", "code": 7}}, Fault.ERROR_EVENT, "x"),
    "a code that is a truth": ({"error": {"message": "x", "code": True}}, Fault.ERROR_EVENT, "x"),
    "nothing at all": ({}, Fault.ERROR_EVENT, "{}"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_error_inside_a_stream_is_understood(name: str) -> None:
    said, fault, message = EVENTS[name]
    failure = read_error_event(said)
    assert (failure.fault, failure.message, failure.status) == (fault, message, 0)


def test_the_upstreams_own_words_are_kept() -> None:
    failure = read_error(400, JSON, b'{"error":{"message":"m","type":"t","param":"p","code":"c"}}')
    assert (failure.type, failure.param, failure.code) == ("t", "p", "c")


def test_our_key_is_blotted_out_wherever_it_stands() -> None:
    body = b'{"error":{"message":"bad KEY-1","type":"t KEY-1","param":"KEY-1","code":"KEY-1"}}'
    failure = read_error(401, JSON, body, secret="KEY-1")
    assert (failure.message, failure.type, failure.param, failure.code) == ("bad ***", "t ***", "***", "***")
    assert read_error(500, "text/plain", b"bad KEY-1", secret="KEY-1").message == "bad ***"


@given(st.integers(0, 40), st.sampled_from([JSON, "text/plain"]))
def test_a_key_at_the_cut_is_not_told_in_part(more: int, content_type: str) -> None:
    text = "x" * (MAX_MESSAGE - 20) + " " * more + "KEY-0123456789"
    body = json.dumps({"error": text}).encode() if content_type == JSON else text.encode()
    message = read_error(500, content_type, body, secret="KEY-0123456789").message
    assert "KEY" not in message
    assert len(message) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key sk-proj-AbC_123-xyz.", "key ***"),
        ("gsk_abcdefghij and xai-abcdefghij", "*** and ***"),
        ("AIzaSyA1234567890abcdefghijk", "***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("sk-****wxyz99", "***"),
        ("the task-force asked 3 sk-y questions", "the task-force asked 3 sk-y questions"),
        ("hf-internal-testing/tiny", "hf-internal-testing/tiny"),
    ],
)
def test_what_looks_like_a_key_is_blotted_out(text: str, told: str) -> None:
    assert without_secrets(text) == told


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "detail", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(JSON_VALUES, st.integers(100, 599))
def test_any_json_makes_a_failure_that_can_be_told(said: object, status: int) -> None:
    for failure in (read_error_event(said), read_error(status, JSON, json.dumps(said).encode())):
        assert failure.message
        write_error_event(ApiError(502, failure.message, failure.type or "upstream_error", failure.code, failure.param))


@given(st.binary(max_size=100), st.sampled_from([JSON, "text/plain", "text/html", ""]))
def test_any_bytes_make_a_failure_that_can_be_told(body: bytes, content_type: str) -> None:
    write_error_event(ApiError(502, read_error(500, content_type, body).message))
