"""Retry and fail-over: free until the first words, bounded always (FAULTS.md 6-9, 15-17)."""

import asyncio

import pytest

from unbroken.upstream.scripted import (
    Answer,
    Change,
    Cut,
    Gate,
    Head,
    Hold,
    ReadNothing,
    Reset,
    Script,
    ScriptedUpstream,
    Send,
    Stall,
    all_at_once,
    before_head,
    content_policy_violation,
    context_length_exceeded,
    cut_after,
    eof_after,
    error,
    error_event,
    events,
    hold_after,
    html_error,
    malformed_after,
    overloaded,
    rate_limited,
    reset_after,
    stall_after,
    text,
    with_headers,
)

from .conftest import UPSTREAM_KEY, settings_of, upstream_settings

pytestmark = pytest.mark.anyio

ALONE_BUT_ONCE = {"attempts": 1}
QUICK = {"headers": 0.3, "first_token": 0.3}


# --- before the first words another upstream may answer

BEFORE_CONTENT: dict[str, Answer | Script] = {
    "error event first": events({"error": {"message": "no", "type": "server_error", "param": None, "code": None}}),
    "role, then error": text("never seen") | error_event("no", after=1),
    "role and error in one read": text("never seen") | error_event("no", after=1) | all_at_once(),
    "role, then cut": text("never seen") | cut_after(1),
    "role, then reset": text("never seen") | reset_after(1),
    "role, then end": text("never seen") | eof_after(1),
    "role, then nonsense": text("never seen") | malformed_after(1),
    "role, then silence": text("never seen") | stall_after(1),
    "only [DONE]": events("[DONE]"),
    "headers, then cut": text("never seen") | cut_after(0),
    "headers, then silence": text("never seen") | stall_after(0),
    "silence": Script((Stall(),)),
    "silence without reading": Script((ReadNothing(),)),
    "cut": Script((Cut(),)),
    "reset": Script((Reset(),)),
    "500": error(500, "no"),
    "502 in HTML": html_error(502),
    "503": overloaded(),
    "529": overloaded(529),
    "429": rate_limited(3600),
    "401": error(401, "no"),
    "404": error(404, "no"),
    "context length": context_length_exceeded(),
    "not a stream": Script((Head(headers=(("Content-Type", "application/json"),)), Send(b"{}"), Cut())),
    "not HTTP": Script((Head(reason="\x00"), Cut())),
}


@pytest.mark.parametrize("name", BEFORE_CONTENT)
async def test_whatever_goes_wrong_before_the_first_words_another_upstream_answers(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, name: str
) -> None:
    """R1, FAULTS.md 6, 8, 9, 15: the choice of an upstream is final only with the first piece of the answer."""
    upstream.always(BEFORE_CONTENT[name])
    other.script(text("one two three"))
    gateway = await serve(upstream, other, timeouts=QUICK)
    answer = await gateway.stream()
    assert answer.status == 200
    assert answer.text == "one two three"
    assert answer.is_done
    assert sum("role" in delta for delta in answer.deltas) == 1
    assert len(other.requests) == 1
    assert len(upstream.requests) <= 2, "at most one retry where another upstream is at hand"
    line = await gateway.wait_for_line()
    assert (line["upstream"], line["outcome"]) == ("up1", "finished")
    assert line["attempts"] == upstream.connections + 1


@pytest.mark.parametrize("name", ["500", "429", "cut", "reset", "502 in HTML", "context length", "401"])
async def test_a_whole_answer_fails_over_as_a_stream_does(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, name: str
) -> None:
    upstream.always(BEFORE_CONTENT[name])
    other.script(text("one two three"))
    gateway = await serve(upstream, other)
    response = await gateway.ask()
    assert response.json()["choices"][0]["message"]["content"] == "one two three"


@pytest.mark.parametrize("timeouts", [{"whole": 0.3}, {"total": 1.0}], ids=["its limit", "its share of the total"])
@pytest.mark.parametrize("name", ["silence", "headers, then silence"])
async def test_a_whole_answer_is_not_waited_for_to_the_end_where_another_upstream_could_give_it(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, timeouts: dict[str, float], name: str
) -> None:
    """R8: nothing is heard of a whole answer while it is made, so nobody knows whether it ever will be."""
    upstream.always(BEFORE_CONTENT[name])
    other.script(text("one two three"))
    gateway = await serve(upstream, other, timeouts=timeouts)
    response = await gateway.ask()
    assert response.json()["choices"][0]["message"]["content"] == "one two three"
    await upstream.wait_until_left()
    assert len(upstream.requests) == 1
    assert (await gateway.wait_for_line())["attempts"] == 2
    assert (await gateway.metrics())['unbroken_retries_total{fault="whole_timeout",upstream="up0"}'] == 1


@pytest.mark.parametrize("attempts", [1, 2])
async def test_the_last_upstream_has_all_the_time_that_is_left_for_a_whole_answer(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream, attempts: int
) -> None:
    """A server that computes for minutes is silent all the while; there is nothing to gain by leaving it."""
    gate = Gate()
    for scripted in (upstream, other):
        scripted.always(text("one two three") | before_head(Hold(gate)))
    gateway = await serve(upstream, other, timeouts={"whole": 0.05}, retries={"attempts": attempts})
    asking = asyncio.ensure_future(gateway.ask())
    await (upstream, other)[attempts - 1].wait_for_requests(1)
    await asyncio.wait({asking}, timeout=0.3)  # six times the limit
    assert not asking.done()
    gate.open()
    assert (await asking).json()["choices"][0]["message"]["content"] == "one two three"


async def test_a_slow_upstream_is_not_left_for_one_that_cannot_be_asked(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R8, T2: it has no word for log probabilities, and would answer 400 with the first one's answer on its way."""
    gate = Gate()
    upstream.always(text("one two three") | before_head(Hold(gate)))
    without_words = upstream_settings("up1", other, dialect="anthropic-messages")
    gateway = await serve(upstream_settings("up0", upstream), without_words, timeouts={"whole": 0.05})
    asking = asyncio.ensure_future(gateway.ask(logprobs=True))
    await upstream.wait_for_requests(1)
    await asyncio.wait({asking}, timeout=0.3)
    gate.open()
    assert (await asking).status_code == 200
    assert not other.requests


# --- time

SLOW: dict[str, tuple[dict[str, float], Answer | Script, str, str]] = {
    "headers": ({"headers": 0.1}, Script((Stall(),)), "headers_timeout", "no response within 0.1 s"),
    "first token": ({"first_token": 0.1}, text("x") | stall_after(1), "first_token_timeout", "no first token within"),
    "total": ({"total": 0.1}, Script((Stall(),)), "total_timeout", "the answer was not complete within 0.1 s"),
    "between tokens": (
        {"between_tokens": 0.1},
        text("x y") | stall_after(2),
        "between_tokens_timeout",
        "no further token within 0.1 s",
    ),
}


@pytest.mark.parametrize("name", SLOW)
async def test_each_time_limit_has_words_of_its_own(serve, upstream: ScriptedUpstream, name: str) -> None:
    """R7, FAULTS.md 9: and a silent upstream is not asked twice."""
    timeouts, script, code, message = SLOW[name]
    upstream.always(script)
    gateway = await serve(upstream, timeouts=timeouts)
    answer = await gateway.stream()
    assert answer.status == (200 if name == "between tokens" else 504)
    assert answer.error["code"] == code
    assert answer.error["message"].startswith(f'upstream "up0": {message}')
    await upstream.wait_until_left()
    assert len(upstream.requests) == 1


async def test_a_connection_that_is_not_made_in_time_is_a_504(serve, upstream: ScriptedUpstream) -> None:
    """The port takes connections, but nobody ever answers the TLS handshake."""
    upstream.always(Script((ReadNothing(),)))
    silent = upstream_settings("up0", upstream, base_url=upstream.base_url.replace("http:", "https:"))
    gateway = await serve(silent, timeouts={"connect": 0.3})
    for answer in (await gateway.stream(), await gateway.ask()):
        error = answer.error if hasattr(answer, "error") else answer.json()["error"]
        assert error["code"] == "connect_timeout"
        assert f"no connection to 127.0.0.1:{upstream.port} within 0.3 s" in error["message"]
    assert upstream.connections == 2
    await upstream.wait_until_unconnected()


async def test_a_connection_that_is_not_made_in_time_fails_over(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(Script((ReadNothing(),)))
    silent = upstream_settings("up0", upstream, base_url=upstream.base_url.replace("http:", "https:"))
    gateway = await serve(silent, upstream_settings("up1", other), timeouts={"connect": 0.3})
    assert (await gateway.stream()).text == "one two three"


async def test_the_total_limit_holds_for_whole_answers_and_while_connecting(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(Script((Stall(),)))
    gateway = await serve(upstream, timeouts={"total": 0.1})
    response = await gateway.ask()
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "total_timeout"
    await upstream.wait_until_left()
    silent = upstream_settings("up0", upstream, base_url=upstream.base_url.replace("http:", "https:"))
    gateway = await serve(silent, timeouts={"total": 0.1})
    assert (await gateway.ask()).json()["error"]["code"] == "total_timeout"
    assert (await gateway.stream()).error["code"] == "total_timeout"


async def test_the_total_limit_holds_while_waiting_for_a_retry(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 7: also where an upstream asked for more patience than there is."""
    upstream.always(rate_limited(5))
    gateway = await serve(upstream, timeouts={"total": 0.1})
    for status in ((await gateway.stream()).status, (await gateway.ask()).status_code):
        assert status == 504
    assert len(upstream.requests) == 2


async def test_the_limit_between_tokens_begins_with_the_first_token(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R7: a long prefill is no gap between tokens."""
    gate = Gate()
    upstream.script(text("one two three") | hold_after(1, gate))
    other.script(text("x y z") | stall_after(2))
    settings = (upstream_settings("up0", upstream), upstream_settings("up1", other, models=("clock",)))
    gateway = await serve(*settings, timeouts={"between_tokens": 0.3})
    asking = asyncio.ensure_future(gateway.stream())
    await gate.wait_until_reached()
    assert (await gateway.stream(model="clock")).error["code"] == "between_tokens_timeout", "the limit passes"
    gate.open()
    assert (await asking).is_done


async def test_chunks_without_content_do_not_stretch_the_limit_of_the_first_token(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """FAULTS.md 9: a server that sends empty chunks for ever has not begun to answer."""
    empty = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n'
    pauses = [step for _ in range(1000) for step in (Hold(_Soon()), Send(empty))]
    upstream.script(Script((Head(), *pauses, Stall())))
    gateway = await serve(upstream, other, timeouts={"first_token": 0.3})
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert len(other.requests) == 1


class _Soon:
    async def wait(self) -> None:
        await asyncio.sleep(0.01)


async def test_what_comes_before_the_first_words_is_bounded(serve, upstream: ScriptedUpstream) -> None:
    """L9: an upstream that sends nothing but empty chunks fills no memory."""
    empty = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n' * 1000
    upstream.always(Script((Head(), *[Send(empty)] * 200, Stall())))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.status == 502
    assert answer.error["code"] == "too_large"
    assert "before the first token" in answer.error["message"]


# --- 429 and Retry-After


async def test_a_rate_limit_sends_the_request_to_the_next_upstream_at_once(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R2, FAULTS.md 7: nobody waits for a limit to pass where another can answer."""
    upstream.always(rate_limited(5))
    gateway = await serve(upstream, other, timeouts={"total": 4})
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert len(upstream.requests) == 1


async def test_retry_after_is_waited_out_where_there_is_no_other(serve, upstream: ScriptedUpstream) -> None:
    """R2, FAULTS.md 7."""
    upstream.script(rate_limited(retry_after_ms=20), rate_limited(0), text("one two three"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert len(upstream.requests) == 3


async def test_a_retry_after_beyond_the_bound_is_handed_to_the_client(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 7."""
    upstream.always(rate_limited(60))
    gateway = await serve(upstream, retries={"retry_after_most": 10})
    for headers in ((await gateway.stream()).headers, (await gateway.ask()).headers):
        assert headers["retry-after"] == "60"
    assert len(upstream.requests) == 2


async def test_a_retry_after_may_be_a_date(serve, upstream: ScriptedUpstream) -> None:
    """It is measured from the upstream's own date: clocks differ."""
    dates = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT"}
    upstream.always(rate_limited() | with_headers(dates))
    gateway = await serve(upstream, retries={"retry_after_most": 10})
    assert (await gateway.stream()).headers["retry-after"] == "60"
    assert len(upstream.requests) == 1


async def test_an_overloaded_server_that_wants_a_pause_is_left_for_another(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """FAULTS.md 7, 8."""
    upstream.always(error(503, "busy", headers={"Retry-After": 5}))
    gateway = await serve(upstream, other, timeouts={"total": 4})
    assert (await gateway.stream()).text == "one two three"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("script", [rate_limited(), rate_limited(0), rate_limited("soon")])
async def test_a_rate_limit_without_end_is_asked_a_few_times_only_and_told_with_retry_after(
    serve, upstream: ScriptedUpstream, script: Answer
) -> None:
    """R2, H5, FAULTS.md 7, 34: never a tight loop; 429 keeps its status, and always says when to come back."""
    upstream.always(script)
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.error["code"] == "rate_limit_exceeded"
    assert "Rate limit reached" in answer.error["message"]
    assert len(upstream.requests) == 4


# --- 5xx, resets, refusals


async def test_a_500_is_tried_once_more_on_the_same_upstream(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R2, FAULTS.md 8."""
    upstream.script(error(500, "hiccup"), text("four five"))
    gateway = await serve(upstream, other)
    assert (await gateway.stream()).text == "four five"
    assert not other.requests


async def test_503_for_ever_ends_after_a_bounded_number_of_attempts(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R2, FAULTS.md 8: the bound is over all upstreams, and the client gets the upstream's own words."""
    upstream.always(overloaded())
    other.always(overloaded())
    gateway = await serve(upstream, other, retries={"attempts": 3})
    answer = await gateway.stream()
    assert answer.status == 503
    assert answer.error["message"] == 'upstream "up1": The server is overloaded'
    assert len(upstream.requests) == 2
    assert len(other.requests) == 1
    metrics = await gateway.metrics()
    assert metrics['unbroken_retries_total{fault="overloaded",upstream="up0"}'] == 2


async def test_a_reset_before_the_headers_is_retried(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 8."""
    upstream.script(Script((Reset(),)), Script((Cut(),)), text("one two three"))
    gateway = await serve(upstream)
    assert (await gateway.stream()).text == "one two three"


async def test_nobody_listening_is_a_502_that_says_where(serve, upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.status == 502
    assert answer.error["code"] == "connect"
    assert f"cannot connect to 127.0.0.1:{upstream.port}" in answer.error["message"]
    await upstream.start()
    assert (await gateway.stream()).text == "one two three"


async def test_an_error_of_the_callers_making_is_told_at_once(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R3, H5, FAULTS.md 15: no upstream would answer otherwise."""
    upstream.always(error(400, "temperature must be at most 2", param="temperature", code="invalid_value"))
    gateway = await serve(upstream, other)
    for answer in (await gateway.stream(), await gateway.ask()):
        error_seen = answer.error if hasattr(answer, "error") else answer.json()["error"]
        assert error_seen == {
            "message": "temperature must be at most 2",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        }
    assert not other.requests


async def test_a_prompt_that_is_too_long_goes_to_the_next_upstream_or_back_with_its_words(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R3, R4, FAULTS.md 15: the next one may have a larger window; never the same one again."""
    upstream.always(context_length_exceeded())
    other.script(text("one two three"))
    other.always(error(500, "oops"))
    gateway = await serve(upstream, other)
    assert (await gateway.stream()).text == "one two three"
    answer = await gateway.stream()
    assert answer.status == 400, "what the caller can mend is told rather than what it cannot"
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["message"] == "This model's maximum context length is 4096 tokens."
    assert len(upstream.requests) == 2


async def test_a_rejected_prompt_is_not_offered_elsewhere(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R3, FAULTS.md 15."""
    upstream.always(content_policy_violation())
    gateway = await serve(upstream, other)
    answer = await gateway.stream()
    assert answer.status == 400
    assert answer.error["code"] == "content_policy_violation"
    assert answer.error["message"] == "Your request was rejected by our safety system."
    assert len(upstream.requests) == 1
    assert not other.requests


@pytest.mark.parametrize("change", [error_event("slow down", after=1, code="rate_limit_exceeded")])
async def test_an_error_event_is_known_by_its_code(serve, upstream: ScriptedUpstream, change: Change) -> None:
    """FAULTS.md 6, 33: a 200 with an error in its first event is the error, with its status."""
    upstream.always(text("x") | change)
    gateway = await serve(upstream, retries=ALONE_BUT_ONCE)
    answer = await gateway.stream()
    assert answer.status == 429
    assert "retry-after" in answer.headers


# --- circuit breaker


BROKEN = {"attempts": 4, "breaker_failures": 2, "breaker_cooldown": 3600}
COOLED = {**BROKEN, "breaker_cooldown": 0}  # a reload to this lets the cooldown pass, without any waiting


async def test_a_broken_upstream_is_left_alone_then_probed_and_taken_back(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """R5, FAULTS.md 16."""
    upstream.script(*[error(500, "broken")] * 4)
    upstream.always(text("well again"))
    gateway = await serve(upstream, other, retries=BROKEN)
    for question in range(4):
        assert (await gateway.stream(f"question {question}")).text == "one two three"
    assert len(upstream.requests) == 4, "while the circuit is open nobody asks"
    metrics = await gateway.metrics()
    assert metrics['unbroken_upstream_up{upstream="up0"}'] == 0
    assert metrics['unbroken_upstream_up{upstream="up1"}'] == 1

    gateway.gateway.apply(settings_of(upstream, other, retries=COOLED))
    assert (await gateway.stream()).text == "well again", "the probe is a client's own request"
    gateway.gateway.apply(settings_of(upstream, other, retries=BROKEN))
    assert (await gateway.stream()).text == "well again"
    assert (await gateway.metrics())['unbroken_upstream_up{upstream="up0"}'] == 1
    circuits = [line["circuit"] for line in gateway.log_lines() if line["event"] == "upstream"]
    assert circuits == ["open", "closed"]


async def test_a_probe_that_fails_keeps_the_circuit_open(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """FAULTS.md 16: and the request that probed is answered by another."""
    upstream.always(error(500, "broken"))
    gateway = await serve(upstream, other, retries=BROKEN)
    await gateway.stream("one")
    await gateway.stream("two")
    gateway.gateway.apply(settings_of(upstream, other, retries=COOLED))
    assert (await gateway.stream()).text == "one two three"
    seen = len(upstream.requests)
    assert seen > 4
    gateway.gateway.apply(settings_of(upstream, other, retries=BROKEN))
    assert (await gateway.stream()).text == "one two three"
    assert len(upstream.requests) == seen


async def test_an_answer_that_began_before_the_circuit_opened_closes_it_by_ending_well(
    serve, upstream: ScriptedUpstream
) -> None:
    """R5, FAULTS.md 16: whoever shows that the upstream is well, whenever it began."""
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    upstream.always(error(500, "broken"))
    gateway = await serve(upstream, retries={"breaker_failures": 2, "breaker_cooldown": 60})
    async with gateway.reading() as reading:
        await reading.read_text("one")
        await gateway.stream("one")
        await gateway.stream("two")
        assert (await gateway.stream()).error["code"] == "no_upstream"
        gate.open()
        assert (await reading.read_to_end()).is_done
    upstream.always(text("well again"))
    assert (await gateway.stream()).text == "well again"


async def test_only_one_request_probes(serve, upstream: ScriptedUpstream, other: ScriptedUpstream) -> None:
    """R5, FAULTS.md 16."""
    gate = Gate()
    upstream.script(*[error(500, "broken")] * 4, text("well again") | before_head(Hold(gate)))
    gateway = await serve(upstream, other, retries=BROKEN)
    await gateway.stream("one")
    await gateway.stream("two")
    gateway.gateway.apply(settings_of(upstream, other, retries=COOLED))
    probe = asyncio.ensure_future(gateway.stream())
    await gate.wait_until_reached()
    gateway.gateway.apply(settings_of(upstream, other, retries=BROKEN))
    more = await asyncio.gather(*(gateway.stream() for _ in range(10)))
    assert {answer.text for answer in more} == {"one two three"}
    assert len(upstream.requests) == 5
    gate.open()
    assert (await probe).text == "well again"


async def test_when_every_upstream_is_left_alone_the_client_is_told_when_to_come_back(
    serve, upstream: ScriptedUpstream
) -> None:
    upstream.always(error(500, "broken"))
    gateway = await serve(upstream, retries={"breaker_failures": 2})
    assert [(await gateway.stream(question)).status for question in ("one", "two")] == [500, 500]
    seen = len(upstream.requests)
    answer = await gateway.stream()
    assert answer.status == 503
    assert answer.error["code"] == "no_upstream"
    message = 'no upstream for "m" is well: "up0" answered with a server error (500); one is asked again in 10 s'
    assert answer.error["message"] == message
    assert answer.headers["retry-after"] == "10"
    count = await gateway.client.post("/messages/count_tokens", json=gateway.body())
    assert count.json()["error"]["message"] == message
    assert count.headers["retry-after"] == "10"
    assert len(upstream.requests) == seen


async def test_when_all_are_left_alone_the_first_to_be_asked_again_decides(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(Script((Reset(),)))
    other.always(overloaded())
    gateway = await serve(upstream, other, retries={"attempts": 3, "breaker_failures": 1, "breaker_cooldown": 90.2})
    await gateway.stream()
    answer = await gateway.stream()
    assert answer.error["message"].startswith('no upstream for "m" is well: "up0" closed the connection before it')
    assert '; "up1" was overloaded (503); one is asked again in 9' in answer.error["message"]
    assert int(answer.headers["retry-after"]) in (90, 91)


async def test_a_request_that_fails_by_itself_takes_no_upstream_from_others(serve, upstream: ScriptedUpstream) -> None:
    """Some servers answer 500 to what they cannot read; whoever sends it sends it again, and their SDK does too."""
    upstream.always(error(500, "cannot parse this"))
    gateway = await serve(upstream, retries={"breaker_failures": 2})
    assert [(await gateway.stream("odd")).status for _ in range(4)] == [500] * 4
    upstream.always(text("x") | error_event("cannot parse this", after=0))
    assert [(await gateway.stream("odd")).status for _ in range(2)] == [502] * 2
    upstream.always(text("well"))
    assert (await gateway.stream()).text == "well"


async def test_what_no_request_can_be_at_fault_for_counts_each_time(serve, upstream: ScriptedUpstream) -> None:
    upstream.always(Script((Reset(),)))
    gateway = await serve(upstream, retries={"attempts": 1, "breaker_failures": 2})
    assert [(await gateway.stream()).status for _ in range(3)] == [502, 502, 503]


@pytest.mark.parametrize("script", [rate_limited(60), error(400, "bad"), context_length_exceeded()])
async def test_errors_that_are_not_the_upstreams_fault_open_no_circuit(
    serve, upstream: ScriptedUpstream, script: Answer
) -> None:
    upstream.always(script)
    gateway = await serve(upstream, retries={"breaker_failures": 1})
    for _ in range(3):
        assert (await gateway.stream()).status in (400, 429)
    assert len(upstream.requests) == 3


# --- secrets (L10)

REVEALING: dict[str, Answer] = {
    "401": error(401, f"Incorrect API key provided: {UPSTREAM_KEY}", code="invalid_api_key"),
    "403": error(403, f"{UPSTREAM_KEY} may not do that"),
    "400": error(400, f"bad header: Bearer {UPSTREAM_KEY}"),
    "500": error(500, f"failed with {UPSTREAM_KEY}"),
    "in the header of ours": error(500, "failed with very-private-header"),
    "first event": text("x") | error_event(f"failed with {UPSTREAM_KEY} very-private-header", after=1),
    "later event": text("x y") | error_event(f"failed with {UPSTREAM_KEY} very-private-header", after=2),
}


@pytest.mark.parametrize("name", REVEALING)
async def test_our_key_never_reaches_a_client_a_log_line_or_the_metrics(
    serve, upstream: ScriptedUpstream, name: str
) -> None:
    """L10: whatever an upstream repeats."""
    upstream.always(REVEALING[name])
    settings = upstream_settings("up0", upstream, headers={"x-api-key": "very-private-header"})
    gateway = await serve(settings, retries=ALONE_BUT_ONCE)
    answer = await gateway.stream()
    response = await gateway.ask()
    await gateway.wait_until_idle()
    metrics = (await gateway.client.get(f"http://127.0.0.1:{gateway.port}/metrics")).text
    for seen in (answer.raw.decode(), response.text, str(gateway.log_lines()), metrics):
        assert UPSTREAM_KEY not in seen
        assert "very-private-header" not in seen
    assert "***" in answer.error["message"]


async def test_an_upstream_that_refuses_our_key_is_a_502_that_blames_nobodys_key(
    serve, upstream: ScriptedUpstream
) -> None:
    """H6: a 401 would send the caller looking at its own key."""
    upstream.always(REVEALING["401"])
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.status == 502
    assert answer.error["type"] == "server_error"
    assert answer.error["code"] == "unauthorized"
    assert len(upstream.requests) == 1


async def test_a_clients_key_never_goes_up(serve, upstream: ScriptedUpstream) -> None:
    """L10: nor do its cookies and other headers."""
    gateway = await serve(upstream, keys={"app": "client-key-1234"})
    headers = {"cookie": "session=1", "x-api-key": "client-key-1234", "openai-organization": "org-client"}
    assert (await gateway.stream(headers=headers)).is_done
    await gateway.ask(headers=headers)
    for request in upstream.requests:
        assert request.header("authorization") == f"Bearer {UPSTREAM_KEY}"
        assert "client" not in str(request.headers)
        assert request.header("cookie") is None
        assert b"client-key" not in request.body


async def test_an_upstream_without_a_key_is_sent_none(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream_settings("up0", upstream, api_key=""))
    assert (await gateway.stream()).is_done
    assert upstream.requests[0].header("authorization") is None
