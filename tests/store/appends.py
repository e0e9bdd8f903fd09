"""Appends as a test writes them: their size is counted."""

from unbroken.chat.stream import Block, Epoch, Offset, StreamId
from unbroken.store.held import size_of
from unbroken.store.storage import Append


def append_of(
    stream: StreamId,
    epoch: int,
    first: int,
    blocks: list[Block],
    ends: bool = False,
    note: bytes = b"",
    account: bytes = b"",
) -> Append:
    """An append of blocks alone."""
    size = size_of(blocks) + len(note)
    return Append(stream, Epoch(epoch), Offset(first), blocks, size, ends, note, account)
