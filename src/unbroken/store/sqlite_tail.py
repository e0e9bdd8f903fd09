"""What the journal has of a stream behind its segments: as the stream's writer keeps it, and as readers find it."""

from collections.abc import Iterable

from unbroken.chat.stream import Block
from unbroken.store.held import Run, size_of
from unbroken.store.pieces import PackedRun, Part, blocks_of, unpack


class Tail:
    """What a stream has in the journal only."""

    __slots__ = ("account", "count", "first_row", "has_ended", "last", "last_row", "notes", "parts", "run", "size")

    def __init__(self, last: int, *, has_ended: bool = False) -> None:
        """`last` is the offset of the last block before it."""
        #: Offset of its last block.
        self.last = last
        self.parts: list[Part] = []
        #: Its last part, if that is a run: the next row may go on with it (`pack`).
        self.run: Run | None = None
        #: Blocks in it, and bytes of these and its notes.
        self.count = self.size = 0
        self.notes: list[bytes] = []
        #: None if the journal says nothing new of it.
        self.account: bytes | None = None
        self.has_ended = has_ended
        #: The first and last journal rows that hold some of it; 0 if there is none.
        self.first_row = self.last_row = 0

    @property
    def blocks(self) -> list[Block]:
        """Its blocks."""
        return blocks_of(self.parts)

    def add(self, row: int, blocks: Part, size: int, ends: bool, note: bytes, account: bytes) -> None:
        """Takes in what a row of the journal has of it; `size` is that of the blocks and the note, in bytes."""
        if not self.first_row:
            self.first_row = row
        self.last_row = row
        if type(blocks) is Run:
            texts, run = blocks.texts, self.run
            if run is not None and run.before == blocks.before and run.after == blocks.after:
                run.texts += texts
            else:
                self.run = run = Run(blocks.before, blocks.after, texts.copy())
                self.parts.append(run)
            count = len(texts)
        else:
            count = len(blocks)
            if count:
                self.run = None
                self.parts.append(blocks)
        self.last += count
        self.count += count
        self.size += size
        self.has_ended = ends
        if note:
            self.notes.append(note)
        if account:
            self.account = account

    def add_pieces(
        self, row: int, pieces: Iterable[bytes | PackedRun], ends: bool, note: bytes, account: bytes
    ) -> None:
        """As `add`, of what was read from the journal."""
        for part in unpack(pieces, self.run):
            self.add(row, part, size_of(part), False, b"", b"")
        self.add(row, [], len(note), ends, note, account)

    def name_run_anew(self) -> None:
        """The next row says what stands around the texts of its run, whatever was said before."""
        self.run = None
