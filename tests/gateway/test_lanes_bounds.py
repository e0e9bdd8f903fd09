"""What is too long: a text, a block, a read, a lane and a stream, with lanes as without them."""

import pytest

from tests.gateway.lane_answers import Asked, spoken
from tests.gateway.lane_stage import check
from tests.gateway.lane_steps import Read, UpstreamLeaves
from tests.gateway.lane_upstreams import ALPHABET, CHAT, chat, chunk, data_line, words
from unbroken.gateway.lane import MAX_BYTES, MAX_TEXTS
from unbroken.upstream.chunked import LONGEST


def test_a_lane_that_is_full_is_followed_by_another() -> None:
    texts = [f"{number} " for number in range(3 * MAX_TEXTS)]
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*texts), *CHAT.ends)
    assert spoken(answer) == "".join(texts)
    assert 2 * MAX_TEXTS < answer.in_lanes < 3 * MAX_TEXTS


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_read_of_several_chunks_that_is_too_much_for_a_lane_ends_it(count: int) -> None:
    reads = CHAT.says(*(f"{number} " for number in range(MAX_TEXTS + 10)))
    joined = [b"".join(read.data for read in reads[start : start + count]) for start in range(6, len(reads), count)]
    answer = check(Asked(), *CHAT.begins, *reads[:6], *map(Read, joined), *CHAT.ends)
    assert answer.in_lanes > 200


def test_a_long_text_goes_the_long_way_and_the_lane_goes_on() -> None:
    texts = ["a"] * 6 + ["x" * size for size in (LONGEST - 300, LONGEST, 3 * LONGEST)] + ["b"] * 12
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*texts), *CHAT.ends)
    assert spoken(answer) == "".join(texts)
    assert answer.in_lanes > 12


LONG_MODEL = "🙂" * (LONGEST // 8)  # bytes: four times as many


@pytest.mark.parametrize("more", [0, LONGEST * 5 // 8])
def test_blocks_that_are_too_long_for_a_lane_have_none(more: int) -> None:
    fingerprint = b',"system_fingerprint":"%b"' % (b"f" * more)
    reads = [Read(chunk(data_line(chat(b'"content":%b' % text, more=fingerprint)))) for text in words(*ALPHABET)]
    answer = check(Asked(fields=(("model", LONG_MODEL),)), *CHAT.begins, *reads, *CHAT.ends)
    assert spoken(answer) == ALPHABET
    assert (answer.in_lanes > 0) == (not more)


EIGHTH = MAX_BYTES // 8


@pytest.mark.parametrize("bound", [300, 30_000, 4 * EIGHTH, 8 * EIGHTH, 9 * EIGHTH, 10 * EIGHTH, 24 * EIGHTH])
@pytest.mark.parametrize("letters", [200, LONGEST - 200, 2 * LONGEST - 200])
def test_a_stream_is_as_long_as_it_may_be(bound: int, letters: int) -> None:
    """With a long name of the model a block is longer than the chunk that it comes from."""
    asked = Asked(fields=(("model", LONG_MODEL),), max_stream_bytes=bound, spare_bytes=bound)
    several = Read(b"".join(read.data for read in CHAT.says(*["x" * letters] * 15)))
    answer = check(asked, *CHAT.begins, *CHAT.says(*"abcdef"), *[several] * 20, *CHAT.ends)
    assert len(answer.text) < bound + 20_000
    assert answer.in_lanes > 200 or bound < 3 * MAX_BYTES or letters > LONGEST


@pytest.mark.parametrize("spare", [0, 1000, 5_000, 100_000])
def test_how_an_answer_fails_that_is_too_long_to_be_continued(spare: int) -> None:
    answer = check(Asked(spare_bytes=spare), *CHAT.begins, *CHAT.says(*ALPHABET), UpstreamLeaves())
    assert answer.in_lanes > 20
    assert spoken(answer) == ALPHABET
