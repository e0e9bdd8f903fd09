"""OpenAI's own words for durable answers, with its SDK and nothing of ours, on the real engine (D11)."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.acceptance.processes import wait_for

QUESTION = "Explain quantum computing in simple terms."


def has_ended(client: OpenAI, id: str) -> Callable[[], Any]:
    """Gives the response once it is over."""

    def look() -> Any:
        response = client.responses.retrieve(id)
        return response if response.status not in ("queued", "in_progress") else None

    return look


def test_stream_in_the_background_goes_on_behind_the_number_that_was_seen_last(client: OpenAI) -> None:
    stream = client.responses.create(model="unbroken-demo", input=QUESTION, background=True, stream=True, temperature=0)
    seen = [event for event, _ in zip(stream, range(20), strict=False)]
    stream.close()
    id = seen[0].response.id  # type: ignore[union-attr]
    rest = list(client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number))
    events: list[Any] = [*seen, *rest]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == said
    again: list[Any] = list(client.responses.retrieve(id, stream=True))
    assert [event.model_dump() for event in again] == [event.model_dump() for event in events]


def test_work_in_the_background_is_asked_for_until_it_is_done(client: OpenAI) -> None:
    queued = client.responses.create(model="unbroken-demo", input=QUESTION, background=True, temperature=0)
    assert queued.status in ("queued", "in_progress")
    done = wait_for(has_ended(client, queued.id), "the response has ended")
    assert done.status == "completed"
    plain = client.responses.create(model="unbroken-demo", input=QUESTION, temperature=0)
    assert done.output_text == plain.output_text
    assert done.usage.output_tokens == plain.usage.output_tokens  # type: ignore[union-attr]
    went_on = client.responses.create(model="unbroken-demo", input="Thanks!", previous_response_id=done.id)
    assert went_on.output_text


def test_work_in_the_background_is_cancelled(client: OpenAI) -> None:
    queued = client.responses.create(model="unbroken-demo", input="Hello, how are you?", background=True)
    cancelled = client.responses.cancel(queued.id)
    assert cancelled.status in ("cancelled", "completed")  # the demo model is quick
    client.responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(queued.id)


def test_request_that_is_sent_again_with_its_key_is_answered_once(client: OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.chat.completions.create(
            model="unbroken-demo",
            messages=[{"role": "user", "content": "Tell me a joke about programmers."}],
            extra_headers={"Idempotency-Key": "joke-1"},
            **more,
        )

    first, again = ask(), ask()
    assert first.model_dump() == again.model_dump()
    with pytest.raises(openai.ConflictError) as refused:
        ask(temperature=1.5)
    assert refused.value.code == "idempotency_key_reused"
