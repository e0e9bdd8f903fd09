"""The end of a terminal's output that still grows: rows are rewritten only until they are finished."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TextIO

_UP = "\x1b[{}A"
_ERASE_TO_LINE_END = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


class Row(NamedTuple):
    """One screen row: its text with styles, every style ended, and its width in cells."""

    text: str
    cells: int


class Size(NamedTuple):
    """A terminal's columns and lines."""

    columns: int
    lines: int


class GrowingRows:
    """Shows rows at the end of the output and changes no more of them than differs; finished ones never change.

    The cursor stands at the end of the last row.
    """

    def __init__(self, output: TextIO, size: Callable[[], Size]) -> None:
        self._output = output
        self._size = size
        self._shown: list[Row] = []

    @property
    def width(self) -> int:
        """Cells that a row may have; the last column stays free, as terminals disagree on what happens there."""
        return max(self._size().columns - 1, 10)

    @property
    def reach(self) -> int:
        """How many rows may be unfinished: more would leave the screen, where nothing can be changed."""
        return max(self._size().lines - 2, 3)

    def show(self, rows: Sequence[Row]) -> None:
        """Make the unfinished rows these."""
        old, new = self._shown, list(rows)
        same = _common_prefix(old, new)
        if same == len(old) == len(new):
            return
        if same < len(old) and same == len(new):
            same = max(same - 1, 0)  # rows went away: rewrite the one before them, so that the cursor ends there
        if same == len(old):
            change = "\n".join([*([""] if old else []), *(row.text for row in new[same:])])
        elif same == len(old) - 1 and new and new[same].text.startswith(old[same].text):
            change = "\n".join(row.text for row in new[same:]).removeprefix(old[same].text)
        else:
            up = self._screen_rows(old[same:]) - 1
            erased = "\n".join(row.text + _ERASE_TO_LINE_END for row in new[same:])
            change = (_UP.format(up) if up else "") + "\r" + erased + _ERASE_BELOW
        self._shown = new
        self._write(change)

    def finish(self) -> None:
        """End the unfinished rows: they stay as they are, and the cursor goes below them."""
        if self._shown:
            self._shown = []
            self._write("\n")

    def _screen_rows(self, rows: Sequence[Row]) -> int:
        # A terminal made narrower has wrapped what stood there.
        columns = self._size().columns
        return sum(max(1, -(-row.cells // columns)) for row in rows)

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def _common_prefix(old: Sequence[Row], new: Sequence[Row]) -> int:
    for position, (before, after) in enumerate(zip(old, new, strict=False)):
        if before != after:
            return position
    return min(len(old), len(new))
