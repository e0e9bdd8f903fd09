"""The blocks of a stream that was sent, as the events that they are."""

from collections.abc import Sequence

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.wire.sse import EventTooLarge, SseEvent, SseReader

MAX_BLOCK_BYTES = 64 << 20  # of our own writing: the last event of a response repeats all of it


def events_in(blocks: Sequence[Block]) -> list[SseEvent]:
    """The events of whole blocks.

    Raises:
        UpstreamFailed: one of them is larger than the bound.
    """
    try:
        return SseReader(MAX_BLOCK_BYTES).feed(b"".join(blocks)) if blocks else []
    except EventTooLarge as error:
        raise UpstreamFailed(Failure(Fault.TOO_LARGE, str(error))) from None
