"""Blocks over any number of lines: each once, none missing, none cut (L3, D3); without sockets."""

from collections.abc import Generator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.durable_scripts import SCRIPTS
from unbroken.client.resume import Done, Dropped, Give, HangUp, Means, Outcome, Pause, ReadOn, Reply, Resume, Resumed
from unbroken.client.resume_blocks import BlockReader
from unbroken.client.resume_steps import follow
from unbroken.rules.resume import ResumePolicy

COMMENT = b": keep-alive\n"
every_dialect = pytest.mark.parametrize("path_end", SCRIPTS)


class Lost(Exception):
    """The line dropped."""


def log_from(path_end: str, after: int) -> bytes:
    """What the server sends behind an offset (D7), with comments between."""
    blocks = enumerate(SCRIPTS[path_end].blocks, 1)
    return b"".join(COMMENT + b"id: %d\n%b" % (offset, block) for offset, block in blocks if offset > after)


class Read:
    """What an SDK gets over lines that are cut behind so many bytes each; the last one is not."""

    def __init__(self, path_end: str, cuts: Sequence[int], piece: int, patience: float = 120.0) -> None:
        self.now = 0.0
        self.given: list[bytes] = []
        self.told: list[Resumed] = []
        self.blocks = BlockReader(path_end)
        self._path_end = path_end
        self._cuts = list(cuts)
        self._piece = piece
        self._log = b""
        means = Means(ResumePolicy(patience), lambda: self.now, lambda: 0.5, Lost, self.told.append)
        self._begin_line(0)
        self._run(follow(means, "stream_1", self.blocks))

    def _begin_line(self, after: int) -> Reply:
        whole = log_from(self._path_end, after)
        self._is_cut = bool(self._cuts)
        self._log = whole[: self._cuts.pop(0)] if self._cuts else whole
        return Reply(200, "stream_1", is_event_stream=True)

    def _run(self, steps: Generator[Any, Outcome, None]) -> None:
        outcome: Outcome | None = None
        while True:
            try:
                step = next(steps) if outcome is None else steps.send(outcome)
            except StopIteration:
                return
            match step:
                case Give(data):
                    self.given.append(data)
                    outcome = Done()
                case Pause(seconds):
                    self.now += seconds
                    outcome = Done()
                case HangUp():
                    outcome = Done()
                case Resume("stream_1", offset):
                    outcome = self._begin_line(offset)
                case ReadOn():
                    outcome = self._log[: self._piece]
                    self._log = self._log[self._piece :]
                    if not outcome and self._is_cut:
                        outcome = Dropped(Lost("cut"))


@every_dialect
def test_a_line_that_is_cut_at_any_byte_is_not_seen(path_end: str) -> None:
    whole = b"".join(SCRIPTS[path_end].blocks)
    for cut in range(len(log_from(path_end, 0))):
        read = Read(path_end, [cut], 1 << 16)
        assert b"".join(read.given) == whole, cut
        assert len(read.told) == 1 or read.blocks.is_over


@given(
    st.sampled_from(sorted(SCRIPTS)),
    st.lists(st.integers(0, 900), max_size=12),
    st.integers(1, 700),
)
def test_any_cuts_in_any_pieces_give_whole_blocks_once(path_end: str, cuts: list[int], piece: int) -> None:
    read = Read(path_end, cuts, piece)
    assert b"".join(read.given) == b"".join(SCRIPTS[path_end].blocks)
    assert all(data.endswith(b"\n\n") for data in read.given)
    offsets = [resumed.offset for resumed in read.told]
    assert offsets == sorted(offsets)


def test_lines_that_bring_nothing_come_to_an_end() -> None:
    with pytest.raises(Lost) as lost:
        Read("/messages", [0] * 1000, 64, patience=60.0)
    assert "Unbroken tried" in lost.value.__notes__[0]


def test_a_server_that_only_says_that_it_lives_is_not_given_up() -> None:
    assert Read("/messages", [len(COMMENT)] * 1000, 64, patience=60.0).blocks.is_over


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (b"id: 1\ndata: a\n\n", b"data: a\n\n"),
        (b"id: 1\r\ndata: a\r\n\r\n", b"data: a\n\n"),
        (b"id: 1\rdata: a\r\r", b"data: a\n\n"),
        (b"retry: 9\n\nid: 1\ndata: a\n\n", b"data: a\n\n"),
        (b": ping\n\nid: 1\ndata: a\n\n", b"data: a\n\n"),
        (b"id: 1\nevent: x\nretry: 3\ndata: a\ndata: b\n\n", b"event: x\ndata: a\ndata: b\n\n"),
        (b"event: x\n\nid: 1\ndata: a\n\n", b"data: a\n\n"),
        (b"id: 1\ndata: a\n\nid: 1\ndata: a\n\n", b"data: a\n\n"),
    ],
)
def test_an_sdk_sees_only_events(said: bytes, seen: bytes) -> None:
    for cut in range(len(said)):
        blocks = BlockReader("/messages")
        assert blocks.feed(said[:cut]) + blocks.feed(said[cut:]) == seen
        assert blocks.offset == 1


def test_pings_have_no_offset() -> None:
    blocks = BlockReader("/messages")
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    assert blocks.feed(ping + b"id: 1\ndata: a\n\n" + ping) == ping + b"data: a\n\n" + ping
    assert (blocks.offset, blocks.has_offset) == (1, True)


def test_a_stream_without_ids_is_not_resumed_for_its_place_is_not_known() -> None:
    blocks = BlockReader("/chat/completions")
    assert blocks.feed(b"data: {}\n\n") == b"data: {}\n\n"
    assert not blocks.has_offset


def test_a_block_that_is_not_due_is_not_given() -> None:
    blocks = BlockReader("/chat/completions")
    assert blocks.feed(b"id: 1\ndata: {}\n\nid: 3\ndata: {}\n\nid: 2\ndata: {}\n\n") == b"data: {}\n\n"
    assert blocks.trouble == "block 3 came where 2 was due"
    blocks.begin_line()
    assert blocks.feed(b"id: 2\ndata: {}\n\n") == b"data: {}\n\n"


def test_a_block_has_a_bound() -> None:
    blocks = BlockReader("/chat/completions", limit=100)
    assert blocks.feed(b"id: 1\ndata: {}\n\nid: 2\ndata: " + b"x" * 100) == b"data: {}\n\n"
    assert blocks.trouble == "a block is larger than 100 bytes"


@pytest.mark.parametrize(
    ("path_end", "block", "is_end"),
    [
        ("/chat/completions", b"data: [DONE]", True),
        ("/chat/completions", b'data: {"error": {"message": "no"}}', True),
        ("/chat/completions", b'data: {"error": null, "choices": []}', False),
        ("/chat/completions", b'data: {"choices": [{"delta": {"content": "\\"error\\""}}]}', False),
        ("/chat/completions", b'data: "error"', False),
        ("/responses", b"event: response.completed\ndata: {}", True),
        ("/responses", b"event: response.failed\ndata: {}", True),
        ("/responses", b"event: response.incomplete\ndata: {}", True),
        ("/responses", b"event: error\ndata: {}", True),
        ("/responses", b"event: response.output_text.done\ndata: {}", False),
        ("/messages", b"event: message_stop\ndata: {}", True),
        ("/messages", b"event: error\ndata: {}", True),
        ("/messages", b"event: message_delta\ndata: {}", False),
    ],
)
def test_each_dialect_has_its_ends(path_end: str, block: bytes, is_end: bool) -> None:
    blocks = BlockReader(path_end)
    blocks.feed(b"id: 1\n" + block + b"\n\n")
    assert blocks.is_over is is_end
    assert bool(blocks.feed(b"id: 2\ndata: more\n\n")) is not is_end
