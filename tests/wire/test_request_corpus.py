"""Requests as clients of every dialect send them: what is read of them, what is written, and their every prefix."""

import json
from typing import Any

import pytest

from tests.wire.exchange_corpus import DIALECTS, UPSTREAM_MODELS, RequestCase, label, request_cases, spelled
from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.request import ChatRequest
from unbroken.wire.translate import translate_request

CASES = request_cases()
SERVED = [case for case in CASES if "asks" in case.expected]
SAID = [case for case in CASES if "conversation" in case.expected]


def check_refused(error: ApiError, expected: dict[str, Any]) -> None:
    told = {"message": error.message, "param": error.param, "code": error.code}
    assert error.status == 400
    assert {name: value for name, value in told.items() if value is not None} == expected


def read(case: RequestCase) -> ChatRequest:
    return case.dialect.read_request(case.body)


@pytest.mark.parametrize("case", [case for case in CASES if "asks" not in case.expected], ids=label)
def test_a_request_that_is_wrong_is_refused_for_what_is_wrong(case: RequestCase) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(case)
    check_refused(refused.value.error, case.expected["refused"])


@pytest.mark.parametrize("case", SERVED, ids=label)
def test_a_request_is_read_as_far_as_routing_needs_it(case: RequestCase) -> None:
    request = read(case)
    asks = {name: getattr(request, name) for name in ("model", "stream", "include_usage", "choices")}
    assert asks == case.expected["asks"]


@pytest.mark.parametrize("case", SERVED, ids=label)
def test_an_upstream_of_the_same_dialect_gets_every_field_as_it_came(case: RequestCase) -> None:
    body = case.dialect.write_request(read(case), model="theirs", ask_usage=False, more={})
    assert json.loads(body) == {**json.loads(case.body), "model": "theirs"}


@pytest.mark.parametrize("case", [case for case in SERVED if case not in SAID], ids=label)
def test_what_cannot_leave_the_dialect_is_refused_by_name(case: RequestCase) -> None:
    with pytest.raises(RequestRefused) as refused:
        case.dialect.read_conversation(read(case))
    check_refused(refused.value.error, case.expected["untranslatable"])


@pytest.mark.parametrize("case", SAID, ids=label)
def test_a_request_says_this_in_words(case: RequestCase) -> None:
    assert spelled(case.dialect.read_conversation(read(case))) == case.expected["conversation"]


@pytest.mark.parametrize("case", SAID, ids=label)
def test_an_upstream_of_another_dialect_is_asked_this(case: RequestCase) -> None:
    others = [dialect for dialect in DIALECTS if dialect is not case.dialect]
    assert [dialect.name for dialect in others] == list(case.expected["written"])
    for upstream in others:
        expected = case.expected["written"][upstream.name]
        model = UPSTREAM_MODELS[upstream.name]
        try:
            written = translate_request(read(case), case.dialect, upstream, model=model, stream=True)
        except RequestRefused as refused:
            check_refused(refused.error, expected["refused"])
            continue
        assert json.loads(written.body) == expected["body"]
        assert list(written.dropped) == expected.get("dropped", [])
        # What we write is a request that we would take ourselves.
        upstream.read_conversation(upstream.read_request(written.body))


@pytest.mark.parametrize("case", CASES, ids=label)
def test_a_body_cut_at_any_byte_is_refused(case: RequestCase) -> None:
    for cut in range(len(case.body)):
        with pytest.raises(RequestRefused) as refused:
            case.dialect.read_request(case.body[:cut])
        error = refused.value.error
        assert (error.status, error.type) == (400, "invalid_request_error"), cut
        assert case.dialect.write_error(error, "req_1")
