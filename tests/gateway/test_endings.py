"""How answers end: whole, or with an error that nobody can take for the end (FAULTS.md 1-5, 10, 13, 14)."""

import asyncio

import msgspec
import pytest

from unbroken.upstream.scripted import (
    Change,
    Gate,
    ScriptedUpstream,
    all_at_once,
    close_delimited,
    cut_after,
    eof_after,
    error_event,
    events,
    finish_empty_string,
    hold_after,
    html_error,
    http_1_0,
    insert_after,
    malformed_after,
    no_done,
    no_finish,
    parallel_tool_calls,
    refusal,
    reset_after,
    stall_after,
    stays_open,
    text,
    tool_call,
    usage_beside_finish,
    usage_null_everywhere,
)

pytestmark = pytest.mark.anyio

FEW = {"attempts": 2}

BROKEN: dict[str, tuple[Change, str, str]] = {
    "cut": (cut_after(3), "cut", "the connection was closed in the middle of the response"),
    "reset": (reset_after(3), "cut", "the connection was closed in the middle of the response"),
    "clean end": (eof_after(3), "cut", "stream ended without finish_reason after 2 chunks"),
    "stall": (stall_after(3), "between_tokens_timeout", "no further token within 0.3 s"),
    "error event": (error_event("the GPU has melted", after=3), "server_error", "the GPU has melted"),
    "malformed": (malformed_after(3), "malformed", "chunk 3 of the stream is not valid"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_stream_that_breaks_after_its_first_words_ends_in_one_clear_error(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, name: str
) -> None:
    """C8, L4, FAULTS.md 1, 2, 10, 13, 20: no terminal is made up, and what was sent is never sent again."""
    change, code, message = BROKEN[name]
    upstream.script(text("one two three") | change)
    gateway = await serve(upstream, other, timeouts={"between_tokens": 0.3})
    answer = await gateway.stream()
    assert answer.status == 200
    assert answer.text == "one two"
    assert message in answer.error["message"]
    assert answer.error["message"].startswith('upstream "up0": ')
    assert answer.error["code"] == code
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert b"[DONE]" not in answer.raw
    assert "error" in answer.chunks[-1], "nothing follows the error"
    assert set(answer.finish_reasons) == {None}
    assert not other.requests, "an answer that has begun is not begun again"


@pytest.mark.parametrize("ending", [cut_after(2), eof_after(2)])
@pytest.mark.parametrize("path", ["/chat/completions", "/messages"])
async def test_one_piece_is_no_plural(serve, upstream: ScriptedUpstream, ending: Change, path: str) -> None:
    upstream.always(text("x y") | ending)
    gateway = await serve(upstream, retries={"attempts": 1})
    response = await gateway.client.post(path, json={**gateway.body(stream=True), "max_tokens": 9})
    assert "after 1 chunk; 1 piece of the answer with 1 character of text had been delivered" in response.text


@pytest.mark.parametrize("name", ["cut", "reset", "error event"])
async def test_a_whole_answer_that_breaks_is_asked_for_again(serve, upstream: ScriptedUpstream, name: str) -> None:
    """FAULTS.md 1: without a stream nothing has been sent, so every break is free to mend."""
    upstream.script(text("one two three") | BROKEN[name][0])
    upstream.script(text("one two three"))
    gateway = await serve(upstream)
    response = await gateway.ask()
    assert response.json()["choices"][0]["message"]["content"] == "one two three"
    assert len(upstream.requests) == 2


async def test_a_whole_answer_that_always_breaks_is_an_error(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 1."""
    upstream.always(text("one two three") | cut_after(2))
    gateway = await serve(upstream, retries=FEW)
    response = await gateway.ask()
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "cut"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_choice_that_says_it_was_broken_off_is_a_failure(
    serve, upstream: ScriptedUpstream, stream: bool
) -> None:
    """FAULTS.md 1: some servers put their failure into finish_reason."""
    upstream.always(text("one two", finish_reason="abort"))
    gateway = await serve(upstream, retries=FEW)
    if stream:
        answer = await gateway.stream()
        assert answer.text == "one two"
        assert not answer.is_done
        error = answer.error
    else:
        response = await gateway.ask()
        assert response.status_code == 502
        error = response.json()["error"]
    assert 'finish_reason "abort"' in error["message"]


async def test_done_without_a_finish_reason_is_a_failure(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 2."""
    upstream.script(text("one two three") | no_finish())
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert "without finish_reason" in answer.error["message"]
    assert not answer.is_done


@pytest.mark.parametrize("framing", [no_done(), lambda d: http_1_0()(no_done()(d)), lambda d: close_delimited()(d)])
async def test_a_finished_stream_gets_its_done_from_us(serve, upstream: ScriptedUpstream, framing: Change) -> None:
    """C6, FAULTS.md 3: the answer is whole once it has its finish_reason, however the upstream leaves."""
    upstream.script(text("one two three") | framing)
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert answer.is_done
    assert answer.raw.count(b"[DONE]") == 1


async def test_an_end_that_does_not_come_after_the_finish_reason_is_not_waited_for(
    serve, upstream: ScriptedUpstream
) -> None:
    """C6, FAULTS.md 3: neither [DONE] nor the end of the body; the connection is not kept for later."""
    upstream.script(text("one two three") | no_done() | stays_open())
    gateway = await serve(upstream, timeouts={"after_finish": 0.05})
    answer = await gateway.stream()
    assert answer.is_done
    assert answer.error is None
    await upstream.wait_until_left()
    line = await gateway.wait_for_line()
    assert line["outcome"] == "finished"


async def test_a_reset_after_the_finish_reason_changes_nothing(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 3."""
    upstream.script(text("one two three", usage=False) | reset_after(5))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert answer.is_done


async def test_a_body_that_stays_open_after_done_holds_nobody_up(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 3."""
    upstream.script(text("one two three") | stays_open())
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.is_done
    await upstream.wait_until_left()


async def test_nothing_follows_done(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 1: whatever an upstream says after its end is not part of the answer."""
    late = {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "more"}}]}
    upstream.script(text("one two three") | insert_after(99, late))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert answer.is_done


@pytest.mark.parametrize(("given", "expected"), [("stop", "stop"), ("length", "length"), ("eos", "eos")])
async def test_a_real_finish_reason_stays(serve, upstream: ScriptedUpstream, given: str, expected: str) -> None:
    """C4, L8, FAULTS.md 5: `""` is null until the end, a real reason (unknown words too) is left alone."""
    upstream.script(text("one two three", finish_reason=given) | finish_empty_string())
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.finish_reasons == [None] * 4 + [expected]
    assert answer.is_done


async def test_stop_after_tool_calls_is_tool_calls(serve, upstream: ScriptedUpstream) -> None:
    """C4, FAULTS.md 5."""
    upstream.always(tool_call("get_weather", {"location": "Berlin"}, finish_reason="stop"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.finish_reasons[-1] == "tool_calls"
    response = await gateway.ask()
    assert response.json()["choices"][0]["finish_reason"] == "tool_calls"


async def test_length_in_the_middle_of_a_tool_call_stays_length(serve, upstream: ScriptedUpstream) -> None:
    """C4, FAULTS.md 5: its arguments are cut off, and the client must know."""
    upstream.script(tool_call("get_weather", '{"loca', finish_reason="length"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.finish_reasons[-1] == "length"


async def test_tool_calls_arrive_whole(serve, upstream: ScriptedUpstream) -> None:
    """C5, FAULTS.md 22: whatever the upstream's indices and ids, each call has its own."""
    calls = (("get_weather", {"city": "Berlin"}), ("get_time", {"zone": "CET"}))
    for indices, ids in (("counted", "counted"), ("all-zero", "counted"), ("missing", "counted")):
        upstream.script(parallel_tool_calls(*calls, indices=indices, ids=ids, pieces=0))
    gateway = await serve(upstream)
    for _ in range(3):
        answer = await gateway.stream()
        names, arguments, seen = {}, {}, {}
        for call in (call for delta in answer.deltas for call in delta.get("tool_calls", ())):
            names.setdefault(call["index"], call["function"].get("name"))
            seen.setdefault(call["index"], call.get("id"))
            arguments[call["index"]] = arguments.get(call["index"], "") + call["function"].get("arguments", "")
        assert [names[n] for n in (0, 1)] == ["get_weather", "get_time"]
        assert [msgspec.json.decode(arguments[n]) for n in (0, 1)] == [{"city": "Berlin"}, {"zone": "CET"}]
        assert len(set(seen.values())) == 2
        assert answer.is_done


async def test_a_refusal_is_an_answer(serve, upstream: ScriptedUpstream) -> None:
    upstream.script(refusal("I would rather not"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert "".join(delta.get("refusal", "") for delta in answer.deltas) == "I would rather not"
    assert answer.is_done


async def test_an_empty_answer_is_an_answer(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 2: a finish_reason without any content is an end all the same."""
    upstream.script(text("", finish_reason="content_filter"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.finish_reasons[-1] == "content_filter"
    assert answer.is_done
    assert len(upstream.requests) == 1


async def test_the_stream_has_one_role_one_id_and_one_model(serve, upstream: ScriptedUpstream) -> None:
    """C2, FAULTS.md 14, also across a fail-over before the first words."""
    upstream.script(text("never seen") | error_event("no", after=1), text("one two three", model="theirs"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert len(upstream.requests) == 2
    assert answer.text == "one two three"
    assert {chunk["model"] for chunk in answer.chunks} == {"m"}
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    assert len({chunk["created"] for chunk in answer.chunks}) == 1
    assert sum("role" in delta for delta in answer.deltas) == 1


async def test_usage_comes_last_and_only_to_those_who_asked(serve, upstream: ScriptedUpstream) -> None:
    """C3, FAULTS.md 21: wherever and however often the upstream says it."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    upstream.script(text("one two three", usage=usage), text("one two three", usage=usage) | usage_null_everywhere())
    upstream.script(text("one two three") | usage_beside_finish(usage), text("one two three", usage=usage))
    gateway = await serve(upstream)
    for _ in range(3):
        answer = await gateway.stream(stream_options={"include_usage": True})
        assert answer.is_done
        assert answer.chunks[-1]["choices"] == []
        assert answer.chunks[-1]["usage"] == usage
        assert sum(bool(chunk.get("usage")) for chunk in answer.chunks) == 1
    answer = await gateway.stream()
    assert answer.is_done
    assert not any(chunk.get("usage") for chunk in answer.chunks)
    assert all(chunk["choices"] for chunk in answer.chunks)


async def test_n_answers_side_by_side_all_arrive(serve, upstream: ScriptedUpstream) -> None:
    """A stream with n=2 is whole when both have ended."""

    def chunk(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    first = [chunk(0, {"role": "assistant"}), chunk(0, {"content": "a"}), chunk(0, {}, "stop")]
    second = [chunk(1, {"role": "assistant"}), chunk(1, {"content": "b"}), chunk(1, {}, "length")]
    upstream.script(events(*first, *second, "[DONE]"), events(*first, *second[:2]))
    gateway = await serve(upstream)
    answer = await gateway.stream(n=2)
    assert answer.text == "ab"
    assert [reason for reason in answer.finish_reasons if reason] == ["stop", "length"]
    assert answer.is_done
    cut = await gateway.stream(n=2)
    assert "without finish_reason" in cut.error["message"]
    assert not cut.is_done


async def test_words_that_come_in_one_read_with_the_error_still_reach_the_client(
    serve, upstream: ScriptedUpstream
) -> None:
    """FAULTS.md 6, 33: what is in the log is sent, whether the failure is known by then or not."""
    upstream.script(text("one two three") | error_event("too late", after=3) | all_at_once())
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.status == 200
    assert answer.text == "one two"
    assert "too late; 2 pieces" in answer.error["message"]


async def test_the_total_limit_ends_a_stream_with_an_error(serve, upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two three") | stall_after(3))
    gateway = await serve(upstream, timeouts={"total": 0.4})
    answer = await gateway.stream()
    assert answer.text == "one two"
    assert answer.error["code"] == "total_timeout"
    assert "not complete within 0.4 s" in answer.error["message"]
    await upstream.wait_until_left()


async def test_a_gateway_that_stops_ends_its_streams_with_an_error_that_says_so(
    serve, upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(3, gate))
    gateway = await serve(upstream)
    async with gateway.reading() as reading:
        await reading.read_text("one two")
        gateway.gateway.stop_answers()
        answer = await reading.read_to_end()
    assert answer.error["message"] == "the gateway is shutting down"
    assert answer.error["code"] == "shutting_down"
    assert not answer.is_done
    await upstream.wait_until_left()


async def test_a_failed_stream_does_not_harm_the_next_request_on_the_connection(
    serve, upstream: ScriptedUpstream
) -> None:
    """FAULTS.md 20."""
    upstream.script(text("one two three") | malformed_after(2), html_error(), text("four five"))
    gateway = await serve(upstream)
    assert (await gateway.stream()).error is not None
    assert (await gateway.stream()).text == "four five"


async def test_many_streams_at_once_keep_to_themselves(serve, upstream: ScriptedUpstream) -> None:
    """Each gets its own answer, whatever becomes of the others."""
    upstream.answer_with(
        lambda request: (
            None
            if request.method == "GET"
            else text(said := request.json()["messages"][0]["content"])
            | (cut_after(3) if said.startswith("cut") else no_done())
        )
    )
    gateway = await serve(upstream, retries={"breaker_failures": 1000})
    asked = [f"{'cut' if n % 3 else 'whole'} {n} two three" for n in range(60)]
    answers = await asyncio.gather(*(gateway.stream(said) for said in asked))
    for said, answer in zip(asked, answers, strict=True):
        if said.startswith("cut"):
            assert answer.text == " ".join(said.split()[:2])
            assert answer.error is not None
        else:
            assert answer.text == said
            assert answer.is_done
