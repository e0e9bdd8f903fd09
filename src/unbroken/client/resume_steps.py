"""How a durable answer is asked for and read over lines that drop; sans-I/O.

A transport drives these generators: it carries out each `Step` and sends the `Outcome` in.
"""

from collections.abc import Generator
from dataclasses import dataclass

from unbroken.client.resume import (
    Dropped,
    Effort,
    Give,
    HangUp,
    Means,
    Outcome,
    Post,
    ReadOn,
    Reply,
    Resume,
    Step,
)
from unbroken.client.resume_blocks import BlockReader
from unbroken.rules.resume import PASSING, Refused, Setback, Unreachable

MAX_WHOLE_BYTES = 64 << 20  # of an answer that is not streamed: far above any; what is longer is not read ahead
MAX_FAREWELL = 16  # pieces read after an answer's end, so that its connection can be used again


@dataclass(frozen=True, slots=True)
class Posted:
    """The response to the caller's request, with what was read of its body."""

    reply: Reply
    read: bytes = b""
    is_whole: bool = False


def ask(means: Means, *, is_known: bool, since: float | None = None) -> Generator[Step, Outcome, Posted]:
    """Post the request, again under its one key if the line drops (D8); a whole answer is read to its end.

    Args:
        means: what it needs of the world.
        is_known: whether the server is known to be Unbroken. Another one would do a request twice that is sent twice.
        since: when the first of the attempts dropped that the SDK has given up; None where this is its first.

    Raises:
        Exception: the line dropped for good; what the SDK would have seen.
    """
    effort: Effort | None = None
    while True:
        outcome: Outcome | Posted = yield Post()
        if isinstance(outcome, Reply):
            if effort and not outcome.stream and outcome.status in PASSING:
                yield HangUp()
                yield effort.pause(Refused(outcome.status, outcome.retry_after))
                continue
            if effort and outcome.stream:
                effort.tell(outcome.stream, 0)
            is_known |= outcome.is_ours
            outcome = yield from _read(outcome)
        if isinstance(outcome, Posted):
            return outcome
        assert isinstance(outcome, Dropped)
        if outcome.is_callers or not is_known:
            raise outcome.error
        yield HangUp()
        effort = effort or Effort(means, outcome.error, means.clock() if since is None else since)
        yield effort.pause(Unreachable())


def _read(reply: Reply) -> Generator[Step, Outcome, Posted | Dropped]:
    """What is read of a response before it is handed over: of a whole answer all, up to the bound."""
    if not reply.is_ours or reply.is_event_stream:
        return Posted(reply)
    pieces: list[bytes] = []
    size = 0
    while size <= MAX_WHOLE_BYTES:
        outcome = yield ReadOn()
        if isinstance(outcome, Dropped):
            return outcome
        assert isinstance(outcome, bytes)
        if not outcome:
            yield HangUp()
            return Posted(reply, b"".join(pieces), is_whole=True)
        pieces.append(outcome)
        size += len(outcome)
    return Posted(reply, b"".join(pieces))


def give(posted: Posted) -> Generator[Step, Outcome, None]:
    """Hand over an answer that is not streamed."""
    if posted.read:
        yield Give(posted.read)
    while not posted.is_whole:
        outcome = yield ReadOn()
        if isinstance(outcome, Dropped):
            raise outcome.error
        assert isinstance(outcome, bytes)
        if not outcome:
            return
        yield Give(outcome)


def follow(means: Means, stream: str, blocks: BlockReader) -> Generator[Step, Outcome, None]:
    """Hand over a streamed answer to its end, over as many lines as that takes.

    Raises:
        Exception: the line dropped for good; what the SDK would have seen.
    """
    effort: Effort | None = None
    heard = 0
    while not blocks.is_over:
        outcome = yield ReadOn()
        if isinstance(outcome, bytes) and outcome:
            given = blocks.feed(outcome)
            if given:
                yield Give(given)
            if blocks.trouble is None:
                effort = None if blocks.heard > heard else effort
                heard = blocks.heard
                continue
        cause = outcome.error if isinstance(outcome, Dropped) else means.broken(_what_broke(blocks))
        yield HangUp()
        if not blocks.has_offset:
            raise cause
        effort = effort or Effort(means, cause, means.clock())
        yield from _resume(effort, stream, blocks)
    for _ in range(MAX_FAREWELL):
        if not isinstance(last := (yield ReadOn()), bytes) or not last:
            return


def _what_broke(blocks: BlockReader) -> str:
    return blocks.trouble or f"the stream ended behind block {blocks.offset} without the end of its answer"


def _resume(effort: Effort, stream: str, blocks: BlockReader) -> Generator[Step, Outcome, None]:
    """Come back to the stream, on a new line."""
    setback: Setback = Unreachable()
    while True:
        yield effort.pause(setback)
        outcome = yield Resume(stream, blocks.offset)
        match outcome:
            case Reply(200, is_event_stream=True):
                blocks.begin_line()
                effort.tell(stream, blocks.offset)
                return
            case Reply(200):
                setback = Unreachable()  # the page of something in between
                yield HangUp()
            case Reply(status, retry_after=retry_after):
                setback = Refused(status, retry_after)
                yield HangUp()
            case _:
                setback = Unreachable()
