"""`/v1/responses`: what is kept of a response, and how a client goes on from it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import msgspec
import pytest

from unbroken.chat.events import Event, Finished, Started, TextDelta, ToolCallDelta, ToolCallStarted
from unbroken.chat.finish import FinishReason
from unbroken.store.responses import MemoryResponseStore
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    ScriptedUpstream,
    blocks,
    body,
    cut_after,
    error,
    hold_after,
    text,
    tool_call,
)
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.sse import SseReader

from .conftest import Served, upstream_settings

pytestmark = pytest.mark.anyio

START, STOP = Started("resp_theirs", "m"), Finished(FinishReason.STOP)
KEYS = {"alice": "sk-alice", "bob": "sk-bob"}
BOB = {"authorization": "Bearer sk-bob"}


@pytest.fixture
async def theirs() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that speaks the dialect itself."""
    async with ScriptedUpstream(paths=("/v1/responses",)) as scripted:
        yield scripted


def speaking(scripted: ScriptedUpstream) -> Any:
    return upstream_settings("up0", scripted, dialect="openai-responses")


def written(events: Sequence[Event], *, end: bool = True) -> list[bytes]:
    writer = OPENAI_RESPONSES.event_writer(Answering("resp_theirs", "m", 1))
    said = [block for event in events for block in writer.write(event)]
    return [*said, *(writer.end() if end else [])]


def whole(events: Sequence[Event]) -> Answer:
    return body(OPENAI_RESPONSES.write_answer(events, Answering("resp_theirs", "m", 1)))


async def ask(gateway: Served, input: Any = "hello", **fields: Any) -> httpx2.Response:
    return await gateway.client.post("/responses", json={"model": "m", "input": input, **fields})


async def answered(gateway: Served, input: Any = "hello", **fields: Any) -> Any:
    """The response object, whole or from the end of its stream."""
    response = await ask(gateway, input, **fields)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return response.json()
    last = msgspec.json.decode(SseReader().feed(response.content)[-1].data)
    assert last["type"] in ("response.completed", "response.incomplete")
    return last["response"]


def check_error(response: httpx2.Response, status: int, param: str | None, code: str | None) -> str:
    assert response.status_code == status, response.text
    said = response.json()["error"]
    assert set(said) == {"message", "type", "param", "code"}
    assert (said["param"], said["code"]) == (param, code)
    return said["message"]


async def ids(gateway: Served, id: str, **query: Any) -> Any:
    response = await gateway.client.get(f"/responses/{id}/input_items", params=query)
    assert response.status_code == 200, response.text
    return response.json()


# --- kept and forgotten


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("is_diagonal", [True, False])
async def test_a_response_is_kept_as_it_was_given(
    serve, upstream: ScriptedUpstream, theirs: ScriptedUpstream, is_diagonal: bool, stream: bool
) -> None:
    """O5."""
    gateway = await serve(speaking(theirs) if is_diagonal else upstream)
    said = [START, TextDelta("Hi"), STOP]
    theirs.script(blocks(*written(said)) if stream else whole(said))
    response = await answered(gateway, stream=stream)
    found = await gateway.client.get(f"/responses/{response['id']}")
    assert (found.status_code, found.json()) == (200, response)
    assert found.headers["content-type"] == "application/json"
    head = await gateway.client.head(f"/responses/{response['id']}")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_response_that_a_server_writes_on_many_lines_is_kept(serve, theirs: ScriptedUpstream) -> None:
    gateway = await serve(speaking(theirs))
    *said, last = written([START, TextDelta("Hi"), STOP])
    name, _, data = last.partition(b"\n")
    pretty = msgspec.json.format(data.removeprefix(b"data: ").strip(), indent=1)
    theirs.script(blocks(*said, name + b"\n" + b"".join(b"data: %b\n" % line for line in pretty.split(b"\n")) + b"\n"))
    response = await ask(gateway, stream=True)
    id = msgspec.json.decode(SseReader().feed(response.content)[-1].data)["response"]["id"]
    assert (await gateway.client.get(f"/responses/{id}")).json()["output"][0]["content"][0]["text"] == "Hi"


async def test_a_response_is_kept_before_its_reader_has_the_end(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    raw = b""
    async with gateway.client.stream("POST", "/responses", json={"model": "m", "input": "x", "stream": True}) as reply:
        async for piece in reply.aiter_raw():
            raw += piece
            if b"event: response.completed" in raw:
                break
    assert len(gateway.gateway.responses) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_deleted_is_gone(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    """O5, O6."""
    gateway = await serve(upstream)
    id = (await answered(gateway, stream=stream))["id"]
    deleted = await gateway.client.delete(f"/responses/{id}")
    assert deleted.json() == {"id": id, "object": "response.deleted", "deleted": True}
    for response in (
        await gateway.client.get(f"/responses/{id}"),
        await gateway.client.get(f"/responses/{id}/input_items"),
        await gateway.client.delete(f"/responses/{id}"),
    ):
        assert id in check_error(response, 404, None, "response_not_found")
    message = check_error(
        await ask(gateway, previous_response_id=id), 400, "previous_response_id", "previous_response_not_found"
    )
    assert id in message


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_not_to_be_stored_is_not(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    """O5."""
    gateway = await serve(upstream)
    response = await answered(gateway, store=False, stream=stream)
    assert response["store"] is False
    check_error(await gateway.client.get(f"/responses/{response['id']}"), 404, None, "response_not_found")
    assert len(gateway.gateway.responses) == 0


async def test_another_key_may_not_see_it(serve, upstream: ScriptedUpstream) -> None:
    """O5."""
    gateway = await serve(upstream, keys=KEYS)
    id = (await answered(gateway))["id"]
    for method, path in (("GET", id), ("GET", f"{id}/input_items"), ("DELETE", id)):
        response = await gateway.client.request(method, f"/responses/{path}", headers=BOB)
        check_error(response, 404, None, "response_not_found")
    asked = {"model": "m", "input": "x", "previous_response_id": id}
    response = await gateway.client.post("/responses", json=asked, headers=BOB)
    check_error(response, 400, "previous_response_id", "previous_response_not_found")
    assert (await gateway.client.get(f"/responses/{id}")).status_code == 200


async def test_an_unknown_id_and_an_unknown_part_are_not_found(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    id = (await answered(gateway))["id"]
    for path in ("resp_none", "resp_none/input_items", f"{id}/output_items", f"{id}/input_items/x"):
        check_error(await gateway.client.get(f"/responses/{path}"), 404, None, "response_not_found")


async def test_the_store_is_bounded(serve, upstream: ScriptedUpstream) -> None:
    """O5."""
    gateway = await serve(upstream)
    gateway.gateway.responses = MemoryResponseStore(max_responses=2)
    made = [(await answered(gateway))["id"] for _ in range(3)]
    found = [(await gateway.client.get(f"/responses/{id}")).status_code for id in made]
    assert found == [404, 200, 200]


# --- what has not become whole is not kept


async def test_a_stream_that_broke_is_not_kept(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, retries={"attempts": 1})
    upstream.script(text("one two three") | cut_after(3))
    response = await ask(gateway, stream=True)
    last = msgspec.json.decode(SseReader().feed(response.content)[-1].data)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["output"][0]["content"][0]["text"] == "one two"
    check_error(await gateway.client.get(f"/responses/{last['response']['id']}"), 404, None, "response_not_found")
    assert len(gateway.gateway.responses) == 0


async def test_a_whole_answer_that_failed_is_not_kept(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, retries={"attempts": 1})
    upstream.script(error(500, "broken"))
    assert (await ask(gateway)).status_code == 500
    assert len(gateway.gateway.responses) == 0


async def test_a_response_whose_reader_left_is_not_kept(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    gate = Gate()
    upstream.script(text("one two three") | hold_after(3, gate))
    async with gateway.client.stream("POST", "/responses", json={"model": "m", "input": "x", "stream": True}) as reply:
        assert b"response.created" in await anext(reply.aiter_raw())
        await gate.wait_until_reached()
    await upstream.wait_until_left()
    assert (await gateway.wait_for_line())["outcome"] == "client_left"
    assert len(gateway.gateway.responses) == 0


async def test_an_incomplete_response_is_kept(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    upstream.script(text("one two", finish_reason="length"))
    response = await answered(gateway, stream=True)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (await gateway.client.get(f"/responses/{response['id']}")).json() == response


# --- going on


@pytest.mark.parametrize("stream", [True, False])
async def test_the_upstream_gets_the_whole_conversation(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    """O6."""
    gateway = await serve(upstream)
    upstream.script(text("one"), text("two"), text("three"))
    first = await answered(gateway, "eins", instructions="Count.", stream=stream)
    second = await answered(gateway, "zwei", previous_response_id=first["id"], stream=stream)
    third = await answered(gateway, "drei", previous_response_id=second["id"], stream=stream)
    assert third["previous_response_id"] == second["id"]
    turns = [(turn["role"], turn["content"]) for turn in upstream.requests[-1].json()["messages"]]
    assert turns == [
        ("user", "eins"),
        ("assistant", "one"),
        ("user", "zwei"),
        ("assistant", "two"),
        ("user", "drei"),
    ]


async def test_one_response_may_be_gone_on_from_twice(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    first = await answered(gateway, "eins")
    for asked in ("zwei", "deux"):
        await answered(gateway, asked, previous_response_id=first["id"])
        turns = upstream.requests[-1].json()["messages"]
        assert [turn["content"] for turn in turns] == ["eins", "one two three", asked]


async def test_a_result_follows_on_the_call_that_was_kept(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    upstream.script(tool_call("f", {"a": 1}, id="call_7"), text("Done."))
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    first = await answered(gateway, tools=tools)
    assert first["output"][0]["call_id"] == "call_7"
    result = {"type": "function_call_output", "call_id": "call_7", "output": "42"}
    await answered(gateway, [result], tools=tools, previous_response_id=first["id"])
    _, call, answer = upstream.requests[-1].json()["messages"]
    assert (call["role"], call["tool_calls"][0]["id"]) == ("assistant", "call_7")
    assert (answer["role"], answer["tool_call_id"], answer["content"]) == ("tool", "call_7", "42")


async def test_an_upstream_of_the_dialect_gets_items_and_no_id_of_ours(serve, theirs: ScriptedUpstream) -> None:
    """O6."""
    gateway = await serve(speaking(theirs))
    said = [START, ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a":1}'), Finished(FinishReason.TOOL_CALLS)]
    theirs.script(blocks(*written(said)), whole([START, TextDelta("Done."), STOP]))
    first = await answered(gateway, stream=True)
    result = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
    second = await answered(gateway, [result], previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    sent = theirs.requests[-1].json()
    assert "previous_response_id" not in sent
    assert [item["type"] for item in sent["input"]] == ["message", "function_call", "function_call_output"]
    assert sent["input"][1] == first["output"][0]


# --- input items


async def test_input_items_are_listed_in_pages(serve, upstream: ScriptedUpstream) -> None:
    """O5."""
    gateway = await serve(upstream)
    turns = [{"role": "user", "content": f"turn {number}"} for number in range(5)]
    id = (await answered(gateway, turns))["id"]

    def texts(listed: Any) -> list[str]:
        return [item["content"][0]["text"] for item in listed["data"]]

    listed = await ids(gateway, id)
    assert texts(listed) == [f"turn {number}" for number in (4, 3, 2, 1, 0)]
    assert listed["object"] == "list"
    assert listed["has_more"] is False
    assert (listed["first_id"], listed["last_id"]) == (listed["data"][0]["id"], listed["data"][-1]["id"])
    assert len({item["id"] for item in listed["data"]}) == 5
    seen: list[str] = []
    page: dict[str, Any] = {"order": "asc", "limit": 2}
    while True:
        listed = await ids(gateway, id, **page)
        seen += texts(listed)
        if not listed["has_more"]:
            break
        page["after"] = listed["last_id"]
    assert seen == [f"turn {number}" for number in range(5)]
    assert texts(await ids(gateway, id, order="desc", limit=1)) == ["turn 4"]


async def test_input_items_hold_what_was_said_before(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    first = await answered(gateway, "eins")
    second = await answered(gateway, "zwei", previous_response_id=first["id"])
    listed = await ids(gateway, second["id"], order="asc")
    assert [item["content"][0]["text"] for item in listed["data"]] == ["eins", "one two three", "zwei"]
    assert listed["data"][1] == first["output"][0]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_none"}, "after"),
    ],
)
async def test_a_wrong_page_is_named(serve, upstream: ScriptedUpstream, query: dict[str, str], param: str) -> None:
    gateway = await serve(upstream)
    id = (await answered(gateway))["id"]
    response = await gateway.client.get(f"/responses/{id}/input_items", params=query)
    check_error(response, 400, param, "invalid_value")


# --- what is echoed


@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_repeats_its_request(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    gateway = await serve(upstream)
    first = await answered(gateway)
    tool = {"type": "function", "name": "f", "description": "does", "parameters": {"type": "object"}, "strict": False}
    said = {
        "instructions": "Be brief.",
        "metadata": {"ticket": "7"},
        "tools": [tool],
        "tool_choice": "auto",
        "previous_response_id": first["id"],
        "max_output_tokens": 50,
        "temperature": 0.5,
        "parallel_tool_calls": False,
    }
    response = await answered(gateway, stream=stream, **said)
    assert {name: response[name] for name in said} == said
    assert response["store"] is True
    assert response["background"] is False
    assert (await gateway.client.get(f"/responses/{response['id']}")).json() == response


# --- what is refused


async def test_what_was_not_made_in_the_background_cannot_be_cancelled(serve, upstream: ScriptedUpstream) -> None:
    """D11"""
    gateway = await serve(upstream, keys=KEYS)
    id = (await answered(gateway))["id"]
    response = await gateway.client.post(f"/responses/{id}/cancel")
    assert check_error(response, 400, None, None) == "Cannot cancel a synchronous response."
    for_bob = await gateway.client.post(f"/responses/{id}/cancel", headers=BOB)
    assert for_bob.status_code == 404
    assert (await gateway.client.post("/responses/resp_none/cancel")).status_code == 404


async def test_a_background_response_whose_stream_is_forgotten_is_given_as_it_is(
    serve, upstream: ScriptedUpstream
) -> None:
    gateway = await serve(upstream)
    id = (await answered(gateway, background=True, stream=True))["id"]
    kept = (await gateway.client.get(f"/responses/{id}")).json()
    await gateway.gateway.durable.log.forget(id)
    cancelled = await gateway.client.post(f"/responses/{id}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (200, kept)


async def test_a_kept_response_that_was_not_durable_has_no_events(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    id = (await answered(gateway))["id"]
    response = await gateway.client.get(f"/responses/{id}", params={"stream": "true"})
    assert "not made durable" in check_error(response, 400, "stream", "unsupported_parameter")
    assert (await gateway.client.get(f"/responses/{id}", params={"stream": "false"})).status_code == 200


@pytest.mark.parametrize(
    ("item", "param"), [({"type": 5}, "input[0]"), ({"id": 5, "role": "user", "content": "x"}, "input[0]")]
)
@pytest.mark.parametrize("is_diagonal", [True, False])
async def test_an_item_of_no_kind_is_refused(
    serve, upstream: ScriptedUpstream, theirs: ScriptedUpstream, item: Any, param: str, is_diagonal: bool
) -> None:
    gateway = await serve(speaking(theirs) if is_diagonal else upstream)
    check_error(await ask(gateway, [item]), 400, param, None)
    assert not theirs.requests


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/responses", "POST, OPTIONS"),
        ("HEAD", "/responses", "POST, OPTIONS"),
        ("DELETE", "/responses", "POST, OPTIONS"),
        ("PUT", "/responses/resp_1", "GET, HEAD, DELETE, POST, OPTIONS"),
        ("PATCH", "/responses/resp_1/cancel", "GET, HEAD, DELETE, POST, OPTIONS"),
    ],
)
async def test_other_methods_are_told_which_ones(
    serve, upstream: ScriptedUpstream, method: str, path: str, allowed: str
) -> None:
    gateway = await serve(upstream)
    response = await gateway.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    options = await gateway.client.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, allowed)


async def test_a_failure_behind_the_first_words_goes_on_in_the_numbers(serve, theirs: ScriptedUpstream) -> None:
    """O3, O4: a client that comes back names the last number that it saw."""
    gateway = await serve(speaking(theirs), retries={"attempts": 1})
    theirs.script(blocks(*written([START, TextDelta("Once")], end=False)) | cut_after(99))
    response = await ask(gateway, stream=True)
    said = [msgspec.json.decode(event.data) for event in SseReader().feed(response.content)]
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    assert said[-1]["type"] == "response.failed"
    assert said[-1]["response"]["status"] == "failed"
    assert "ended" in said[-1]["response"]["error"]["message"] or "closed" in said[-1]["response"]["error"]["message"]


async def test_what_the_log_says_of_a_response(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keys=KEYS)
    await answered(gateway, stream=True)
    line = await gateway.wait_for_line()
    assert (line["path"], line["key"], line["model"], line["outcome"]) == ("/v1/responses", "alice", "m", "finished")
    assert (line["input_tokens"], line["output_tokens"], line["stream"]) == (1, 3, True)
    assert line["first_token_s"] <= line["duration_s"]
    metrics = await gateway.metrics()
    assert metrics['unbroken_responses_total{route="/v1/responses",status="200"}'] == 1
    assert metrics['unbroken_tokens_total{direction="output",model="m",upstream="up0"}'] == 3
