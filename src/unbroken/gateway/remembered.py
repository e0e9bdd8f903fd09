"""What a producer remembers of its answer, so that it can be continued when the upstream fails."""

from collections.abc import Sequence

from unbroken.chat.stream import Block

MAX_REMEMBERED_BYTES = 1 << 20  # some three thousand tokens; a longer answer whose upstream dies fails clean


class Remembered:
    """The blocks of one answer so far, and the notes that went with them; nothing once they are too many."""

    __slots__ = ("_size", "blocks", "is_too_long", "note")

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.note = b""
        self.is_too_long = False
        self._size = 0

    def take(self, blocks: Sequence[Block], note: bytes = b"") -> None:
        """Adds blocks of the answer."""
        self._size += len(blocks[0]) if len(blocks) == 1 else sum(map(len, blocks))
        if self._size > MAX_REMEMBERED_BYTES:
            return self.forget()
        self.blocks += blocks
        if note:
            self.note += note

    def forget(self) -> None:
        """Gives up: there are too many to go on from."""
        self.blocks, self.note, self.is_too_long = [], b"", True
