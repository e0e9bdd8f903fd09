"""How far an answer has come, and that no sequence of events breaks the laws."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.anthropic_corpus import MODEL, STREAM_ID, all_cases, check_laws, events_of, relayed
from unbroken.chat.conversation import Conversation
from unbroken.chat.error import ApiError
from unbroken.chat.events import Started
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.anthropic_messages.events import MessageEventReader
from unbroken.wire.anthropic_messages.relay import MessageRelay
from unbroken.wire.dialects import Answering
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, SseReader


def event(type: str, **members: Any) -> SseEvent:
    return SseEvent(type.encode(), json.dumps({"type": type, **members}, separators=(",", ":")).encode())


def block(index: int, type: str, **members: Any) -> SseEvent:
    return event("content_block_start", index=index, content_block={"type": type, **members})


def delta(index: int, type: str, **members: Any) -> SseEvent:
    return event("content_block_delta", index=index, delta={"type": type, **members})


START = event("message_start", message={"id": "m", "model": "c", "content": [], "usage": {"input_tokens": 1}})
TEXT = block(0, "text", text="")
THINKING = block(0, "thinking", thinking="", signature="")
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = event("message_stop")


@pytest.mark.parametrize(
    ("events", "progress"),
    [
        ([START], Progress.WAITING),
        ([START, event("ping"), TEXT], Progress.WAITING),
        ([START, TEXT, delta(0, "text_delta", text="")], Progress.WAITING),
        ([START, TEXT, delta(0, "text_delta", text="a")], Progress.OPEN),
        ([START, block(0, "text", text="a")], Progress.OPEN),
        ([START, THINKING], Progress.WAITING),
        ([START, THINKING, delta(0, "signature_delta", signature="s")], Progress.OPEN),
        ([START, block(0, "tool_use", id="a", name="f", input={})], Progress.OPEN),
        ([START, block(0, "redacted_thinking", data="d")], Progress.OPEN),
        ([START, block(0, "hologram")], Progress.OPEN),
        ([START, END], Progress.FINISHED),
        ([START, END, STOP], Progress.ENDED),
    ],
)
def test_the_progress_tells_whether_another_upstream_may_be_asked(events: list[SseEvent], progress: Progress) -> None:
    """FAULTS 6: until there is a piece of the answer, nothing is committed."""
    relay = MessageRelay(STREAM_ID, MODEL)
    for one in events:
        relay.feed(one)
    assert relay.progress is progress


def test_a_failure_is_said_again_whenever_it_is_asked() -> None:
    relay = MessageRelay(STREAM_ID, MODEL)
    for one in (START, TEXT, delta(0, "text_delta", text="a")):
        relay.feed(one)
    for again in (event("error", error={"type": "overloaded_error", "message": "m"}), delta(0, "text_delta", text="b")):
        with pytest.raises(UpstreamFailed) as failed:
            relay.feed(again)
        assert failed.value.failure.fault is Fault.OVERLOADED
    with pytest.raises(UpstreamFailed):
        relay.finish()
    assert relay.progress is Progress.OPEN


def test_what_only_we_asked_for_goes_no_further() -> None:
    relay = MessageRelay(STREAM_ID, MODEL, ours="x_ours")
    relay.feed(START)
    assert relay.feed(event("ping", x_ours=1)) == []
    assert relay.ignored == 1


def test_spaces_behind_the_text_change_nothing() -> None:
    relay = MessageRelay(STREAM_ID, MODEL)
    relay.feed(START)
    relay.feed(TEXT)
    head = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}'
    for tail in (b"}", b"   }", b" }", b" \t }", b"}"):
        assert relay.feed(SseEvent(b"content_block_delta", head + tail)) == [
            b"event: content_block_delta\ndata: " + head + tail + b"\n\n"
        ]
    assert relay.deltas == 5
    for wrong in (b"", b"}}", b"]", b',"x":}'):
        other = MessageRelay(STREAM_ID, MODEL)
        other.feed(START)
        other.feed(TEXT)
        with pytest.raises(UpstreamFailed):
            other.feed(SseEvent(b"content_block_delta", head + wrong))


def test_the_shortcut_passes_on_what_the_events_would_say() -> None:
    """Spaces, which hide how long a text is, stand between the ends of the two objects."""
    head = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
    line = b"event: content_block_delta\ndata: %b\n\n"
    fits = [b'"a"}}', b'"a"}     }', b'"\\u00e9\\n"} }', b'"\\ud83d\\ude00"}}', '"é🙂"}}'.encode()]
    says = [b' "a"}}', b'"a" }}', b'"\\ud83d"}}', b'"a"}}  ', b'"a"},"x":1}', b'""}}']
    wrong = [b'"a"\n}}', b'"a"}\n}', b'\n"a"}}', b'"a"}', b'"a"}}}', b'"a', b"1}}", b'"\xff"}}']
    for tail in (*fits, *says, *wrong):
        relay, other = MessageRelay(STREAM_ID, MODEL), MessageRelay(STREAM_ID, MODEL)
        first = [START, TEXT, SseEvent(b"content_block_delta", head + b'"first"}}')]
        for event in first:
            assert relay.feed(event) == other.feed(event)
        read = line % (head + tail)
        block = relay.shortcut.fill(read) if relay.shortcut is not None else None
        if block is not None:
            assert tail not in wrong
            assert [block] == [block for event in SseReader().feed(read) for block in other.feed(event)]
        else:
            assert tail not in fits


def test_there_is_no_shortcut_but_for_the_text_that_is_open() -> None:
    relay = MessageRelay(STREAM_ID, MODEL)
    seen = []
    events = [START, TEXT, delta(0, "text_delta", text="a"), event("ping"), delta(0, "text_delta", text="b")]
    events += [event("content_block_stop", index=0), block(1, "text", text=""), delta(1, "text_delta", text="c")]
    events += [block(2, "text", text=""), delta(2, "text_delta", text="d"), delta(1, "text_delta", text="e")]
    for one in events:
        relay.feed(one)
        seen.append(relay.shortcut is not None)
    assert seen == [False, False, True, False, True, False, False, True, False, False, False]
    assert relay.shortcut is None
    relay.feed(event("content_block_stop", index=1))
    relay.feed(delta(2, "text_delta", text="f"))
    assert relay.shortcut is not None
    for one in (0, 1):
        line = b"event: content_block_delta\ndata: %b\n\n" % delta(one, "text_delta", text="x").data
        assert relay.shortcut.fill(line) is None


anything = st.one_of(
    st.sampled_from(
        [START, TEXT, THINKING, END, STOP, event("ping"), event("ping", index=None), block(1, "tool_use", name="f")]
    ),
    st.builds(lambda i, t: delta(i, "text_delta", text=t), st.integers(-1, 2), st.text(max_size=3)),
    st.builds(lambda i: delta(i, "input_json_delta", partial_json="{}"), st.integers(0, 2)),
    st.builds(lambda i: event("content_block_stop", index=i), st.integers(0, 2)),
    st.builds(lambda i: event("content_block_stop", index=i), st.none()),
    st.builds(
        lambda kind, name, value: event(kind, **{name: value}),
        st.sampled_from(["message_start", "content_block_start", "content_block_delta", "message_delta", "error", "x"]),
        st.sampled_from(["index", "delta", "content_block", "message", "usage", "error"]),
        st.one_of(st.none(), st.integers(-1, 1), st.text(max_size=2), st.just({}), st.just([]), st.just({"type": 1})),
    ),
    st.binary(max_size=8).map(lambda data: SseEvent(b"content_block_delta", data)),
)


@given(st.lists(anything, max_size=12))
def test_any_sequence_of_events_keeps_the_laws(events: list[SseEvent]) -> None:
    wire = b"".join(
        b"event: %b\n%b\n" % (type, b"".join(b"data: %b\n" % line for line in data.replace(b"\r", b"\n").split(b"\n")))
        for type, data in events
    )
    sent, failure = relayed(MessageRelay(STREAM_ID, MODEL), [wire])
    if not any(name not in KNOWN for name, _ in events_of(sent)):
        check_laws(sent, failed=failure is not None)


KNOWN = {
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
    *("message_delta", "message_stop", "ping"),
}


@given(st.lists(anything, max_size=12))
def test_a_reader_of_anything_gives_events_or_fails_clean(events: list[SseEvent]) -> None:
    reader = MessageEventReader()
    try:
        said = [one for event in events for one in reader.feed(event)]
    except UpstreamFailed:
        return
    assert sum(isinstance(one, Started) for one in said) <= 1


def test_the_dialect_keeps_the_contract() -> None:
    dialect, answering = ANTHROPIC_MESSAGES, Answering(STREAM_ID, MODEL, 0)
    assert (dialect.name, dialect.path, dialect.id_prefix) == ("anthropic-messages", "/messages", "msg_")
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}'
    request = dialect.read_request(body)
    assert dialect.write_request(request, model="m", ask_usage=True, more={}) == body
    conversation: Conversation = dialect.read_conversation(request)
    assert dialect.write_conversation(conversation, model="m", stream=False).body == body
    case = next(case for case in all_cases() if case.name == "text")
    relay, reader, writer = (
        dialect.relay(answering, secret="", ours=None),
        dialect.event_reader(),
        dialect.event_writer(answering),
    )
    events = SseReader().feed(case.upstream)
    assert b"".join(block for one in events for block in relay.feed(one)) == case.client
    said = [one for event in events for one in reader.feed(event)]
    assert b"".join(block for one in said for block in writer.write(one))
    whole = dialect.write_answer(said, answering)
    assert dialect.relay_answer(whole, answering, secret="")[0] == whole
    assert dialect.read_error(529, "", b"", secret="").fault is Fault.OVERLOADED
    assert json.loads(dialect.write_error(ApiError(400, "m"), "r"))["request_id"] == "r"
    assert dialect.write_error_event(ApiError(400, "m")).startswith(b"event: error\n")
