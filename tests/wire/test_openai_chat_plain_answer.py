"""The fast way for whole answers: it takes what is plain, changes two members of it, and nothing else."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.usage import Usage
from unbroken.wire.openai_chat.plain_answer import relay_plain_answer
from unbroken.wire.openai_chat.usage import read_usage

PLAIN: dict[str, Any] = {
    "id": "chatcmpl-up",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "their-model",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    "of_their_own": {"x": [1, 2]},
}


def relayed(body: bytes) -> tuple[bytes, Usage | None, tuple[str, ...]] | None:
    return relay_plain_answer(body, "chatcmpl-ours", "our-model")


@given(content=st.text(), extra=st.dictionaries(st.text(), st.text(), max_size=3), spaces=st.booleans())
def test_two_members_are_exchanged_and_the_rest_stays_byte_for_byte(
    content: str, extra: dict[str, str], spaces: bool
) -> None:
    choice = {**PLAIN["choices"][0], "message": {"role": "assistant", "content": content}}
    body = msgspec.json.encode({**PLAIN, "choices": [choice], "extra": extra})
    if spaces:
        body = msgspec.json.format(body, indent=2)
    found = relayed(body)
    if found is None:  # it has a member that is named as ours are, somewhere
        assert body.count(b'"id"') > 1 or body.count(b'"model"') > 1
        return
    written, usage, reasons = found
    assert written == body.replace(b"chatcmpl-up", b"chatcmpl-ours", 1).replace(b"their-model", b"our-model", 1)
    assert usage == Usage(input=1, output=1)
    assert reasons == ("stop",)


COUNTS = st.sampled_from([None, 0, 7, 7.0, 7.5, -1, True, "7", 1 << 70, {}])
DETAILS = st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "zz"]), COUNTS)
USAGES = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNTS,
        "completion_tokens": COUNTS,
        "prompt_tokens_details": DETAILS | st.none(),
        "completion_tokens_details": DETAILS | COUNTS,
    },
)


@given(USAGES | st.sampled_from([None, [], 5, "x"]))
def test_the_usage_is_read_as_elsewhere_or_left_to_a_closer_look(usage: object) -> None:
    found = relayed(json.dumps({**PLAIN, "usage": usage}).encode())
    assert found is None or found[1] == read_usage(usage)


def test_the_details_of_the_usage_are_told() -> None:
    prompt, completion = {"cached_tokens": 3, "cache_write_tokens": 4, "audio_tokens": 9}, {"reasoning_tokens": 5}
    usage = {"completion_tokens": 8, "prompt_tokens_details": prompt, "completion_tokens_details": completion}
    found = relayed(msgspec.json.encode({**PLAIN, "usage": {**usage, "total_tokens": 8}}))
    assert found is not None
    assert found[1] == Usage(output=8, cached_read=3, cache_write=4, reasoning=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"object": "text_completion"},
        {"error": {"message": "no"}},
        {"choices": []},
        {"choices": None},
        {"choices": [{**PLAIN["choices"][0], "finish_reason": ""}]},
        {"choices": [{**PLAIN["choices"][0], "finish_reason": "error"}]},
        {"choices": [{**PLAIN["choices"][0], "index": None}]},
        {"choices": [{**PLAIN["choices"][0], "message": {"role": "assistant", "content": None}}]},
        {"choices": [{**PLAIN["choices"][0], "message": {"role": "assistant", "content": "", "tool_calls": []}}]},
        {"nested": {"model": "theirs"}},
    ],
)
def test_what_is_not_plain_gets_a_closer_look(changes: dict[str, Any]) -> None:
    assert relayed(msgspec.json.encode({**PLAIN, **changes})) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": "x"}', msgspec.json.encode(PLAIN)[:-1]])
def test_what_is_no_answer_gets_a_closer_look(body: bytes) -> None:
    assert relayed(body) is None
    twice = msgspec.json.encode(PLAIN)[:-1] + b',"id":"again"}'
    assert relayed(twice) is None
