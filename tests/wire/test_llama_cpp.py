"""llama.cpp's own words: the ids of tokens beside an answer's blocks, and the stream that goes on from them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.events import Event, Failed, Finished, Started, TextDelta, UsageReported
from unbroken.chat.fault import UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.llama_cpp.ask import (
    asks_for_tokens,
    is_greedy,
    stop_sequences,
    tokens_left,
    why_inexact,
    write_completion,
)
from unbroken.wire.llama_cpp.completion import CompletionReader
from unbroken.wire.llama_cpp.note import HeldBack, TokenNote, read_note
from unbroken.wire.llama_cpp.noting import TokenNotingRelay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.request import read_request
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent

ANSWERING = Answering("chatcmpl-1", "public", 1_700_000_000, include_usage=True)

IDS = st.integers(0, (1 << 31) - 1)
PIECES = st.one_of(IDS, st.builds(HeldBack, st.text(max_size=30), st.integers(2, 50), IDS))

AWKWARD = st.text(alphabet=st.sampled_from('a"\\}{[],:é🌍\n\u2028logprobs'), min_size=1, max_size=12)


def chunk(
    delta: dict[str, Any], *, id: int | None = None, total: int | None = None, finish: str | None = None
) -> bytes:
    """A chunk as llama.cpp writes it; with the token's `id` and the count of tokens where they were asked for."""
    choice: dict[str, Any] = {"finish_reason": finish, "index": 0, "delta": delta}
    if id is not None:
        text = delta.get("content") or ""
        token = {"id": id, "token": text, "bytes": list(text.encode()), "prob": 1.0}
        choice["logprobs"] = {"content": [{**token, "top_probs": [token]}]}
    said: dict[str, Any] = {"choices": [choice], "created": 1795210283, "id": "chatcmpl-x", "model": "m"}
    said |= {"system_fingerprint": "b0", "object": "chat.completion.chunk"}
    if total is not None:
        said["timings"] = {"cache_n": 0, "prompt_ms": 0.5, "predicted_n": total, "predicted_per_second": 12.5}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


ROLE = chunk({"role": "assistant", "content": None})
FINISH = chunk({}, finish="stop", total=99)


def relayed(chunks: list[bytes], *, is_noted: bool) -> tuple[list[Block], bytes]:
    """The blocks and the note of an answer, relayed as an attempt does it: by the shortcut where there is one."""
    plain = OPENAI_CHAT.relay(ANSWERING, secret="", ours="prompt_progress")
    relay = TokenNotingRelay(plain) if is_noted else plain
    blocks: list[Block] = []
    for data in (ROLE, *chunks, FINISH, b"[DONE]"):
        shortcut = relay.shortcut
        if shortcut is not None and (block := shortcut.fill(b"data: %b\n\n" % data)) is not None:
            relay.deltas += 1
            blocks.append(block)
        else:
            blocks += relay.feed(SseEvent(b"", data))
    assert relay.progress is Progress.ENDED
    assert relay.deltas == len(chunks)
    return blocks, relay.take_note() if isinstance(relay, TokenNotingRelay) else b""


@given(st.lists(PIECES, max_size=20))
def test_a_note_gives_back_what_was_noted(pieces: list[int | HeldBack]) -> None:
    note, total = TokenNote(), 0
    for piece in pieces:
        if isinstance(piece, int):
            total += 1
            assert note.add(piece, total)
        else:
            total += piece.count
            assert not note.add(piece.last, total)  # not without its text
            assert note.add(piece.last, total, piece.text)
    assert read_note(note.take()) == pieces
    assert note.take() == b""


@given(st.lists(PIECES, min_size=1, max_size=5), st.data())
def test_notes_are_read_one_behind_the_other_and_a_broken_one_never_as_something_else(
    pieces: list[int | HeldBack], data: st.DataObject
) -> None:
    note = TokenNote()
    parts, total = [], 0
    for piece in pieces:
        count, id, text = (1, piece, None) if isinstance(piece, int) else (piece.count, piece.last, piece.text)
        total += count
        note.add(id, total, text)
        parts.append(note.take())
    assert read_note(b"".join(parts)) == pieces
    cut = data.draw(st.integers(0, len(b"".join(parts))))
    assert read_note(b"".join(parts)[:cut]) in (None, *(pieces[:at] for at in range(len(pieces) + 1)))


def test_the_note_of_an_answer_said_again_from_its_beginning_takes_the_place_of_those_before_it() -> None:
    """What a matched continuation (K4) has said are the tokens of the whole answer."""
    notes = [TokenNote(is_whole=True), TokenNote(), TokenNote(is_whole=True), TokenNote()]
    for at, note in enumerate(notes):
        note.add(at, 1)
    notes[1].spoil()
    taken = [note.take() for note in notes]
    assert read_note(b"".join(taken[:1])) == [0]
    assert read_note(b"".join(taken[:2])) is None
    assert read_note(b"".join(taken)) == [2, 3]


@given(st.lists(st.tuples(AWKWARD, st.integers(0, 300_000), st.sampled_from([1, 1, 1, 3])), min_size=1, max_size=30))
def test_a_noted_answer_looks_as_if_nobody_had_asked_for_tokens(said: list[tuple[str, int, int]]) -> None:
    """C1, whatever the text looks like: ids and counts are cut out, and nothing else."""
    asked, unasked, tokens, total = [], [], [], 0
    for text, id, count in said:
        total += count
        asked.append(chunk({"content": text}, id=id, total=total))
        unasked.append(chunk({"content": text}))
        tokens.append(id if count == 1 else HeldBack(text, count, id))
    seen, note = relayed(asked, is_noted=True)
    assert seen == relayed(unasked, is_noted=False)[0]
    assert read_note(note) == tokens


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"content": "x", "reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    ],
    ids=str,
)
def test_what_is_more_than_text_leaves_no_ground_to_go_on(delta: dict[str, Any]) -> None:
    """K2."""
    relay = TokenNotingRelay(OPENAI_CHAT.relay(ANSWERING, secret="", ours=None))
    for data in (chunk({"content": "a"}, id=1, total=1), chunk(delta, id=2, total=2)):
        blocks = relay.feed(SseEvent(b"", data))
        assert blocks
        assert b"logprobs" not in blocks[-1]
        assert b"timings" not in blocks[-1]
    assert read_note(relay.take_note()) is None


def test_a_token_whose_text_is_held_back_by_the_parser_is_counted_with_the_next() -> None:
    relay = TokenNotingRelay(OPENAI_CHAT.relay(ANSWERING, secret="", ours=None))
    relay.feed(SseEvent(b"", chunk({"role": "assistant", "content": None}, id=5, total=1)))
    relay.feed(SseEvent(b"", chunk({"content": "<b"}, id=6, total=2)))
    assert read_note(relay.take_note()) == [HeldBack("<b", 2, 6)]


def test_news_of_the_prompt_and_errors_pass_to_the_relay() -> None:
    relay = TokenNotingRelay(OPENAI_CHAT.relay(ANSWERING, secret="", ours="prompt_progress"))
    news = json.loads(ROLE) | {"prompt_progress": {"total": 9}}
    assert relay.feed(SseEvent(b"", json.dumps(news).encode())) == []
    assert relay.ignored == 1
    with pytest.raises(UpstreamFailed, match="slot is gone"):
        relay.feed(SseEvent(b"", b'{"error":{"code":500,"message":"slot is gone","type":"server_error"}}'))
    with pytest.raises(UpstreamFailed):
        relay.finish()
    assert read_note(relay.take_note()) == []


def completion(**fields: Any) -> SseEvent:
    """An event of `/completion`."""
    return SseEvent(b"", json.dumps({"index": 0, "stop": False, "tokens_evaluated": 15, **fields}).encode())


def read(*events: SseEvent, known: int = 5) -> tuple[list[Event], CompletionReader]:
    reader = CompletionReader(known)
    return [said for event in events for said in reader.feed(event)], reader


LAST = {"content": "", "tokens": [], "stop": True, "tokens_predicted": 4}


@pytest.mark.parametrize(
    ("stop_type", "reason"), [("eos", FinishReason.STOP), ("word", FinishReason.STOP), ("limit", FinishReason.LENGTH)]
)
def test_a_completion_gives_the_rest_and_the_usage_of_the_whole(stop_type: str, reason: FinishReason) -> None:
    """K5: the tokens that it was handed are output of the answer, not of its prompt."""
    events, reader = read(
        completion(content="", tokens=[0], tokens_predicted=0, prompt_progress={"total": 15}),
        completion(content="a", tokens=[7], tokens_predicted=1),
        completion(content="", tokens=[8], tokens_predicted=2),
        completion(content=" é", tokens=[9], tokens_predicted=3),
        completion(content="", tokens=[2], tokens_predicted=4),
        completion(**LAST, stop_type=stop_type),
        completion(content="never"),
    )
    assert events == [
        Started("", ""),
        TextDelta("a"),
        TextDelta(" é"),
        Finished(reason),
        UsageReported(Usage(input=10, output=9)),
    ]
    assert reader.is_complete
    assert read_note(reader.take_note()) == [7, HeldBack(" é", 2, 9)]


def test_an_error_of_a_completion_is_told_in_our_words() -> None:
    events, reader = read(SseEvent(b"", b'{"error":{"code":503,"message":"full","type":"unavailable_error"}}'))
    assert events == [Failed("full", "unavailable_error", "overloaded")]
    assert reader.is_complete


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"content":7}', b'{"stop":true,"stop_type":"none"}', b"\xff"])
def test_what_is_no_completion_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="completion"):
        CompletionReader(0).feed(SseEvent(b"", data))


def fields_of(**wishes: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **wishes}
    return read_request(json.dumps(body).encode()).fields


TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("wishes", "word"),
    [
        ({"n": 2}, "choices"),
        ({"logprobs": True}, "probabilities"),
        ({"n_probs": 3}, "probabilities"),
        ({"response_format": {"type": "json_object"}}, "format"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"json_schema": {"type": "object"}}, "schema"),
        ({"tools": TOOLS}, "tool"),
        ({"tools": TOOLS, "tool_choice": "auto"}, "tool"),
        ({"functions": [{"name": "f"}]}, "function"),
        ({"timings_per_token": True}, "timings"),
        ({}, None),
        ({"n": 1, "logprobs": False, "response_format": {"type": "text"}, "tools": [], "grammar": ""}, None),
        ({"tools": TOOLS, "tool_choice": "none"}, None),
    ],
    ids=str,
)
def test_only_plain_text_goes_on_from_its_tokens(wishes: dict[str, Any], word: str | None) -> None:
    """K2."""
    reason = why_inexact(fields_of(**wishes))
    assert reason is None if word is None else word in (reason or "")


@pytest.mark.parametrize(
    ("wishes", "is_asked"),
    [
        ({}, True),
        ({"top_k": 0}, True),
        ({"top_k": 40, "min_p": 0}, True),
        ({"top_k": 0, "min_p": 0.0}, False),
        ({"top_k": -1, "min_p": 0}, False),
        ({"n": 2}, False),
    ],
    ids=str,
)
def test_tokens_are_asked_for_where_it_costs_nothing(wishes: dict[str, Any], is_asked: bool) -> None:
    assert asks_for_tokens(fields_of(**wishes)) is is_asked


@pytest.mark.parametrize(
    ("wishes", "left"),
    [
        ({}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
        ({"max_tokens": 9}, 6),
        ({"max_tokens": 99, "max_completion_tokens": 9}, 6),
        ({"n_predict": 9}, 6),
        ({"max_tokens": 0}, -2),
    ],
    ids=str,
)
def test_the_limit_is_carried_over(wishes: dict[str, Any], left: int | None) -> None:
    """K5."""
    assert tokens_left(fields_of(**wishes), 3) == left


def test_a_completion_is_asked_with_the_settings_of_the_answer_and_none_of_its_conversation() -> None:
    fields = fields_of(temperature=0, stop="x", min_p=0.1, max_tokens=9, user="me", logit_bias={"7": 1}, stream=True)
    assert json.loads(write_completion(fields, "<user>hi", [5, 6], left=7)) == {
        "prompt": ["<user>hi", 5, 6],
        "temperature": 0,
        "min_p": 0.1,
        "logit_bias": {"7": 1},
        "stop": ["x"],
        "n_predict": 7,
        "stream": True,
        "return_tokens": True,
    }
    assert is_greedy(fields)
    assert not is_greedy(fields_of(temperature=0.1))
    assert not is_greedy(fields_of())
    assert stop_sequences(fields_of(stop=["a", "", "b"])) == ["a", "b"]
