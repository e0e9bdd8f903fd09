"""Streams as Anthropic and servers like it send them, fed whole, cut at every byte and byte by byte."""

import re

import pytest

from tests.wire.anthropic_corpus import MODEL, STREAM_ID, Case, all_cases, check_laws, events_of, relayed, told
from unbroken.chat.events import Event, Started
from unbroken.chat.fault import UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.anthropic_messages.events import MessageEventReader
from unbroken.wire.anthropic_messages.writer import MessageEventWriter
from unbroken.wire.dialects import Answering
from unbroken.wire.sse import SseReader

CASES = {case.name: case for case in all_cases()}
WHOLE = [case for case in CASES.values() if "failure" not in case.expected]
SAID = [case for case in WHOLE if case.expected.get("events", True)]

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
well_formed_cases = pytest.mark.parametrize(
    "case", [case for case in WHOLE if case.expected.get("well_formed")], ids=lambda case: case.name
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
        assert relayed(case.new_relay(), [case.upstream[:cut], case.upstream[cut:]]) == whole, cut
    assert relayed(case.new_relay(), [bytes([byte]) for byte in case.upstream]) == whole


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_a_line_that_ends_anywhere_is_never_taken_for_an_end(case: Case) -> None:
    """A3, FAULTS 1, 2: only behind the stop reason may a stream end without its last word."""
    for cut in range(len(case.upstream)):
        sent, failure = relayed(case.new_relay(), [case.upstream[:cut]])
        check_laws(sent, failed=failure is not None)
        assert (failure is None) is (told(sent).stop_reason is not None), cut


@cases
def test_what_the_client_gets_keeps_the_laws(case: Case) -> None:
    """A3."""
    check_laws(case.client, failed="failure" in case.expected)


@cases
def test_the_client_is_told_what_the_model_said(case: Case) -> None:
    made, expected = told(case.client), dict(case.expected["told"])
    calls = expected.pop("tool_calls", [])
    for (id, *said), (expected_id, *expected_said) in zip(made.tool_calls, calls, strict=True):
        assert re.fullmatch(r"toolu_[0-9a-f]{24}", id) if expected_id == "*" else id == expected_id
        assert said == expected_said
    for name, value in expected.items():
        assert getattr(made, name) == value


@well_formed_cases
def test_a_well_formed_stream_passes_byte_for_byte_but_for_id_and_model(case: Case) -> None:
    """A2."""
    theirs = next(data["message"] for name, data in events_of(case.upstream) if name == "message_start")
    expected = case.upstream.replace(theirs["id"].encode(), STREAM_ID.encode(), 1)
    assert case.client == expected.replace(theirs["model"].encode(), MODEL.encode(), 1)


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_relaying_our_own_stream_again_changes_nothing(case: Case) -> None:
    assert relayed(case.new_relay(), [case.client]) == (case.client, None)


@pytest.mark.parametrize("case", SAID, ids=lambda case: case.name)
def test_events_read_from_our_bytes_are_those_of_the_upstreams(case: Case) -> None:
    theirs = [event for event in read_events(case.upstream) if not isinstance(event, Started)]
    assert read_events(case.client)[1:] == theirs or case.expected.get("well_formed") is None
    assert read_events(case.client)[0] == Started(STREAM_ID, MODEL)


@pytest.mark.parametrize("case", SAID, ids=lambda case: case.name)
def test_a_stream_that_is_read_and_written_tells_the_same(case: Case) -> None:
    writer = MessageEventWriter(Answering(STREAM_ID, MODEL, 0))
    blocks = [block for event in read_events(case.client) for block in writer.write(event)]
    written = b"".join([*blocks, *writer.end()])
    check_laws(written, failed=False)
    ours, theirs = told(written), told(case.client)
    assert [[*call[:2], call[2] or "{}"] for call in theirs.tool_calls] == ours.tool_calls
    assert (ours.thinking, ours.signatures, ours.citations) == (theirs.thinking, theirs.signatures, theirs.citations)
    assert (ours.stop_reason, ours.stop_sequence) == (theirs.stop_reason, theirs.stop_sequence)
    assert ours.text.startswith(theirs.text) or "text" not in case.expected["told"]


@pytest.mark.parametrize("name", ["pause_turn_server_tools", "unknown_blocks"])
def test_what_only_this_dialect_can_say_is_refused_outside_of_it(name: str) -> None:
    with pytest.raises(UpstreamFailed, match="can only be told to a client that speaks Anthropic's"):
        read_events(CASES[name].upstream)


def read_events(data: bytes) -> list[Event]:
    reader = MessageEventReader()
    return [said for event in SseReader().feed(data) for said in reader.feed(event)]
