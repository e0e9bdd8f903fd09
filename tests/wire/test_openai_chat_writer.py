"""Writing chunks and whole answers: a reader reads back what was said, and the official SDK takes them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.wire.matrix_events import ANSWERS, PARTIAL, PIECES, REASONS, START, STOP, USAGE, numbered, words
from unbroken.chat.events import (
    Cited,
    Event,
    Failed,
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
from unbroken.chat.fault import UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.openai_chat.writer import EventWriter
from unbroken.wire.sse import SseReader

ANSWERING = Answering("chatcmpl-1", "public", 1_700_000_000, include_usage=True)
SAYABLE = {**ANSWERS, **PARTIAL}


def write(events: Sequence[Event], answering: Answering = ANSWERING) -> list[Block]:
    writer = EventWriter(answering)
    return [*(block for event in events for block in writer.write(event)), *writer.end()]


def read(blocks: Sequence[Block]) -> list[Event]:
    reader = EventReader(refusals_as_text=False)
    return [event for sse in SseReader().feed(b"".join(blocks)) for event in reader.feed(sse)]


def chunks(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    return [json.loads(block[6:]) for block in blocks if block != b"data: [DONE]\n\n"]


def deltas(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(write(events, Answering("i", "m", 1)))]


@pytest.mark.parametrize("name", SAYABLE)
def test_what_was_written_is_read(name: str) -> None:
    assert words(read(write([START, *SAYABLE[name], USAGE]))) == words(SAYABLE[name])


@given(PIECES, REASONS)
def test_any_answer_written_is_read(pieces: list[Event | str], reason: FinishReason | str) -> None:
    said: list[Event] = [*numbered(pieces), Finished(reason, stop_sequence="x" if reason == "stop_sequence" else None)]
    if reason == FinishReason.STOP_SEQUENCE and any(isinstance(event, ToolCallStarted) for event in said):
        said[-1] = Finished(FinishReason.TOOL_CALLS)
    blocks = write([START, *said, USAGE])
    assert read(blocks)[0] == Started("chatcmpl-1", "public")
    assert words(read(blocks)) == words(said)
    assert [event for event in read(blocks) if isinstance(event, UsageReported)] == [USAGE]


@pytest.mark.parametrize("name", SAYABLE)
def test_every_chunk_has_the_one_envelope_and_the_role_comes_once_and_first(name: str) -> None:
    blocks = write([START, *SAYABLE[name], USAGE])
    envelopes = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks(blocks)}
    assert envelopes == {("chatcmpl-1", "chat.completion.chunk", 1_700_000_000, "public")}
    roles = [choice["delta"].get("role") for chunk in chunks(blocks) for choice in chunk["choices"]]
    assert roles[0] == "assistant"
    assert set(roles[1:]) == {None}
    assert blocks[-1] == b"data: [DONE]\n\n"


def test_usage_comes_last_and_only_if_asked_for() -> None:
    usage = UsageReported(Usage(input=20, output=9, cached_read=4, cache_write=3, reasoning=2))
    *others, last = chunks(write([START, usage, TextDelta("a"), STOP]))
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert all(chunk["usage"] is None for chunk in others)
    assert all("usage" not in chunk for chunk in chunks(write([START, usage, STOP], Answering("i", "m", 1))))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([STOP], "stop"),
        ([Finished(FinishReason.STOP_SEQUENCE)], "stop"),
        ([Finished(FinishReason.LENGTH)], "length"),
        ([Finished(FinishReason.PAUSE)], "pause_turn"),
        ([Finished(FinishReason.REFUSAL)], "refusal"),
        ([RefusalDelta("No"), Finished(FinishReason.REFUSAL)], "stop"),
        ([Finished("odd")], "odd"),
    ],
)
def test_the_finish_reason_has_the_word_of_the_dialect(said: list[Event], reason: str) -> None:
    """T4, L8."""
    assert chunks(write([START, *said]))[-1]["choices"][0]["finish_reason"] == reason


def test_calls_are_numbered_from_zero_and_have_ids_and_arguments() -> None:
    said = [ToolCallStarted(3, "", "f"), ToolCallStarted(5, "a", "g"), ToolCallDelta(5, "{}")]
    pieces = [delta["tool_calls"][0] for delta in deltas([*said, STOP]) if "tool_calls" in delta]
    assert [piece["index"] for piece in pieces] == [0, 1, 1, 0]
    assert pieces[0]["id"].startswith("call_")
    assert pieces[3] == {"index": 0, "function": {"arguments": "{}"}}


def test_arguments_of_no_call_are_refused() -> None:
    with pytest.raises(UpstreamFailed, match="before its name"):
        write([ToolCallDelta(0, "{}")])


def test_reasoning_comes_as_text_and_its_seal_with_all_of_it() -> None:
    said = [ReasoningDelta("a"), ReasoningDelta("b"), ReasoningSigned("s"), ReasoningSealed("d")]
    assert deltas(said)[1:] == [
        {"reasoning_content": "a"},
        {"reasoning_content": "b"},
        {"thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "ab", "signature": "s"}]},
        {"thinking_blocks": [{"index": 1, "type": "redacted_thinking", "data": "d"}]},
    ]


def test_sources_of_any_provider_come_through() -> None:
    sources = [Raw(b'{"type":"url_citation","url_citation":{}}'), Raw(b'{"type":"char_location"}'), Raw(b'"https://a"')]
    said: list[Event] = [TextDelta("a"), *map(Cited, sources), STOP]
    assert words(read(write([START, *said]))) == said
    message = whole([START, *said])["choices"][0]["message"]
    assert message["annotations"] == [json.loads(bytes(sources[0]))]
    assert message["citations"] == [json.loads(bytes(source)) for source in sources[1:]]


def test_a_source_on_the_web_as_responses_says_it_is_nested() -> None:
    inner = {"start_index": 0, "end_index": 3, "url": "https://a", "title": "A"}
    flat = Cited(Raw(json.dumps({"type": "url_citation", **inner}).encode()))
    nested = {"type": "url_citation", "url_citation": inner}
    said: list[Event] = [START, TextDelta("a"), flat, STOP]
    assert {"annotations": [{"index": 0, **nested}]} in deltas(said)
    assert whole(said)["choices"][0]["message"]["annotations"] == [nested]


def test_a_failure_is_the_last_block() -> None:
    writer = EventWriter(ANSWERING)
    (block,) = writer.write(Failed("broken", "server_error", "c"))
    error = {"message": "broken", "type": "server_error", "param": None, "code": "c"}
    assert json.loads(block[6:]) == {"error": error}
    assert writer.end() == []
    assert writer.write(TextDelta("a")) == []


def test_choices_are_told_apart() -> None:
    said: list[Event] = [TextDelta("a"), TextDelta("b", 1), Finished("stop"), Finished("length", 1)]
    assert words(read(write([START, *said]))) == words(said)
    assert [choice["message"]["content"] for choice in whole([START, *said])["choices"]] == ["a", "b"]


# The official SDK.


SDK_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def sdk_state(blocks: Sequence[Block]) -> ChatCompletion:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks(blocks):
        reasons = {choice["finish_reason"] for choice in chunk["choices"]} - {None}
        if reasons <= SDK_REASONS:
            ChatCompletionChunk.model_validate(chunk)
        state.handle_chunk(ChatCompletionChunk.construct(**chunk))  # as the SDK does, which refuses no word
    return state.current_completion_snapshot


def calls_of(call: Any) -> tuple[str, str, str]:
    return call.id, call.function.name, call.function.arguments


@pytest.mark.parametrize("name", SAYABLE)
def test_the_sdk_reads_the_stream_as_the_whole_answer(name: str) -> None:
    if name in ("length", "content filter"):
        pytest.skip("the SDK's parser raises an error of its own for these")
    events = [START, *SAYABLE[name], USAGE]
    snapshot = sdk_state(write(events)).choices[0]
    answer = ChatCompletion.construct(**whole(events)).choices[0]
    if answer.finish_reason in SDK_REASONS:
        ChatCompletion.model_validate(whole(events))
    assert snapshot.finish_reason == answer.finish_reason
    assert (snapshot.message.content or None) == answer.message.content
    assert snapshot.message.refusal == answer.message.refusal
    assert [calls_of(call) for call in snapshot.message.tool_calls or ()] == [
        calls_of(call) for call in answer.message.tool_calls or ()
    ]
    assert getattr(snapshot.message, "reasoning_content", None) == getattr(answer.message, "reasoning_content", None)


def test_thinking_goes_to_a_client_of_the_sdk_and_back_as_it_came() -> None:
    said: list[Event] = [
        ReasoningDelta("one"),
        ReasoningSigned("s1"),
        ReasoningSealed("d"),
        ReasoningDelta("two"),
        ReasoningSigned("s2"),
        TextDelta("a"),
        STOP,
    ]
    blocks = [{"type": "thinking", "thinking": "one", "signature": "s1"}, {"type": "redacted_thinking", "data": "d"}]
    blocks.append({"type": "thinking", "thinking": "two", "signature": "s2"})
    message = sdk_state(write([START, *said])).choices[0].message.to_dict()
    assert [{**block, "index": at} for at, block in enumerate(blocks)] == message["thinking_blocks"]
    assert whole([START, *said])["choices"][0]["message"]["thinking_blocks"] == blocks
    body = json.dumps({"model": "m", "messages": [message]}).encode()
    conversation = OPENAI_CHAT.read_conversation(OPENAI_CHAT.read_request(body))
    written = json.loads(OPENAI_CHAT.write_conversation(conversation, model="m", stream=False).body)
    assert written["messages"][0]["thinking_blocks"] == blocks


# Whole answers.


def whole(events: Sequence[Event]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(OPENAI_CHAT.write_answer(events, ANSWERING))
    return answer


def test_a_whole_answer_says_all() -> None:
    said = [ReasoningDelta("r"), TextDelta("a"), TextDelta("b"), ToolCallStarted(0, "i", "f"), Finished("tool_calls")]
    assert whole([START, *said, USAGE]) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "public",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ab",
                    "refusal": None,
                    "reasoning_content": "r",
                    "tool_calls": [{"id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 9,
            "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_a_whole_answer_names_its_stop_sequence() -> None:
    choice = whole([TextDelta("a"), Finished(FinishReason.STOP_SEQUENCE, stop_sequence="x")])["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "x")


@pytest.mark.parametrize("events", [[START], [START, TextDelta("a")], [START, TextDelta("a"), Failed("it broke")]])
def test_an_answer_that_is_not_whole_is_none(events: list[Event]) -> None:
    with pytest.raises(UpstreamFailed):
        OPENAI_CHAT.write_answer(events, ANSWERING)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_of_any_kind_makes_one_valid_block(text: str) -> None:
    writer = EventWriter(ANSWERING)
    writer.write(START)
    for _ in range(2):
        (block,) = writer.write(TextDelta(text))
        assert block.count(b"\n") == 2
        assert json.loads(block[6:])["choices"][0]["delta"] == {"content": text}
