"""Errors in Anthropic's envelope (those of upstreams are in the corpus); counts of tokens, and the list of models."""

import json

import pytest
from anthropic.types import MessageTokensCount, ModelInfo

from unbroken.chat.error import ApiError, invalid
from unbroken.chat.fault import UpstreamFailed
from unbroken.wire.anthropic_messages.count import read_count, write_count
from unbroken.wire.anthropic_messages.errors import status_of, write_error, write_error_event
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
    """A5."""
    said = json.loads(write_error(ApiError(status, "No.", "upstream_error"), "req_1"))
    assert said == {"type": "error", "error": {"type": type, "message": "No."}, "request_id": "req_1"}


def test_an_error_in_a_stream_is_an_event_of_its_own() -> None:
    """A4."""
    block = write_error_event(ApiError(502, "Broke off.", "upstream_error"))
    assert block == b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"Broke off."}}\n\n'


def test_the_field_that_is_wrong_is_named_in_the_message() -> None:
    """A5."""
    said = json.loads(write_error(invalid("cannot be asked", param="seed").error, "r"))
    assert said["error"]["message"] == "seed: cannot be asked"


def test_what_others_call_503_is_529_here() -> None:
    """A5."""
    assert [status_of(ApiError(status, "m")) for status in (503, 529, 500)] == [529, 529, 500]


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
