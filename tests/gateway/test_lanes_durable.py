"""Lanes to a durable log change nothing: slow stores, stores that fail, other owners, and bounds."""

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.gateway.lane_answers import DURABLE, Asked, followed, spoken
from tests.gateway.lane_scripts import scripts
from tests.gateway.lane_stage import check
from tests.gateway.lane_steps import (
    HAPPENS,
    AnotherClaims,
    Cancelled,
    ClientGoesOn,
    ClientIsSlow,
    Read,
    Silence,
    Step,
    StoreFails,
    StoreIsSlow,
    UpstreamLeaves,
)
from tests.gateway.lane_upstreams import ALPHABET, CHAT, CHAT_BEGIN, PAIRS, UPSTREAMS
from unbroken.upstream.chunked import LONGEST

DURABLY_ASKED = [
    Asked("openai-chat", "openai-chat", durable=DURABLE),
    Asked("openai-chat", "openai-chat", durable="idempotency-key: k", fields=(("n", 2),)),
    Asked("openai-chat", "openai-chat", durable=DURABLE, max_stream_bytes=9000),
    Asked("openai-chat", "openai-chat", durable=DURABLE, max_pending_bytes=3000),
    Asked("openai-chat", "openai-chat", durable=DURABLE, fields=(("stream", False),)),
    Asked("openai-chat", "openai-chat", durable=DURABLE, version="1.0"),
    Asked("anthropic-messages", "openai-chat", durable=DURABLE),
    Asked("openai-chat", "anthropic-messages", durable=DURABLE),
]


@pytest.mark.parametrize("asked", DURABLY_ASKED, ids=lambda asked: f"{asked.client} of {asked.upstream}")
def test_lanes_to_a_durable_log_change_nothing_whatever_happens(asked: Asked) -> None:
    in_lanes: list[int] = []

    @settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(scripts(asked.upstream, is_durable=True))
    def look(steps: list[Step]) -> None:
        answer = check(asked, *steps)
        in_lanes.append(answer.in_lanes)
        if asked.durable == DURABLE and isinstance(
            answer.kept[0], list
        ):  # else it has failed at once, and is forgotten
            said = re.sub(rb"(?m)^event: ping\ndata: .*\n\n|^: keep-alive\n", b"", followed(answer))
            assert b"".join(block for _, block in answer.kept[0]).startswith(said)

    look()
    assert sum(taken > 3 for taken in in_lanes) > 0.25 * len(in_lanes)


# one by one


@pytest.mark.parametrize("fields", [(), (("stream", False),)], ids=["stream", "whole"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_the_pieces_of_a_durable_answer_go_through_a_lane(
    client: str, upstream: str, fields: tuple[tuple[str, Any], ...]
) -> None:
    way = UPSTREAMS[upstream]
    texts = [step for read in way.says(*ALPHABET) for step in (read, Silence(0.02))]  # later than APART
    answer = check(Asked(client, upstream, fields=fields, durable=DURABLE), *way.begins, *texts, *way.ends)
    assert answer.lines[0]["outcome"] == "finished"
    assert answer.in_lanes > 20
    log, (last, has_ended, *_), *_ = answer.kept
    assert [offset for offset, _ in log] == [*range(1, last + 1)]
    assert has_ended
    if fields:
        return
    assert spoken(answer) == ALPHABET
    assert followed(answer) == b"".join(block for _, block in log)
    assert len(answer.body) > 26, "each commit is a write"


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02])
def test_durable_texts_that_wait_for_the_store_are_committed_together(seconds: float) -> None:
    texts = [step for read in CHAT.says(*ALPHABET) for step in (read, Silence(0.003))]
    answer = check(Asked(durable=DURABLE), *CHAT.begins, StoreIsSlow(seconds), *texts, *CHAT.ends)
    assert answer.in_lanes > 20
    assert spoken(answer) == ALPHABET
    assert 3 < len(answer.body) < 26


STORE_HAPPENS: dict[str, list[Step]] = HAPPENS | {
    "the store is slow": [StoreIsSlow(0.3)],
    "the store is slow for a while": [StoreIsSlow(0.3), Silence(0.1), StoreIsSlow(0.0)],
    "the store is away for a while": [StoreFails(3.0)],
    "the store is away for a long while": [StoreFails(60.0)],
    "the store is away for a long while, and nobody speaks": [StoreFails(60.0), Silence(20.0)],
    "another claims the stream": [AnotherClaims()],
    "the stream is cancelled": [Cancelled()],
}


@pytest.mark.parametrize("name", STORE_HAPPENS)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_whatever_happens_beside_a_lane_to_a_durable_log(client: str, upstream: str, name: str) -> None:
    way = UPSTREAMS[upstream]
    before, between, behind = way.says(*ALPHABET[:20]), way.says(*ALPHABET[20:23]), way.says(*ALPHABET[23:])
    happens = [*STORE_HAPPENS[name], *between, Silence(0.02), ClientGoesOn(), *behind]
    for gap in (0.0, 0.003, 0.02):  # nothing is committed, something, everything
        steps = [*way.begins, *before[:10], Silence(0.02), *before[10:], Silence(gap), *happens, *way.ends]
        answer = check(Asked(client, upstream, durable=DURABLE), *steps)
        assert answer.in_lanes > 15
        assert ALPHABET.startswith(spoken(answer))


def test_a_durable_answer_whose_head_fills_the_clients_buffer_comes_once() -> None:
    """A client that has not read its last answer has little room for the head of the next."""
    begin, texts = CHAT.begins, [step for read in CHAT.says(*ALPHABET) for step in (read, Silence(0.01))]
    steps = [begin[0], ClientIsSlow(in_head=True), *begin[1:], *texts[:20], ClientGoesOn(), *texts[20:], *CHAT.ends]
    answer = check(Asked(durable=DURABLE), *steps)
    assert followed(answer) == b"".join(block for _, block in answer.kept[0])


def test_no_more_durable_blocks_wait_for_the_store_than_may() -> None:
    """Lanes are bound to the byte as all that is appended is."""
    steps = [*CHAT.begins, *CHAT.says(*"abc"), Silence(1.0), *CHAT.says(*ALPHABET), Silence(1.0)]
    lengths = []
    for bound in range(1200, 1500, 10):
        answer = check(Asked(durable=DURABLE, max_pending_bytes=bound), *steps, *CHAT.ends)
        assert answer.in_lanes > 5
        lengths.append(len(answer.kept[0]))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] < len(CHAT_BEGIN) + 3 + len(ALPHABET)


def test_a_durable_stream_is_as_long_as_it_may_be() -> None:
    joined = [Read(b"".join(read.data for read in CHAT.says(*"xyz")))] * 5
    for bound in range(2000, 2600, 10):
        asked = Asked(durable=DURABLE, max_stream_bytes=bound)
        answer = check(asked, *CHAT.begins, *CHAT.says(*"abcdef"), Silence(0.1), *joined, *CHAT.ends)
        assert answer.in_lanes > 4
        assert sum(len(block) for _, block in answer.kept[0][:-1]) <= bound


@pytest.mark.parametrize("letters", [LONGEST - 400, LONGEST - 200])
def test_how_a_durable_answer_fails_that_is_too_long_to_be_continued(letters: int) -> None:
    again = tuple(read.data for read in (*CHAT.begins, *CHAT.says("again"), *CHAT.ends))
    said = CHAT.says(*["x" * letters] * ((1 << 20) // letters + 5))
    outcomes = set()
    for less in range(0, 40, 4):
        steps = [*CHAT.begins, *said[less:], Silence(0.02), UpstreamLeaves(), Silence(1.0)]
        answer = check(Asked(durable=DURABLE, again=again), *steps)
        assert answer.in_lanes > 200
        outcomes.add(answer.lines[-1]["message"])
    assert len(outcomes) > 1
