"""Errors as upstreams of every dialect send them, whole and cut at every byte; and ours, as clients get them."""

import json
from typing import Any

import pytest

from tests.wire.exchange_corpus import SECRET, ErrorCase, OwnErrorCase, error_cases, label, own_error_cases
from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure
from unbroken.gateway.response_heads import why_refused
from unbroken.wire.sse import SseReader

CASES = error_cases()
OWN = own_error_cases()

BEGINNING = SECRET[:8]
"""Where this much of our key is told, too much is."""


def failure_of(case: ErrorCase, body: bytes) -> Failure:
    headers = [(name.encode(), value.encode()) for name, value in case.expected["headers"].items()]
    return why_refused(case.expected["status"], headers, body, case.dialect.read_error, secret=SECRET)


def words_of(failure: Failure) -> list[str]:
    return [word for word in (failure.message, failure.type, failure.param, failure.code) if word is not None]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_an_upstreams_error_is_understood(case: ErrorCase) -> None:
    failure = failure_of(case, case.body)
    names = ("message", "type", "param", "code", "retry_after")
    said: dict[str, Any] = {name: value for name in names if (value := getattr(failure, name)) is not None}
    assert {"fault": failure.fault.value, **said} == case.expected["failure"]
    assert failure.status == case.expected["status"]
    assert not any(BEGINNING in word for word in words_of(failure))


@pytest.mark.parametrize("case", CASES, ids=label)
def test_an_error_cut_at_any_byte_is_told_without_our_key(case: ErrorCase) -> None:
    whole = failure_of(case, case.body)
    for cut in range(len(case.body)):
        failure = failure_of(case, case.body[:cut])
        assert failure.message.strip(), cut
        assert not any(BEGINNING in word for word in words_of(failure)), cut
        assert (failure.status, failure.retry_after) == (whole.status, whole.retry_after)
        error = ApiError(502, failure.message, failure.type or "upstream_error", failure.code, failure.param)
        assert case.dialect.write_error(error, "req_1")
        assert case.dialect.write_error_event(error)


@pytest.mark.parametrize("case", OWN, ids=label)
def test_a_client_is_told_our_error_in_its_envelope(case: OwnErrorCase) -> None:
    assert case.dialect.write_error(case.error, "req_1").decode() == case.expected["body"]
    assert case.dialect.write_error_event(case.error).decode() == case.expected["event"]


@pytest.mark.parametrize("case", OWN, ids=label)
def test_our_error_is_one_event_whatever_its_message_says(case: OwnErrorCase) -> None:
    data = case.expected["event"].encode()
    for cut in range(len(data)):
        reader = SseReader()
        (event,) = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
        assert "error" in json.loads(event.data)
    assert "\r" not in case.expected["event"]


@pytest.mark.parametrize("case", OWN, ids=label)
def test_a_gateway_behind_ours_understands_our_errors(case: OwnErrorCase) -> None:
    """Our own envelope is one that we read: gateways stand behind gateways."""
    status, body = case.expected["status"], case.expected["body"].encode()
    failure = case.dialect.read_error(status, "application/json", body, secret="")
    assert case.error.message in failure.message
    assert failure.type is not None


def test_every_dialect_has_the_cases_that_any_provider_has() -> None:
    always = {"bad_request", "our_key_refused", "our_key_not_allowed", "model_not_found", "too_large", "rate_limited"}
    always |= {"server_error", "overloaded", "html", "empty", "truncated_json", "foreign_envelope"}
    for name in {case.dialect.name for case in CASES}:
        assert {case.name for case in CASES if case.dialect.name == name} >= always
