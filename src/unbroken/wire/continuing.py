"""Going on with an answer that was begun: an attempt's blocks read back, held against what was sent, the rest written.

Any attempt of ours already ends in blocks of the client's dialect. They are not sent: they are read back as that client
would read them, so that what is new and what was sent are told in the same words, whatever the upstream speaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from unbroken.chat.events import Event, Failed, Finished, Started, UsageReported
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.said import PieceOfAnswer, Said, said_in
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.continuing_blocks import events_in
from unbroken.wire.dialects import Dialect, EventReader, EventWriter, Relay
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent


@dataclass(frozen=True, slots=True)
class SaidSoFar:
    """What a log's blocks say, and whether their dialect's terminal event is among them."""

    said: Said
    is_complete: bool


def read_back(dialect: Dialect, blocks: Sequence[Block]) -> SaidSoFar:
    """What the blocks of a stream of this dialect say.

    Raises:
        UpstreamFailed: there is something in them that is in no word of ours, so that nobody can go on with it.
    """
    reader = dialect.event_reader()
    try:
        events = [said for event in events_in(blocks) for said in reader.feed(event)]
    except UpstreamFailed as failed:
        raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, failed.failure.message)) from None
    return SaidSoFar(said_in(events), reader.is_complete)


class Joint(Protocol):
    """Tells what of an attempt's words is new behind the words that were sent, and what was used in all."""

    @property
    def pieces(self) -> int:
        """Pieces of the answer that were sent and that the attempt does not say again."""
        ...

    def usage_of_whole(self, usage: Usage) -> Usage:
        """The usage of the answer from its beginning, each token of it once (K5), given that of the attempt."""
        ...

    def feed(self, event: PieceOfAnswer) -> list[Event]:
        """The new events in one event; none while it says what was said. Raises UpstreamFailed where they differ."""
        ...

    def end(self, reason: FinishReason | str) -> list[Event]:
        """What was held back and turns out to be new; raises UpstreamFailed where the attempt does not reach so far."""
        ...


class ContinuingRelay:
    """A `Relay` that goes on with an answer: around the relay of an attempt, whose blocks nobody else sees.

    It is `WAITING` until something new has come, so that nothing is settled before the answer goes on.
    """

    shortcut = None

    def __init__(self, attempt: Relay, reader: EventReader, joint: Joint, writer: EventWriter) -> None:
        """`reader` and `writer` are the client's; the writer goes on where the blocks end that were sent."""
        self.progress = Progress.WAITING
        #: Of the whole answer.
        self.usage: Usage | None = None
        #: Pieces of the whole answer so far, those that the attempt has said again among them.
        self.deltas = joint.pieces
        self.ignored = 0
        self._attempt = attempt
        self._reader = reader
        self._joint = joint
        self._writer = writer
        self._failure: Failure | None = None

    def feed(self, event: SseEvent) -> list[Block]:
        """The blocks that one event of the upstream adds to the answer.

        Raises:
            UpstreamFailed: the attempt has failed, or is no continuation of what was sent (K4).
        """
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        return self._take(self._attempt.feed(event))

    def finish(self) -> list[Block]:
        """The blocks that end the stream; raises UpstreamFailed where the attempt is not whole, or no continuation."""
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        return self._take(self._attempt.finish())

    def _take(self, blocks: list[Block]) -> list[Block]:
        if self.progress is Progress.ENDED:
            return []
        new: list[Block] = []
        try:
            for event in events_in(blocks):
                for said in self._reader.feed(event):
                    self._say(said, new)
            self.deltas = self._joint.pieces + self._attempt.deltas
            if self._attempt.progress is Progress.ENDED:
                self._end(new)
        except UpstreamFailed as failed:
            self._failure = failed.failure
            if not new:
                raise  # else the next call raises it: the writer has counted what it wrote
        return new

    def _say(self, said: Event, new: list[Block]) -> None:
        match said:
            case Started() | UsageReported():
                pass  # the envelope is the one that was sent, and usage is told last
            case Failed():
                pass  # the attempt raises it itself
            case _ if said.choice != 0:
                raise UpstreamFailed(Failure(Fault.DIFFERS, f"choice {said.choice} of the answer was not asked for"))
            case Finished(reason):
                self._pass_on(self._joint.end(reason), new)
                new += self._writer.write(said)
                self.progress = Progress.FINISHED
            case _:
                self._pass_on(self._joint.feed(said), new)

    def _pass_on(self, events: list[Event], new: list[Block]) -> None:
        for event in events:
            new += self._writer.write(event)
            if self.progress is Progress.WAITING:
                self.progress = Progress.OPEN

    def _end(self, new: list[Block]) -> None:
        if self.progress is not Progress.FINISHED:
            raise UpstreamFailed(Failure(Fault.CUT, "the attempt to go on with the answer ended without its finish"))
        if self._attempt.usage is not None:
            self.usage = self._joint.usage_of_whole(self._attempt.usage)
            new += self._writer.write(UsageReported(self.usage))
        new += self._writer.end()
        self.progress = Progress.ENDED
