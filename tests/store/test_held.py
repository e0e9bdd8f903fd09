"""Blocks of which only the texts are held, against a plain list; and a log whose writer adds such blocks by itself."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unbroken.chat.stream import Block, Entry, Epoch, Offset, StreamId
from unbroken.store.held import HeldBlocks, Run, size_of
from unbroken.store.log import OffsetUnknown, StaleEpoch, StreamEnded, StreamTooLong, StreamUnknown
from unbroken.store.memory import MemoryStreamLog

Result = TypeVar("Result")

STREAM = StreamId("chatcmpl-1")
FRAMES = st.sampled_from([(b"<", b">"), (b"[", b"]"), (b"", b"")])
TEXTS = st.lists(st.binary(max_size=3), max_size=4)
BLOCKS = st.lists(st.binary(min_size=1, max_size=3).map(Block), max_size=4)


def blocks_of(frame: tuple[bytes, bytes], texts: Sequence[bytes]) -> list[Block]:
    return [Block(frame[0] + text + frame[1]) for text in texts]


# runs


@given(FRAMES, TEXTS, st.integers(-5, 5), st.integers(-5, 5))
def test_a_run_is_its_blocks(frame: tuple[bytes, bytes], texts: list[bytes], start: int, end: int) -> None:
    run, blocks = Run(*frame, texts), blocks_of(frame, texts)
    assert list(run) == run.blocks() == blocks
    assert len(run) == len(blocks)
    assert bool(run) == bool(blocks)
    assert run.size == size_of(run) == size_of(blocks) == sum(map(len, blocks))
    assert list(run[start:end]) == blocks[start:end]
    assert [run[at] for at in range(-len(blocks), len(blocks))] == blocks + blocks
    with pytest.raises(IndexError):
        run[len(blocks)]


def test_a_run_may_still_grow() -> None:
    texts = [b"a"]
    run = Run(b"<", b">", texts)
    texts.append(b"b")
    assert (len(run), run.size, list(run)) == (2, 6, [b"<a>", b"<b>"])


class HeldMachine(RuleBasedStateMachine):
    """Blocks that are held, and the list that they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldBlocks()
        self.model: list[Block] = []
        self.growing: list[bytes] | None = None  # texts of the last run, while they may grow
        self.frame = (b"", b"")

    @rule(blocks=BLOCKS)
    def add(self, blocks: list[Block]) -> None:
        given = list(blocks)
        self.held.add(given)
        given.clear()
        self.model += blocks
        self.growing = None

    @rule(frame=FRAMES, texts=TEXTS)
    def add_texts(self, frame: tuple[bytes, bytes], texts: list[bytes]) -> None:
        given = list(texts)
        self.held.add(Run(*frame, given))
        given.append(b"this is no longer ours")
        self.model += blocks_of(frame, texts)
        self.growing = None

    @rule(frame=FRAMES, texts=TEXTS)
    def add_run(self, frame: tuple[bytes, bytes], texts: list[bytes]) -> None:
        self.growing, self.frame = list(texts), frame
        self.held.add_run(Run(*frame, self.growing))
        self.model += blocks_of(frame, texts)

    @precondition(lambda self: self.growing is not None)
    @rule(texts=TEXTS)
    def grow(self, texts: list[bytes]) -> None:
        assert self.growing is not None
        self.growing += texts
        self.model += blocks_of(self.frame, texts)

    @rule(place=st.integers(0, 99))
    def last(self, place: int) -> None:
        count = place % (len(self.model) + 1)
        found = self.held.last(count)
        assert list(found) == self.model[len(self.model) - count :]
        found.clear()
        self.growing = None

    @rule()
    def all(self) -> None:
        found = self.held.all()
        assert found == self.model
        found.clear()
        self.growing = None

    @rule(place=st.integers(0, 99))
    def keep(self, place: int) -> None:
        count = place % (len(self.model) + 1)
        self.held.keep(count)
        self.model = self.model[len(self.model) - count :]
        self.growing = None

    @rule()
    def drop_all(self) -> None:
        self.held.keep(0)
        self.model = []
        self.growing = None

    @invariant()
    def it_has_as_many(self) -> None:
        assert len(self.held) == len(self.model)
        assert self.held.size == size_of(self.model)

    def teardown(self) -> None:
        assert self.held.all() == self.model


TestHeldBlocks = HeldMachine.TestCase


# a log whose writer adds blocks by itself


def now(work: Coroutine[Any, Any, Result]) -> Result:
    """What a call gives that never waits."""
    try:
        work.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("it waits")


@dataclass
class Reader:
    """A follower that counts what it is given, also by the writer."""

    at: int = 0
    got: list[Block] = field(default_factory=list)
    has_ended: bool = False
    then: Callable[[], None] = lambda: None

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert first == self.at + 1
        assert not self.has_ended
        self.take(blocks)
        self.has_ended = ends
        self.then()

    def take(self, blocks: Sequence[Block]) -> None:
        self.at += len(blocks)
        self.got += blocks


class Writer:
    """Adds blocks to a log by itself, as long as it may."""

    def __init__(self, log: MemoryStreamLog, reader: Reader, *, stream: StreamId = STREAM) -> None:
        self._log, self._reader, self._stream = log, reader, stream
        self.texts: list[bytes] = []
        self.over = 0
        self._counted_at_the_end = -1

    def begin(self, epoch: Epoch, *, most: int = 100) -> bool:
        run = Run(b"<", b">", self.texts)
        return self._log.begin_run(self._stream, epoch, run, most=most, on_over=self._end)

    def write(self, *texts: bytes) -> None:
        assert not self.over
        for text in texts:
            self.texts.append(text)
            self._reader.take([Block(b"<" + text + b">")])

    def _end(self) -> None:
        self.over += 1
        held = self._log.held(self._stream)
        self._counted_at_the_end = 0 if held is None else held.last

    def was_told_first(self, last: int) -> bool:
        return self.over == 1 and self._counted_at_the_end in (0, last)


@pytest.fixture
def log() -> MemoryStreamLog:
    return MemoryStreamLog(max_stream_bytes=1000, spare_bytes=1000)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def epoch(log: MemoryStreamLog, reader: Reader) -> Epoch:
    """The epoch of a stream that says `begun` and has a reader."""
    epoch = log.begin(STREAM, keep=False)
    log.append(STREAM, epoch, [Block(b"begun")])
    log.attach(STREAM, Offset(0), reader)
    return epoch


def write_a_run(
    log: MemoryStreamLog, reader: Reader, *texts: bytes, keep: bool = False, stream: StreamId = STREAM
) -> Epoch:
    """The epoch of a new stream with a reader, to which a writer has added these texts by itself."""
    epoch = log.begin(stream, keep=keep)
    log.attach(stream, Offset(0), reader)
    writer = Writer(log, reader, stream=stream)
    assert writer.begin(epoch)
    writer.write(*texts)
    return epoch


def contents(log: MemoryStreamLog) -> list[Entry]:
    return now(log.read(STREAM, Offset(0)))


ALL = [Entry(Offset(n), Block(block)) for n, block in enumerate((b"begun", b"<a>", b"<b>"), 1)]


ENDS: dict[str, Callable[[MemoryStreamLog, Epoch], object]] = {
    "append": lambda log, epoch: log.append(STREAM, epoch, [Block(b"c")]),
    "an append of nothing": lambda log, epoch: log.append(STREAM, epoch, []),
    "an end": lambda log, epoch: log.append(STREAM, epoch, [Block(b"c")], ends=True),
    "read": lambda log, epoch: now(log.read(STREAM, Offset(0))),
    "follow": lambda log, epoch: now(log.follow(STREAM, Offset(0), Reader())),
    "attach": lambda log, epoch: log.attach(STREAM, Offset(0), Reader()),
    "claim": lambda log, epoch: now(log.claim(STREAM)),
    "held": lambda log, epoch: log.held(STREAM),
}


@pytest.mark.parametrize("name", ENDS)
def test_whatever_is_done_next_counts_what_the_writer_has_added(
    log: MemoryStreamLog, epoch: Epoch, reader: Reader, name: str
) -> None:
    writer = Writer(log, reader)
    assert writer.begin(epoch)
    writer.write(b"a", b"b")
    ENDS[name](log, epoch)
    assert writer.was_told_first(1)
    assert contents(log)[:3] == ALL
    found = log.held(STREAM)
    assert found is not None
    assert log.size(STREAM) == sum(len(entry.block) for entry in contents(log))
    assert found.last == len(contents(log))
    assert reader.got == [entry.block for entry in contents(log)]
    assert writer.over == 1


@pytest.mark.parametrize("forget", [lambda log: log.drop(STREAM), lambda log: now(log.forget(STREAM))])
def test_a_writer_of_a_stream_that_is_forgotten_is_told(
    log: MemoryStreamLog, epoch: Epoch, reader: Reader, forget: Callable[[MemoryStreamLog], object]
) -> None:
    writer = Writer(log, reader)
    assert writer.begin(epoch)
    writer.write(b"a", b"b")
    forget(log)
    assert writer.over == 1
    assert log.held(STREAM) is None
    forget(log)
    assert writer.over == 1


def test_what_is_refused_ends_a_run_too(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    for refused, error in (
        (lambda: log.append(STREAM, Epoch(9), [Block(b"x")]), StaleEpoch),
        (lambda: log.append(STREAM, epoch, [Block(b"x" * 1001)]), StreamTooLong),
        (lambda: now(log.read(STREAM, Offset(99))), OffsetUnknown),
        (lambda: log.attach(STREAM, Offset(99), Reader()), OffsetUnknown),
    ):
        writer = Writer(log, reader)
        assert writer.begin(epoch)
        writer.write(b"a")
        with pytest.raises(error):
            refused()
        assert writer.over == 1
    assert [entry.block for entry in contents(log)] == [b"begun", *[b"<a>"] * 4]


def test_a_run_to_which_nothing_was_added_is_none(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    for _ in range(3):
        writer = Writer(log, reader)
        assert writer.begin(epoch)
        assert contents(log) == ALL[:1]
        assert writer.over == 1
    log.append(STREAM, epoch, [Block(b"next")])
    assert reader.got == [b"begun", b"next"]


def test_a_reader_that_comes_reads_what_the_writer_has_added(
    log: MemoryStreamLog, epoch: Epoch, reader: Reader
) -> None:
    writer = Writer(log, reader)
    assert writer.begin(epoch)
    writer.write(b"a", b"b")
    late = [Reader(), Reader(1), Reader(2), Reader(3)]
    for other in late:
        log.attach(STREAM, Offset(other.at), other)
    log.append(STREAM, epoch, [Block(b"c")], ends=True)
    said = [b"begun", b"<a>", b"<b>", b"c"]
    assert [other.got for other in late] == [said, said[1:], said[2:], said[3:]]
    assert reader.got == said
    assert all(other.has_ended for other in (reader, *late))


def test_the_owner_that_is_robbed_has_said_what_it_said(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    writer = Writer(log, reader)
    assert writer.begin(epoch)
    writer.write(b"a", b"b")
    theirs = now(log.claim(STREAM))
    assert writer.over == 1
    assert not Writer(log, reader).begin(epoch)
    assert Writer(log, reader).begin(theirs)
    log.append(STREAM, theirs, [Block(b"c")])
    assert [entry.block for entry in contents(log)] == [b"begun", b"<a>", b"<b>", b"c"]


# when it may not


def test_only_the_owner_of_a_stream_may(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    assert not Writer(log, reader).begin(Epoch(epoch + 1))
    assert not Writer(log, reader).begin(Epoch(epoch - 1))
    assert not Writer(log, reader, stream=StreamId("another")).begin(epoch)
    log.append(STREAM, epoch, [Block(b"end")], ends=True)
    assert not Writer(log, reader).begin(epoch)


def test_only_while_there_is_one_reader(log: MemoryStreamLog, reader: Reader) -> None:
    epoch = log.begin(STREAM, keep=False)
    assert not Writer(log, reader).begin(epoch)
    leave = log.attach(STREAM, Offset(0), reader)
    leave_too = log.attach(STREAM, Offset(0), Reader())
    assert not Writer(log, reader).begin(epoch)
    leave_too()
    assert Writer(log, reader).begin(epoch)
    assert contents(log) == []
    leave()
    assert not Writer(log, reader).begin(epoch)


def test_only_one_at_a_time(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    writer = Writer(log, reader)
    assert writer.begin(epoch)
    assert not Writer(log, reader).begin(epoch)
    writer.write(b"a", b"b")
    assert writer.over == 0
    assert contents(log) == ALL
    assert Writer(log, reader).begin(epoch)


def test_not_while_readers_are_called(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    begun: list[bool] = []
    reader.then = lambda: begun.append(Writer(log, reader).begin(epoch))
    log.append(STREAM, epoch, [Block(b"a")])
    assert begun == [False]


@pytest.mark.parametrize(("most", "may"), [(0, True), (994, True), (995, True), (996, False), (5000, False)])
def test_only_as_long_as_it_cannot_be_too_long(
    log: MemoryStreamLog, epoch: Epoch, reader: Reader, most: int, may: bool
) -> None:
    assert Writer(log, reader).begin(epoch, most=most) is may


def test_what_was_added_counts_for_how_long_a_stream_is(log: MemoryStreamLog, epoch: Epoch, reader: Reader) -> None:
    writer = Writer(log, reader)
    assert writer.begin(epoch, most=900)
    writer.write(b"x" * 898)
    assert not Writer(log, reader).begin(epoch, most=96)
    with pytest.raises(StreamTooLong):
        log.append(STREAM, epoch, [Block(b"x" * 96)])
    assert not Writer(log, reader).begin(epoch, most=96)
    assert Writer(log, reader).begin(epoch, most=95)
    log.append(STREAM, epoch, [Block(b"x" * 95)])


# what is held of it


def test_what_was_had_is_dropped_where_nothing_may_stay(reader: Reader) -> None:
    log = MemoryStreamLog(spare_bytes=0)
    epoch = write_a_run(log, reader, b"a", b"b")
    found = log.held(STREAM)
    assert found is not None
    assert (found.last, log.size(STREAM)) == (2, 0)
    with pytest.raises(OffsetUnknown):
        now(log.read(STREAM, Offset(1)))
    assert now(log.read(STREAM, Offset(2))) == []
    log.append(STREAM, epoch, [Block(b"c")])
    assert reader.got == [b"<a>", b"<b>", b"c"]


@pytest.mark.parametrize("how", ["held", "read", "append", "attach", "claim"])
def test_a_run_that_is_more_than_may_stay_is_dropped_like_any_blocks(reader: Reader, how: str) -> None:
    log = MemoryStreamLog(spare_bytes=5)
    epoch = write_a_run(log, reader, b"a", b"b")
    match how:
        case "held":
            log.held(STREAM)
        case "read":
            assert now(log.read(STREAM, Offset(2))) == []
        case "append":
            log.append(STREAM, epoch, [Block(b"c")])
        case "attach":
            log.attach(STREAM, Offset(2), Reader(2))
        case "claim":
            now(log.claim(STREAM))
    with pytest.raises(OffsetUnknown):
        now(log.read(STREAM, Offset(0)))


def test_a_stream_that_is_kept_keeps_what_the_writer_has_added(reader: Reader) -> None:
    log = MemoryStreamLog(spare_bytes=0)
    epoch = write_a_run(log, reader, b"a", b"b", keep=True)
    log.append(STREAM, epoch, [Block(b"c")])
    assert [entry.block for entry in contents(log)] == [b"<a>", b"<b>", b"c"]


def test_what_is_held_in_all_is_counted_once_and_forgotten_once(reader: Reader) -> None:
    log = MemoryStreamLog(spare_bytes=100, spare_bytes_in_all=20)
    for _ in range(50):
        other, mine = StreamId("other"), Reader()
        write_a_run(log, mine, b"abc", b"def", stream=other)
        if len(mine.got) % 2:
            log.held(other)
        log.drop(other)
    epoch = write_a_run(log, reader, b"x" * 8)
    log.append(STREAM, epoch, [Block(b"x" * 10)])
    assert len(contents(log)) == 2, "there is room for all of it"
    log.append(STREAM, epoch, [Block(b"x")])
    assert now(log.read(STREAM, Offset(3))) == []
    with pytest.raises(OffsetUnknown):
        contents(log)


# anything


class RunMachine(RuleBasedStateMachine):
    """Two logs: to one the texts are added by their writer, to the other they are appended as blocks."""

    @initialize(keep=st.booleans())
    def begin(self, keep: bool) -> None:
        self.logs = [MemoryStreamLog(max_stream_bytes=400, spare_bytes=500) for _ in range(2)]
        self.epochs = [log.begin(STREAM, keep=keep) for log in self.logs]
        self.readers: list[list[Reader]] = [[], []]
        self.leaves: list[list[Callable[[], None]]] = [[], []]
        self.writer: Writer | None = None
        self.room = 0
        self.begun = 0

    def both(self, do: Callable[[MemoryStreamLog, Epoch], object]) -> None:
        """Does the same to both logs, with the same outcome."""
        outcomes: list[object] = []
        for log, epoch in zip(self.logs, self.epochs, strict=True):
            try:
                outcomes.append(do(log, epoch))
            except (OffsetUnknown, StaleEpoch, StreamEnded, StreamTooLong, StreamUnknown) as error:
                outcomes.append((type(error), str(error)))
        assert outcomes[0] == outcomes[1]
        if self.writer is not None:
            assert self.writer.over == 1
            self.writer = None

    @rule(blocks=BLOCKS.filter(bool), ends=st.integers(0, 15))
    def append(self, blocks: list[Block], ends: int) -> None:
        self.both(lambda log, epoch: log.append(STREAM, epoch, blocks, ends=not ends))

    @rule(frame=FRAMES, texts=TEXTS)
    def append_a_run(self, frame: tuple[bytes, bytes], texts: list[bytes]) -> None:
        self.both(lambda log, epoch: log.append(STREAM, epoch, Run(*frame, texts.copy())))

    @rule(most=st.integers(0, 60))
    def begin_run(self, most: int) -> None:
        if not self.readers[0] or self.writer is not None:
            return
        writer = Writer(self.logs[0], self.readers[0][0])
        if writer.begin(self.epochs[0], most=most):
            assert len(self.readers[0]) == 1
            self.writer, self.room = writer, most
            self.begun += 1

    @precondition(lambda self: self.writer is not None)
    @rule(texts=TEXTS)
    def write(self, texts: list[bytes]) -> None:
        for text in texts:
            if self.writer is None or len(text) + 2 > self.room:
                return
            self.room -= len(text) + 2
            self.writer.write(text)
            self.logs[1].append(STREAM, self.epochs[1], [Block(b"<" + text + b">")])

    @rule(after=st.integers(-1, 30))
    def read(self, after: int) -> None:
        self.both(lambda log, _: now(log.read(STREAM, Offset(after))))

    @rule()
    def held(self) -> None:
        self.both(lambda log, _: (log.held(STREAM), log.size(STREAM)))

    @rule()
    def claim(self) -> None:
        self.both(lambda log, _: now(log.claim(STREAM)))
        self.epochs = [Epoch(epoch + 1) for epoch in self.epochs]

    @rule(blocks=BLOCKS.filter(bool))
    def append_as_another(self, blocks: list[Block]) -> None:
        self.both(lambda log, epoch: log.append(STREAM, Epoch(epoch + 1), blocks))

    @rule(back=st.integers(0, 9))
    def follow(self, back: int) -> None:
        held = self.logs[1].held(STREAM)
        at = max(0, (0 if held is None else held.last) - back)
        readers = [Reader(at), Reader(at)]

        def attach(log: MemoryStreamLog, _: Epoch) -> None:
            side = self.logs.index(log)
            self.leaves[side].append(log.attach(STREAM, Offset(at), readers[side].__call__))
            self.readers[side].append(readers[side])

        self.both(attach)

    @precondition(lambda self: self.readers[0] and self.writer is None)
    @rule(place=st.integers(0, 9))
    def leave(self, place: int) -> None:
        for leaves, readers in zip(self.leaves, self.readers, strict=True):
            leaves.pop(place % len(readers))()
            readers.pop(place % len(readers))

    @invariant()
    def readers_have_the_same(self) -> None:
        if hasattr(self, "readers"):
            assert self.readers[0] == self.readers[1]

    def teardown(self) -> None:
        if hasattr(self, "readers"):
            self.read(0)
            self.held()


TestRuns = RunMachine.TestCase
