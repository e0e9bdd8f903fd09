"""Markdown on a terminal as it streams: what is finished is never touched again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from unbroken.client.blocks import Block, BlockSplitter, CodeEnd, CodeLine, CodeStart, Prose
from unbroken.client.highlighting import Highlighter
from unbroken.client.rendering import RowRenderer
from unbroken.client.screen import GrowingRows, Row

_BLANK = Row("", 0)


class MarkdownStream:
    """Shows one text: every piece at once, the unfinished block rendered anew as it grows.

    A block that grows too tall to be changed stays as it stands, and the rest of it follows as plain text.
    """

    def __init__(self, screen: GrowingRows, renderer: RowRenderer) -> None:
        self._screen = screen
        self._renderer = renderer
        self._splitter = BlockSplitter()
        self._highlighter = Highlighter("")
        self._is_first = True
        self._settled = 0  # characters of the unfinished block that stand in finished rows

    def feed(self, text: str) -> None:
        """Show more of the text."""
        for block in self._splitter.feed(text):
            self._complete(block)
        self._show_unfinished()

    def end(self) -> None:
        """Finish what is there: nothing more comes."""
        for block in self._splitter.end():
            self._complete(block)
        self._screen.finish()

    def _complete(self, block: Block) -> None:
        self._screen.show(self._rows(block, is_whole=True))
        self._screen.finish()
        self._settled = max(0, self._settled - len(block.source))
        self._is_first = False

    def _show_unfinished(self) -> None:
        block = self._splitter.unfinished()
        if block is None:
            return
        rows = self._rows(block, is_whole=False)
        if len(rows) >= self._screen.reach:
            settled = _with_whole_words(block)
            self._screen.show(self._rows(settled, is_whole=False))
            self._screen.finish()
            self._settled = len(settled.source)
            rows = self._rows(block, is_whole=False)
        self._screen.show(rows)

    def _rows(self, block: Block, *, is_whole: bool) -> Sequence[Row]:
        width = self._screen.width
        if self._settled:
            rest = block.source[self._settled :].strip("\n")
            return self._renderer.text(rest, "none", width) if rest else []
        match block:
            case Prose():
                rows = self._renderer.prose(block, width)
                is_apart = not (self._is_first or block.follows_item) and rows
                return [_BLANK, *rows] if is_apart else rows
            case CodeStart(_, language):
                self._highlighter = Highlighter(language)
                return [] if self._is_first else [_BLANK]
            case CodeLine(_, code):
                text = self._highlighter.line(code) if is_whole else self._highlighter.part(code)
                return self._renderer.code(text, width)
            case CodeEnd():
                return []
            case _:
                assert_never(block)


def _with_whole_words(block: Block) -> Block:
    """The block up to its last line, or to its last word where that line is most of it."""
    source = block.source
    end = source.rfind("\n") + 1
    if end <= len(source) // 2:
        end = source.rfind(" ") + 1
    return replace(block, source=source[:end]) if end else block
