"""Errors: ours with all four keys, an upstream's understood and without secrets (FAULTS 6, 15, 25).

What whole responses say is in the corpus.
"""

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


def test_an_error_that_is_nested_too_deeply_is_told_by_its_status() -> None:
    failure = read_error(500, JSON, b"[" * 100_000)
    assert (failure.fault, failure.message) == (Fault.SERVER_ERROR, "answered 500 with application/json")


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


@given(st.integers(0, 40), st.sampled_from([JSON, "text/plain"]))
def test_a_key_at_the_cut_is_not_told_in_part(more: int, content_type: str) -> None:
    text = "x" * (MAX_MESSAGE - 20) + " " * more + "KEY-0123456789"
    body = json.dumps({"error": text}).encode() if content_type == JSON else text.encode()
    message = read_error(500, content_type, body, secret="KEY-0123456789").message
    assert "KEY" not in message
    assert len(message) <= MAX_MESSAGE


@pytest.mark.parametrize(("text", "told"), [("bad KEY-01234", "bad ***"), ("bad KEY-", "bad KEY-")])
def test_a_key_that_the_end_cuts_is_blotted_out_where_it_tells(text: str, told: str) -> None:
    assert without_secrets(text, "KEY-0123456789") == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key sk-proj-AbC_123-xyz.", "key ***"),
        ("gsk_abcdefghij and xai-abcdefghij", "*** and ***"),
        ("AIzaSyA1234567890abcdefghijk", "***"),
        ("Authorization: Bearer abc.defg", "Authorization: Bearer ***"),
        ("'authorization: bearer abc.defg' is wrong", "'authorization: bearer ***' is wrong"),
        ("Bearer 'tok_live_abcdef' or Bearer \"tok_live_abcdef\"", "Bearer ***' or Bearer ***\""),
        (
            "send `Authorization: Bearer KEY` or `x-api-key: KEY`.",
            "send `Authorization: Bearer KEY` or `x-api-key: KEY`.",
        ),
        ("cannot reach https://user:pw@host/v1?a=b", "cannot reach https://***@host/v1?a=b"),
        ("postgresql://user:p@w@host, http://token@host.", "postgresql://***@host, http://***@host."),
        ("see https://host/a@b or http://host and me@host", "see https://host/a@b or http://host and me@host"),
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
