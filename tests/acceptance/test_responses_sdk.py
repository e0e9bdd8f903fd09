"""What OpenAI's SDK can do with `/v1/responses` beside the tutorials: keep, ask again, go on, limits, errors."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.acceptance.conftest import GatewayBefore
from tests.acceptance.processes import scripted_process

MODEL = "gpt-5"


def test_a_response_is_kept_listed_and_deleted(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="Hello, how are you?", metadata={"for": "the test"})
    again = client.responses.retrieve(response.id)
    assert again.output_text == response.output_text
    assert again.metadata == {"for": "the test"}
    (item,) = client.responses.input_items.list(response.id)
    assert item.type == "message"
    assert item.content[0].type == "input_text"
    assert item.content[0].text == "Hello, how are you?"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_streamed_response_is_kept_too(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="Hello, how are you?") as stream:
        response = stream.get_final_response()
    assert client.responses.retrieve(response.id).output_text == response.output_text


def test_a_response_that_shall_not_be_kept_is_not(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="Hello, how are you?", store=False)
    with pytest.raises(openai.NotFoundError) as raised:
        client.responses.retrieve(response.id)
    assert raised.value.request_id


def test_a_function_s_output_goes_on_from_the_response_that_called_it(client: OpenAI) -> None:
    tools: Any = [
        {
            "type": "function",
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        }
    ]
    first = client.responses.create(model=MODEL, input="What's the weather in Berlin?", tools=tools, temperature=0)
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 18}'}]
    second = client.responses.create(
        model=MODEL, input=output, tools=tools, previous_response_id=first.id, temperature=0
    )
    assert second.previous_response_id == first.id
    assert len(second.output_text.split()) >= 3
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]


def test_a_response_that_nobody_knows_cannot_be_gone_on_from(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=MODEL, input="And then?", previous_response_id="resp_nobody")
    assert raised.value.code == "previous_response_not_found"
    assert raised.value.param == "previous_response_id"


def test_every_event_has_its_number_and_its_place(client: OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="Hello, how are you?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type.removeprefix("response.") for event in events]
    assert types[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert types[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(types[4:-4]) == {"output_text.delta"}


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_a_limit_cuts_and_says_so(client: OpenAI, is_streamed: bool) -> None:
    asked: Any = {"model": MODEL, "input": "Tell me a long story", "max_output_tokens": 16}
    if is_streamed:
        *_, last = client.responses.create(**asked, stream=True)
        assert last.type == "response.incomplete"
        response = last.response
    else:
        response = client.responses.create(**asked)
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage
    assert response.usage.output_tokens == 16


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": 5}, "input"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"background": True, "store": False}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
    ids=lambda value: str(value),
)
def test_a_request_that_cannot_be_answered(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=MODEL, input="Hello", extra_body=wrong)
    assert raised.value.param == param
    assert raised.value.request_id


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_a_model_that_does_not_exist(client: OpenAI, is_streamed: bool) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.responses.create(model="nobody-99", input="Hello", stream=is_streamed)
    assert raised.value.code == "model_not_found"


def test_a_provider_that_fails_in_mid_answer(gateway_before: GatewayBefore) -> None:
    received: list[Any] = []
    with (
        scripted_process("cut_after=4", model="fragile") as upstream,
        gateway_before(upstream, "fragile") as gateway,
        OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=30) as sdk,
        sdk.responses.create(model="fragile", input="Hello", stream=True) as stream,
        pytest.raises(openai.APIError) as raised,
    ):
        received.extend(stream)
    deltas = [event.delta for event in received if event.type == "response.output_text.delta"]
    assert "".join(deltas).startswith("word1")
    assert "response.completed" not in {event.type for event in received}
    assert raised.value.message
