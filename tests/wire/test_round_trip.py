"""Through another dialect and back (T1, T2): a conversation is what it was, but for what somebody was told of."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.exchange_corpus import DIALECTS, spelled
from tests.wire.round_trip import NO_WORD, normal
from tests.wire.round_trip_requests import bodies
from unbroken.chat.conversation import Conversation
from unbroken.chat.error import RequestRefused
from unbroken.wire.dialects import Dialect, Written

PAIRS = [pytest.param(a, b, id=f"{a.name} by {b.name}") for a in DIALECTS for b in DIALECTS if a is not b]

MODELS = ["claude-3-opus", "claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-4-8"]
"""What is taken differs from model to model in one of the dialects; to the others these are names like any."""


def read(dialect: Dialect, body: bytes) -> Conversation:
    return dialect.read_conversation(dialect.read_request(body))


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_goes_through_another_dialect_and_back_is_what_it_was(
    client: Dialect, upstream: Dialect, data: st.DataObject
) -> None:
    body, model = data.draw(bodies(client)), data.draw(st.sampled_from(MODELS))
    said = read(client, body)
    wordless = [name for name, is_said in NO_WORD[upstream.name].items() if is_said(said)]
    try:
        there = upstream.write_conversation(said, model=model, stream=True)
    except RequestRefused as refused:
        error = refused.error
        assert error.status == 400
        assert error.param is not None
        assert error.param in error.message
        assert any(re.fullmatch(name, error.param) for name in wordless), error.message
        return
    assert not wordless, "it is refused, or else it is gone in silence"
    back: Written = client.write_conversation(read(upstream, there.body), model=model, stream=True)
    again = read(client, back.body)
    names = {client.name, upstream.name}
    dropped = [*there.dropped, *back.dropped]
    assert spelled(normal(again, names, dropped)) == spelled(normal(said, names, dropped))
