"""The fast way for whole answers: it takes what is plain, changes two members of it, and nothing else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.wire.openai_chat.plain_answer import relay_plain_answer

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


def relayed(body: bytes) -> tuple[bytes, object, tuple[str, ...]] | None:
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
    assert usage == PLAIN["usage"]
    assert reasons == ("stop",)


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
