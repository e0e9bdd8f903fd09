"""Pieces of tool calls find their call, whatever the server leaves out (FAULTS 22)."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.wire.openai_chat.tool_calls import MAX_CALLS, ToolCalls


def piece(**members: object) -> dict[str, object]:
    function = {name: members.pop(name) for name in ("name", "arguments") if name in members}
    return {**members, **({"function": function} if function else {})}


def mended(calls: ToolCalls, *pieces: dict[str, object]) -> list[dict[str, object]]:
    found = json.loads(bytes(calls.mend(Raw(json.dumps(pieces).encode()))))
    assert isinstance(found, list)
    return found


def test_right_pieces_stay_the_same_object() -> None:
    calls = ToolCalls("s")
    first = Raw(b'[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]')
    more = Raw(b'[ {"index": 0, "function": {"arguments": "{}"}} ]')
    assert calls.mend(first) is first
    assert calls.mend(more) is more
    assert list(calls.without_arguments()) == []


def test_a_made_id_depends_only_on_stream_choice_and_place() -> None:
    """C5."""

    def id_of(calls: ToolCalls) -> object:
        return mended(calls, piece(index=0, name="f"))[0]["id"]

    assert id_of(ToolCalls("s")) == id_of(ToolCalls("s"))
    assert len({id_of(ToolCalls("s")), id_of(ToolCalls("t")), id_of(ToolCalls("s", 1))}) == 3
    assert len(str(id_of(ToolCalls("s" * 1000)))) <= 40


def test_a_piece_with_neither_id_nor_index_goes_on_with_the_last_call() -> None:
    calls = ToolCalls("s")
    mended(calls, piece(index=0, id="a", name="f"), piece(index=1, id="b", name="g"))
    assert mended(calls, piece(arguments="{}")) == [{"index": 1, "function": {"arguments": "{}"}}]


def test_an_id_without_name_and_arguments_begins_a_call() -> None:
    calls = ToolCalls("s")
    found = mended(calls, piece(index=0, id="a"), piece(index=0, id="b"), piece(index=0, name="g"))
    assert [one["index"] for one in found] == [0, 1, 1]


def test_more_calls_than_the_bound_are_refused() -> None:
    calls = ToolCalls("s")
    mended(calls, *(piece(index=at, id=f"c{at}", name="f") for at in range(MAX_CALLS)))
    with pytest.raises(UpstreamFailed) as caught:
        mended(calls, piece(index=MAX_CALLS, id="one more", name="f"))
    assert caught.value.failure.fault is Fault.MALFORMED
    assert str(MAX_CALLS) in caught.value.failure.message


@pytest.mark.parametrize(
    "raw", ['["f"]', "{}", '[{"index":"0"}]', '[{"id":5}]', '[{"function":"f"}]', '[{"function":{"name":1}}]']
)
def test_what_is_no_piece_is_refused(raw: str) -> None:
    with pytest.raises(UpstreamFailed, match="a tool call in the stream is not valid"):
        ToolCalls("s").mend(Raw(raw.encode()))


@dataclass(frozen=True)
class Call:
    """A call as the model made it, and its arguments in the pieces in which they are sent."""

    name: str
    pieces: list[str]


CALLS = st.lists(
    st.builds(Call, st.sampled_from("fgh"), st.lists(st.text(max_size=5), max_size=4)), min_size=1, max_size=4
)


def right(calls: list[Call]) -> list[dict[str, object]]:
    """The pieces as OpenAI sends them."""
    found = []
    for index, call in enumerate(calls):
        found.append(piece(index=index, id=f"id-{index}", type="function", name=call.name, arguments=""))
        found += [piece(index=index, arguments=text) for text in call.pieces]
    return found


def without_index(pieces: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in one.items() if name != "index"} for one in pieces]


def all_index_0(pieces: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**one, "index": 0} for one in pieces]


def without_id(pieces: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in one.items() if name != "id"} for one in pieces]


def id_everywhere(pieces: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**one, "id": f"id-{one['index']}"} for one in pieces]


def empty_id_later(pieces: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{"id": "", **one} for one in pieces]


WAYS = [right, without_index, all_index_0, without_id, id_everywhere, empty_id_later]


@given(CALLS, st.sampled_from(WAYS), st.lists(st.integers(1, 3), max_size=20))
def test_pieces_joined_by_index_give_each_call_whole(calls: list[Call], way: object, sizes: list[int]) -> None:
    """C5."""
    pieces = right(calls) if way is right else way(right(calls))  # type: ignore[operator]
    tools = ToolCalls("s")
    sent: list[dict[str, Any]] = []
    while pieces:  # several pieces may come in one chunk
        size = sizes.pop() if sizes else 1
        sent += mended(tools, *pieces[:size])
        pieces = pieces[size:]
    for late in tools.without_arguments():
        sent += json.loads(bytes(late))
    joined: dict[object, list[str]] = {}
    for one in sent:
        call = joined.setdefault(one["index"], ["", "", ""])
        function: Any = one.get("function", {})
        for at, text in enumerate((one.get("id", ""), function.get("name", ""), function.get("arguments", ""))):
            call[at] += text
    assert list(joined) == list(range(len(calls)))
    assert [(name, arguments) for _, name, arguments in joined.values()] == [
        (call.name, "".join(call.pieces) or "{}") for call in calls
    ]
    ids = [id for id, _, _ in joined.values()]
    assert len(set(ids)) == len(ids)
    assert way is without_id or ids == [f"id-{index}" for index in range(len(calls))]
