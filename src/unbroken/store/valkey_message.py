"""How an append travels to the server, and from there to its followers: numbers, then blocks, note and account."""

from struct import Struct

from unbroken.chat.stream import Block, Offset
from unbroken.store.storage import Append, Stored

# epoch, offset of the first block, whether it ends, number of blocks, size of the note, size of the account
_HEAD = Struct(">IIBIII")
_SIZE = Struct(">I")
_HEAD_AND_SIZE = Struct(">IIBIIII")


def write_append(append: Append) -> bytes:
    """The bytes that `valkey_append.lua` reads; what it publishes is their beginning, without note and account."""
    blocks, note, account = append.blocks, append.note, append.account
    if len(blocks) == 1:  # as nearly always: one piece of text at a time
        block = blocks[0]
        head = _HEAD_AND_SIZE.pack(append.epoch, append.first, append.ends, 1, len(note), len(account), len(block))
        return b"".join((head, block, note, account))
    pieces = [_HEAD.pack(append.epoch, append.first, append.ends, len(blocks), len(note), len(account))]
    for block in blocks:
        pieces += (_SIZE.pack(len(block)), block)
    return b"".join((*pieces, note, account))


def read_news(message: bytes) -> Stored:
    """What was published of an append."""
    _, first, ends, count, _, _ = _HEAD.unpack_from(message)
    blocks = []
    at = _HEAD.size
    for _ in range(count):
        (size,) = _SIZE.unpack_from(message, at)
        at += _SIZE.size
        blocks.append(Block(message[at : at + size]))
        at += size
    return Stored(Offset(first), blocks, bool(ends))
