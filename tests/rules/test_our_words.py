"""What the log says of a failure: nothing that came over the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.fault import Failure, Fault
from unbroken.rules.our_words import DEED, TOLD_BY_US, in_our_words
from unbroken.rules.outcome import CALLERS_OWN
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES


def test_every_fault_has_words_of_ours() -> None:
    assert set(DEED) == set(Fault)
    assert not TOLD_BY_US & {*CALLERS_OWN, Fault.SERVER_ERROR, Fault.ERROR_EVENT, Fault.MALFORMED, Fault.DIFFERS}


@given(st.sampled_from(list(Fault)), st.integers(0, 999), st.text(min_size=60))
def test_what_is_quoted_is_never_told(fault: Fault, status: int, words: str) -> None:
    assert words not in in_our_words(Failure(fault, words, status, is_quoted=True))


def test_what_is_ours_is_told_as_it_is() -> None:
    cut = Failure(Fault.CUT, "stream ended without finish_reason after 41 chunks")
    assert in_our_words(cut) == cut.message
    assert in_our_words(Failure(Fault.SERVER_ERROR, "whoever said it", 500)) == "answered with a server error (500)"


@pytest.mark.parametrize(
    "dialect", [OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES], ids=lambda dialect: dialect.name
)
@pytest.mark.parametrize("type", ["request_too_large", "api_error", "invalid_request_error", "odd"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/html"])
def test_whatever_an_upstream_answers_is_known_to_be_its_own_words(dialect, type: str, content_type: str) -> None:
    body = b'{"type":"error","error":{"type":"%b","message":"a secret"}}' % type.encode()
    body = body if content_type == "application/json" else b"a secret"
    for status in range(400, 600):
        failure = dialect.read_error(status, content_type, body, secret="")
        assert failure.is_quoted
        assert "secret" not in in_our_words(failure)
