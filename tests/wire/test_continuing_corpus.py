"""What real servers send, cut behind its blocks and sent again: the answer is the same, or it is refused as a whole."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.wire import anthropic_corpus, openai_chat_corpus, openai_responses_corpus
from tests.wire.continuing_answers import continuing, heard, new_relay, relayed
from unbroken.chat.events import Event
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.chat.said import PartKind, said_in
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.continuing import ContinuingRelay, read_back
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.sse import SseReader

MOST_CUTS = 40  # of one answer; the long ones say the same sort of thing over and over


def cases() -> Iterator[object]:
    for dialect, corpus in (
        (OPENAI_CHAT, openai_chat_corpus.all_cases()),
        (OPENAI_RESPONSES, openai_responses_corpus.all_cases()),
        (ANTHROPIC_MESSAGES, anthropic_corpus.all_cases()),
    ):
        for case in corpus:
            if case.expected.get("n", 1) == 1:
                yield pytest.param(dialect, case.upstream, id=f"{dialect.name} {case.name}")


def cuts(count: int) -> list[int]:
    """Places to cut at, the first and the last dozen among them."""
    if count <= MOST_CUTS:
        return list(range(count))
    return [*range(12), *range(12, count - 12, max(1, (count - 24) // (MOST_CUTS - 24))), *range(count - 12, count)]


def told(events: list[Event]) -> tuple[object, ...]:
    """What is said in the end: pieces of calls that came mixed may come one behind the other, sources in one line."""
    said = said_in(events)
    parts = [replace(part, text=json.loads(part.text)) if part.kind is PartKind.CITED else part for part in said.parts]
    return parts, said.finished, said.usage


def begun(dialect: Dialect, sent: list[Block]) -> ContinuingRelay | None:
    try:
        return continuing(dialect, dialect, sent)
    except UpstreamFailed as failed:
        if failed.failure.fault is not Fault.UNTRANSLATABLE:
            raise
        return None


@pytest.mark.parametrize(("dialect", "upstream"), list(cases()))
def test_an_answer_of_a_real_server_goes_on(dialect: Dialect, upstream: bytes) -> None:
    """K4, K5."""
    events = SseReader().feed(upstream)
    whole, failure = relayed(new_relay(dialect, dialect), events)
    if failure is not None:
        return  # an answer that fails by itself has nothing to go on to
    try:
        events_heard = heard(dialect, whole)[0]
        has_more_choices = len(said_in(events_heard).choices) > 1
        expected = told(events_heard)
    except UpstreamFailed:
        with pytest.raises(UpstreamFailed) as refused:
            read_back(dialect, whole)
        assert refused.value.failure.fault is Fault.UNTRANSLATABLE
        return
    for cut in cuts(len(whole)):
        sent = whole[:cut]
        if read_back(dialect, sent).said.finished is not None:
            continue
        relay = begun(dialect, sent)
        if relay is None:
            continue  # refused as a whole
        rest, failure = relayed(relay, events)
        if failure is not None:
            assert (failure.fault, has_more_choices) == (Fault.DIFFERS, True), f"cut behind block {cut}"
            continue
        said, is_complete = heard(dialect, [*sent, *rest])
        assert is_complete
        assert told(said) == expected, f"cut behind block {cut}"
