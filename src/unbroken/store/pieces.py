"""Blocks as a file keeps them: alone, or as the texts of a run with what stands around each of them.

A long answer is a tenth of its size so, and a run need not be taken apart to be written.
"""

from collections.abc import Iterable, Sequence

import msgspec

from unbroken.chat.stream import Block
from unbroken.store.held import Run


class PackedRun(msgspec.Struct, array_like=True, frozen=True):
    """A run of blocks."""

    before: bytes
    after: bytes
    texts: list[bytes]


Piece = Block | PackedRun
"""A block, or several."""

write_msgpack = msgspec.msgpack.Encoder().encode
_read_pieces = msgspec.msgpack.Decoder(list[bytes | PackedRun]).decode


def pack(blocks: Sequence[Block]) -> Sequence[Piece]:
    """Some blocks as pieces."""
    if type(blocks) is Run:
        return [PackedRun(blocks.before, blocks.after, blocks.texts)]
    return blocks


def unpack(pieces: Iterable[bytes | PackedRun]) -> list[Block]:
    """The blocks that pieces hold."""
    blocks: list[Block] = []
    for piece in pieces:
        if isinstance(piece, PackedRun):
            blocks += Run(piece.before, piece.after, piece.texts).blocks()
        else:
            blocks.append(Block(piece))
    return blocks


def write_pieces(parts: Iterable[Sequence[Block]]) -> bytes:
    """Several parts of a stream, one behind the other."""
    return write_msgpack([piece for part in parts for piece in pack(part)])


def read_blocks(body: bytes) -> list[Block]:
    """The blocks in what `write_pieces` has written."""
    return unpack(_read_pieces(body))


def join_pieces(bodies: Iterable[bytes]) -> bytes:
    """What `write_pieces` would have written of all parts of all of them."""
    return write_msgpack([piece for body in bodies for piece in _read_pieces(body)])
