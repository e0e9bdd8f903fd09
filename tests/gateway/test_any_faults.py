"""Whatever upstreams do: exactly one terminal, and text that is a beginning of what they said (laws 1 and 4)."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbroken.upstream.scripted import (
    Answer,
    Cut,
    Head,
    Reset,
    Script,
    ScriptedUpstream,
    Stall,
    all_at_once,
    context_length_exceeded,
    cut_after,
    eof_after,
    error,
    error_event,
    finish_empty_string,
    html_error,
    insert_after,
    line_ends,
    malformed_after,
    no_done,
    no_finish,
    one_byte_at_a_time,
    overloaded,
    rate_limited,
    reset_after,
    split_writes,
    stall_after,
    stays_open,
    text,
    with_comments,
    without_role,
)

from .conftest import Answer as Received

pytestmark = pytest.mark.anyio

SAID = "one two three four"

places = st.integers(0, 7)
endings = st.one_of(
    *(st.builds(change, places) for change in (cut_after, reset_after, eof_after, stall_after, malformed_after)),
    st.builds(lambda after: error_event("no", after=after), places),
    st.sampled_from([no_done(), no_finish(), stays_open()]),
)
writings = st.sampled_from(
    [
        all_at_once(),
        one_byte_at_a_time(),
        split_writes(11),
        line_ends("\r\n"),
        with_comments(),
        without_role(),
        finish_empty_string(),
        insert_after(2, b": comment\n\n", b"data:\n\n"),
    ]
)


def changed(answer: Answer, changes: list) -> Answer:
    for change in changes:
        answer |= change
    return answer


answers = st.one_of(
    st.builds(
        lambda ending, writing: changed(text(SAID), [*ending, *writing]),
        st.lists(endings, max_size=2),
        st.lists(writings, max_size=2),
    ),
    st.sampled_from(
        [
            error(500, "no"),
            error(400, "no"),
            error(401, "no"),
            error(404, "no"),
            html_error(502),
            overloaded(),
            overloaded(529),
            rate_limited(),
            rate_limited(99),
            context_length_exceeded(),
            Script((Stall(),)),
            Script((Cut(),)),
            Script((Reset(),)),
            Script((Head(), Reset())),
        ]
    ),
)

QUICK = {"headers": 0.04, "first_token": 0.04, "between_tokens": 0.04, "after_finish": 0.02, "total": 2.0}


def check(answer: Received) -> None:
    if answer.status != 200:
        assert 400 <= answer.status < 600
        assert set(answer.error) == {"message", "type", "param", "code"}
        return
    errors = sum("error" in chunk for chunk in answer.chunks)
    assert errors + answer.blocks.count(b"[DONE]") == 1, "exactly one terminal"
    assert SAID.startswith(answer.text)
    reasons = [reason for reason in answer.finish_reasons if reason]
    if answer.is_done:
        assert answer.text == SAID
        assert reasons == ["stop"]
    else:
        assert "error" in answer.chunks[-1], "nothing follows the terminal"
    assert sum("role" in delta for delta in answer.deltas) <= 1
    assert len({chunk["id"] for chunk in answer.chunks if "id" in chunk}) <= 1


async def test_any_script_of_faults_ends_in_exactly_one_terminal_and_repeats_nothing(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """Laws 1 and 4; FAULTS.md 1-10, 13, 14."""
    retries = {"breaker_failures": 10_000, "backoff_first": 0.001}
    one = await serve(upstream, timeouts=QUICK, retries=retries, keep_alive={"first": 0.03, "every": 0.03})
    two = await serve(upstream, other, timeouts=QUICK, retries=retries)

    async def ask(scripts: list[Answer | Script], others: list[Answer | Script], streams: int) -> None:
        for scripted, queue in ((upstream, scripts), (other, others)):
            scripted._queued.clear()
            if queue:
                scripted.script(*queue)
            scripted.always(text(SAID))
        for received in await asyncio.gather(*((two if others else one).stream() for _ in range(streams))):
            check(received)

    loop = asyncio.get_running_loop()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(answers, min_size=1, max_size=5), st.lists(answers, max_size=3), st.integers(1, 3))
    def run(scripts: list[Answer | Script], others: list[Answer | Script], streams: int) -> None:
        asyncio.run_coroutine_threadsafe(ask(scripts, others, streams), loop).result(30)

    await asyncio.to_thread(run)
