"""What a stream is made of: its id, its blocks and where they stand."""

from typing import NamedTuple, NewType

StreamId = NewType("StreamId", str)
"""The stream's name, also the `id` of the answer that the client sees."""

Offset = NewType("Offset", int)
"""Position of a block as the client counts it, from 1; 0 is before the first."""

Epoch = NewType("Epoch", int)
"""Which owner of a stream is writing; a larger one fences off the smaller."""

Block = NewType("Block", bytes)
"""One SSE block as it goes to the client, from `data:` to the empty line."""


class Entry(NamedTuple):
    """A block and its place in the log."""

    offset: Offset
    block: Block
