"""An upstream dies in mid-answer, and the answer arrives whole, or fails clean (K1 to K6, FAULTS.md 10-14)."""

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.scripted import (
    Answer,
    Received,
    Script,
    ScriptedUpstream,
    cut_after,
    eof_after,
    error,
    error_event,
    malformed_after,
    parallel_tool_calls,
    reset_after,
    stall_after,
    text,
)

from .conftest import Serve, upstream_settings

pytestmark = pytest.mark.anyio

WORDS = "The quick brown fox jumps over the lazy dog. It ran away."
COUNT = len(WORDS.split())
#: Blocks of the answer: the role, a word each, the finish, usage, [DONE].
BLOCKS = COUNT + 4
QUICK = {"first_token": 0.3, "between_tokens": 0.1, "headers": 0.3}
DURABLE = {"unbroken-durable": "true"}

FAULTS: dict[str, Callable[[int], Any]] = {
    "cut": cut_after,
    "reset": reset_after,
    "eof": eof_after,
    "stall": stall_after,
    "error event": lambda n: error_event("it broke", after=n),
    "garbage": malformed_after,
}


def again(*upstreams: ScriptedUpstream) -> list[UpstreamSettings]:
    """Upstreams of which nothing is known, but that they may be asked again."""
    return [upstream_settings(f"up{n}", one, continuation="auto") for n, one in enumerate(upstreams)]


def goes_on(whole: str) -> Callable[[Received], Answer]:
    """A server that goes on with a last message of the assistant, as llama.cpp and vLLM do where they are told to."""

    def answer(received: Received) -> Answer:
        last = received.json()["messages"][-1]
        if last["role"] != "assistant":
            return text(whole)
        assert whole.startswith(last["content"])
        return text(whole[len(last["content"]) :])

    return answer


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("blocks", range(2, COUNT + 2))
async def test_answer_is_matched_at_every_block_and_after_every_fault(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream, fault: str, blocks: int
) -> None:
    upstream.script(text(WORDS) | FAULTS[fault](blocks))
    upstream.always(text(WORDS))
    other.always(text(WORDS))
    gateway = await serve(*again(upstream, other), timeouts=QUICK)
    answer = await gateway.stream(stream_options={"include_usage": True})
    assert answer.text == WORDS
    assert answer.is_done
    assert answer.finish_reasons.count("stop") == 1
    assert [delta["role"] for delta in answer.deltas if delta.get("role")] == ["assistant"]
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    assert len({chunk["created"] for chunk in answer.chunks}) == 1
    assert answer.chunks[-1]["usage"]["completion_tokens"] == COUNT
    line = await gateway.wait_for_line()
    assert line["outcome"] == "finished"
    assert line["continued"] == 1
    assert line["output_tokens"] == COUNT


@pytest.mark.parametrize("blocks", range(2, COUNT + 2))
async def test_answer_is_spliced_where_the_server_goes_on(
    serve: Serve, upstream: ScriptedUpstream, blocks: int
) -> None:
    upstream.script(text(WORDS) | cut_after(blocks))
    upstream.answer_with(lambda received: goes_on(WORDS)(received) if upstream.unplayed == 0 else None)
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    answer = await gateway.stream(headers=DURABLE, max_tokens=100)
    assert answer.text == WORDS
    assert answer.is_done
    first, second = upstream.requests
    partial = " ".join(WORDS.split()[: blocks - 1])
    assert second.json()["messages"] == [*first.json()["messages"], {"role": "assistant", "content": partial}]
    assert second.json()["max_tokens"] == 100 - (blocks - 1)
    status = (await gateway.client.get(f"/streams/{answer.headers['unbroken-stream']}")).json()
    assert status["tier"] == "spliced"
    assert status["continuations"] == [{"tier": "spliced", "after": blocks, "upstream": "up0"}]
    assert status["attempts"] == 2
    assert status["usage"]["output"] == COUNT


async def test_vllm_is_told_not_to_begin_a_new_turn(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | cut_after(4), text(" " + " ".join(WORDS.split()[3:])))
    gateway = await serve(upstream_settings("up0", upstream, continuation="continue_final_message"))
    assert (await gateway.stream()).text == WORDS
    asked = upstream.requests[1].json()
    assert asked["add_generation_prompt"] is False
    assert asked["continue_final_message"] is True


async def test_fresh_turn_is_never_spliced_onto_a_partial_answer(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | cut_after(6))
    upstream.always(text(WORDS))  # it ignores the last message
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    answer = await gateway.stream()
    assert answer.text == WORDS
    assert answer.is_done


def limited(whole: str, *, goes_on: bool) -> Callable[[Received], Answer]:
    """A server whose words are tokens, and that keeps to the limit; whether it goes on with the last message."""

    def answer(received: Received) -> Answer:
        last = received.json()["messages"][-1]
        had = len(last["content"].split()) if last["role"] == "assistant" and goes_on else 0
        rest = whole.split()[had:]
        most = received.json()["max_tokens"]
        said = (" " if had else "") + " ".join(rest[:most])
        return text(said, finish_reason="length" if len(rest) > most else "stop")

    return answer


async def test_fresh_turn_of_a_limited_answer_is_matched_with_all_of_its_limit(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    """K3, K5: what was left is too little for an answer that begins again; and the tier is told as it is."""
    upstream.script(text(WORDS) | cut_after(6))
    upstream.answer_with(lambda received: limited(WORDS, goes_on=False)(received) if upstream.unplayed == 0 else None)
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    answer = await gateway.stream(headers=DURABLE, max_tokens=COUNT)
    assert answer.text == WORDS
    assert answer.finish_reasons[-1] == "stop"
    assert [received.json()["max_tokens"] for received in upstream.requests] == [COUNT, COUNT - 5, COUNT]
    status = (await gateway.client.get(f"/streams/{answer.headers['unbroken-stream']}")).json()
    assert {one["tier"] for one in status["continuations"]} == {"matched"}


@pytest.mark.parametrize("limit", [COUNT, 100])
async def test_pieces_that_are_no_tokens_never_end_an_answer(
    serve: Serve, upstream: ScriptedUpstream, limit: int
) -> None:
    """K5: thirty characters in a piece each are no thirty tokens."""
    upstream.script(text([*WORDS]) | cut_after(30))
    upstream.answer_with(lambda received: limited(WORDS, goes_on=False)(received) if upstream.unplayed == 0 else None)
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    answer = await gateway.stream(max_tokens=limit)
    assert answer.text == WORDS
    assert answer.finish_reasons[-1] == "stop"


async def test_ways_that_ask_nobody_use_up_no_attempts(serve: Serve) -> None:
    """K5, K6: nothing is left of the limit, so that none of the three can be asked to go on; one can be asked again."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedUpstream()) for _ in range(3)]
        upstreams[0].script(text(WORDS) | cut_after(COUNT + 1))
        for one in upstreams:
            one.always(text(WORDS, finish_reason="length"))
        settings = [upstream_settings(f"up{n}", one, continuation="last_message") for n, one in enumerate(upstreams)]
        gateway = await serve(*settings)
        answer = await gateway.stream(max_tokens=COUNT)
        assert (answer.text, answer.finish_reasons[-1]) == (WORDS, "length")
        assert (await gateway.wait_for_line())["attempts"] == 2


async def test_pieces_of_several_tokens_use_up_as_much_of_the_limit(serve: Serve, upstream: ScriptedUpstream) -> None:
    """K5."""
    upstream.script(text(["The quick brown fox jumps over", " the lazy dog. It ran away."]) | cut_after(2))
    upstream.answer_with(lambda received: goes_on(WORDS)(received) if upstream.unplayed == 0 else None)
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    assert (await gateway.stream(max_tokens=20)).text == WORDS
    assert upstream.requests[1].json()["max_tokens"] == 20 - 8  # thirty characters


async def test_refusal_of_a_prefill_is_not_the_callers_error(serve: Serve, upstream: ScriptedUpstream) -> None:
    def refuses(received: Received) -> Answer | Script | None:
        if received.json()["messages"][-1]["role"] == "assistant":
            return error(400, "the last message must be the user's")
        return None

    upstream.script(text(WORDS) | cut_after(6))
    upstream.always(text(WORDS))
    upstream.answer_with(refuses)
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    answer = await gateway.stream()
    assert answer.text == WORDS
    assert answer.is_done
    assert len(upstream.requests) == 3


async def test_other_words_are_no_continuation(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.script(text(WORDS) | cut_after(6))
    upstream.always(text("The slow brown bear sleeps."))
    other.always(text("The quick brown fox"))
    gateway = await serve(*again(upstream, other))
    answer = await gateway.stream()
    assert WORDS.startswith(answer.text)
    assert not answer.is_done
    assert answer.error is not None
    assert "5 pieces" in answer.error["message"]
    line = await gateway.wait_for_line()
    assert line["outcome"] == "cut"
    assert line["attempts"] <= 4
    assert line["not_continued"] == "matched at up0: differs; matched at up1: differs"


async def test_log_says_why_nobody_could_go_on(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """In words of ours: what an upstream says of a partial answer may repeat it."""

    def refuses(received: Received) -> Answer | Script | None:
        if received.json()["messages"][-1]["role"] == "assistant":
            return error(400, "the last message must be the user's, and not: The quick brown")
        return None

    upstream.script(text(WORDS) | cut_after(6))
    upstream.answer_with(refuses)
    upstream.always(text("The slow brown bear sleeps."))
    other.always(error(503, "The quick brown server is busy"))
    up0 = upstream_settings("up0", upstream, continuation="last_message")
    gateway = await serve(up0, *again(upstream, other)[1:], retries={"attempts": 5})
    assert (await gateway.stream()).error is not None
    line = await gateway.wait_for_line()
    first, second, *others = line["not_continued"].split("; ")
    assert (first, second) == ("spliced at up0: bad_request (400)", "matched at up0: differs")
    assert set(others) == {"matched at up1: overloaded (503)"}
    assert "quick" not in line["not_continued"]


NOT_TRIED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "several choices": ({"n": 2}, {}, "no way to go on with it is honest"),
    "not allowed": ({}, {"continuation": "none"}, "no way to go on with it is honest"),
    "attempts": ({}, {}, "no attempt was left"),
}


@pytest.mark.parametrize("name", NOT_TRIED)
async def test_log_says_why_nobody_was_asked_to_go_on(serve: Serve, upstream: ScriptedUpstream, name: str) -> None:
    asked, settings, why = NOT_TRIED[name]
    upstream.script(text(WORDS) | cut_after(4))
    known = upstream_settings("up0", upstream, **{"continuation": "auto", **settings})
    gateway = await serve(known, retries={"attempts": 1 if name == "attempts" else 4})
    assert (await gateway.stream(**asked)).error is not None
    assert (await gateway.wait_for_line())["not_continued"] == why
    assert len(upstream.requests) == 1


async def test_log_says_nothing_of_that_where_an_answer_went_on(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | cut_after(6), text("The slow brown bear sleeps."), text(WORDS))
    gateway = await serve(*again(upstream, upstream))
    assert (await gateway.stream()).is_done
    line = await gateway.wait_for_line()
    assert line["continued"] == 1
    assert "not_continued" not in line


async def test_matched_goes_on_at_another_upstream(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.script(text(WORDS) | cut_after(6))
    upstream.always(error(503, "gone"))
    other.always(text(WORDS))
    gateway = await serve(*again(upstream, other))
    answer = await gateway.stream()
    assert answer.text == WORDS
    assert answer.is_done


async def test_upstream_that_fell_silent_is_asked_again_when_nobody_else_can(
    serve: Serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.script(text(WORDS) | stall_after(6))
    upstream.always(text(WORDS))
    other.always(error(400, "not with me"))
    gateway = await serve(*again(upstream, other), timeouts=QUICK)
    answer = await gateway.stream()
    assert answer.text == WORDS
    assert answer.is_done
    assert len(other.requests) == 1


async def test_second_death_is_survived_as_well(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | cut_after(4), text(WORDS) | cut_after(7), text(WORDS) | reset_after(9), text(WORDS))
    gateway = await serve(*again(upstream))
    answer = await gateway.stream()
    assert answer.text == WORDS
    assert answer.is_done
    assert (await gateway.wait_for_line())["continued"] == 3


async def test_attempts_are_bounded_in_all(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.always(text(WORDS) | cut_after(4))
    gateway = await serve(*again(upstream), retries={"attempts": 3})
    answer = await gateway.stream()
    assert answer.error is not None
    assert len(upstream.requests) == 3


async def test_tool_call_that_was_begun_is_matched_and_never_becomes_prose(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    calls = parallel_tool_calls(("get_weather", {"location": "Berlin"}), ("get_weather", {"location": "Rome"}))
    upstream.script(calls | cut_after(4), calls)
    gateway = await serve(upstream_settings("up0", upstream, continuation="last_message"))
    answer = await gateway.stream()
    arguments = ["", ""]
    for delta in answer.deltas:
        for piece in delta.get("tool_calls") or ():
            arguments[piece["index"]] += piece["function"].get("arguments") or ""
    assert arguments == ['{"location":"Berlin"}', '{"location":"Rome"}']
    assert answer.finish_reasons.count("tool_calls") == 1
    assert all(request.json()["messages"][-1]["role"] == "user" for request in upstream.requests)


async def test_several_choices_are_not_continued(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | cut_after(4))
    gateway = await serve(*again(upstream))
    answer = await gateway.stream(n=2)
    assert answer.error is not None
    assert len(upstream.requests) == 1


async def test_upstream_that_must_not_be_asked_again_is_not(serve: Serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text(WORDS) | cut_after(4))
    gateway = await serve(upstream_settings("up0", upstream, continuation="none"))
    answer = await gateway.stream()
    assert answer.error is not None
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", ["/messages", "/responses"])
@pytest.mark.parametrize("blocks", range(2, COUNT + 2, 3))
async def test_other_dialects_are_continued_in_one_envelope(
    serve: Serve, upstream: ScriptedUpstream, path: str, blocks: int
) -> None:
    upstream.script(text(WORDS) | cut_after(blocks), text(WORDS))
    whole = await serve(*again(upstream))
    body: dict[str, Any] = {"model": "m", "stream": True}
    if path == "/messages":
        body |= {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}
    else:
        body |= {"input": "hello"}
    cut = (await whole.client.post(path, json=body)).text
    upstream.script(text(WORDS))
    uncut = (await whole.client.post(path, json=body)).text
    assert without_ids(cut) == without_ids(uncut)


def without_ids(stream: str) -> list[Any]:
    """The events of a stream without what is another one's in every answer."""
    same = re.sub(r'(?<=")[a-z]+_[0-9a-f]{8,}\w*(?=")|(?<="created_at":)\d+', "0", stream)
    return [msgspec.json.decode(line[6:]) for line in same.splitlines() if line.startswith("data: ")]
