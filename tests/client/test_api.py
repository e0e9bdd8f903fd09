"""The client of an OpenAI-compatible server: events as they come, and one clear sentence where they do not."""

from contextlib import aclosing

import pytest

from unbroken.chat.events import Event, Finished, ReasoningDelta, TextDelta, UsageReported
from unbroken.chat.fault import Fault
from unbroken.client.api import ChatApi, Sampling
from unbroken.client.failure import ChatFailed
from unbroken.client.models import Model, read_model
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    ScriptedUpstream,
    body,
    context_length_exceeded,
    cut_after,
    eof_after,
    error,
    error_event,
    hold_after,
    html_error,
    malformed_after,
    no_done,
    no_finish,
    rate_limited,
    reset_after,
    stays_open,
    text,
    with_comments,
)

pytestmark = pytest.mark.anyio
QUESTION = [{"role": "user", "content": "Hello"}]


async def ask(api: ChatApi, model: str = "small", sampling: Sampling | None = None) -> list[Event]:
    async with aclosing(api.stream_chat(QUESTION, model, sampling)) as groups:
        return [event async for group in groups for event in group]


def words(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def failure(api: ChatApi) -> ChatFailed:
    with pytest.raises(ChatFailed) as failed:
        await ask(api)
    assert "\n" not in str(failed.value)
    return failed.value


async def test_an_answer_comes_as_events(api: ChatApi, upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two", reasoning="hm") | with_comments())
    events = await ask(api, sampling=Sampling(max_tokens=9, temperature=0.5))
    assert words(events) == "one two"
    assert any(isinstance(event, ReasoningDelta) for event in events)
    assert Finished("stop") in events
    assert any(isinstance(event, UsageReported) for event in events)
    (request,) = upstream.requests
    sent = request.json()
    assert sent == {
        "model": "small",
        "messages": QUESTION,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
    }
    assert request.header("authorization") == "Bearer sk-mine-123456"


async def test_the_first_word_is_seen_before_the_second_exists(api: ChatApi, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two") | hold_after(2, gate))
    seen = ""
    async with aclosing(api.stream_chat(QUESTION, "small")) as groups:
        async for group in groups:
            seen += words(list(group))
            if seen == "one":
                gate.open()
    assert seen == "one two"


async def test_leaving_closes_the_connection(api: ChatApi, upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two") | hold_after(2, Gate()))
    async with aclosing(api.stream_chat(QUESTION, "small")) as groups:
        async for group in groups:
            if words(list(group)):
                break
    await upstream.wait_until_left()


@pytest.mark.parametrize("change", [no_done(), stays_open()], ids=["no [DONE]", "stays open"])
async def test_an_answer_with_its_finish_is_whole(api: ChatApi, upstream: ScriptedUpstream, change: object) -> None:
    upstream.script(text("one two") | change)  # type: ignore[operator]
    assert words(await ask(api)) == "one two"


BROKEN: dict[str, tuple[Answer, str, Fault]] = {
    "cut": (text("one two three") | cut_after(3), "broke off after 7 characters and is not complete", Fault.CUT),
    "reset": (text("one two three") | reset_after(3), "is not complete", Fault.CUT),
    "clean end": (text("one two three") | eof_after(3), "ended without saying that the answer is finished", Fault.CUT),
    "[DONE] without a finish": (text("one") | no_finish(), "broke off after 3 characters", Fault.CUT),
    "cut at once": (text("one") | cut_after(0), "broke off before its first word", Fault.CUT),
    "error event": (
        text("one two") | error_event("out of memory", after=2),
        "3 characters and is not complete: out of memory.",
        Fault.ERROR_EVENT,
    ),
    "malformed": (text("one two") | malformed_after(2), "not a chunk", Fault.MALFORMED),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_an_answer_that_is_not_whole_never_looks_finished(
    api: ChatApi, upstream: ScriptedUpstream, name: str
) -> None:
    answer, said, fault = BROKEN[name]
    upstream.script(answer)
    failed = await failure(api)
    assert said in str(failed)
    assert failed.fault is fault


REFUSED: dict[str, tuple[Answer, str, Fault]] = {
    "key": (
        error(401, "Incorrect API key provided: sk-mine-123456.", code="invalid_api_key"),
        "refused the API key: Incorrect API key provided: ***. Give one with --api-key or UNBROKEN_API_KEY.",
        Fault.UNAUTHORIZED,
    ),
    "model": (error(404, "no", code="model_not_found"), 'There is no model "small" at ', Fault.MODEL_NOT_FOUND),
    "busy": (rate_limited(7), "Rate limit reached. Try again in 7 s.", Fault.RATE_LIMITED),
    "too long": (context_length_exceeded(), "The conversation is too long for the model: ", Fault.CONTEXT_LENGTH),
    "page": (html_error(502), "/v1 answered 502 with text/html.", Fault.SERVER_ERROR),
    "page as an answer": (
        body(b"<html>", content_type="text/html"),
        "answered with text/html and not with a stream. Is the base URL right?",
        Fault.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_is_one_sentence(name: str) -> None:
    answer, said, fault = REFUSED[name]
    async with ScriptedUpstream(models=["large"]) as upstream, ChatApi(upstream.base_url, "sk-mine-123456") as api:
        upstream.script(answer)
        failed = await failure(api)
    assert said in str(failed)
    assert failed.fault is fault


async def test_an_unknown_model_is_told_with_those_that_exist() -> None:
    async with ScriptedUpstream(models=["a", "b"]) as upstream, ChatApi(upstream.base_url) as api:
        upstream.script(error(404, "no", code="model_not_found"))
        assert str(await failure(api)) == f'There is no model "small" at {api.base_url}. It has: a, b.'


async def test_nobody_there_is_told_with_what_to_do(upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    async with ChatApi(upstream.base_url) as api:
        said = str(await failure(api))
    assert said.startswith(f"Nothing answers at {upstream.base_url} (connection refused).")
    assert "`unbroken serve`" in said


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://[/v1", "http://a b/v1", "x"])
async def test_an_address_that_is_none_is_told(url: str) -> None:
    async with ChatApi(url) as api:
        assert "--base-url" in str(await failure(api))


async def test_a_key_that_cannot_be_one_is_told() -> None:
    with pytest.raises(ChatFailed):
        ChatApi("http://127.0.0.1:1/v1", "schlüssel\n")


async def test_models_are_listed(api: ChatApi) -> None:
    assert await api.models() == [Model("small"), Model("large")]
    assert await api.model("small") == Model("small")  # this server tells nothing of one


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ('"context_length": 4096', 4096),
        ('"max_model_len": 8192', 8192),
        ('"meta": {"n_ctx_train": 2048}', 2048),
        ('"context_length": null, "meta": null', None),
        ('"context_length": "many", "meta": [1]', None),
        ('"context_length": true', None),
    ],
)
def test_a_context_length_is_read_where_servers_say_it(fields: str, length: int | None) -> None:
    assert read_model(b'{"id": "m", %b}' % fields.encode()).context_length == length
