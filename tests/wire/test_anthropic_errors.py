"""Errors in Anthropic's envelope, both ways; counts of tokens, and the list of models."""

import json

import pytest
from anthropic.types import MessageTokensCount, ModelInfo

from unbroken.chat.error import ApiError, invalid
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.wire.anthropic_messages.count import read_count, write_count
from unbroken.wire.anthropic_messages.errors import read_error, status_of, write_error, write_error_event
from unbroken.wire.anthropic_messages.models import ModelRow, write_model, write_models


@pytest.mark.parametrize(
    ("status", "type"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_every_status_has_its_word(status: int, type: str) -> None:
    said = json.loads(write_error(ApiError(status, "No.", "upstream_error"), "req_1"))
    assert said == {"type": "error", "error": {"type": type, "message": "No."}, "request_id": "req_1"}


def test_an_error_in_a_stream_is_an_event_of_its_own() -> None:
    block = write_error_event(ApiError(502, "Broke off.", "upstream_error"))
    assert block == b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"Broke off."}}\n\n'


def test_the_field_that_is_wrong_is_named_in_the_message() -> None:
    said = json.loads(write_error(invalid("cannot be asked", param="seed").error, "r"))
    assert said["error"]["message"] == "seed: cannot be asked"


def test_what_others_call_503_is_529_here() -> None:
    assert [status_of(ApiError(status, "m")) for status in (503, 529, 500)] == [529, 529, 500]


@pytest.mark.parametrize(
    ("status", "type", "message", "fault"),
    [
        (400, "invalid_request_error", "max_tokens: Field required", Fault.BAD_REQUEST),
        (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", Fault.CONTEXT_LENGTH),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 1", Fault.CONTEXT_LENGTH),
        (400, "invalid_request_error", "Your credit balance is too low to access the API.", Fault.UNAUTHORIZED),
        (400, "invalid_request_error", "Output blocked by content filtering policy", Fault.CONTENT_POLICY),
        (401, "authentication_error", "invalid x-api-key", Fault.UNAUTHORIZED),
        (403, "permission_error", "no", Fault.UNAUTHORIZED),
        (404, "not_found_error", "model: claude-9", Fault.MODEL_NOT_FOUND),
        (413, "request_too_large", "Request exceeds the maximum size", Fault.TOO_LARGE),
        (429, "rate_limit_error", "slow down", Fault.RATE_LIMITED),
        (500, "api_error", "Internal server error", Fault.SERVER_ERROR),
        (504, "timeout_error", "too slow", Fault.SERVER_ERROR),
        (529, "overloaded_error", "Overloaded", Fault.OVERLOADED),
    ],
)
def test_every_error_of_an_upstream_is_understood(status: int, type: str, message: str, fault: Fault) -> None:
    body = json.dumps({"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}).encode()
    failure = read_error(status, "application/json", body)
    assert (failure.fault, failure.message, failure.status, failure.type) == (fault, message, status, type)


def test_a_page_becomes_a_sentence_and_a_key_is_blotted_out() -> None:
    assert read_error(502, "text/html; charset=utf-8", b"<html>").message == "answered 502 with text/html"
    said = json.dumps({"error": {"type": "authentication_error", "message": "key upstream-1 or sk-ant-api03-abcdef"}})
    assert read_error(401, "application/json", said.encode(), secret="upstream-1").message == "key *** or ***"
    assert read_error(529, "text/plain", b"overloaded").message == "overloaded"
    assert read_error(500, "application/json", b'"broken"').message == "broken"


def test_a_count_is_written_and_read() -> None:
    assert MessageTokensCount.model_validate_json(write_count(14)).input_tokens == 14
    assert read_count(write_count(14)) == 14
    with pytest.raises(UpstreamFailed, match="not a count"):
        read_count(b'{"tokens":1}')


def test_models_are_listed_as_the_sdk_reads_them() -> None:
    listed = json.loads(write_models([ModelRow("a", "A", "2026-01-02T00:00:00Z"), ModelRow("b")]))
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "a", "b")
    assert [ModelInfo.model_validate(row).display_name for row in listed["data"]] == ["A", "b"]
    assert json.loads(write_model(ModelRow("b"))) == listed["data"][1]
    assert json.loads(write_models([])) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
