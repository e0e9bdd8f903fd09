"""Asking: what is kept of an answer, and what is left out of a conversation that is too long."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from unbroken.chat.events import Event, TextDelta
from unbroken.client.api import ChatApi, Sampling
from unbroken.client.conversation import Answer, Conversation, Turn
from unbroken.client.failure import ChatFailed
from unbroken.client.models import Model
from unbroken.client.session import ChatSession
from unbroken.upstream.scripted import (
    Gate,
    ScriptedUpstream,
    context_length_exceeded,
    cut_after,
    hold_after,
    text,
    tool_call,
)

pytestmark = pytest.mark.anyio


def ticking() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 0.5


class Reader:
    def __init__(self) -> None:
        self.text = ""
        self.notices: list[str] = []

    def show(self, events: Sequence[Event]) -> None:
        self.text += "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.fixture
def session(api: ChatApi) -> ChatSession:
    return ChatSession(api, Model("small"), clock=ticking().__next__)


@pytest.fixture
def reader() -> Reader:
    return Reader()


def sent(upstream: ScriptedUpstream) -> list[list[str]]:
    return [[m["content"] for m in request.json()["messages"]] for request in upstream.requests if request.body]


async def test_an_answer_is_shown_and_kept(session: ChatSession, upstream: ScriptedUpstream, reader: Reader) -> None:
    upstream.script(text("one two", model="small-2026"))
    answered = await session.ask("Count", reader.show, reader.notices.append)
    assert reader.text == "one two"
    assert answered.reason == "stop"
    assert answered.stats.startswith("2 tokens · ")
    assert answered.stats.endswith(" · small-2026")
    assert session.conversation == Conversation(None, (Turn("Count", Answer("one two", "small-2026")),))


async def test_the_next_question_goes_with_what_was_said(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    await session.ask("Count", reader.show, reader.notices.append)
    await session.ask("Go on", reader.show, reader.notices.append)
    assert sent(upstream)[-1] == ["Count", "one two three", "Go on"]
    await session.ask_again(reader.show, reader.notices.append)
    assert sent(upstream)[-1] == ["Count", "one two three", "Go on"]


async def test_what_came_of_a_broken_answer_is_kept_and_marked(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    upstream.script(text("one two") | cut_after(2))
    with pytest.raises(ChatFailed):
        await session.ask("Count", reader.show, reader.notices.append)
    assert session.conversation.turns[-1].answer == Answer("one", "small", is_whole=False)


async def test_a_stopped_answer_is_kept_and_its_connection_closed(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    gate, first = Gate(), asyncio.Event()
    upstream.script(text("one two") | hold_after(2, gate))

    def show(events: Sequence[Event]) -> None:
        reader.show(events)
        if reader.text:
            first.set()

    asking = asyncio.create_task(session.ask("Count", show, reader.notices.append))
    await first.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await upstream.wait_until_left()
    assert session.conversation.turns[-1].answer == Answer("one", "small", is_whole=False)


async def test_tool_calls_are_kept_as_they_are_read(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    upstream.script(tool_call("get_weather", {"city": "Berlin"}))
    answered = await session.ask("Weather?", reader.show, reader.notices.append)
    assert answered.reason == "tool_calls"
    assert answered.answer.text == '→ get_weather {"city":"Berlin"}'


async def test_the_oldest_turns_are_left_out_with_a_notice(
    api: ChatApi, upstream: ScriptedUpstream, reader: Reader
) -> None:
    session = ChatSession(api, Model("small", 110), clock=ticking().__next__, sampling=Sampling(max_tokens=20))
    upstream.always(text("y" * 100, usage=False))
    for question in "abcd":
        await session.ask(question * 100, reader.show, reader.notices.append)
    assert [len(messages) for messages in sent(upstream)] == [1, 3, 3, 3]
    assert reader.notices == [
        "The oldest turn is no longer sent: the conversation is longer than the model's context.",
        "The oldest 2 turns are no longer sent: the conversation is longer than the model's context.",
    ]
    assert len(session.conversation.turns) == 4


async def test_a_conversation_that_the_server_finds_too_long_is_sent_once_more_shorter(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    for question in "abc":
        await session.ask(question, reader.show, reader.notices.append)
    upstream.script(context_length_exceeded(), text("short"))
    answered = await session.ask("d", reader.show, reader.notices.append)
    assert answered.answer.text == "short"
    assert sent(upstream)[-1] == ["c", "one two three", "d"]
    assert len(reader.notices) == 1


async def test_a_question_that_is_too_long_alone_is_not_sent_twice(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    upstream.script(context_length_exceeded())
    with pytest.raises(ChatFailed, match="too long for the model"):
        await session.ask("a", reader.show, reader.notices.append)
    assert len(upstream.requests) == 1


async def test_tokens_that_nobody_reported_are_said_to_be_counted(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    upstream.script(text("one two", usage=False))
    answered = await session.ask("a", reader.show, reader.notices.append)
    assert answered.stats.startswith("~2 tokens · ")


async def test_an_answer_without_a_word_has_stats_too(
    session: ChatSession, upstream: ScriptedUpstream, reader: Reader
) -> None:
    upstream.script(text("", usage=False))
    assert (await session.ask("a", reader.show, reader.notices.append)).stats == "~0 tokens · small"
