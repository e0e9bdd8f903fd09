"""Requests of the Responses API: what is refused, what is handed on, what goes on from an earlier response."""

import json

import pytest
from msgspec import Raw
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from unbroken.chat.error import RequestRefused
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.openai_responses.request import as_stream, read_request
from unbroken.wire.openai_responses.stored import (
    Page,
    input_items,
    output_items,
    previous_response_id,
    with_ids,
    with_previous,
    write_deleted,
    write_list,
)

OUTPUT = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
}


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "input": "Hello", **fields}).encode()


@pytest.mark.parametrize(
    ("data", "param", "message"),
    [
        (b"", None, "it is empty"),
        (b"{", None, "it ends too early"),
        (b"\xff", None, "not UTF-8"),
        (b"[]", None, "expected an object"),
        (b'{"input":"a"}', "model", "'model'"),
        (b'{"model":"","input":"a"}', "model", "not empty"),
        (b'{"model":"m"}', "input", "'input'"),
        (b'{"model":"m","input":[]}', "input", "not empty"),
        (body(input=5), "input", "expected a string"),
        (body(input=["a"]), "input[0]", "expected an object"),
        (body(stream="yes"), "stream", "expected a boolean"),
        (body(max_output_tokens="9"), "max_output_tokens", "expected an integer"),
        (body(tools={}), "tools", "expected an array"),
        (body(instructions=["a"]), "instructions", "expected a string"),
    ],
)
def test_a_request_that_is_wrong_is_refused_by_name(data: bytes, param: str | None, message: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_request(data)
    assert refused.value.error.status == 400
    assert refused.value.error.param == param
    assert message in refused.value.error.message


def test_a_request_is_read_as_far_as_routing_needs_it() -> None:
    request = read_request(body(stream=True, unknown={"kept": 1}))
    assert (request.model, request.stream, request.choices) == ("m", True, 1)
    assert bytes(request.fields["unknown"]) == b'{"kept": 1}'
    assert not read_request(body(stream=None)).stream
    assert as_stream(read_request(body())).stream


def test_the_upstream_gets_every_field_and_its_own_name_of_the_model() -> None:
    """O7."""
    request = read_request(body(tools=[{"type": "web_search"}], previous_response_id="resp_1", new_field=[1, 2]))
    sent = json.loads(OPENAI_RESPONSES.write_request(request, model="theirs", ask_usage=True, more={"store": False}))
    assert sent == {
        "model": "theirs",
        "input": "Hello",
        "tools": [{"type": "web_search"}],
        "previous_response_id": "resp_1",
        "new_field": [1, 2],
        "store": False,
    }


def test_a_field_that_occurs_twice_says_the_same_to_us_and_to_the_upstream() -> None:
    request = read_request(b'{"model":"a","input":"x","model":"b"}')
    sent = OPENAI_RESPONSES.write_request(request, model=request.model, ask_usage=False, more={})
    assert json.loads(sent) == {"model": "b", "input": "x"}
    assert sent.count(b'"model"') == 1


def test_what_was_said_before_stands_in_front() -> None:
    first = read_request(body(instructions="Be brief."))
    response = json.dumps({"id": "resp_1", "output": [OUTPUT]}).encode()
    second = read_request(
        body(input=[{"role": "user", "content": "More"}], previous_response_id="resp_1", instructions="Be long.")
    )
    assert previous_response_id(first) is None
    assert previous_response_id(second) == "resp_1"
    whole = with_previous(second, [*input_items(first), *output_items(response)])
    assert previous_response_id(whole) is None
    sent = json.loads(OPENAI_RESPONSES.write_request(whole, model="m", ask_usage=False, more={}))
    assert sent["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        OUTPUT,
        {"role": "user", "content": "More"},
    ]
    assert sent["instructions"] == "Be long."
    conversation = OPENAI_RESPONSES.read_conversation(whole)
    assert [message.role.value for message in conversation.messages] == ["system", "user", "assistant", "user"]


ITEMS = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "c", "output": "1", "status": "completed"},
    OUTPUT,
]


def test_listed_items_have_a_type_and_an_id_that_stays_the_same() -> None:
    items = [Raw(json.dumps(item).encode()) for item in ITEMS]
    listed = with_ids(items, "resp_7")
    assert listed == with_ids(items, "resp_7")
    read = [json.loads(bytes(item)) for item in listed]
    assert [item["id"] for item in read] == ["msg_7_in_0", "msg_7_in_1", "fc_7_in_2", "fco_7_in_3", "msg_1"]
    assert read[0]["content"] == [{"type": "input_text", "text": "a"}]
    assert read[1]["content"][0]["type"] == "output_text"
    assert listed[-1] is items[-1]
    for item in read[2:]:
        TypeAdapter(ResponseItem).validate_python(item)


@pytest.mark.parametrize(
    ("page", "shown", "has_more"),
    [
        (Page(), [4, 3, 2, 1, 0], False),
        (Page(is_descending=False), [0, 1, 2, 3, 4], False),
        (Page(limit=2), [4, 3], True),
        (Page(after="fco_7_in_3", limit=2), [2, 1], True),
        (Page(after="msg_7_in_0"), [], False),
    ],
)
def test_items_are_listed_by_pages(page: Page, shown: list[int], has_more: bool) -> None:
    items = with_ids([Raw(json.dumps(item).encode()) for item in ITEMS], "resp_7")
    written = write_list(items, page)
    assert written is not None
    listed = json.loads(written)
    ids = [json.loads(bytes(items[at]))["id"] for at in shown]
    assert [item["id"] for item in listed["data"]] == ids
    assert listed["object"] == "list"
    assert listed["has_more"] is has_more
    assert (listed["first_id"], listed["last_id"]) == ((ids[0], ids[-1]) if ids else ("", ""))


def test_a_page_after_an_item_that_is_not_there_is_none() -> None:
    assert write_list(with_ids([], "resp_7"), Page(after="msg_9")) is None


def test_a_deleted_response_is_told_as_such() -> None:
    assert json.loads(write_deleted("resp_1")) == {"id": "resp_1", "object": "response.deleted", "deleted": True}
