"""What a producer remembers of its answer, so that it can be continued when the upstream fails."""

from collections.abc import Sequence

from unbroken.chat.stream import Block
from unbroken.store.held import HeldBlocks, Run, size_of

MAX_REMEMBERED_BYTES = 1 << 20  # some three thousand tokens; a longer answer whose upstream dies fails clean


class Remembered:
    """The blocks of one answer so far, and the notes that went with them; nothing once they are too many."""

    __slots__ = ("_has_forgotten", "_held", "_run", "_size", "note")

    def __init__(self) -> None:
        self._held = HeldBlocks()
        self._run: Run | None = None  # whose size is not counted yet
        self.note = b""
        self._has_forgotten = False
        self._size = 0

    @property
    def is_too_long(self) -> bool:
        """Whether there are too many to go on from, so that none are remembered."""
        self._count_run()
        return self._has_forgotten

    @property
    def blocks(self) -> list[Block]:
        """The blocks."""
        self._count_run()
        return self._held.all()

    def begin_run(self, run: Run) -> None:
        """Adds a run, and what comes into it until something else is done here."""
        self._count_run()
        if not self._has_forgotten:
            self._held.add_run(run)
            self._run = run

    def _count_run(self) -> None:
        if self._run is not None:
            self._size += self._run.size
            self._run = None
            if self._size > MAX_REMEMBERED_BYTES:
                self.forget()

    def take(self, blocks: Sequence[Block], note: bytes = b"") -> None:
        """Adds blocks of the answer."""
        self._count_run()
        self._size += size_of(blocks)
        if self._size > MAX_REMEMBERED_BYTES:
            return self.forget()
        self._held.add(blocks)
        if note:
            self.note += note

    def recall(self, blocks: Sequence[Block]) -> None:
        """Has these blocks in place of those that it had."""
        self._held.keep(0)
        self._held.add(blocks)

    def forget(self) -> None:
        """Gives up: there are too many to go on from."""
        self._held.keep(0)
        self._run, self.note, self._has_forgotten = None, b"", True
