"""Every pair of dialects: what the upstream says in one, the client reads in the other."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.wire.matrix_events import ANSWERS, FAILURES, PARTIAL, PIECES, START, STOP, USAGE, numbered, text, words
from unbroken.chat.conversation import (
    Conversation,
    Document,
    Image,
    Message,
    NamedTool,
    Part,
    Role,
    SealedThinking,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    ToolUse,
)
from unbroken.chat.events import Event, Failed, Finished, UsageReported
from unbroken.chat.fault import Failure, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering, Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, SseReader
from unbroken.wire.translate import TranslatingRelay, relay_between, translate_request

DIALECTS: list[Dialect] = [OPENAI_CHAT, ANTHROPIC_MESSAGES, OPENAI_RESPONSES]
PAIRS = [pytest.param(a, b, id=f"{a.name} to {b.name}") for a in DIALECTS for b in DIALECTS]


#: What a dialect has no word of its own for.
WORDLESS = {
    OPENAI_CHAT.name: set[str](),
    ANTHROPIC_MESSAGES.name: {"refusal", "content filter"},  # one stop reason for both, and the words are text
    OPENAI_RESPONSES.name: {"stop sequence"},
}


def answering(dialect: Dialect) -> Answering:
    return Answering(f"{dialect.id_prefix}1", "public", 1_700_000_000, include_usage=True)


def spoken(dialect: Dialect, events: Sequence[Event]) -> bytes:
    """The upstream's bytes."""
    writer = dialect.event_writer(answering(dialect))
    blocks = [block for event in events for block in writer.write(event)]
    return b"".join([*blocks, *writer.end()])


def relayed(relay: TranslatingRelay, upstream: Sequence[SseEvent]) -> tuple[list[Block], Failure | None]:
    blocks: list[Block] = []
    try:
        for event in upstream:
            blocks += relay.feed(event)
        blocks += relay.finish()
    except UpstreamFailed as failed:
        return blocks, failed.failure
    return blocks, None


def heard(dialect: Dialect, blocks: Sequence[Block]) -> tuple[list[Event], bool]:
    """What the client reads, and whether it saw the dialect's end."""
    reader = dialect.event_reader()
    events = [event for sse in SseReader().feed(b"".join(blocks)) for event in reader.feed(sse)]
    return events, reader.is_complete


def carried(upstream: Dialect, client: Dialect, events: Sequence[Event]) -> list[Event]:
    """What the client reads of an answer that comes through whole."""
    relay = relay_between(upstream, client, answering(client), secret="")
    blocks, failure = relayed(relay, SseReader().feed(spoken(upstream, events)))
    assert failure is None
    assert relay.progress is Progress.ENDED
    said, is_complete = heard(client, blocks)
    assert is_complete
    return said


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_the_words_are_the_same(upstream: Dialect, client: Dialect, name: str) -> None:
    """T1, T4."""
    said = carried(upstream, client, [START, *ANSWERS[name], USAGE])
    assert words(said) == words(ANSWERS[name])
    usage = [event.usage for event in said if isinstance(event, UsageReported)]
    assert usage[-1] == USAGE.usage


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_the_text_is_the_same_where_a_word_is_missing(upstream: Dialect, client: Dialect, name: str) -> None:
    said = carried(upstream, client, [START, *PARTIAL[name], USAGE])
    assert text(said) == text(PARTIAL[name])
    (reason,) = [event.reason for event in said if isinstance(event, Finished)]
    if name not in WORDLESS[upstream.name] | WORDLESS[client.name]:
        assert words(said) == words(PARTIAL[name])
    elif name != "stop sequence":
        assert reason in (FinishReason.REFUSAL, FinishReason.CONTENT_FILTER), "it was no good end"


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_a_failure_is_never_an_end(upstream: Dialect, client: Dialect, name: str) -> None:
    """T5."""
    relay = relay_between(upstream, client, answering(client), secret="")
    blocks, failure = relayed(relay, SseReader().feed(spoken(upstream, [START, *FAILURES[name]])))
    assert failure is not None
    assert relay.progress is (Progress.WAITING if name == "before the first token" else Progress.OPEN) or (
        name == "after the finish"
    )
    said, is_complete = heard(client, blocks)
    assert not is_complete
    assert text([event for event in FAILURES[name] if not isinstance(event, Failed)]).startswith(text(said))


@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_a_cut_anywhere_is_a_failure(upstream: Dialect, client: Dialect) -> None:
    whole = SseReader().feed(spoken(upstream, [START, *ANSWERS["a tool after text"], USAGE]))
    for cut in range(len(whole)):
        relay = relay_between(upstream, client, answering(client), secret="")
        blocks, failure = relayed(relay, whole[:cut])
        said, is_complete = heard(client, blocks)
        assert is_complete == (failure is None)
        assert (failure is None) == (relay.progress is Progress.ENDED)
        if failure is None:
            assert words(said) == words(ANSWERS["a tool after text"])


@pytest.mark.parametrize(("upstream", "client"), PAIRS)
@settings(deadline=None)
@given(pieces=PIECES, cuts=st.lists(st.integers(1, 300), max_size=12))
def test_any_answer_in_any_pieces_keeps_its_text(
    upstream: Dialect, client: Dialect, pieces: list[Event | str], cuts: list[int]
) -> None:
    events: list[Event] = [START, *numbered(pieces), Finished(FinishReason.LENGTH), USAGE]
    data = spoken(upstream, events)
    reader, split, at = SseReader(), [], 0
    for cut in cuts:
        split += reader.feed(data[at : at + cut])
        at += cut
    split += reader.feed(data[at:])
    relay = relay_between(upstream, client, answering(client), secret="")
    blocks, failure = relayed(relay, split)
    assert failure is None
    said, is_complete = heard(client, blocks)
    assert is_complete
    assert text(said) == text(events)


@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_a_whole_answer_is_written_of_the_same_words(upstream: Dialect, client: Dialect) -> None:
    reader = upstream.event_reader()
    data = spoken(upstream, [START, *ANSWERS["text"], USAGE])
    events = [event for sse in SseReader().feed(data) for event in reader.feed(sse)]
    body = client.write_answer(events, answering(client))
    assert b"Hello, world" in body
    again, usage = client.relay_answer(body, answering(client), secret="")
    assert b"Hello, world" in again
    assert usage == USAGE.usage


def test_the_end_is_told_once_by_each_writer() -> None:
    for dialect in DIALECTS:
        writer = dialect.event_writer(answering(dialect))
        for event in (START, *ANSWERS["text"], STOP):
            writer.write(event)
        assert writer.end()
        assert writer.end() == []


# Requests.

TOOL = Tool("f", "d", Raw(b'{"type":"object","properties":{"b":{},"a":{}}}'), strict=True)
HI, GO = Message(Role.USER, (Text("Hi"),)), Message(Role.USER, (Text("Go on"),))

REQUESTS: dict[str, Conversation] = {
    "turns": Conversation((Message(Role.SYSTEM, (Text("S"),)), HI, Message(Role.ASSISTANT, (Text("Yo"),)), GO)),
    "settings": Conversation((HI,), temperature=0.5, max_tokens=77),
    "tools, in their order": Conversation(
        (
            HI,
            Message(Role.ASSISTANT, (Text("Ok"), ToolCall("b", "f", '{"a":1}'), ToolCall("a", "f", '{"a":2}'))),
            Message(Role.USER, (ToolResult("b", (Text("1"),)), ToolResult("a", (Text("2"),)))),
        ),
        tools=(TOOL,),
        tool_choice=ToolUse.REQUIRED,
        parallel_tools=False,
    ),
    "a named tool": Conversation((HI,), tools=(TOOL,), tool_choice=NamedTool("f")),
    "images": Conversation(
        (Message(Role.USER, (Text("?"), Image(data="AAAA", media_type="image/png"), Image(url="https://a/b.png"))),)
    ),
    "a document": Conversation(
        (Message(Role.USER, (Document(data="AAAA", media_type="application/pdf", name="a.pdf"), Text("?"))),)
    ),
    "sealed reasoning": Conversation((HI, Message(Role.ASSISTANT, (Thinking("hm", "c2ln"), Text("Ok"))), GO)),
    "reasoning that is only sealed": Conversation(
        (HI, Message(Role.ASSISTANT, (SealedThinking("c2ln"), Text("Ok"))), GO)
    ),
    "the same role twice": Conversation((HI, GO)),
}


def joined(messages: Sequence[Message]) -> list[tuple[Role, list[Part]]]:
    """The turns, whichever messages they came in, and images without the detail that some dialects fill in."""
    turns = groupby(messages, lambda message: message.role)
    return [
        (
            role,
            [
                replace(part, detail=None) if isinstance(part, Image) else part
                for message in run
                for part in message.parts
            ],
        )
        for role, run in turns
    ]


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(("upstream", "client"), PAIRS)
def test_a_request_says_the_same_to_the_upstream(upstream: Dialect, client: Dialect, name: str) -> None:
    asked = replace(REQUESTS[name], max_tokens=REQUESTS[name].max_tokens or 100)
    request = client.read_request(client.write_conversation(asked, model="public", stream=True).body)
    written = translate_request(request, client, upstream, model="theirs", stream=True)
    received = upstream.read_request(written.body)
    again = upstream.read_conversation(received)
    assert (received.model, received.stream, written.dropped) == ("theirs", True, ())
    assert joined(again.messages) == joined(asked.messages)
    assert replace(again, messages=()) == replace(asked, messages=())
