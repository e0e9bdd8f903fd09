"""An answer that was cut behind any of its blocks and asked for again: what was sent is held back, the rest goes on."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings

from tests.wire.continuing_answers import (
    DIALECTS,
    answering,
    continuing,
    heard,
    new_relay,
    put_together,
    relayed,
    spoken,
)
from tests.wire.matrix_events import ANSWERS, PARTIAL, PIECES, START, USAGE, numbered, words
from unbroken.chat.events import Event, Finished, UsageReported
from unbroken.chat.finish import FinishReason
from unbroken.wire.continuing import read_back
from unbroken.wire.dialects import Dialect
from unbroken.wire.progress import Progress

PAIRS = [pytest.param(a, b, id=f"{a.name} of {b.name}") for a in DIALECTS for b in DIALECTS]
SAID = {name: events for name, events in {**ANSWERS, **PARTIAL}.items() if name != "long text"}


def usage_of(events: Sequence[Event]) -> object:
    return [event.usage for event in events if isinstance(event, UsageReported)][-1]


def check_every_cut(
    client: Dialect, first: Dialect, second: Dialect, events: Sequence[Event], *, with_sdk: bool = True
) -> None:
    """Whichever blocks were sent: with those of a second attempt they are the answer that the first would have been."""
    whole, failure = relayed(new_relay(client, first), spoken(first, events))
    assert failure is None
    expected, is_complete = heard(client, whole)
    assert is_complete
    together = put_together(client, whole)
    for cut in range(len(whole)):
        sent = whole[:cut]
        if read_back(client, sent).said.finished is not None:
            assert heard(client, [*sent, *client.continuing_writer(answering(client), sent).end()])[1]
            continue
        relay = continuing(client, second, sent)
        rest, failure = relayed(relay, spoken(second, events, id="another"))
        assert failure is None, f"cut behind block {cut}"
        assert relay.progress is Progress.ENDED
        said, is_complete = heard(client, [*sent, *rest])
        assert is_complete
        assert words(said) == words(expected), f"cut behind block {cut}"
        assert usage_of(said) == usage_of(expected)
        if with_sdk:
            assert put_together(client, [*sent, *rest]) == together


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_an_answer_goes_on_behind_every_block(client: Dialect, upstream: Dialect, name: str) -> None:
    """K4, K5."""
    check_every_cut(client, upstream, upstream, [START, *SAID[name], USAGE])


@pytest.mark.parametrize("name", [name for name in ANSWERS if name in SAID])
@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_another_dialects_upstream_goes_on_behind_every_block(client: Dialect, name: str) -> None:
    """K1: what was sent are the first upstream's own bytes, with its own ids."""
    for second in DIALECTS:
        check_every_cut(client, client, second, [START, *ANSWERS[name], USAGE])


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@settings(deadline=None, max_examples=25)
@given(pieces=PIECES)
def test_any_answer_goes_on_behind_every_block(client: Dialect, upstream: Dialect, pieces: list[Event | str]) -> None:
    """K4, K5."""
    events = [START, *numbered(pieces), Finished(FinishReason.LENGTH), USAGE]
    check_every_cut(client, upstream, upstream, events, with_sdk=False)
