"""A log against a model of it: whatever is done, in any order, what a reader got is a slice of the stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.store.conftest import LOGS, LogFactory
from unbroken.chat.stream import Block, Epoch, Offset, StreamId
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import OffsetUnknown, StaleEpoch, StreamEnded, StreamExists, StreamUnknown, TextWriter

STREAMS = (StreamId("a"), StreamId("b"))
ONE = st.sampled_from(STREAMS)
FRAMES = ((b"<", b">"), (b"[", b"]"))
TEXTS = st.lists(st.binary(max_size=2), min_size=1, max_size=3)
BLOCKS = st.lists(st.binary(min_size=1, max_size=3).map(Block), min_size=1, max_size=3)


@dataclass
class Reader:
    """What a follower was given, and what it does to the log while it is called."""

    at: int
    got: list[Block] = field(default_factory=list)
    has_ended: bool = False
    is_following: bool = True
    begins_at: int = 0
    plans: list[Callable[[], None]] = field(default_factory=list)
    leave: Callable[[], None] = lambda: None

    def __call__(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        assert self.is_following
        assert not self.has_ended
        assert first == self.at + 1
        self.at += len(blocks)
        self.got += blocks
        self.has_ended = ends
        if self.plans:
            self.plans.pop()()


@dataclass
class Model:
    """One stream as it should be."""

    keep: bool
    epoch: Epoch
    blocks: list[Block] = field(default_factory=list)
    has_ended: bool = False
    had: int = 0  # how many blocks some follower has had
    readers: list[Reader] = field(default_factory=list)

    @property
    def first_held(self) -> int:
        return 0 if self.keep else self.had


class LogMachine(RuleBasedStateMachine):
    """Appends, claims, followers that come, go and act while they are called, reads and forgetting."""

    new_log: LogFactory

    def __init__(self) -> None:
        super().__init__()
        self.log = self.new_log()
        self.models: dict[StreamId, Model] = {}
        self.writers: list[tuple[StreamId, Model, Epoch, TextWriter]] = []

    def teardown(self) -> None:
        self.log.close()

    @initialize(keeps=st.tuples(st.booleans(), st.booleans()))
    def begin(self, keeps: tuple[bool, bool]) -> None:
        for stream, keep in zip(STREAMS, keeps, strict=True):
            self.models[stream] = self._begin(stream, keep)

    def _begin(self, stream: StreamId, keep: bool) -> Model:
        keep = keep or not self.log.may_drop
        return Model(keep, self.log.create(stream, keep=keep))

    @rule(stream=ONE)
    def claim(self, stream: StreamId) -> None:
        model = self.models[stream]
        former, model.epoch = model.epoch, self.log.claim(stream)
        assert model.epoch > former

    @rule(stream=ONE, blocks=BLOCKS)
    def append(self, stream: StreamId, blocks: list[Block], ends: bool = False) -> None:
        model = self.models[stream]
        if model.has_ended:
            with pytest.raises(StreamEnded):
                self.log.append(stream, model.epoch, blocks, ends=ends)
        else:
            self._append(stream, model, blocks, ends)
            self._settle()

    @rule(stream=ONE, blocks=BLOCKS, surely=st.integers(0, 9))
    def end(self, stream: StreamId, blocks: list[Block], surely: int) -> None:
        if not surely:
            self.append(stream, blocks, ends=True)

    def _append(self, stream: StreamId, model: Model, blocks: list[Block], ends: bool) -> None:
        model.blocks += blocks
        model.has_ended = ends
        self.log.append(stream, model.epoch, blocks, ends=ends)

    @rule(stream=ONE, blocks=st.lists(BLOCKS, min_size=1, max_size=4))
    def append_and_claim(self, stream: StreamId, blocks: list[list[Block]]) -> None:
        """What is on its way when the stream is claimed is committed in order, or not at all."""
        model = self.models[stream]
        if model.has_ended:
            return
        for more in blocks:
            self.log.append(stream, model.epoch, more)
        model.epoch = self.log.claim(stream)
        self.log.settle()
        flat = [block for more in blocks for block in more]
        committed = flat
        if model.keep:
            committed = [entry.block for entry in self.log.read(stream, Offset(len(model.blocks)))]
        assert committed == flat[: len(committed)]
        model.blocks += committed
        self._settle()

    @rule(stream=ONE, parts=st.lists(st.tuples(st.sampled_from([None, *FRAMES]), TEXTS), min_size=1, max_size=5))
    def append_texts(self, stream: StreamId, parts: list[tuple[tuple[bytes, bytes] | None, list[bytes]]]) -> None:
        """Texts of several frames, and plain blocks between them, most of which are committed together."""
        model = self.models[stream]
        if not isinstance(self.log.log, DurableStreamLog):
            return
        writers = {frame: self.log.log.text_writer(stream, model.epoch, *frame) for frame in FRAMES}
        for frame, texts in parts:
            if frame is None or model.has_ended:
                assert model.has_ended == (writers[FRAMES[0]] is None)
                if not model.has_ended:
                    self._append(stream, model, [Block(b"%b." % text) for text in texts], False)
                continue
            before, after = frame
            writer = writers[frame]
            assert writer is not None
            self.writers.append((stream, model, model.epoch, writer))
            assert writer.add(texts.copy())
            model.blocks += [Block(before + text + after) for text in texts]
        self._settle()

    @precondition(lambda self: self.writers)
    @rule(place=st.integers(0, 99))
    def a_writer_whose_time_is_over_adds_nothing(self, place: int) -> None:
        stream, model, epoch, writer = self.writers[place % len(self.writers)]
        if self.models[stream] is not model or model.epoch != epoch or model.has_ended:
            assert not writer.add([b"late"])
            self._settle()

    @rule(stream=ONE, blocks=BLOCKS, epoch=st.integers(-1, 5), after=st.integers(-1, 12))
    def ask_for_what_is_not_allowed(self, stream: StreamId, blocks: list[Block], epoch: int, after: int) -> None:
        model = self.models[stream]
        with pytest.raises(StreamExists):
            self.log.create(stream, keep=model.keep)
        if epoch != model.epoch:
            with pytest.raises(StaleEpoch):
                self.log.append(stream, Epoch(epoch), blocks)
        if not model.first_held <= after <= len(model.blocks):
            with pytest.raises(OffsetUnknown):
                self.log.follow(stream, Offset(after), Reader(after))
            with pytest.raises(OffsetUnknown):
                self.log.read(stream, Offset(after))

    @rule(stream=ONE, place=st.integers(0, 12))
    def follow(self, stream: StreamId, place: int) -> None:
        model = self.models[stream]
        after = model.first_held + place % (len(model.blocks) - model.first_held + 1)
        expected = list(enumerate(model.blocks, 1))[after:]
        assert [(entry.offset, entry.block) for entry in self.log.read(stream, Offset(after))] == expected
        self._follow(stream, model, Reader(after, begins_at=after))
        self._settle()

    def _follow(self, stream: StreamId, model: Model, reader: Reader) -> None:
        model.readers.append(reader)
        reader.leave = self.log.follow(stream, Offset(reader.at), reader.__call__)

    @precondition(lambda self: self.following())
    @rule(place=st.integers(0, 9))
    def unfollow(self, place: int) -> None:
        self._leave(self._choose(place))

    def _leave(self, reader: Reader) -> None:
        reader.leave()
        reader.is_following = False

    @precondition(lambda self: self.following())
    @rule(
        places=st.tuples(st.integers(0, 9), st.integers(0, 9)),
        blocks=st.tuples(BLOCKS, BLOCKS),
        plan=st.sampled_from(["append", "leave", "sends away"]),
    )
    def append_while_a_reader_acts(
        self, places: tuple[int, int], blocks: tuple[list[Block], list[Block]], plan: str
    ) -> None:
        """The reader does something to the log when it is called with the blocks."""
        reader, other = self._choose(places[0]), self._choose(places[1])
        stream, model = next(pair for pair in self.models.items() if any(r is reader for r in pair[1].readers))

        def act() -> None:
            match plan:
                case "append" if not model.has_ended:
                    self._append(stream, model, blocks[1], False)
                case "leave":
                    self._leave(reader)
                case "sends away":
                    self._leave(other)

        if not model.has_ended:
            reader.plans.append(act)
            self.append(stream, blocks[0])

    @rule(stream=ONE, keep=st.booleans(), surely=st.integers(0, 3))
    def forget(self, stream: StreamId, keep: bool, surely: int) -> None:
        if surely:
            return
        for reader in self.models[stream].readers:
            reader.is_following = False
        epoch = self.models[stream].epoch
        self.log.forget(stream)
        with pytest.raises(StreamUnknown):
            self.log.append(stream, epoch, [Block(b"a")])
        self.models[stream] = self._begin(stream, keep)

    def following(self) -> list[Reader]:
        return [reader for model in self.models.values() for reader in model.readers if reader.is_following]

    def _choose(self, place: int) -> Reader:
        following = self.following()
        return following[place % len(following)]

    def _settle(self) -> None:
        self.log.settle()
        for model in self.models.values():
            model.had = max([model.had, *(reader.at for reader in model.readers)])

    @invariant()
    def everyone_has_exactly_the_rest(self) -> None:
        assert not self.log.errors
        for model in self.models.values():
            for reader in model.readers:
                assert reader.got == model.blocks[reader.begins_at : reader.at]
                if reader.is_following:
                    assert reader.at == len(model.blocks)
                    assert reader.has_ended == model.has_ended


def test_a_log_behaves_as_its_model(new_log: LogFactory) -> None:
    machine = type("Machine", (LogMachine,), {"new_log": staticmethod(new_log)})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=100 if new_log is LOGS["memory"] else 20, stateful_step_count=40, deadline=None),
    )
