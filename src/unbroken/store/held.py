"""The latest blocks of a stream, as they are held in memory."""

from collections.abc import Iterator, Sequence
from typing import overload

from unbroken.chat.stream import Block


class Run(Sequence[Block]):
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

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks())

    @overload
    def __getitem__(self, at: int) -> Block: ...

    @overload
    def __getitem__(self, at: slice) -> "Run": ...

    def __getitem__(self, at: int | slice) -> "Block | Run":
        if isinstance(at, slice):
            return Run(self.before, self.after, self.texts[at])
        return Block(self.before + self.texts[at] + self.after)

    @property
    def size(self) -> int:
        """Bytes of its blocks."""
        texts = self.texts
        size = len(self.before) + len(self.after)
        return size + len(texts[0]) if len(texts) == 1 else sum(map(len, texts)) + len(texts) * size

    def blocks(self) -> list[Block]:
        """The blocks themselves."""
        before, after, texts = self.before, self.after, self.texts
        if len(texts) == 1:  # as nearly always
            return [before + texts[0] + after]  # type: ignore[list-item]  # a call of Block for each is what we save
        return [before + text + after for text in texts]  # type: ignore[misc]


def size_of(blocks: Sequence[Block]) -> int:
    """Bytes of some blocks."""
    if type(blocks) is Run:
        return blocks.size
    return len(blocks[0]) if len(blocks) == 1 else sum(map(len, blocks))


class HeldBlocks:
    """Blocks, to which more are added behind, and of which the first ones are dropped."""

    __slots__ = ("_after", "_before", "_latest", "_older", "_texts")

    def __init__(self) -> None:
        self._older: list[tuple[list[Block], Run]] = []  # blocks and the run behind them
        # The last run, if its texts are ours to add to and nothing is behind it; here, to be had in one step less.
        self._before, self._after = b"", b""
        self._texts: list[bytes] | None = None
        self._latest: list[Block] = []  # behind the last run

    def __len__(self) -> int:
        count = len(self._latest)
        for blocks, run in self._older:
            count += len(blocks) + len(run.texts)
        return count

    @property
    def size(self) -> int:
        """Bytes of its blocks."""
        return size_of(self._latest) + sum(size_of(blocks) + run.size for blocks, run in self._older)

    def add(self, blocks: Sequence[Block]) -> None:
        """Adds blocks; those of a run stay one."""
        if type(blocks) is not Run:
            self._latest += blocks
            self._texts = None
        elif (texts := self._texts) is not None and self._before == blocks.before and self._after == blocks.after:
            texts += blocks.texts
        else:
            run = Run(blocks.before, blocks.after, blocks.texts.copy())
            self.add_run(run)
            self._before, self._after, self._texts = run.before, run.after, run.texts

    def add_run(self, run: Run) -> None:
        """Adds a run, and with it what comes into it for as long as nothing else is asked of these blocks."""
        self._older.append((self._latest, run))
        self._texts, self._latest = None, []

    def all(self) -> list[Block]:
        """All of them."""
        return self.last(len(self))

    def last(self, count: int) -> list[Block]:
        """The last `count` of them."""
        if count > len(self._latest):
            whole = [block for blocks, run in self._older for block in (*blocks, *run)]
            self._older, self._texts, self._latest = [], None, whole + self._latest
        return self._latest[len(self._latest) - count :]

    def keep(self, count: int) -> None:
        """Drops all but the last `count`."""
        self._latest = self.last(count) if count else []
        self._older, self._texts = [], None
