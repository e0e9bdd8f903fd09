"""What a lane makes of reads: chunks together, chunks that are none, and line ends that break an event."""

import pytest

from tests.gateway.lane_answers import DURABLE, Asked, spoken
from tests.gateway.lane_stage import check
from tests.gateway.lane_steps import Read
from tests.gateway.lane_upstreams import ALPHABET, CHAT, END, HEAD, PAIRS, UPSTREAMS, chat_text, chunk, data_line, words


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_chunks_that_come_together_stay_together(client: str, upstream: str) -> None:
    way, texts = UPSTREAMS[upstream], [f"{letter}é/" for letter in ALPHABET]
    reads = way.says(*texts)
    joined = [Read(b"".join(read.data for read in reads[start : start + 3])) for start in range(8, 26, 3)]
    answer = check(Asked(client, upstream), *way.begins, *reads[:8], *joined, *way.ends)
    assert spoken(answer) == "".join(texts)
    assert answer.in_lanes > 20
    assert len(answer.body) < 8 + 6 + 6


def test_where_the_server_writes_sizes_in_capitals_there_are_no_lanes_but_in_those_that_there_are() -> None:
    capitals = [Read(chunk(data_line(chat_text(b'"%b"' % (letter.encode() * 11))), "{:X}")) for letter in ALPHABET]
    assert capitals[0].data.startswith(b"A0\r\n")
    assert check(Asked(), *CHAT.begins, *capitals, *CHAT.ends).in_lanes == 0
    assert check(Asked(), *CHAT.begins, *CHAT.says(*"abcdef"), *capitals, *CHAT.ends).in_lanes > 26


BROKEN = [
    pytest.param(b"\n" + b"x" * 259, id="a line end"),
    pytest.param(b"x" * 262, id="anything"),
    pytest.param(b"\r\n" + END, id="an empty line"),
    pytest.param(b"100000000000000000\r\n", id="a size that is none"),
    pytest.param(END, id="the end"),
    pytest.param(b"0\r\nx: y\r\n\r\n", id="an end with a trailer"),
    pytest.param(END + chunk(data_line(chat_text(b'"behind"'))), id="more behind the end"),
]


@pytest.mark.parametrize("data", BROKEN)
@pytest.mark.parametrize("after", [0, 6])
def test_what_is_no_chunk_ends_a_lane_as_it_ends_an_answer(data: bytes, after: int) -> None:
    answer = check(
        Asked(), *CHAT.begins, *CHAT.says(*ALPHABET[: after + 2]), Read(data), *CHAT.says("more"), *CHAT.ends
    )
    assert (answer.in_lanes > 0) == (after > 0)
    assert spoken(answer) == ALPHABET[: after + 2]
    assert b'"error"' in answer.text


def test_an_event_with_a_line_end_for_a_size_is_no_chunk() -> None:
    """Of all lengths there are some that no chunk has; this is one of them."""
    event = data_line(chat_text(b'"%b"' % (b"x" * 110)))
    read = b"\n" + event + b"\r\n"
    assert len(read) == 262
    answer = check(Asked(), *CHAT.begins, *CHAT.says(*"abcdef"), Read(read))
    assert spoken(answer) == "abcdef"
    assert b"the response is not HTTP" in answer.text
    assert answer.lines[0]["outcome"] == "malformed"


@pytest.mark.parametrize("beside", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize(("client", "upstream"), [*PAIRS, ("anthropic-messages", "anthropic-messages")])
@pytest.mark.parametrize("joined", [False, True])
def test_a_line_end_beside_a_text_breaks_the_event(client: str, upstream: str, beside: bytes, joined: bool) -> None:
    """JSON may have it there, but in an event it begins another line."""
    way = UPSTREAMS[upstream]
    for wrong in (b'"wrong"' + beside, beside + b'"wrong"'):
        reads = [*way.says("last"), Read(chunk(way.write(way.text(wrong))))]
        if joined:
            reads = [Read(b"".join(read.data for read in reads))]
        answer = check(Asked(client, upstream), *way.begins, *way.says(*"abcdef"), *reads, *way.ends)
        assert spoken(answer) == "abcdeflast"
        assert answer.lines[0]["outcome"] == "malformed"


@pytest.mark.parametrize("durable", ["", DURABLE])
@pytest.mark.parametrize(("client", "upstream"), [*PAIRS, ("anthropic-messages", "anthropic-messages")])
def test_events_of_several_lines_are_no_model_of_broken_ones(client: str, upstream: str, durable: str) -> None:
    """A line end in the data of an event is the end of one `data:` line and the start of the next; alone it is none."""
    way = UPSTREAMS[upstream]
    for place in (b'"index"', b'"delta"'):
        events = [way.write(way.text(text)) for text in words(*ALPHABET)]
        spread = [Read(chunk(event.replace(place, b"\ndata: " + place))) for event in events]
        broken = [Read(chunk(event.replace(place, b"\n" + place))) for event in events]
        answer = check(Asked(client, upstream, durable=durable), *way.begins, *spread, *broken[:3], *way.ends)
        assert spoken(answer) == ALPHABET
        assert answer.lines[0]["outcome"] == "malformed"


@pytest.mark.parametrize(
    "head",
    [b"content-length: 100000\r\n", b"connection: close\r\n", b"transfer-encoding: chunked\r\n"],
    ids=["a length", "an end", "a chunk"],
)
def test_a_body_that_looks_like_chunks_is_none_of_them(head: bytes) -> None:
    begin = HEAD.replace(b"transfer-encoding: chunked\r\n", head)
    if b"chunked" in head:
        begin += b"100000\r\n"
    answer = check(Asked(), Read(begin), *CHAT.begins[1:], *CHAT.says(*ALPHABET), *CHAT.ends)
    assert spoken(answer) == ALPHABET
    assert answer.in_lanes == 0
