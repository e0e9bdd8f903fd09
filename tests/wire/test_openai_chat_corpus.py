"""Streams of many servers, each fed whole, cut at every byte and byte by byte (FAULTS 1-6, 14, 18-25)."""

import json
import re

import pytest

from tests.wire.openai_chat_corpus import MODEL, STREAM_ID, Case, all_cases, check_laws, relayed, told
from unbroken.chat.events import Started
from unbroken.chat.usage import Usage
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.sse import SseReader

CASES = {case.name: case for case in all_cases()}

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
well_formed = [case for case in CASES.values() if case.expected.get("well_formed")]
well_formed_cases = pytest.mark.parametrize("case", well_formed, ids=lambda case: case.name)


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
    assert relay.deltas == case.expected.get("deltas", 0)
    assert relay.ignored == case.expected.get("ignored", 0)
    assert {str(index): reason for index, reason in relay.finish_reasons.items()} == case.expected["finish_reasons"]


@cases
def test_a_cut_at_any_byte_changes_nothing(case: Case) -> None:
    whole = relayed(case.new_relay(), [case.upstream])
    for cut in range(1, len(case.upstream)):
        pieces = [case.upstream[:cut], case.upstream[cut:]]
        assert relayed(case.new_relay(), pieces) == whole, cut
    one_by_one = [case.upstream[at : at + 1] for at in range(len(case.upstream))]
    assert relayed(case.new_relay(), one_by_one) == whole


@cases
def test_what_the_client_gets_keeps_the_laws(case: Case) -> None:
    """C2, C3, C4."""
    check_laws(case.client, asks_usage=case.asks_usage, failed="failure" in case.expected)


@cases
def test_the_client_is_told_what_the_model_said(case: Case) -> None:
    made = told(case.client)
    if (utf16 := case.expected.get("text_utf16")) is not None:  # as a client whose strings are UTF-16 joins them
        assert {i: t.encode("utf-16", "surrogatepass").decode("utf-16") for i, t in made.text.items()} == utf16
    elif "text" in case.expected:
        assert made.text == case.expected["text"]
    assert made.reasoning == case.expected.get("reasoning", {})
    assert made.refusal == case.expected.get("refusal", {})
    assert made.finish_reasons == case.expected["finish_reasons"]
    expected = case.expected.get("tool_calls", {})
    assert {index: [call[1:] for call in calls] for index, calls in made.tool_calls.items()} == {
        index: [call[1:] for call in calls] for index, calls in expected.items()
    }
    for index, calls in expected.items():
        ids = [call[0] for call in made.tool_calls[index]]
        assert len(set(ids)) == len(ids)
        for id, (given, *_) in zip(ids, calls, strict=True):
            assert re.fullmatch(r"call_[0-9a-f]{24}", id) if given == "*" else id == given


@well_formed_cases
def test_a_well_formed_stream_passes_byte_for_byte_but_for_id_and_model(case: Case) -> None:
    """C1."""
    expected = b""
    for event in SseReader().feed(case.upstream):
        data = event.data
        if data != b"[DONE]":
            chunk = json.loads(data)
            for name, ours in (("id", STREAM_ID), ("model", MODEL)):
                theirs = json.dumps(chunk[name]).encode()
                data, times = re.subn(
                    rb'(["{,\s]%b"\s*:\s*)%b' % (name.encode(), re.escape(theirs)),
                    lambda found, ours=ours: found[1] + json.dumps(ours).encode(),  # type: ignore[misc]
                    data,
                )
                assert times == 1, "the case is not simple enough for this test"
        expected += b"".join(b"data: %b\n" % line for line in data.split(b"\n")) + b"\n"
    assert case.client == expected


@well_formed_cases
def test_events_read_from_our_bytes_are_those_of_the_upstreams(case: Case) -> None:
    if not case.expected.get("events", True):
        return  # said in a way that has no events of its own
    ours, theirs = ([*_events(data)] for data in (case.client, case.upstream))
    assert [event for event in ours if not isinstance(event, Started)] == [
        event for event in theirs if not isinstance(event, Started)
    ]
    assert ours[0] == Started(STREAM_ID, MODEL)


@cases
def test_relaying_our_own_stream_again_changes_nothing(case: Case) -> None:
    if "failure" in case.expected:
        return
    sent, failure = relayed(case.new_relay(), [case.client])
    assert failure is None
    assert sent == case.client


def _events(data: bytes) -> list[object]:
    reader = EventReader()
    return [said for event in SseReader().feed(data) for said in reader.feed(event)]
