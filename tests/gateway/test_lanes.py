"""Lanes change nothing: any upstream, read by read, with them and without them, whatever happens beside them."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.gateway.lane_answers import DURABLE, Asked, Played, read_events, spoken
from tests.gateway.lane_scripts import scripts
from tests.gateway.lane_stage import check
from tests.gateway.lane_steps import (
    HAPPENS,
    ClientGoesOn,
    ClientIsSlow,
    ClientLeaves,
    Read,
    Silence,
    Step,
    UpstreamLeaves,
)
from tests.gateway.lane_upstreams import ALPHABET, CHAT, PAIRS, UPSTREAMS, chat, chunk, data_line, words
from unbroken.gateway.attempt import FITS_BEFORE_LANE

ASKED = [
    Asked("openai-chat", "openai-chat"),
    Asked("openai-chat", "openai-chat", fields=(("n", 2), ("stream_options", {"include_usage": True}))),
    Asked("openai-chat", "openai-chat", spare_bytes=2000),
    Asked("anthropic-messages", "openai-chat"),
    Asked("openai-chat", "anthropic-messages", fields=(("stream_options", {"include_usage": True}),)),
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.client} of {asked.upstream}")
def test_lanes_change_nothing_whatever_happens(asked: Asked) -> None:
    in_lanes: list[int] = []

    @settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(scripts(asked.upstream, looks=asked.spare_bytes > 2000))  # what is held of more is not the same
    def look(steps: list[Step]) -> None:
        answer = check(asked, *steps)
        read_events(answer.text)
        in_lanes.append(answer.in_lanes)

    look()
    assert sum(taken > 3 for taken in in_lanes) > 0.25 * len(in_lanes)


# one by one


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_the_pieces_of_an_answer_go_through_a_lane(client: str, upstream: str) -> None:
    way = UPSTREAMS[upstream]
    answer = check(Asked(client, upstream), *way.begins, *way.says(*ALPHABET), *way.ends)
    assert spoken(answer) == ALPHABET
    assert answer.lines[0]["outcome"] == "finished"
    assert answer.in_lanes > 20
    assert len(answer.body) > 26, "each read is a write"


def test_a_client_that_knows_no_chunks_has_no_lane() -> None:
    answer = check(Asked(version="1.0"), *CHAT.begins, *CHAT.says(*ALPHABET), *CHAT.ends)
    assert spoken(answer) == ALPHABET
    assert answer.in_lanes == 0


def test_another_kind_of_text_has_a_lane_of_its_own() -> None:
    thinking = [Read(chunk(data_line(chat(b'"reasoning_content":%b' % text)))) for text in words(*ALPHABET)]
    answer = check(Asked(), *CHAT.begins, *thinking, *CHAT.says(*ALPHABET), *CHAT.ends)
    assert answer.in_lanes > 35


def test_each_choice_has_its_own_texts() -> None:
    reads = [Read(chunk(data_line(chat(b'"content":"%d"' % turn, index=turn % 2)))) for turn in range(40)]
    runs = [Read(chunk(data_line(chat(b'"content":"%d"' % turn, index=turn // 20)))) for turn in range(40)]
    first = Read(chunk(data_line(chat(b'"role":"assistant","content":""', index=1))))
    ends = [Read(chunk(data_line(chat(b"", b'"stop"', index=index)))) for index in (1, 0)]
    steps = [*CHAT.begins, first, *reads, *runs, *ends, Read(chunk(b"data: [DONE]\n\n"))]
    answer = check(Asked(fields=(("n", 2),)), *steps)
    assert answer.in_lanes > 5
    assert answer.lines[0]["outcome"] == "finished"


# what happens beside a lane


@pytest.mark.parametrize("name", HAPPENS)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_whatever_happens_beside_a_lane(client: str, upstream: str, name: str) -> None:
    way = UPSTREAMS[upstream]
    before, between, behind = way.says(*ALPHABET[:20]), way.says(*ALPHABET[20:23]), way.says(*ALPHABET[23:])
    steps = [*way.begins, *before, Silence(0.02), *HAPPENS[name], *between, ClientGoesOn(), *behind, *way.ends]
    answer = check(Asked(client, upstream), *steps)
    assert answer.in_lanes > 15
    assert ALPHABET.startswith(spoken(answer))


@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_lane_to_a_client_that_has_left_writes_nothing(count: int) -> None:
    then = b"".join(read.data for read in CHAT.says(*ALPHABET[20 : 20 + count]))
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*ALPHABET[:20]), ClientLeaves(then), *CHAT.ends)
    assert answer.in_lanes > 15
    assert spoken(answer) == ALPHABET[:20]


@pytest.mark.parametrize("seconds", [0.5, 0.999, 1.0, 1.5, 10.9, 11.1, 21.5, 29.9, 30.2])
def test_comments_and_limits_count_from_the_last_text_of_a_lane(seconds: float) -> None:
    steps = [*CHAT.begins, *CHAT.says(*ALPHABET[:9]), Silence(0.3), *CHAT.says(*ALPHABET[9:12]), Silence(seconds)]
    answer = check(Asked(), *steps, *CHAT.says(*ALPHABET[12:]), *CHAT.ends)
    assert answer.in_lanes > 5
    comments = [at for at, data in answer.body if data == b": keep-alive\n"]
    assert len(comments) == sum(seconds >= due for due in (1.0, 11.0, 21.0))
    assert (spoken(answer) == ALPHABET) == (seconds < 30)


def test_gaps_between_texts_are_counted_as_they_were() -> None:
    texts = CHAT.says(*ALPHABET)
    steps = [step for number, read in enumerate(texts) for step in (read, Silence(0.0007 * number))]
    answer = check(Asked(), *CHAT.begins, *steps, *CHAT.ends)
    assert answer.in_lanes > 20
    buckets = [
        line for line in answer.metrics.decode().splitlines() if line.startswith("unbroken_inter_token_seconds_b")
    ]
    assert len({line.split()[-1] for line in buckets}) > 3


def gaps_in(answer: Played) -> tuple[float, float]:
    """How many gaps between tokens the metrics have, and their sum in seconds."""
    lines = [line.rpartition(" ") for line in answer.metrics.decode().splitlines()]
    count, sum = (
        next(float(value) for name, _, value in lines if name.startswith(f"unbroken_inter_token_seconds_{what}"))
        for what in ("count", "sum")
    )
    return count, sum


@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize("ending", ["silence", "pause", "cut"])
def test_the_time_of_gaps_ends_with_the_last_that_is_counted(count: int, ending: str) -> None:
    """Whether a lane or the long way has counted them, and however the answer ends."""
    steps = [step for read in CHAT.says(*ALPHABET[:count]) for step in (Silence(0.25), read)]
    ends = {
        "silence": [Silence(40.0)],
        "pause": [
            ClientIsSlow(),
            Silence(5.0),
            ClientGoesOn(),
            Silence(0.5),
            *CHAT.says(ALPHABET[20]),
            UpstreamLeaves(),
        ],
        "cut": [Silence(2.0), UpstreamLeaves()],
    }
    counted, seconds = gaps_in(check(Asked(), *CHAT.begins, *steps, *ends[ending]))
    more = 0.5 if ending == "pause" else 0.0
    assert counted == count - 1 + bool(more)
    assert seconds == pytest.approx(0.25 * (count - 1) + more)


@pytest.mark.parametrize("durable", ["", DURABLE])
def test_an_answer_that_is_cut_in_a_lane_goes_on_from_all_that_was_said(durable: str) -> None:
    again = tuple(read.data for read in (*CHAT.begins, *CHAT.says(*ALPHABET), *CHAT.ends))
    for count in range(4, 26):
        steps = [*CHAT.begins, *CHAT.says(*ALPHABET[:count]), UpstreamLeaves(), Silence(1.0)]
        answer = check(Asked(again=again, durable=durable), *steps)
        assert spoken(answer) == ALPHABET
        assert answer.lines[0]["continued"] == 1
        assert answer.in_lanes == max(0, count - 1 - FITS_BEFORE_LANE)
