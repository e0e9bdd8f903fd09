"""Server-sent events are read as WHATWG says, however the bytes are cut (FAULTS 18, 19, 23, 25)."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.wire.sse import EventTooLarge, SseEvent, SseReader, write_data

# name: (bytes, the data of the events that they make)
CASES: dict[str, tuple[bytes, list[bytes]]] = {
    "one event": (b"data: a\n\n", [b"a"]),
    "no space after the colon": (b"data:a\n\n", [b"a"]),
    "only one space is taken off": (b"data:  a\n\n", [b" a"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR alone": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "mixed line ends": (b"data: a\n\r\ndata: b\r\n\n", [b"a", b"b"]),
    "comments are dropped": (b": ping\n\ndata: a\n: more\n\n:\n\n", [b"a"]),
    "comment with one line end": (b": keep-alive\ndata: a\n\n", [b"a"]),
    "several data lines": (b"data: a\ndata: b\ndata\n\n", [b"a\nb\n"]),
    "event without data": (b"event: ping\n\ndata: a\n\n", [b"a"]),
    "empty data is an event": (b"data:\n\n", [b""]),
    "retry and id are read over": (b"retry: 3\nid: 7\ndata: a\n\n", [b"a"]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "unknown field": (b"colour: red\ndata: a\n\n", [b"a"]),
    "U+2028 and U+0085 are data": ("data: a\u2028b\u0085c\x0bd\n\n".encode(), ["a\u2028b\u0085c\x0bd".encode()]),
    "emoji": ("data: 🌍你好é\n\n".encode(), ["🌍你好é".encode()]),
    "what does not end is not an event": (b"data: a\n\ndata: b\n", [b"a"]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", CASES)
def test_events_are_read_whole_and_cut_at_every_byte(name: str) -> None:
    """S4."""
    data, expected = CASES[name]
    assert [event.data for event in SseReader().feed(data)] == expected
    for cut in range(1, len(data)):
        reader = SseReader()
        events = reader.feed(data[:cut]) + reader.feed(data[cut:])
        assert [event.data for event in events] == expected, cut
    reader = SseReader()
    assert [event.data for byte in data for event in reader.feed(bytes([byte]))] == expected


def test_an_event_keeps_its_type_and_the_next_has_none() -> None:
    events = SseReader().feed(b"event: error\ndata: {}\n\ndata: a\n\n")
    assert events == [SseEvent(b"error", b"{}"), SseEvent(b"", b"a")]


def test_an_event_ends_at_a_lone_cr_without_waiting_for_the_next_byte() -> None:
    assert [event.data for event in SseReader().feed(b"data: a\r\r")] == [b"a"]


def test_a_megabyte_passes_and_more_than_the_bound_is_refused() -> None:
    large = b"x" * (1 << 20)
    assert SseReader().feed(b"data: %b\n\n" % large)[0].data == large
    with pytest.raises(EventTooLarge):
        SseReader(limit=1000).feed(b"data: %b\n\n" % large)
    for line in (b"data: %b\n" % (b"x" * 30), b"x" * 30):
        with pytest.raises(EventTooLarge):
            feed_many(SseReader(limit=1000), line, times=100)


def feed_many(reader: SseReader, data: bytes, times: int) -> None:
    for _ in range(times):
        reader.feed(data)


def test_events_before_one_that_is_too_large_are_given_and_the_refusal_lasts() -> None:
    reader = SseReader(limit=100)
    assert [event.data for event in reader.feed(b"data: a\n\ndata: b\n\ndata: %b" % (b"x" * 200))] == [b"a", b"b"]
    for data in (b"data: c\n\n", b"\n\n", b""):
        with pytest.raises(EventTooLarge):
            reader.feed(data)


def test_the_bound_is_the_same_wherever_an_event_is_cut() -> None:
    for size, is_within in ((94, True), (95, False)):
        data = b"data: a\n\ndata: %b\n\ndata: c\n\n" % (b"x" * size)
        for cut in range(len(data)):
            assert (len(all_events(data[:cut], data[cut:])) == 3) is is_within


def all_events(*pieces: bytes) -> list[SseEvent]:
    reader = SseReader(limit=100)
    events: list[SseEvent] = []
    with suppress(EventTooLarge):
        for piece in pieces:
            events += reader.feed(piece)
    return events


def test_the_bound_counts_one_event_and_not_the_stream() -> None:
    reader = SseReader(limit=100)
    for _ in range(1000):
        assert len(reader.feed(b"da")) == 0
        assert len(reader.feed(b"ta: " + b"x" * 50)) == 0
        assert len(reader.feed(b"\n\n")) == 1
    assert not reader.has_rest


def test_a_rest_is_told() -> None:
    reader = SseReader()
    reader.feed(b"data: a\n\nda")
    assert reader.has_rest


@pytest.mark.parametrize("rest", [b"", b"\n", b": ping", b": ping\n", b"event: ping\n", b"\r"])
def test_what_is_no_part_of_an_event_is_no_rest(rest: bytes) -> None:
    reader = SseReader()
    reader.feed(b"data: a\n\n" + rest)
    assert not reader.has_rest


STREAMS = st.lists(
    st.sampled_from(
        [b"data: a\n\n", b"data:b\r\n\r\n", b": c\n", b"event: e\ndata: d\ndata: e\n\n", b"\n", b"\r", b"x", b"data: x"]
    )
).map(b"".join) | st.binary(max_size=60)


@given(STREAMS, st.lists(st.integers(0, 100), max_size=8))
def test_any_split_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    whole = SseReader().feed(data)
    reader, events, at = SseReader(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        events += reader.feed(data[at:cut]) if cut > at else []
        at = max(at, cut)
    assert events == whole


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"")))
def test_write_then_read_is_identity(data: bytes) -> None:
    assert [event.data for event in SseReader().feed(write_data(data))] == [data]
