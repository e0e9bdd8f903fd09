"""The contract of a stream log: every reader gets every block once and in order, and only the owner writes."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId
from unbroken.store.log import (
    TERMINAL_BYTES,
    LogError,
    OffsetUnknown,
    StaleEpoch,
    StreamEnded,
    StreamExists,
    StreamLog,
    StreamTooLong,
    StreamUnknown,
)

STREAM = StreamId("chatcmpl-1")


def blocks(*texts: str) -> list[Block]:
    return [Block(text.encode()) for text in texts]


class Reader:
    """A follower that checks that it hears every block once, in order, and nothing after the end."""

    def __init__(self, after: int = 0, then: Callable[["Reader"], None] = lambda reader: None) -> None:
        self.at = after
        self.text = ""
        self.has_ended = False
        self.unfollow: Callable[[], None] = lambda: None
        self._then = then

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert not self.has_ended, "called after the end"
        assert first == self.at + 1, f"expected {self.at + 1}, got {first}"
        assert blocks or ends, "called with nothing to say"
        self.at += len(blocks)
        self.text += b"".join(blocks).decode()
        self.has_ended = ends
        self._then(self)

    def follow(self, log: StreamLog, stream: StreamId = STREAM) -> "Reader":
        self.unfollow = log.follow(stream, Offset(self.at), self)
        return self


@pytest.fixture
def epoch(log: StreamLog) -> Epoch:
    """The epoch of the owner of `STREAM`, whose blocks are kept."""
    return log.create(STREAM, keep=True)


# offsets


def test_offsets_count_blocks_from_one_without_gaps(made: Any, log: StreamLog, epoch: Epoch) -> None:
    log.append(STREAM, epoch, blocks("a"))
    log.append(STREAM, epoch, blocks("b", "c"))
    made.settle()
    assert log.read(STREAM, Offset(0)) == [Entry(Offset(n), Block(b)) for n, b in ((1, b"a"), (2, b"b"), (3, b"c"))]
    assert log.read(STREAM, Offset(2)) == [Entry(Offset(3), Block(b"c"))]
    assert log.read(STREAM, Offset(3)) == []


def test_an_empty_append_changes_nothing(made: Any, log: StreamLog, epoch: Epoch) -> None:
    reader = Reader().follow(log)
    log.append(STREAM, epoch, [])
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    assert (reader.at, reader.text) == (1, "a")


@pytest.mark.parametrize("after", [4, 1000, -1])
def test_an_offset_that_is_not_there_is_refused(made: Any, log: StreamLog, epoch: Epoch, after: int) -> None:
    log.append(STREAM, epoch, blocks("a", "b", "c"))
    made.settle()
    with pytest.raises(OffsetUnknown):
        log.read(STREAM, Offset(after))
    with pytest.raises(OffsetUnknown):
        log.follow(STREAM, Offset(after), Reader(after))


# owners


def test_a_stale_owner_cannot_append(made: Any, log: StreamLog, epoch: Epoch) -> None:
    log.append(STREAM, epoch, blocks("a"))
    newer = log.claim(STREAM)
    assert newer > epoch
    with pytest.raises(StaleEpoch):
        log.append(STREAM, epoch, blocks("stale"))
    log.append(STREAM, newer, blocks("b"))
    made.settle()
    assert [entry.block for entry in log.read(STREAM, Offset(0))] == [b"a", b"b"]


def test_an_epoch_that_was_never_given_cannot_append(log: StreamLog, epoch: Epoch) -> None:
    with pytest.raises(StaleEpoch):
        log.append(STREAM, Epoch(epoch + 1), blocks("a"))


def test_only_the_latest_of_several_owners_appends(log: StreamLog, epoch: Epoch) -> None:
    epochs = [epoch, *(log.claim(STREAM) for _ in range(5))]
    assert epochs == sorted(set(epochs))
    for stale in epochs[:-1]:
        with pytest.raises(StaleEpoch):
            log.append(STREAM, stale, blocks("stale"))
    log.append(STREAM, epochs[-1], blocks("a"))


def test_an_id_is_given_once(log: StreamLog, epoch: Epoch) -> None:
    with pytest.raises(StreamExists):
        log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("still its owner"))


# the end


def test_nothing_follows_the_terminal_block(made: Any, log: StreamLog, epoch: Epoch) -> None:
    reader = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a", "end"), ends=True)
    for more, ends in ((blocks("b"), False), (blocks("end"), True), ([], False)):
        with pytest.raises(StreamEnded):
            log.append(STREAM, epoch, more, ends=ends)
    with pytest.raises(StreamEnded):
        log.append(STREAM, log.claim(STREAM), blocks("b"))
    made.settle()
    assert reader.text == "aend"
    assert reader.has_ended
    assert len(log.read(STREAM, Offset(0))) == 2


def test_an_end_needs_a_terminal_block(log: StreamLog, epoch: Epoch) -> None:
    with pytest.raises(ValueError, match="terminal"):
        log.append(STREAM, epoch, [], ends=True)
    log.append(STREAM, epoch, blocks("end"), ends=True)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_who_comes_after_the_end_gets_the_rest_and_hears_that_it_has_ended(
    made: Any, log: StreamLog, epoch: Epoch, after: int
) -> None:
    log.append(STREAM, epoch, blocks("a", "b"), ends=True)
    made.settle()
    reader = Reader(after).follow(log)
    made.settle()
    assert reader.text == "ab"[after:]
    assert reader.has_ended


# followers


@pytest.mark.parametrize("after", range(5))
def test_a_follower_gets_exactly_the_rest(made: Any, log: StreamLog, epoch: Epoch, after: int) -> None:
    log.append(STREAM, epoch, blocks("a", "b"))
    log.append(STREAM, epoch, blocks("c", "d"))
    made.settle()
    reader = Reader(after).follow(log)
    log.append(STREAM, epoch, blocks("e"))
    log.append(STREAM, epoch, blocks("f", "g"), ends=True)
    made.settle()
    assert reader.text == "abcdefg"[after:]
    assert reader.has_ended


def test_a_follower_that_comes_first_waits_for_the_first_block(made: Any, log: StreamLog, epoch: Epoch) -> None:
    reader = Reader().follow(log)
    assert reader.at == 0
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    assert reader.text == "a"


def test_followers_do_not_disturb_each_other(made: Any, log: StreamLog, epoch: Epoch) -> None:
    first = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a", "b"))
    made.settle()
    second, third = Reader(1).follow(log), Reader().follow(log)
    log.append(STREAM, epoch, blocks("c"))
    made.settle()
    first.unfollow()
    log.append(STREAM, epoch, blocks("d"), ends=True)
    made.settle()
    assert [reader.text for reader in (first, second, third)] == ["abc", "bcd", "abcd"]
    assert [reader.has_ended for reader in (first, second, third)] == [False, True, True]


def test_a_follower_may_follow_twice_and_leave_once(made: Any, log: StreamLog, epoch: Epoch) -> None:
    heard: list[int] = []
    leave = log.follow(STREAM, Offset(0), lambda first, blocks, ends: heard.append(first))
    follower = heard.append
    log.follow(STREAM, Offset(0), lambda first, blocks, ends: follower(-first))
    leave()
    leave()
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    assert heard == [-1]


def test_the_same_function_is_as_many_followers_as_times_it_follows(made: Any, log: StreamLog, epoch: Epoch) -> None:
    heard: list[int] = []

    def hear(first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        heard.append(first)

    leave = log.follow(STREAM, Offset(0), hear)
    log.follow(STREAM, Offset(0), hear)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    leave()
    log.append(STREAM, epoch, blocks("b"))
    made.settle()
    assert heard == [1, 1, 2]


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_delivered_is_in_the_log(made: Any, log: StreamLog, keep: bool) -> None:
    epoch = log.create(STREAM, keep=keep)
    seen: list[list[Entry]] = []

    def look(reader: Reader) -> None:
        seen.append(log.read(STREAM, Offset(reader.at - 1)))

    Reader(then=look).follow(log)
    log.append(STREAM, epoch, blocks("a"))
    log.append(STREAM, epoch, blocks("b"))
    made.settle()
    assert seen == [[Entry(Offset(1), Block(b"a"))], [Entry(Offset(2), Block(b"b"))]]


# followers that act while they are called


def test_a_follower_that_leaves_in_the_middle_is_not_called_again(made: Any, log: StreamLog, epoch: Epoch) -> None:
    def leave(reader: Reader) -> None:
        if reader.at == 2:
            reader.unfollow()

    leaving, staying = Reader(then=leave).follow(log), Reader().follow(log)
    for text in "abc":
        log.append(STREAM, epoch, blocks(text))
        made.settle()
    assert (leaving.text, staying.text) == ("ab", "abc")


def test_a_follower_that_is_sent_away_by_another_is_not_called_again(made: Any, log: StreamLog, epoch: Epoch) -> None:
    other = Reader()
    sender = Reader(then=lambda reader: other.unfollow()).follow(log)
    other.follow(log)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    assert (sender.text, other.text) == ("a", "")


@pytest.mark.parametrize("keep", [True, False])
def test_what_a_follower_appends_comes_after_what_it_was_called_with(made: Any, log: StreamLog, keep: bool) -> None:
    epoch = log.create(STREAM, keep=keep)

    def go_on(reader: Reader) -> None:
        if reader.at < 4:
            log.append(STREAM, epoch, blocks("abcd"[reader.at]), ends=reader.at == 3)

    before, writer, after = Reader().follow(log), Reader(then=go_on).follow(log), Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    assert [reader.text for reader in (before, writer, after)] == ["abcd"] * 3
    assert all(reader.has_ended for reader in (before, writer, after))


def test_a_follower_may_append_while_it_is_given_what_was_there(made: Any, log: StreamLog, epoch: Epoch) -> None:
    def go_on(reader: Reader) -> None:
        if reader.at == 2:
            log.append(STREAM, epoch, blocks("c"))

    other = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a", "b"))
    made.settle()
    writer = Reader(then=go_on).follow(log)
    made.settle()
    assert (writer.text, other.text) == ("abc", "abc")


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("after", [0, 1])
def test_a_follower_may_bring_another(made: Any, log: StreamLog, keep: bool, after: int) -> None:
    epoch = log.create(STREAM, keep=keep)
    guest = Reader(after)

    def bring(reader: Reader) -> None:
        if reader.at == 1:
            log.append(STREAM, epoch, blocks("b"))
            guest.follow(log)

    host = Reader(then=bring).follow(log)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    log.append(STREAM, epoch, blocks("c"))
    made.settle()
    assert (host.text, guest.text) == ("abc", "abc"[after:])


def test_a_follower_may_forget_the_stream(made: Any, log: StreamLog, epoch: Epoch) -> None:
    first = Reader(then=lambda reader: log.forget(STREAM)).follow(log)
    second = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    assert (first.text, second.text) == ("a", "")
    with pytest.raises(StreamUnknown):
        log.append(STREAM, epoch, blocks("b"))
    made.settle()
    assert first.text == "a"


def fail(reader: Reader) -> None:
    raise OSError(f"broke at {reader.at}")


@pytest.mark.parametrize("keep", [True, False])
def test_a_follower_that_raises_is_left_out_and_the_others_go_on(made: Any, log: StreamLog, keep: bool) -> None:
    epoch = log.create(STREAM, keep=keep)
    first, broken, last = Reader().follow(log), Reader(then=fail).follow(log), Reader().follow(log)
    for text in "ab":
        log.append(STREAM, epoch, blocks(text))
        made.settle()
    assert [reader.text for reader in (first, broken, last)] == ["ab", "a", "ab"]
    assert [str(error) for error in made.errors] == ["broke at 1"]


def test_a_follower_that_raises_at_once_is_not_followed(made: Any, log: StreamLog, epoch: Epoch) -> None:
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    broken = Reader(then=fail)
    with pytest.raises(OSError, match="broke at 1"):
        broken.follow(log)
    log.append(STREAM, epoch, blocks("b"))
    made.settle()
    assert broken.text == "a"


def test_what_a_follower_appends_before_it_raises_reaches_the_others(made: Any, log: StreamLog, epoch: Epoch) -> None:
    def append_and_fail(reader: Reader) -> None:
        log.append(STREAM, epoch, blocks("b"))
        fail(reader)

    other = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    with pytest.raises(OSError, match="broke"):
        Reader(then=append_and_fail).follow(log)
    made.settle()
    assert other.text == "ab"


# streams that are not kept


def test_without_keeping_blocks_wait_for_the_first_follower_and_are_dropped_then(made: Any, log: StreamLog) -> None:
    epoch = log.create(STREAM, keep=False)
    log.append(STREAM, epoch, blocks("a", "b"))
    made.settle()
    assert len(log.read(STREAM, Offset(0))) == 2
    reader = Reader().follow(log)
    log.append(STREAM, epoch, blocks("c"))
    made.settle()
    assert reader.text == "abc"
    assert log.read(STREAM, Offset(3)) == []
    for after in range(3):
        with pytest.raises(OffsetUnknown):
            log.read(STREAM, Offset(after))
        with pytest.raises(OffsetUnknown):
            log.follow(STREAM, Offset(after), Reader(after))


def test_without_keeping_blocks_wait_again_when_the_follower_has_gone(made: Any, log: StreamLog) -> None:
    epoch = log.create(STREAM, keep=False)
    first = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    first.unfollow()
    log.append(STREAM, epoch, blocks("b", "c"))
    made.settle()
    second = Reader(1).follow(log)
    log.append(STREAM, epoch, blocks("d"), ends=True)
    made.settle()
    assert (first.text, second.text) == ("a", "bcd")


@pytest.mark.parametrize("ends", [True, False])
def test_without_keeping_who_begins_behind_a_block_has_had_it(made: Any, log: StreamLog, ends: bool) -> None:
    epoch = log.create(STREAM, keep=False)
    log.append(STREAM, epoch, blocks("a", "b"), ends=ends)
    made.settle()
    Reader(2).follow(log)
    made.settle()
    with pytest.raises(OffsetUnknown):
        log.read(STREAM, Offset(1))


def test_without_keeping_what_made_the_only_follower_fail_is_still_there(made: Any, log: StreamLog) -> None:
    epoch = log.create(STREAM, keep=False)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    with pytest.raises(OSError, match="broke"):
        Reader(then=fail).follow(log)

    def fail_at_three(reader: Reader) -> None:
        if reader.at == 3:
            fail(reader)

    Reader(then=fail_at_three).follow(log)
    for text in "bcd":
        log.append(STREAM, epoch, blocks(text))
        made.settle()
    with pytest.raises(OffsetUnknown):
        log.follow(STREAM, Offset(1), Reader(1))
    assert Reader(2).follow(log).text == "cd"
    assert len(made.errors) == 1


# bounds, unknown streams, forgetting


def test_a_stream_that_is_too_long_is_refused_and_can_still_end(new_log: Any) -> None:
    made = new_log(max_stream_bytes=10)
    log: StreamLog = made.log
    epoch = log.create(STREAM, keep=True)
    reader = Reader().follow(log)
    log.append(STREAM, epoch, blocks("12345", "67890"))
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, blocks("x"))
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, [Block(b"x" * (TERMINAL_BYTES + 1))], ends=True)
    log.append(STREAM, epoch, blocks("error"), ends=True)
    made.settle()
    assert reader.text == "1234567890error"
    assert reader.has_ended
    made.close()


def test_the_bound_is_of_what_is_held(new_log: Any) -> None:
    made = new_log(max_stream_bytes=10)
    log: StreamLog = made.log
    epoch = log.create(STREAM, keep=False)
    reader = Reader().follow(log)
    for _ in range(10):
        log.append(STREAM, epoch, blocks("12345"))
        made.settle()
    reader.unfollow()
    log.append(STREAM, epoch, blocks("12345", "67890"))
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, blocks("x"))
    made.close()


UNKNOWN: dict[str, Callable[[StreamLog], object]] = {
    "claim": lambda log: log.claim(STREAM),
    "append": lambda log: log.append(STREAM, Epoch(1), blocks("a")),
    "read": lambda log: log.read(STREAM, Offset(0)),
    "follow": lambda log: log.follow(STREAM, Offset(0), Reader()),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_an_unknown_stream_is_refused(log: StreamLog, call: str) -> None:
    with pytest.raises(StreamUnknown, match=STREAM):
        UNKNOWN[call](log)


@pytest.mark.parametrize("call", UNKNOWN)
def test_a_forgotten_stream_is_unknown(made: Any, log: StreamLog, epoch: Epoch, call: str) -> None:
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    log.forget(STREAM)
    log.forget(STREAM)
    with pytest.raises(StreamUnknown, match=STREAM):
        UNKNOWN[call](log)


def test_a_forgotten_id_may_begin_again_and_old_followers_do_not_hear_of_it(made: Any, log: StreamLog) -> None:
    log.create(STREAM, keep=True)
    former = Reader().follow(log)
    log.forget(STREAM)
    epoch = log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a"))
    made.settle()
    former.unfollow()
    assert former.text == ""
    assert Reader().follow(log).text == "a"


def test_streams_are_apart(made: Any, log: StreamLog, epoch: Epoch) -> None:
    other = StreamId("chatcmpl-2")
    other_epoch = log.create(other, keep=True)
    mine, others = Reader().follow(log), Reader().follow(log, other)
    log.append(STREAM, epoch, blocks("a"))
    log.claim(STREAM)
    log.append(other, other_epoch, blocks("b"), ends=True)
    made.settle()
    log.forget(STREAM)
    assert (mine.text, others.text) == ("a", "b")
    assert not mine.has_ended


def test_every_refusal_is_a_log_error() -> None:
    for error in (OffsetUnknown, StaleEpoch, StreamEnded, StreamExists, StreamTooLong, StreamUnknown):
        assert issubclass(error, LogError)
