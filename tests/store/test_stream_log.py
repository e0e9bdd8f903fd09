"""The contract of a stream log: every reader gets every block once and in order, and only the owner writes."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from tests.store.conftest import LogFactory, LogUnderTest
from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId
from unbroken.store.log import (
    TERMINAL_BYTES,
    LogError,
    OffsetUnknown,
    StaleEpoch,
    StreamEnded,
    StreamExists,
    StreamTooLong,
    StreamUnknown,
)
from unbroken.store.memory import MemoryStreamLog

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

    def follow(self, log: LogUnderTest, stream: StreamId = STREAM) -> "Reader":
        self.unfollow = log.follow(stream, Offset(self.at), self.__call__)
        return self


@pytest.fixture
def epoch(log: LogUnderTest) -> Epoch:
    """The epoch of the owner of `STREAM`, whose blocks are kept."""
    return log.create(STREAM, keep=True)


# offsets


def test_offsets_count_blocks_from_one_without_gaps(log: LogUnderTest, epoch: Epoch) -> None:
    log.append(STREAM, epoch, blocks("a"))
    log.append(STREAM, epoch, blocks("b", "c"))
    log.settle()
    assert log.read(STREAM, Offset(0)) == [Entry(Offset(n), Block(b)) for n, b in ((1, b"a"), (2, b"b"), (3, b"c"))]
    assert log.read(STREAM, Offset(2)) == [Entry(Offset(3), Block(b"c"))]
    assert log.read(STREAM, Offset(3)) == []


def test_an_empty_append_changes_nothing(log: LogUnderTest, epoch: Epoch) -> None:
    reader = Reader().follow(log)
    log.append(STREAM, epoch, [])
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    assert (reader.at, reader.text) == (1, "a")


@pytest.mark.parametrize("after", [4, 1000, -1])
def test_an_offset_that_is_not_there_is_refused(log: LogUnderTest, epoch: Epoch, after: int) -> None:
    log.append(STREAM, epoch, blocks("a", "b", "c"))
    log.settle()
    with pytest.raises(OffsetUnknown):
        log.read(STREAM, Offset(after))
    with pytest.raises(OffsetUnknown):
        log.follow(STREAM, Offset(after), Reader(after))


# owners


def test_a_stale_owner_cannot_append(log: LogUnderTest, epoch: Epoch) -> None:
    log.append(STREAM, epoch, blocks("a"))
    newer = log.claim(STREAM)
    assert newer > epoch
    with pytest.raises(StaleEpoch):
        log.append(STREAM, epoch, blocks("stale"))
    log.append(STREAM, newer, blocks("b"))
    log.settle()
    assert [entry.block for entry in log.read(STREAM, Offset(0))] == [b"a", b"b"]


def test_an_epoch_that_was_never_given_cannot_append(log: LogUnderTest, epoch: Epoch) -> None:
    with pytest.raises(StaleEpoch):
        log.append(STREAM, Epoch(epoch + 1), blocks("a"))


def test_only_the_latest_of_several_owners_appends(log: LogUnderTest, epoch: Epoch) -> None:
    epochs = [epoch, *(log.claim(STREAM) for _ in range(5))]
    assert epochs == sorted(set(epochs))
    for stale in epochs[:-1]:
        with pytest.raises(StaleEpoch):
            log.append(STREAM, stale, blocks("stale"))
    log.append(STREAM, epochs[-1], blocks("a"))


def test_a_former_owner_is_told_once_that_it_has_lost_the_stream(log: LogUnderTest) -> None:
    lost: list[LogError] = []
    log.create(STREAM, keep=True, on_lost=lost.append)
    newer = log.claim(STREAM)
    log.claim(STREAM)
    log.append(STREAM, Epoch(newer + 1), blocks("a"))
    log.settle()
    assert [type(error) for error in lost] == [StaleEpoch]


def test_what_the_former_owner_appended_is_before_what_the_new_one_appends_or_nowhere(
    log: LogUnderTest, epoch: Epoch
) -> None:
    reader = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    log.append(STREAM, epoch, blocks("b"))
    newer = log.claim(STREAM)
    log.append(STREAM, newer, blocks("c"), ends=True)
    log.settle()
    assert reader.text in ("abc", "c")
    assert "".join(entry.block.decode() for entry in log.read(STREAM, Offset(0))) == reader.text


def test_an_id_is_given_once(log: LogUnderTest, epoch: Epoch) -> None:
    with pytest.raises(StreamExists):
        log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("still its owner"))


# the end


def test_nothing_follows_the_terminal_block(log: LogUnderTest, epoch: Epoch) -> None:
    reader = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a", "end"), ends=True)
    for more, ends in ((blocks("b"), False), (blocks("end"), True), ([], False)):
        with pytest.raises(StreamEnded):
            log.append(STREAM, epoch, more, ends=ends)
    with pytest.raises(StreamEnded):
        log.append(STREAM, log.claim(STREAM), blocks("b"))
    log.settle()
    assert reader.text == "aend"
    assert reader.has_ended
    assert len(log.read(STREAM, Offset(0))) == 2


def test_an_end_needs_a_terminal_block(log: LogUnderTest, epoch: Epoch) -> None:
    with pytest.raises(ValueError, match="terminal"):
        log.append(STREAM, epoch, [], ends=True)
    log.append(STREAM, epoch, blocks("end"), ends=True)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_who_comes_after_the_end_gets_the_rest_and_hears_that_it_has_ended(
    log: LogUnderTest, epoch: Epoch, after: int
) -> None:
    log.append(STREAM, epoch, blocks("a", "b"), ends=True)
    log.settle()
    reader = Reader(after).follow(log)
    log.settle()
    assert reader.text == "ab"[after:]
    assert reader.has_ended


# followers


@pytest.mark.parametrize("after", range(5))
def test_a_follower_gets_exactly_the_rest(log: LogUnderTest, epoch: Epoch, after: int) -> None:
    log.append(STREAM, epoch, blocks("a", "b"))
    log.append(STREAM, epoch, blocks("c", "d"))
    log.settle()
    reader = Reader(after).follow(log)
    log.append(STREAM, epoch, blocks("e"))
    log.append(STREAM, epoch, blocks("f", "g"), ends=True)
    log.settle()
    assert reader.text == "abcdefg"[after:]
    assert reader.has_ended


def test_a_follower_that_comes_first_waits_for_the_first_block(log: LogUnderTest, epoch: Epoch) -> None:
    reader = Reader().follow(log)
    assert reader.at == 0
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    assert reader.text == "a"


def test_followers_do_not_disturb_each_other(log: LogUnderTest, epoch: Epoch) -> None:
    first = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a", "b"))
    log.settle()
    second, third = Reader(1).follow(log), Reader().follow(log)
    log.append(STREAM, epoch, blocks("c"))
    log.settle()
    first.unfollow()
    log.append(STREAM, epoch, blocks("d"), ends=True)
    log.settle()
    assert [reader.text for reader in (first, second, third)] == ["abc", "bcd", "abcd"]
    assert [reader.has_ended for reader in (first, second, third)] == [False, True, True]


def test_a_follower_may_follow_twice_and_leave_once(log: LogUnderTest, epoch: Epoch) -> None:
    heard: list[int] = []
    leave = log.follow(STREAM, Offset(0), lambda first, blocks, ends: heard.append(first))
    follower = heard.append
    log.follow(STREAM, Offset(0), lambda first, blocks, ends: follower(-first))
    leave()
    leave()
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    assert heard == [-1]


def test_the_same_function_is_as_many_followers_as_times_it_follows(log: LogUnderTest, epoch: Epoch) -> None:
    heard: list[int] = []

    def hear(first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        heard.append(first)

    leave = log.follow(STREAM, Offset(0), hear)
    log.follow(STREAM, Offset(0), hear)
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    leave()
    log.append(STREAM, epoch, blocks("b"))
    log.settle()
    assert heard == [1, 1, 2]


def test_what_is_delivered_is_in_the_log(log: LogUnderTest, epoch: Epoch) -> None:
    """L2: committed before sent."""
    looks: list[asyncio.Task[list[Entry]]] = []

    def look(reader: Reader) -> None:
        looks.append(log.runner.get_loop().create_task(log.log.read(STREAM, Offset(reader.at - 1))))

    Reader(then=look).follow(log)
    for text in "ab":
        log.append(STREAM, epoch, blocks(text))
        log.settle()
    log.settle()
    found = [log.run(asyncio.wait_for(look, 10))[0] for look in looks]
    assert found == [Entry(Offset(1), Block(b"a")), Entry(Offset(2), Block(b"b"))]


# followers that act while they are called


def test_a_follower_that_leaves_in_the_middle_is_not_called_again(log: LogUnderTest, epoch: Epoch) -> None:
    def leave(reader: Reader) -> None:
        if reader.at == 2:
            reader.unfollow()

    leaving, staying = Reader(then=leave).follow(log), Reader().follow(log)
    for text in "abc":
        log.append(STREAM, epoch, blocks(text))
        log.settle()
    assert (leaving.text, staying.text) == ("ab", "abc")


def test_a_follower_that_is_sent_away_by_another_is_not_called_again(log: LogUnderTest, epoch: Epoch) -> None:
    other = Reader()
    sender = Reader(then=lambda reader: other.unfollow()).follow(log)
    other.follow(log)
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    assert (sender.text, other.text) == ("a", "")


@pytest.mark.parametrize("keep", [True, False])
def test_what_a_follower_appends_comes_after_what_it_was_called_with(log: LogUnderTest, keep: bool) -> None:
    epoch = log.create(STREAM, keep=keep)

    def go_on(reader: Reader) -> None:
        if reader.at < 4:
            log.append(STREAM, epoch, blocks("abcd"[reader.at]), ends=reader.at == 3)

    before, writer, after = Reader().follow(log), Reader(then=go_on).follow(log), Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    assert [reader.text for reader in (before, writer, after)] == ["abcd"] * 3
    assert all(reader.has_ended for reader in (before, writer, after))


def test_a_follower_may_append_while_it_is_given_what_was_there(log: LogUnderTest, epoch: Epoch) -> None:
    def go_on(reader: Reader) -> None:
        if reader.at == 2:
            log.append(STREAM, epoch, blocks("c"))

    other = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a", "b"))
    log.settle()
    writer = Reader(then=go_on).follow(log)
    log.settle()
    assert (writer.text, other.text) == ("abc", "abc")


def fail(reader: Reader) -> None:
    raise OSError(f"broke at {reader.at}")


@pytest.mark.parametrize("keep", [True, False])
def test_a_follower_that_raises_is_left_out_and_the_others_go_on(log: LogUnderTest, keep: bool) -> None:
    epoch = log.create(STREAM, keep=keep)
    first, broken, last = Reader().follow(log), Reader(then=fail).follow(log), Reader().follow(log)
    for text in "ab":
        log.append(STREAM, epoch, blocks(text))
        log.settle()
    assert [reader.text for reader in (first, broken, last)] == ["ab", "a", "ab"]
    assert [str(error) for error in log.errors] == ["broke at 1"]


@pytest.mark.parametrize("keep", [True, False])
def test_the_only_follower_is_left_out_if_it_raises_later(log: LogUnderTest, keep: bool) -> None:
    def fail_at_2(reader: Reader) -> None:
        if reader.at == 2:
            fail(reader)

    epoch = log.create(STREAM, keep=keep)
    broken = Reader(then=fail_at_2).follow(log)
    for text in "abc":
        log.append(STREAM, epoch, blocks(text))
        log.settle()
    assert broken.text == "ab"
    assert [str(error) for error in log.errors] == ["broke at 2"]


def test_a_follower_that_raises_at_once_is_not_followed(log: LogUnderTest, epoch: Epoch) -> None:
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    broken = Reader(then=fail)
    with pytest.raises(OSError, match="broke at 1"):
        broken.follow(log)
    log.append(STREAM, epoch, blocks("b"))
    log.settle()
    assert broken.text == "a"


def test_what_a_follower_appends_before_it_raises_reaches_the_others(log: LogUnderTest, epoch: Epoch) -> None:
    def append_and_fail(reader: Reader) -> None:
        log.append(STREAM, epoch, blocks("b"))
        fail(reader)

    other = Reader().follow(log)
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    with pytest.raises(OSError, match="broke"):
        Reader(then=append_and_fail).follow(log)
    log.settle()
    assert other.text == "ab"


# streams that are not kept


def test_without_keeping_blocks_wait_for_the_first_follower_and_are_dropped_then(dropping_log: LogUnderTest) -> None:
    epoch = dropping_log.create(STREAM, keep=False)
    dropping_log.append(STREAM, epoch, blocks("a", "b"))
    dropping_log.settle()
    assert len(dropping_log.read(STREAM, Offset(0))) == 2
    reader = Reader().follow(dropping_log)
    dropping_log.append(STREAM, epoch, blocks("c"))
    dropping_log.settle()
    assert reader.text == "abc"
    assert dropping_log.read(STREAM, Offset(3)) == []
    for after in range(3):
        with pytest.raises(OffsetUnknown):
            dropping_log.read(STREAM, Offset(after))
        with pytest.raises(OffsetUnknown):
            dropping_log.follow(STREAM, Offset(after), Reader(after))


def test_without_keeping_blocks_wait_again_when_the_follower_has_gone(dropping_log: LogUnderTest) -> None:
    epoch = dropping_log.create(STREAM, keep=False)
    first = Reader().follow(dropping_log)
    dropping_log.append(STREAM, epoch, blocks("a"))
    dropping_log.settle()
    first.unfollow()
    dropping_log.append(STREAM, epoch, blocks("b", "c"))
    dropping_log.settle()
    second = Reader(1).follow(dropping_log)
    dropping_log.append(STREAM, epoch, blocks("d"), ends=True)
    dropping_log.settle()
    assert (first.text, second.text) == ("a", "bcd")


@pytest.mark.parametrize("ends", [True, False])
def test_without_keeping_who_begins_behind_a_block_has_had_it(dropping_log: LogUnderTest, ends: bool) -> None:
    epoch = dropping_log.create(STREAM, keep=False)
    dropping_log.append(STREAM, epoch, blocks("a", "b"), ends=ends)
    dropping_log.settle()
    Reader(2).follow(dropping_log)
    dropping_log.settle()
    with pytest.raises(OffsetUnknown):
        dropping_log.read(STREAM, Offset(1))


def test_without_keeping_what_made_the_only_follower_fail_is_still_there(dropping_log: LogUnderTest) -> None:
    epoch = dropping_log.create(STREAM, keep=False)
    dropping_log.append(STREAM, epoch, blocks("a"))
    dropping_log.settle()
    with pytest.raises(OSError, match="broke"):
        Reader(then=fail).follow(dropping_log)

    def fail_at_three(reader: Reader) -> None:
        if reader.at == 3:
            fail(reader)

    Reader(then=fail_at_three).follow(dropping_log)
    for text in "bcd":
        dropping_log.append(STREAM, epoch, blocks(text))
        dropping_log.settle()
    with pytest.raises(OffsetUnknown):
        dropping_log.follow(STREAM, Offset(1), Reader(1))
    assert Reader(2).follow(dropping_log).text == "cd"
    assert len(dropping_log.errors) == 1


# bounds, unknown streams, forgetting


def test_a_stream_that_is_too_long_is_refused_and_can_still_end(new_log: LogFactory) -> None:
    log = new_log(max_stream_bytes=10)
    epoch = log.create(STREAM, keep=True)
    reader = Reader().follow(log)
    log.append(STREAM, epoch, blocks("12345", "67890"))
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, blocks("x"))
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, [Block(b"x" * (TERMINAL_BYTES + 1))], ends=True)
    log.append(STREAM, epoch, blocks("error"), ends=True)
    log.settle()
    assert reader.text == "1234567890error"
    assert reader.has_ended
    log.close()


def test_without_keeping_the_bound_is_of_what_is_held() -> None:
    log = LogUnderTest(MemoryStreamLog(max_stream_bytes=10))
    epoch = log.create(STREAM, keep=False)
    reader = Reader().follow(log)
    for _ in range(10):
        log.append(STREAM, epoch, blocks("12345"))
        log.settle()
    reader.unfollow()
    log.append(STREAM, epoch, blocks("12345", "67890"))
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, blocks("x"))
    log.close()


UNKNOWN: dict[str, Callable[[LogUnderTest], object]] = {
    "claim": lambda log: log.claim(STREAM),
    "append": lambda log: log.append(STREAM, Epoch(1), blocks("a")),
    "read": lambda log: log.read(STREAM, Offset(0)),
    "follow": lambda log: log.follow(STREAM, Offset(0), Reader()),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_an_unknown_stream_is_refused(log: LogUnderTest, call: str) -> None:
    with pytest.raises(StreamUnknown, match=STREAM):
        UNKNOWN[call](log)


@pytest.mark.parametrize("call", UNKNOWN)
def test_a_forgotten_stream_is_unknown(log: LogUnderTest, epoch: Epoch, call: str) -> None:
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    log.forget(STREAM)
    log.forget(STREAM)
    with pytest.raises(StreamUnknown, match=STREAM):
        UNKNOWN[call](log)


def test_a_forgotten_id_may_begin_again_and_old_followers_do_not_hear_of_it(log: LogUnderTest) -> None:
    log.create(STREAM, keep=True)
    former = Reader().follow(log)
    log.forget(STREAM)
    epoch = log.create(STREAM, keep=True)
    log.append(STREAM, epoch, blocks("a"))
    log.settle()
    former.unfollow()
    assert former.text == ""
    assert Reader().follow(log).text == "a"


def test_streams_are_apart(log: LogUnderTest, epoch: Epoch) -> None:
    other = StreamId("chatcmpl-2")
    other_epoch = log.create(other, keep=True)
    mine, others = Reader().follow(log), Reader().follow(log, other)
    log.append(STREAM, epoch, blocks("a"))
    log.claim(STREAM)
    log.append(other, other_epoch, blocks("b"), ends=True)
    log.settle()
    log.forget(STREAM)
    assert (mine.text, others.text) == ("a", "b")
    assert not mine.has_ended


def test_every_refusal_is_a_log_error() -> None:
    for error in (OffsetUnknown, StaleEpoch, StreamEnded, StreamExists, StreamTooLong, StreamUnknown):
        assert issubclass(error, LogError)


def test_spare_blocks_stay_until_they_are_too_many_in_one_stream_or_in_all() -> None:
    log = MemoryStreamLog(spare_bytes=4, spare_bytes_in_all=6)
    one, two = StreamId("one"), StreamId("two")
    epochs = {stream: log.begin(stream, keep=False) for stream in (one, two)}
    for stream in epochs:
        log.attach(stream, Offset(0), lambda first, blocks, ends: None)

    def held_after(stream: StreamId, text: str) -> int:
        log.append(stream, epochs[stream], blocks(text))
        return log.size(stream)

    assert held_after(one, "abc") == 3
    assert held_after(two, "abc") == 3
    assert held_after(two, "d") == 0  # in all
    assert held_after(one, "d") == 4
    assert held_after(one, "e") == 0  # in one
    log.drop(one)
    assert held_after(two, "abcd") == 4


def test_what_a_follower_forgets_while_it_is_called_is_counted_once() -> None:
    log = MemoryStreamLog(spare_bytes=10, spare_bytes_in_all=6)
    one, two = StreamId("one"), StreamId("two")
    epochs = {stream: log.begin(stream, keep=False) for stream in (one, two)}
    log.attach(one, Offset(0), lambda first, blocks, ends: None)
    log.attach(two, Offset(0), lambda first, blocks, ends: log.drop(two))
    log.append(two, epochs[two], blocks("x" * 12))
    log.append(one, epochs[one], blocks("abcdefg"))
    assert log.size(one) == 0  # beyond what all may hold
