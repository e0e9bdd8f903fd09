"""A stream put together says what the whole answer would have said."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.stream import Block
from unbroken.wire.openai_chat.assemble import AnswerAssembler
from unbroken.wire.sse import write_data


def assembled(*deltas: dict[str, Any], **last: Any) -> dict[str, Any]:
    assembler = AnswerAssembler()
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    chunks: list[dict[str, Any]] = [{**head, "choices": [{"index": 0, "finish_reason": None, **d}]} for d in deltas]
    chunks.append({**head, "choices": [], **last})
    for chunk in chunks:
        assembler.feed([Block(write_data(json.dumps(chunk).encode()))])
    assembler.feed([Block(b"data: [DONE]\n\n")])
    return json.loads(assembler.whole())


def test_text_and_reasoning_are_joined_and_the_usage_is_kept() -> None:
    whole = assembled(
        {"delta": {"role": "assistant", "content": None}},
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {"reasoning_content": "m"}},
        {"delta": {"content": "one "}},
        {"delta": {"content": "two"}},
        {"delta": {}, "finish_reason": "stop"},
        usage={"prompt_tokens": 1},
    )
    message = {"role": "assistant", "content": "one two", "reasoning_content": "hmm"}
    assert whole["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert (whole["object"], whole["id"], whole["usage"]) == ("chat.completion", "chatcmpl-1", {"prompt_tokens": 1})


def test_tool_calls_are_joined_by_index_and_show_none() -> None:
    whole = assembled(
        {"delta": {"role": "assistant", "content": None}},
        {
            "delta": {
                "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]
            }
        },
        {
            "delta": {
                "tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}]
            }
        },
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}},
        {"delta": {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}},
        {"delta": {}, "finish_reason": "tool_calls"},
    )
    assert whole["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_logprobs_of_all_chunks_are_kept_in_order() -> None:
    whole = assembled(
        {"delta": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}},
        {"delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}]}},
        {"delta": {}, "logprobs": None, "finish_reason": "length"},
    )
    assert whole["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_choices_that_come_interleaved_are_told_apart() -> None:
    whole = assembled(
        {"index": 1, "delta": {"content": "x"}},
        {"index": 0, "delta": {"content": "a"}},
        {"index": 1, "delta": {"content": "y"}, "finish_reason": "stop"},
        {"index": 0, "delta": {"content": "b"}, "finish_reason": "length"},
    )
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "ab", "length"),
        (1, "xy", "stop"),
    ]


@given(st.lists(st.text(max_size=5)))
def test_any_cut_of_the_text_gives_the_text(pieces: list[str]) -> None:
    whole = assembled(*({"delta": {"content": piece}} for piece in pieces), {"delta": {}, "finish_reason": "stop"})
    assert (whole["choices"][0]["message"]["content"] or "") == "".join(pieces)
