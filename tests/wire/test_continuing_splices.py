"""Servers that are handed the partial answer: those that go on, that echo, that begin anew, and how they are told."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tests.wire.matrix_events import START, STOP, text
from unbroken.chat.error import ApiError
from unbroken.chat.events import (
    Event,
    Failed,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.said import Said, said_in
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.continuing import ContinuingRelay, Joint, read_back
from unbroken.wire.continuing_joints import MAX_WAITING, Appended, Matched, Spliced
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.progress import Progress

PAIRS = [pytest.param(a, b, id=f"{a.name} of {b.name}") for a in DIALECTS for b in DIALECTS]

WORDS = ["The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", " and", " The", " end", "."]
ALL = "".join(WORDS)


def saying(words: Sequence[str]) -> list[Event]:
    """An answer of these words."""
    return [START, *map(TextDelta, words), STOP]


def sent_of(client: Dialect, words: Sequence[str], *, upstream: Dialect = OPENAI_CHAT) -> list[Block]:
    """The blocks of an answer whose upstream died behind these words."""
    blocks, failure = relayed(new_relay(client, upstream), spoken(upstream, [START, *map(TextDelta, words)], end=False))
    assert failure is not None
    return blocks


def spliced(said: Said, *, handed_over: str, is_limited: bool = False) -> Spliced:
    return Spliced(said, handed_over=handed_over, is_limited=is_limited, on_matched=lambda: None)


def splice(
    client: Dialect, upstream: Dialect, sent: Sequence[Block], answer: Sequence[Event]
) -> tuple[list[Block], Failure | None, ContinuingRelay]:
    """What comes of an upstream that is handed what was sent, and answers so."""
    said = read_back(client, sent).said
    joint = spliced(said, handed_over=said.text.rstrip())
    relay = continuing(client, upstream, sent, joint)
    blocks, failure = relayed(relay, spoken(upstream, answer))
    return blocks, failure, relay


def all_text(client: Dialect, blocks: Sequence[Block]) -> str:
    said, is_complete = heard(client, blocks)
    assert is_complete
    put_together(client, blocks)
    return text(said)


@pytest.mark.parametrize("cut", range(1, len(WORDS)))
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_server_that_goes_on_is_appended(client: Dialect, upstream: Dialect, cut: int) -> None:
    """K1, K5."""
    sent = sent_of(client, WORDS[:cut])
    rest, failure, _ = splice(client, upstream, sent, saying(WORDS[cut:]))
    assert failure is None
    assert all_text(client, [*sent, *rest]) == ALL


@pytest.mark.parametrize("cut", range(1, len(WORDS)))
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_server_that_echoes_or_begins_the_same_again_is_matched(client: Dialect, upstream: Dialect, cut: int) -> None:
    """K3: no text is ever sent twice."""
    sent = sent_of(client, WORDS[:cut])
    rest, failure, _ = splice(client, upstream, sent, saying(WORDS))
    assert failure is None
    assert all_text(client, [*sent, *rest]) == ALL


@pytest.mark.parametrize("said_again", [["The quick brown fox runs"], ["The quick brown", " cat"]])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_new_turn_that_begins_alike_and_differs_is_no_continuation(
    client: Dialect, upstream: Dialect, said_again: list[str]
) -> None:
    """K3, K4: nothing of it is sent."""
    sent = sent_of(client, WORDS[:6])
    rest, failure, relay = splice(client, upstream, sent, saying(said_again))
    assert rest == []
    assert failure is not None
    assert failure.fault is Fault.DIFFERS
    assert relay.progress is Progress.WAITING


def test_a_new_turn_is_told_however_its_white_space_is_stripped() -> None:
    said = said_in([TextDelta("\n\nThe quick brown fox")])
    with pytest.raises(UpstreamFailed, match="does not go on"):
        spliced(said, handed_over=said.text).feed(TextDelta("The quick brown fox jumps"))


def test_one_that_thinks_first_has_begun_a_new_turn() -> None:
    said = said_in([TextDelta("The quick")])
    with pytest.raises(UpstreamFailed, match="as a new turn does"):
        spliced(said, handed_over=said.text).feed(ReasoningDelta("Hm"))


def test_an_end_that_may_be_the_beginning_again_is_no_continuation() -> None:
    """K3: told by sixteen characters, or by all that was sent."""
    said = said_in([TextDelta("The quick brown fox")])
    joint = spliced(said, handed_over=said.text)
    assert joint.feed(TextDelta("The qui")) == []
    with pytest.raises(UpstreamFailed, match="happens to begin alike"):
        joint.end(FinishReason.STOP)


@pytest.mark.parametrize("is_limited", [False, True])
def test_the_limit_of_a_splice_is_not_the_one_of_an_answer_that_begins_again(is_limited: bool) -> None:
    """K3, K5: it was asked for what was left, and has come to that with what had been sent."""
    said = said_in([TextDelta("The quick brown fox")])
    joint = spliced(said, handed_over=said.text, is_limited=is_limited)
    joint.feed(TextDelta("The quick brown fox jumps"))
    if is_limited:
        with pytest.raises(UpstreamFailed, match="limit too early"):
            joint.end(FinishReason.LENGTH)
    else:
        assert joint.end(FinishReason.LENGTH) == []


def test_it_is_told_once_that_an_answer_begins_again_and_before_anything_new() -> None:
    said = said_in([TextDelta("The quick brown fox")])
    told: list[str] = []
    joint = Spliced(said, handed_over=said.text, is_limited=True, on_matched=lambda: told.append("matched"))
    assert joint.feed(TextDelta("The quick brown")) == []
    assert not told
    assert joint.feed(TextDelta(" fox jumps")) == [TextDelta(" jumps")]
    assert joint.feed(TextDelta(" over")) == [TextDelta(" over")]
    assert told == ["matched"]


def test_a_continuation_that_happens_to_begin_alike_passes_once_it_differs() -> None:
    said = said_in([TextDelta("The quick brown fox jumps over")])
    joint = spliced(said, handed_over=said.text)
    assert joint.feed(TextDelta("The")) == []
    assert joint.feed(TextDelta(" lazy")) == [TextDelta("The lazy")]
    assert joint.feed(TextDelta("The quick brown fox")) == [TextDelta("The quick brown fox")]


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_answer_of_which_only_the_end_was_missing_ends(client: Dialect) -> None:
    sent = sent_of(client, WORDS)
    rest, failure, relay = splice(client, OPENAI_CHAT, sent, [START, STOP])
    assert failure is None
    assert relay.progress is Progress.ENDED
    assert all_text(client, [*sent, *rest]) == ALL


@pytest.mark.parametrize(
    ("sent", "new", "whole"),
    [
        ("one two ", [" three"], "one two three"),
        ("one two ", ["three"], "one two three"),
        ("one\n\n", ["\n", "\n", "- two"], "one\n\n- two"),
        ("one\n\n", ["\n", "- two"], "one\n\n- two"),
        ("one", ["  two"], "one  two"),
    ],
)
def test_white_space_that_was_not_handed_over_is_not_said_twice(sent: str, new: list[str], whole: str) -> None:
    said = said_in([TextDelta(sent)])
    joint = spliced(said, handed_over=sent.rstrip())
    passed = [event for piece in new for event in joint.feed(TextDelta(piece))] + joint.end(FinishReason.STOP)
    assert sent + text(passed) == whole


def test_a_call_behind_the_splice_comes_through() -> None:
    """FAULTS.md 12: it is a call and not prose."""
    sent = sent_of(OPENAI_RESPONSES, ["Let me", " look"])
    call: list[Event] = [ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a":1}')]
    rest, failure, _ = splice(OPENAI_RESPONSES, OPENAI_CHAT, sent, [START, TextDelta("."), *call, STOP])
    assert failure is None
    output = put_together(OPENAI_RESPONSES, [*sent, *rest])["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    assert output[0]["content"][0]["text"] == "Let me look."


def test_what_is_held_back_is_bounded() -> None:
    """L9."""
    joint = spliced(said_in([TextDelta("The quick brown fox")]), handed_over="The quick brown fox")
    passed = [event for _ in range(1000) for event in joint.feed(TextDelta(" "))]
    assert len(text(passed)) == 1000
    one, two = ToolCallStarted(0, "a", "f"), ToolCallStarted(1, "b", "g")
    mixed = Matched(said_in([one, ToolCallDelta(0, '{"a"'), two]))
    for event in (one, two):
        mixed.feed(event)
    mixed.feed(ToolCallDelta(1, "x" * MAX_WAITING))
    with pytest.raises(UpstreamFailed, match="are new before"):
        mixed.feed(ToolCallDelta(1, "x"))


# Usage.


def test_the_usage_of_a_splice_counts_each_token_once() -> None:
    """K5: what was handed over is output of the answer, and no input of it."""
    sent = sent_of(OPENAI_CHAT, WORDS[:4])
    answer = [*saying(WORDS[4:]), UsageReported(Usage(input=24, output=9, cached_read=16))]
    rest, _, relay = splice(OPENAI_CHAT, OPENAI_CHAT, sent, answer)
    assert relay.usage == Usage(input=20, output=13, cached_read=16, estimated=True)
    said, _ = heard(OPENAI_CHAT, [*sent, *rest])
    assert said[-1] == UsageReported(Usage(input=20, output=13, cached_read=16))
    assert relay.deltas == len(WORDS)


def test_input_tokens_that_were_told_stay_as_they_were_told() -> None:
    said = said_in([TextDelta("one"), UsageReported(Usage(input=100, output=1, cached_read=30))])
    joint = spliced(said, handed_over="one")
    joint.feed(TextDelta(" two"))
    assert joint.usage_of_whole(Usage(input=500, output=7, cached_read=400)) == Usage(
        input=100, output=8, cached_read=30, estimated=True
    )


def test_what_was_said_again_is_not_counted_twice() -> None:
    """K5: an echo, or a new turn that begins the same."""
    sent = sent_of(OPENAI_CHAT, WORDS[:4])
    answer = [*saying(WORDS), UsageReported(Usage(input=24, output=13))]
    _, _, relay = splice(OPENAI_CHAT, OPENAI_CHAT, sent, answer)
    assert relay.usage == Usage(input=20, output=13, estimated=True)
    assert relay.deltas == len(WORDS)


def test_the_usage_of_a_matched_answer_is_its_own() -> None:
    usage = Usage(input=3, output=5)
    assert Matched(said_in([TextDelta("one")])).usage_of_whole(usage) is usage


# What is no continuation (K4).

REFUSED: dict[str, tuple[list[Event], list[Event]]] = {
    "other words": ([TextDelta("one two")], [TextDelta("one three")]),
    "less": ([TextDelta("one two")], [TextDelta("one")]),
    "nothing": ([TextDelta("one two")], []),
    "reasoning in the place of text": ([TextDelta("one")], [ReasoningDelta("Hm"), TextDelta("one two")]),
    "other reasoning": ([ReasoningDelta("Hm"), TextDelta("one")], [ReasoningDelta("Ah"), TextDelta("one two")]),
    "more reasoning": ([ReasoningDelta("Hm"), TextDelta("one")], [ReasoningDelta("Hmm"), TextDelta("one two")]),
    "less reasoning": ([ReasoningDelta("Hm"), TextDelta("one")], [ReasoningDelta("H"), TextDelta("one two")]),
    "no call": ([ToolCallStarted(0, "a", "f"), ToolCallDelta(0, '{"a"')], [TextDelta("one")]),
    "another tool": ([ToolCallStarted(0, "a", "f")], [ToolCallStarted(0, "a", "g"), ToolCallDelta(0, "{}")]),
    "other arguments": (
        [ToolCallStarted(0, "a", "f"), ToolCallDelta(0, '{"a"')],
        [ToolCallStarted(0, "a", "f"), ToolCallDelta(0, '{"b":1}')],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_what_differs_from_what_was_sent_is_no_continuation(client: Dialect, upstream: Dialect, name: str) -> None:
    first, again = REFUSED[name]
    sent, _ = relayed(new_relay(client, upstream), spoken(upstream, [START, *first], end=False))
    relay = continuing(client, upstream, sent)
    rest, failure = relayed(relay, spoken(upstream, [START, *again, STOP]))
    assert rest == []
    assert failure is not None
    assert failure.fault in (Fault.DIFFERS, Fault.CUT)  # of nothing at all a dialect may have no stream
    assert relay.progress is Progress.WAITING


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_ids_of_calls_may_be_others_and_those_that_were_sent_stay(client: Dialect, upstream: Dialect) -> None:
    def calling(id: str) -> list[Event]:
        return [START, ToolCallStarted(0, id, "f"), ToolCallDelta(0, '{"a":'), ToolCallDelta(0, "1}"), STOP]

    sent, _ = relayed(new_relay(client, upstream), spoken(upstream, calling("toolu_1")[:3], end=False))
    rest, failure = relayed(continuing(client, upstream, sent), spoken(upstream, calling("toolu_2")))
    assert failure is None
    said = said_in(heard(client, [*sent, *rest])[0])
    assert [(call.id, call.text) for call in said.calls] == [("toolu_1", '{"a":1}')]


def test_calls_may_come_mixed_in_another_way() -> None:
    one, two = ToolCallStarted(0, "a", "f"), ToolCallStarted(1, "b", "g")
    joint = Matched(said_in([one, ToolCallDelta(0, '{"a"'), two, ToolCallDelta(1, '{"b"')]))
    passed: list[Event] = []
    for event in (one, ToolCallDelta(0, '{"a":1}'), two, ToolCallDelta(1, '{"b"'), ToolCallDelta(1, ":2}")):
        passed += joint.feed(event)
    assert [*passed, *joint.end(FinishReason.STOP)] == [ToolCallDelta(0, ":1}"), ToolCallDelta(1, ":2}")]


@given(st.text(min_size=1, max_size=30), st.integers(0, 30), st.lists(st.integers(1, 7), max_size=30))
def test_a_matched_text_passes_from_where_it_was_cut_in_whatever_pieces(whole: str, cut: int, sizes: list[int]) -> None:
    sent = whole[:cut]
    joint = Matched(said_in([TextDelta(sent)] if sent else []))
    passed: list[Event] = []
    at = 0
    for size in [*sizes, len(whole)]:
        if piece := whole[at : at + size]:
            passed += joint.feed(TextDelta(piece))
        at += size
    assert sent + text([*passed, *joint.end(FinishReason.STOP)]) == whole


@given(st.text(min_size=1, max_size=30), st.text(max_size=40))
def test_a_matched_text_is_never_anything_but_an_extension(sent: str, other: str) -> None:
    """K4."""
    joint = Matched(said_in([TextDelta(sent)]))
    passed: list[Event] = []
    has_failed = False
    try:
        for character in other:
            passed += joint.feed(TextDelta(character))
        passed += joint.end(FinishReason.STOP)
    except UpstreamFailed:
        has_failed = True
    assert has_failed is not other.startswith(sent)
    assert has_failed or sent + text(passed) == other
    assert not (has_failed and passed)


# Failures of an attempt, and behind a splice.


@pytest.mark.parametrize("joint", [Appended(Said()), Matched(Said())], ids=["appended", "matched"])
@pytest.mark.parametrize("upstream", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_error_of_the_upstream_is_its_failure(upstream: Dialect, joint: Joint) -> None:
    sent = sent_of(OPENAI_CHAT, ["one"])
    relay = continuing(OPENAI_CHAT, upstream, sent, joint)
    rest, failure = relayed(relay, spoken(upstream, [START, Failed("busy", "overloaded_error")]))
    assert rest == []
    assert failure is not None
    assert failure.fault is Fault.OVERLOADED


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_it_may_break_off_and_go_on_again_and_again(client: Dialect, upstream: Dialect) -> None:
    """K5: with two attempts behind it, each matched, it is one stream still."""
    blocks = sent_of(client, WORDS[:3], upstream=upstream)
    for reached in (6, 9):
        relay = continuing(client, upstream, blocks)
        more, failure = relayed(relay, spoken(upstream, [START, *map(TextDelta, WORDS[:reached])], end=False))
        assert failure is not None
        assert failure.fault is Fault.CUT
        blocks += more
        assert text(heard(client, blocks)[0]) == "".join(WORDS[:reached])
    rest, failure = relayed(continuing(client, upstream, blocks), spoken(upstream, saying(WORDS)))
    assert failure is None
    assert all_text(client, [*blocks, *rest]) == ALL


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_error_behind_a_splice_is_the_dialects_own_and_the_last_block(client: Dialect) -> None:
    """L1, K1."""
    sent = sent_of(client, WORDS[:3])
    writer = client.continuing_writer(answering(client), sent)
    more = writer.write(TextDelta(" brown"))
    error = ApiError(502, "it broke", "server_error", "cut")
    fail = getattr(writer, "fail", None)
    blocks = [*sent, *more, *(fail(error) if fail else [client.write_error_event(error)])]
    said, _ = heard(client, blocks)
    assert isinstance(said[-1], Failed)
    assert said[-1].message == "it broke"
    assert text(said) == "The quick brown brown"


def test_a_failed_response_has_all_that_was_said_and_the_next_number() -> None:
    sent = sent_of(OPENAI_RESPONSES, WORDS[:3])
    writer = OPENAI_RESPONSES.continuing_writer(answering(OPENAI_RESPONSES), sent)
    (block,) = writer.fail(ApiError(502, "it broke"))  # type: ignore[attr-defined]
    assert b'"sequence_number":%d,' % len(sent) in block
    assert b"The quick brown" in block


def test_what_cannot_be_read_back_is_not_gone_on_with() -> None:
    block = Block(
        b'data: {"id":"a","choices":[{"index":0,"delta":{"role":"assistant","audio":{"id":"b"}}}],"created":1}\n\n'
    )
    with pytest.raises(UpstreamFailed, match="cannot be translated") as refused:
        read_back(OPENAI_CHAT, [block])
    assert refused.value.failure.fault is Fault.UNTRANSLATABLE
