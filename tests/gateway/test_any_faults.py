"""Whatever upstreams do: exactly one terminal, and text that is a beginning of what they said (laws 1 and 4)."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
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
from unbroken.wire.sse import SseReader

from .conftest import Answer as Received
from .conftest import Served, upstream_settings

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

QUICK = {"headers": 0.05, "first_token": 0.05, "between_tokens": 0.05, "after_finish": 0.05, "total": 2.0}


def in_turn(queue: list[Answer | Script]) -> Callable[[object], Answer | Script]:
    """Answers with each of these once, then well."""
    left = iter(queue)
    return lambda _: next(left, text(SAID))


def check(answer: Received) -> None:
    """What must be true of every stream, whatever was scripted."""
    if answer.status != 200:
        check_error(answer.status, answer.error)
        return
    errors = sum("error" in chunk for chunk in answer.chunks)
    assert errors + answer.blocks.count(b"[DONE]") == 1, "exactly one terminal"
    assert SAID.startswith(answer.text)
    if answer.is_done:
        assert answer.text == SAID
        assert [reason for reason in answer.finish_reasons if reason] == ["stop"]
    else:
        assert "error" in answer.chunks[-1], "nothing follows the terminal"
    assert sum("role" in delta for delta in answer.deltas) <= 1
    assert len({chunk["id"] for chunk in answer.chunks if "id" in chunk}) <= 1


def check_whole(response: httpx2.Response) -> None:
    """What must be true of every whole answer."""
    if response.status_code == 200:
        assert response.json()["choices"][0]["message"]["content"] == SAID
    else:
        check_error(response.status_code, response.json()["error"])


def check_error(status: int, error: dict[str, Any] | None) -> None:
    assert 400 <= status < 600
    assert set(error or {}) == {"message", "type", "param", "code"}


async def check_resumed(gateway: Served) -> None:
    """A durable answer, which any prefix and what is read behind it make whole (L3, D3)."""
    answer = await gateway.stream(headers={"unbroken-durable": "true"})
    check(answer)
    if answer.status != 200:
        return
    for after in range(len(answer.blocks) + 1):
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        rest = await gateway.client.get(f"/streams/{answer.headers['unbroken-stream']}", headers=headers)
        if rest.status_code == 404:  # it failed before its first token, and nobody waits for it any more (D8)
            assert answer.error is not None
            return
        assert [event.data for event in SseReader().feed(rest.content)] == answer.blocks[after:]


async def test_any_script_of_faults_ends_in_exactly_one_terminal_and_repeats_nothing(
    serve, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """L1, L4; FAULTS.md 1-10, 13, 14."""
    retries = {"breaker_failures": 1000, "backoff_first": 0.001}
    one = await serve(upstream, timeouts=QUICK, retries=retries, keep_alive={"first": 0.05, "every": 0.05})
    two = await serve(upstream, other, timeouts=QUICK, retries=retries)
    again = [upstream_settings(f"up{n}", one, continuation="match") for n, one in enumerate((upstream, other))]
    going_on = await serve(*again, timeouts=QUICK, retries=retries, keep_alive={"first": 0.05, "every": 0.05})

    async def ask(
        scripts: list[Answer | Script], others: list[Answer | Script], readers: int, is_continued: bool
    ) -> None:
        for scripted, queue in ((upstream, scripts), (other, others)):
            scripted.answer_with(in_turn(queue))
        gateway = going_on if is_continued else two if others else one
        if is_continued:
            await check_resumed(gateway)
        streams = asyncio.gather(*(gateway.stream() for _ in range(readers)))
        wholes = asyncio.gather(*(gateway.ask() for _ in range(readers - 1)))
        for answer in await streams:
            check(answer)
        for response in await wholes:
            check_whole(response)
        await gateway.wait_until_idle()

    loop = asyncio.get_running_loop()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(answers, min_size=1, max_size=6), st.lists(answers, max_size=4), st.integers(1, 3), st.booleans())
    def run(scripts: list[Answer | Script], others: list[Answer | Script], readers: int, is_continued: bool) -> None:
        asyncio.run_coroutine_threadsafe(ask(scripts, others, readers, is_continued), loop).result(30)

    await asyncio.to_thread(run)
    assert len(upstream.requests) > 100, "the property has been put to the test"
