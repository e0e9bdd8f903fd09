"""Reads that are chunks: what is taken for one is one, and the parser of HTTP says the same."""

from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unbroken.upstream.chunked import LONGEST, READ_LINES, SIZE_LINES, chunks_in, only_chunk

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
GAPS = [length for length in (*range(6), 21, 262, 4103) if length < LONGEST]  # no chunk is so long with its framing


def chunk(body: bytes, size: str = "{:x}") -> bytes:
    return b"%b\r\n%b\r\n" % (size.format(len(body)).encode(), body)


class Parsed:
    """What httptools finds in a body that begins with `data`; `after` is what it is given then."""

    def __init__(self, data: bytes, after: bytes = b"") -> None:
        self.chunks: list[bytes] = []
        self.is_over = self.is_broken = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.feed_data(HEAD)
        for fed in (data, after):
            try:
                self._parser.feed_data(fed)
            except httptools.HttpParserError:
                self.is_broken = True

    def on_chunk_header(self) -> None:
        self.chunks.append(b"")

    def on_body(self, body: bytes) -> None:
        self.chunks[-1] += body

    def on_message_complete(self) -> None:
        self.is_over = True


def parsed_whole(data: bytes) -> list[bytes] | None:
    """The chunks that `data` is, if the next one may begin behind it; as the parser has it."""
    mark = b"mark of the next chunk"
    found = Parsed(data, chunk(mark))
    if found.is_broken or found.is_over or not found.chunks or found.chunks[-1] != mark:
        return None
    return found.chunks[:-1]


def only_chunk_of(data: bytes) -> bytes | None:
    chunks = parsed_whole(data)
    return chunks[0] if chunks is not None and len(chunks) == 1 else None


# the tables


def test_the_size_lines_say_every_size() -> None:
    assert len(SIZE_LINES) == 2 * LONGEST
    for size, line in enumerate(SIZE_LINES):
        assert line.endswith(b"\r\n")
        assert int(line, 16) == size
        assert line == line.lower() == line.strip() + b"\r\n"


def test_every_chunk_has_the_line_that_its_length_says() -> None:
    lengths = set()
    for size in range(1, LONGEST):
        length = len(chunk(bytes(size)))
        if length < LONGEST:
            assert READ_LINES[length] == b"%x\r\n" % size
            lengths.add(length)
    assert len(READ_LINES) == LONGEST
    # With one digit more its size would be too small for it, with one less too large.
    assert sorted(set(range(LONGEST)) - lengths) == GAPS


@pytest.mark.parametrize("length", GAPS)
def test_what_is_as_long_as_no_chunk_is_none_whatever_it_begins_with(length: int) -> None:
    data = (READ_LINES[length] + b"x" * length)[: max(length - 2, 0)] + b"\r\n"
    assert only_chunk(data) is None
    assert not data[:length].startswith(READ_LINES[length])


# what is framed is found


BODIES = st.binary(min_size=1, max_size=40) | st.sampled_from(
    [b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"\n", b"\r", b"x" * 15, b"x" * 16, b"x" * 255, b"x" * 256, b"x" * 1000]
)
SIZES = st.sampled_from(["{:x}", "{:X}"])


@given(st.lists(st.tuples(BODIES, SIZES), min_size=1, max_size=6))
def test_any_chunks_are_found_one_by_one(framed: list[tuple[bytes, str]]) -> None:
    data = b"".join(chunk(body, size) for body, size in framed)
    assert chunks_in(data) == parsed_whole(data) == [body for body, _ in framed]


@given(BODIES)
def test_one_chunk_is_found(body: bytes) -> None:
    assert only_chunk(chunk(body)) == body
    assert only_chunk(chunk(body) * 2) is None
    assert chunks_in(chunk(body)) == [body]


@pytest.mark.parametrize("size", [1, 15, 16, 255, 256, LONGEST - 9, LONGEST - 8, LONGEST, 2 * LONGEST - 1])
def test_up_to_which_size_a_chunk_is_found(size: int) -> None:
    data = chunk(b"x" * size)
    assert only_chunk(data) == (b"x" * size if len(data) < LONGEST else None)
    assert chunks_in(data) == [b"x" * size]


def test_a_chunk_that_is_very_long_is_none() -> None:
    assert chunks_in(chunk(b"x" * 2 * LONGEST)) is None


def test_nothing_is_no_chunk() -> None:
    assert only_chunk(b"") is None
    assert not chunks_in(b"")


@pytest.mark.parametrize(
    "line",
    [
        *(b"0", b"00", b"-5", b"+5", b" 5", b"5 ", b"\t5", b"5\t", b"0x5", b"05", b"005", b"5;", b"5;a=b", b"5 ;a"),
        *(b"1_0", b"_5", b"5_", b"", b" ", b"\n5", b"\r\n5", b"5\x00", b"g", b"ffffffffffffffff", b"5\x0b"),
        *("５".encode(), "٥".encode()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [5, 16])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b""], ids=repr)
def test_a_size_that_is_written_otherwise_is_left_to_the_parser(line: bytes, size: int, end: bytes) -> None:
    data = line + end + b"x" * size + b"\r\n"
    for read in (data, chunk(b"first") + data, data + chunk(b"last")):
        assert only_chunk(read) is None
        assert chunks_in(read) is None


@pytest.mark.parametrize("end", [b"\n", b"\r", b"", b"\n\r", b"\r\r", b" \r\n", b"\r\n\r\n", b"\r\n0\r\n"], ids=repr)
def test_a_chunk_that_ends_otherwise_is_left_to_the_parser(end: bytes) -> None:
    data = b"5\r\nhello" + end
    assert only_chunk(data) is None
    assert chunks_in(data) is None


def test_the_last_chunk_is_left_to_the_parser() -> None:
    for end in (b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"0\r\n"):
        assert only_chunk(end) is chunks_in(end) is None
        assert chunks_in(chunk(b"hello") + end) is None


# what is not as it should be


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """Chunks with a few bytes that are taken out, put in, exchanged or cut off."""
    bodies = draw(st.lists(BODIES, min_size=1, max_size=4))
    data = b"".join(chunk(body, draw(SIZES)) for body in bodies)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 3))
        data = data[:at] + draw(PUT_IN) + data[at + removed :]
    return data[draw(st.integers(0, 2)) : len(data) - draw(st.integers(0, 2))]


PUT_IN = st.binary(max_size=2) | st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"0", b"1", b"f", b"F", b";a=b", b" ", b"_", b"+", b"-", b"0\r\n\r\n", b"5\r\nhello\r\n"]
)


@given(mutilated())
@example(b"5\r\n5\r\n\r\n\r\n")
@example(b"1_0\r\n" + b"x" * 16 + b"\r\n")
@example(b"+5\r\nhello\r\n")
def test_what_is_mutilated_is_none_or_what_the_parser_finds(data: bytes) -> None:
    if (found := chunks_in(data)) is not None and data:
        assert found == parsed_whole(data)
    if (one := only_chunk(data)) is not None:
        assert one == only_chunk_of(data)
        assert found == [one]


@given(mutilated())
def test_what_is_taken_for_chunks_is_them_byte_for_byte(data: bytes) -> None:
    """Whatever a parser that is more lenient would say: framing and bodies are all of it."""
    if (found := chunks_in(data)) is not None:
        assert b"".join(map(chunk, found)).lower() == data.lower()
    if (one := only_chunk(data)) is not None:
        assert chunk(one) == data
