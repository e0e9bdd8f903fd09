"""A terminal small enough to be believed: it knows only what a chat may use, and refuses all else."""

import asyncio
import io
import re
import unicodedata

from rich.cells import cell_len

_SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")


class FakeTerminal(io.StringIO):
    """Keeps the screen as text; what has scrolled off it can no longer change."""

    def __init__(self, columns: int = 40, lines: int = 12) -> None:
        super().__init__()
        self.columns, self.lines = columns, lines
        self.scrolled: list[str] = []
        self.screen: list[str] = [""]
        self._row = self._column = 0
        self._written: asyncio.Event | None = None

    async def wait_for(self, text: str, timeout: float = 10.0) -> None:
        """Return when the text can be seen."""
        async with asyncio.timeout(timeout):
            while text not in self.text:
                self._written = asyncio.Event()
                await self._written.wait()

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """All rows, those that have scrolled off included."""
        return "\n".join([*self.scrolled, *self.screen]).rstrip("\n")

    def write(self, text: str) -> int:
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                sequence = _SEQUENCE.match(text, at)
                assert sequence, f"not a sequence that a chat may send: {text[at : at + 12]!r}"
                self._steer(sequence[1], sequence[2])
                at = sequence.end()
            else:
                self._put(text[at])
                at += 1
        if self._written is not None:
            self._written.set()
        return len(text)

    def _steer(self, number: str, letter: str) -> None:
        match letter:
            case "m":
                pass
            case "A":
                assert int(number) <= self._row, "the cursor would leave the screen"
                self._row -= int(number)
            case "K":
                self.screen[self._row] = self.screen[self._row][: self._column]
            case "J":
                self.screen[self._row] = self.screen[self._row][: self._column]
                del self.screen[self._row + 1 :]
            case _:
                raise AssertionError(f"unknown sequence {number}{letter}")

    def _put(self, character: str) -> None:
        if character == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self.screen):
                self.screen.append("")
            if len(self.screen) > self.lines:
                self.scrolled.append(self.screen.pop(0))
                self._row -= 1
        elif character == "\r":
            self._column = 0
        else:
            assert unicodedata.category(character) != "Cc", f"a control character: {character!r}"
            row = self.screen[self._row].ljust(self._column)
            self.screen[self._row] = row[: self._column] + character + row[self._column + 1 :]
            self._column += 1
            assert cell_len(self.screen[self._row]) < self.columns, "a row touches the last column"
