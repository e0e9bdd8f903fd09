"""Streams of the Responses API, each fed whole, cut at every byte and byte by byte (FAULTS 1-6, 14, 18-25, 36-41)."""

import json

import pytest

from tests.wire.openai_responses_corpus import (
    MODEL,
    STREAM_ID,
    Case,
    all_cases,
    check_laws,
    check_nesting,
    relayed,
    told,
)
from unbroken.chat.events import (
    Cited,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.usage import Usage
from unbroken.wire.openai_responses.events import ResponseReader
from unbroken.wire.sse import SseReader

CASES = {case.name: case for case in all_cases()}

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
whole_cases = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if "failure" not in case.expected], ids=lambda case: case.name
)
well_formed_cases = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.expected.get("well_formed")], ids=lambda case: case.name
)


@cases
def test_the_client_gets_these_bytes(case: Case) -> None:
    relay = case.new_relay()
    sent, failure = relayed(relay, [case.upstream])
    assert sent == case.client
    expected = case.expected.get("failure")
    if expected is None:
        assert failure is None
    else:
        assert failure is not None
        assert failure.fault.value == expected["fault"]
        assert expected["message"] in failure.message
    usage = case.expected.get("usage")
    assert relay.usage == (Usage(**usage) if usage else None)
    assert relay.deltas == case.expected["deltas"]
    assert relay.ignored == case.expected.get("ignored", 0)


@cases
def test_a_cut_at_any_byte_changes_nothing(case: Case) -> None:
    whole = relayed(case.new_relay(), [case.upstream])
    for cut in range(1, len(case.upstream)):
        pieces = [case.upstream[:cut], case.upstream[cut:]]
        assert relayed(case.new_relay(), pieces) == whole, cut
    one_by_one = [case.upstream[at : at + 1] for at in range(len(case.upstream))]
    assert relayed(case.new_relay(), one_by_one) == whole


@whole_cases
def test_an_end_anywhere_before_the_terminal_event_is_a_cut(case: Case) -> None:
    """O4."""
    blocks = [block + b"\n\n" for block in case.client.split(b"\n\n")[:-1]]
    for kept in range(len(blocks)):
        _, failure = relayed(case.new_relay(), blocks[:kept])
        assert failure is not None
        assert failure.fault.value == "cut"


@cases
def test_what_the_client_gets_keeps_the_laws(case: Case) -> None:
    """O3."""
    check_laws(case.client, failed="failure" in case.expected)


@well_formed_cases
def test_what_is_begun_is_ended(case: Case) -> None:
    """O3."""
    check_nesting([event for event in check_laws(case.client, failed=False) if "output_index" in event])


@cases
def test_the_client_is_told_what_the_model_said(case: Case) -> None:
    if "failure" in case.expected or case.name == "everything_in_the_end":
        return
    made = told(case.client)
    if (utf16 := case.expected.get("text_utf16")) is not None:  # as a client whose strings are UTF-16 joins them
        assert made.text.encode("utf-16", "surrogatepass").decode("utf-16") == utf16
    else:
        assert made.text == case.expected.get("text", "")
    assert made.reasoning == case.expected.get("reasoning", "")
    assert made.refusal == case.expected.get("refusal", "")
    assert made.tool_calls == case.expected.get("tool_calls", [])


@well_formed_cases
def test_a_well_formed_stream_passes_byte_for_byte_but_for_the_responses_id_and_model(case: Case) -> None:
    """O2."""
    theirs = json.loads(SseReader().feed(case.upstream)[0].data)["response"]
    expected = case.upstream
    for their, our in ((theirs["id"], STREAM_ID), (theirs["model"], MODEL)):
        expected = expected.replace(json.dumps(their).encode(), json.dumps(our).encode())
    assert case.client == expected


@whole_cases
def test_events_read_from_our_bytes_are_those_of_the_upstreams(case: Case) -> None:
    ours, theirs = (_events(data) for data in (case.client, case.upstream))
    assert [repr_of(event) for event in ours[1:]] == [repr_of(event) for event in theirs[1:]]
    assert ours[0] == Started(STREAM_ID, MODEL)


@whole_cases
def test_events_say_what_the_model_said(case: Case) -> None:
    if "text_utf16" in case.expected:
        return  # halves of a character are no text
    events = _events(case.upstream)
    expected = case.expected

    def joined(kind: type) -> str:
        return "".join(event.text for event in events if isinstance(event, kind))  # type: ignore[attr-defined]

    assert joined(TextDelta) == expected.get("text", "")
    assert joined(ReasoningDelta) == expected.get("reasoning", "")
    assert joined(RefusalDelta) == expected.get("refusal", "")
    assert sum(isinstance(event, Cited) for event in events) == expected.get("citations", 0)
    assert [e.signature for e in events if isinstance(e, ReasoningSigned)] == _list(expected.get("signature"))
    assert [e.data for e in events if isinstance(e, ReasoningSealed)] == _list(expected.get("sealed"))
    calls = {e.index: [e.id, e.name, ""] for e in events if isinstance(e, ToolCallStarted)}
    for event in events:
        if isinstance(event, ToolCallDelta):
            calls[event.index][2] += event.arguments
    assert [*calls.values()] == expected.get("tool_calls", [])
    usage = expected.get("usage")
    assert [e.usage for e in events if isinstance(e, UsageReported)] == ([Usage(**usage)] if usage else [])
    assert events[-1] == Finished(expected["finish"])


@whole_cases
def test_relaying_our_own_stream_again_changes_nothing(case: Case) -> None:
    sent, failure = relayed(case.new_relay(), [case.client])
    assert failure is None
    assert sent == case.client


def repr_of(event: object) -> str:
    return repr(bytes(event.citation)) if isinstance(event, Cited) else repr(event)


def _list(value: str | None) -> list[str]:
    return [] if value is None else [value]


def _events(data: bytes) -> list[object]:
    reader = ResponseReader()
    events = [said for event in SseReader().feed(data) for said in reader.feed(event)]
    assert reader.is_complete
    return events
