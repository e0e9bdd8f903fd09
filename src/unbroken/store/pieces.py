"""Blocks as a file keeps them: alone, or as the texts of a run with what stands around each of them.

A long answer is a tenth of its size so, and a run need not be taken apart to be written. In the journal, which has a
few blocks of many streams in each row, a run that goes on does not even say again what stands around its texts.
"""

from collections.abc import Iterable, Sequence

import msgspec

from unbroken.chat.stream import Block
from unbroken.store.held import Run


class PackedRun(msgspec.Struct, array_like=True, frozen=True):
    """A run of blocks; without `before` and `after` more texts of the stream's last run, which nothing came behind."""

    before: bytes | None
    after: bytes | None
    texts: list[bytes]


Piece = Block | tuple[bytes | None, bytes | None, list[bytes]]
"""A block; or several, as a `PackedRun` has them."""

Part = list[Block] | Run
"""Blocks of a stream that were added at once, or a run of them."""

write_msgpack = msgspec.msgpack.Encoder().encode
_read_pieces = msgspec.msgpack.Decoder(list[bytes | PackedRun]).decode


class RunUnknown(Exception):
    """A run goes on of which the beginning has not been read."""


def pack(blocks: Part, run: Run | None = None) -> Sequence[Piece]:
    """Some blocks as pieces; `run` is the stream's last one, if nothing came behind it and the reader knows it."""
    if type(blocks) is not Run:
        return blocks
    if run is not None and run.before == blocks.before and run.after == blocks.after:
        return [(None, None, blocks.texts)]
    return [(blocks.before, blocks.after, blocks.texts)]


def unpack(pieces: Iterable[bytes | PackedRun], run: Run | None = None) -> list[Part]:
    """What `pack` was given.

    Raises:
        RunUnknown: it goes on with a `run` that is not given.
    """
    parts: list[Part] = []
    for piece in pieces:
        if not isinstance(piece, PackedRun):
            parts.append([Block(piece)])
            run = None
            continue
        if piece.before is not None and piece.after is not None:
            run = Run(piece.before, piece.after, piece.texts)
        elif run is not None:
            run = Run(run.before, run.after, piece.texts)
        else:
            raise RunUnknown
        parts.append(run)
    return parts


def blocks_of(parts: Iterable[Part]) -> list[Block]:
    """The blocks of several parts."""
    return [block for part in parts for block in part]


def write_pieces(parts: Iterable[Part]) -> bytes:
    """Several parts of a stream, one behind the other."""
    return write_msgpack([piece for part in parts for piece in pack(part)])


def read_blocks(body: bytes) -> list[Block]:
    """The blocks in what `write_pieces` has written."""
    return blocks_of(unpack(_read_pieces(body)))


def join_pieces(bodies: Iterable[bytes]) -> bytes:
    """What `write_pieces` would have written of all parts of all of them."""
    return write_msgpack([piece for body in bodies for piece in _read_pieces(body)])
