"""What a client is told of a failure: each fault has its status, and whose words they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.fault import Failure, Fault
from unbroken.rules.outcome import CALLERS_OWN, GATEWAYS_OWN, MISLEADING, STATUS, api_error

# fault: status without a word from the upstream
EXPECTED = {
    Fault.CONNECT: 502,
    Fault.CONNECT_TIMEOUT: 504,
    Fault.RESET: 502,
    Fault.STALE: 502,
    Fault.HEADERS_TIMEOUT: 504,
    Fault.FIRST_TOKEN_TIMEOUT: 504,
    Fault.BETWEEN_TOKENS_TIMEOUT: 504,
    Fault.WHOLE_TIMEOUT: 504,
    Fault.TOTAL_TIMEOUT: 504,
    Fault.RATE_LIMITED: 429,
    Fault.OVERLOADED: 503,
    Fault.SERVER_ERROR: 502,
    Fault.UNAUTHORIZED: 502,
    Fault.MODEL_NOT_FOUND: 404,
    Fault.CONTEXT_LENGTH: 400,
    Fault.CONTENT_POLICY: 400,
    Fault.UNTRANSLATABLE: 400,
    Fault.BAD_REQUEST: 400,
    Fault.ERROR_EVENT: 502,
    Fault.CUT: 502,
    Fault.MALFORMED: 502,
    Fault.TOO_LARGE: 502,
    Fault.NO_UPSTREAM: 503,
    Fault.CLIENT_LEFT: 499,
    Fault.DIFFERS: 502,
    Fault.CANCELLED: 499,
    Fault.STORE_UNAVAILABLE: 503,
    Fault.SHUTTING_DOWN: 503,
    Fault.INTERNAL: 500,
}


def test_every_fault_has_a_status() -> None:
    assert dict(STATUS) == EXPECTED
    assert set(STATUS) == set(Fault)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_each_fault_is_told_with_its_status_and_code(fault: Fault) -> None:
    """H5."""
    error = api_error(Failure(fault, "what happened"), "vllm-a")
    assert error.status == EXPECTED[fault]
    assert error.type
    if fault in CALLERS_OWN:
        assert error.message == "what happened"
        assert error.type == "invalid_request_error"
    else:
        is_ours = fault in GATEWAYS_OWN
        assert error.message == ("what happened" if is_ours else 'upstream "vllm-a": what happened')
        assert error.code == fault.value


# name: (failure, status, type, code, param)
WORDS: dict[str, tuple[Failure, int, str, str | None, str | None]] = {
    "a bad request keeps its status and words": (
        Failure(Fault.BAD_REQUEST, "no", 422, type="invalid_request_error", param="tools", code="bad_tool"),
        *(422, "invalid_request_error", "bad_tool", "tools"),
    ),
    "a bad request without words": (Failure(Fault.BAD_REQUEST, "no", 400), 400, "invalid_request_error", None, None),
    "a context that is too long has its code": (
        Failure(Fault.CONTEXT_LENGTH, "no", 413),
        *(413, "invalid_request_error", "context_length_exceeded", None),
    ),
    "an error in a stream has no status of its own": (
        Failure(Fault.BAD_REQUEST, "no", 200),
        *(400, "invalid_request_error", None, None),
    ),
    "an upstream's 500 stays 500": (Failure(Fault.SERVER_ERROR, "no", 500), 500, "server_error", "server_error", None),
    "408 is not repeated, an SDK would retry by itself": (
        Failure(Fault.SERVER_ERROR, "no", 408),
        *(502, "server_error", "server_error", None),
    ),
    "a rate limit has its type": (
        Failure(Fault.RATE_LIMITED, "no", 429),
        *(429, "rate_limit_error", "rate_limited", None),
    ),
    "our key is not the caller's": (
        Failure(Fault.UNAUTHORIZED, "no", 401),
        *(502, "server_error", "unauthorized", None),
    ),
    "words about our key are not repeated": (
        Failure(Fault.UNAUTHORIZED, "no", 401, type="invalid_request_error", param="key", code="invalid_api_key"),
        *(502, "server_error", "unauthorized", None),
    ),
    "a request that is wrong is no 500, whatever the upstream answered": (
        Failure(Fault.CONTEXT_LENGTH, "no", 500),
        *(400, "invalid_request_error", "context_length_exceeded", None),
    ),
    "an upstream that broke is no 400": (
        Failure(Fault.SERVER_ERROR, "no", 400),
        *(502, "server_error", "server_error", None),
    ),
    "an engine that is full": (Failure(Fault.OVERLOADED, "no", 529), 503, "server_error", "overloaded", None),
}


@pytest.mark.parametrize("name", WORDS)
def test_whose_words_are_told(name: str) -> None:
    """H5, H6."""
    failure, *expected = WORDS[name]
    error = api_error(failure, "a")
    assert [error.status, error.type, error.code, error.param] == expected


# (fault, Retry-After of the upstream, ours)
RETRY_AFTER = [
    (Fault.RATE_LIMITED, None, "1"),
    (Fault.RATE_LIMITED, 0.0, "1"),
    (Fault.RATE_LIMITED, 0.2, "1"),
    (Fault.RATE_LIMITED, 1.5, "2"),
    (Fault.RATE_LIMITED, 3600.0, "3600"),
    (Fault.OVERLOADED, None, None),
    (Fault.OVERLOADED, 5.0, "5"),
    (Fault.NO_UPSTREAM, 1.0, "1"),
    (Fault.SERVER_ERROR, 5.0, None),
]


@pytest.mark.parametrize(("fault", "seconds", "told"), RETRY_AFTER)
def test_retry_after_is_told_in_whole_seconds(fault: Fault, seconds: float | None, told: str | None) -> None:
    assert api_error(Failure(fault, "", 0, seconds)).headers.get("retry-after") == told


@given(
    st.builds(
        Failure,
        fault=st.sampled_from(list(Fault)),
        message=st.text(max_size=10),
        status=st.integers(0, 999),
        retry_after=st.none() | st.floats(0, 1e9),
        type=st.none() | st.text(max_size=3),
        code=st.none() | st.text(max_size=3),
    )
)
def test_any_failure_is_an_error_for_the_client(failure: Failure) -> None:
    error = api_error(failure, "a")
    assert 400 <= error.status < 600
    assert error.status not in MISLEADING or failure.fault is Fault.RATE_LIMITED
    assert (error.status < 500) == (STATUS[failure.fault] < 500)
    assert error.type
    assert (error.status == 429) <= ("retry-after" in error.headers)
    if failure.fault is Fault.UNAUTHORIZED:
        assert error.status == 502
