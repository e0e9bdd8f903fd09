"""The latest blocks of a stream, as they are held in memory."""

from collections.abc import Sequence

from unbroken.chat.stream import Block


class Run:
    """Blocks one behind the other that differ only in their text: of each there is only its text.

    A tenth of the memory; and writing to less of it is most of what a chunk costs beside system calls.
    """

    __slots__ = ("after", "before", "texts")

    def __init__(self, before: bytes, after: bytes, texts: list[bytes]) -> None:
        """`before` and `after` stand around each of the `texts`."""
        self.before, self.after = before, after
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def size(self) -> int:
        """Bytes of its blocks."""
        return sum(map(len, self.texts)) + len(self.texts) * (len(self.before) + len(self.after))

    def blocks(self) -> list[Block]:
        """The blocks themselves."""
        return [Block(self.before + text + self.after) for text in self.texts]


class HeldBlocks:
    """Blocks, to which more are added behind, and of which the first ones are dropped."""

    __slots__ = ("_older", "latest")

    def __init__(self) -> None:
        self._older: list[list[Block] | Run] = []
        #: The blocks behind the last run; whoever adds one adds it here.
        self.latest: list[Block] = []

    def __len__(self) -> int:
        return sum(map(len, self._older)) + len(self.latest)

    def add_run(self, run: Run) -> None:
        """Adds the blocks of a run, to which nothing is added any more."""
        self._older += [self.latest, run]
        self.latest = []

    def last(self, count: int) -> Sequence[Block]:
        """The last `count` of them."""
        if count > len(self.latest):
            parts = [part.blocks() if isinstance(part, Run) else part for part in self._older]
            self._older, self.latest = [], [block for part in (*parts, self.latest) for block in part]
        return self.latest[len(self.latest) - count :]

    def keep(self, count: int) -> None:
        """Drops all but the last `count`."""
        if count:
            self.latest = list(self.last(count))
        else:
            self.latest.clear()
        self._older = []
