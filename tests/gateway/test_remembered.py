"""What a producer remembers, however its blocks came."""

import pytest

from unbroken.chat.stream import Block
from unbroken.gateway.remembered import MAX_REMEMBERED_BYTES, Remembered
from unbroken.store.held import Run


def test_blocks_and_runs_are_remembered_in_their_order() -> None:
    said, run = Remembered(), Run(b"<", b">", [])
    said.take([Block(b"a")], b"1")
    said.begin_run(run)
    run.texts += [b"b", b"c"]
    said.take([Block(b"d")], b"2")
    said.begin_run(again := Run(b"<", b">", []))
    again.texts.append(b"e")
    assert said.blocks == [b"a", b"<b>", b"<c>", b"d", b"<e>"]
    assert said.note == b"12"
    assert not said.is_too_long


@pytest.mark.parametrize("by_run", [True, False])
def test_what_is_too_long_is_known_before_anything_is_made_of_it(by_run: bool) -> None:
    said, text = Remembered(), b"x" * (MAX_REMEMBERED_BYTES // 2)
    said.take([Block(text)])
    if by_run:
        said.begin_run(run := Run(b"", b"", []))
        run.texts += [text, b"."]
    else:
        said.take([Block(text), Block(b".")])
    assert said.is_too_long
    assert said.blocks == []
    said.begin_run(Run(b"", b"", [b"later"]))
    assert said.blocks == []
