"""Markdown in pieces, split into blocks as soon as nothing that follows can change them. Pure.

Source: CommonMark 0.31 and GitHub's tables; what is a block is for markdown-it to say.
"""

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

MAX_BLOCK = 16 << 10  # characters; a block is read again with each of its lines
_LISTS = ("bullet_list_open", "ordered_list_open")
_ONE_LINERS = ("heading_open", "hr")
_ENDED_BY_BLANK = ("paragraph_open", "table_open", "blockquote_open")
# A last line of nothing but marks may become anything: "-" a list, a rule, or the line under a heading.
_UNDECIDED = re.compile(r"[=`~#>|:*_\s-]*|\s*\d{1,9}[.)]?\s*")
_BLANK_END = re.compile(r"\n[ \t]*\n\Z")


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph, heading, table, quote or rule, or one item of a list with all that is in it."""

    source: str
    #: The item's number in an ordered list, whatever its own source says.
    number: int | None = None
    #: Whether the block before it is an item of the same list.
    follows_item: bool = False


@dataclass(frozen=True, slots=True)
class CodeStart:
    """The line that opens fenced code, and what it says of the language."""

    source: str
    language: str


@dataclass(frozen=True, slots=True)
class CodeLine:
    """One line inside the fence."""

    source: str
    code: str


@dataclass(frozen=True, slots=True)
class CodeEnd:
    """The line that closes the fence."""

    source: str


Block = Prose | CodeStart | CodeLine | CodeEnd


@dataclass(frozen=True, slots=True)
class _Fence:
    closing: re.Pattern[str]
    indent: re.Pattern[str]

    def read(self, line: str) -> CodeLine | CodeEnd:
        if self.closing.fullmatch(line):
            return CodeEnd(line)
        return CodeLine(line, self.indent.sub("", line, count=1).rstrip("\n"))


def markdown_parser() -> MarkdownIt:
    """The Markdown that we show: what would vanish on a terminal (HTML, image links, references) stays as text."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["image", "reference"])


class BlockSplitter:
    """Feeds on Markdown however it is cut; the blocks' sources and `rest`, joined, are always what was fed."""

    def __init__(self) -> None:
        self.rest = ""
        self._parser = markdown_parser()
        self._fence: _Fence | None = None
        self._number: int | None = None
        self._follows_item = False

    def feed(self, text: str) -> list[Block]:
        """The blocks that are complete now."""
        self.rest += text
        blocks: list[Block] = []
        if "\n" in text:  # only whole lines decide: "#" may become "#hashtag"
            while (block := self._next()) is not None:
                blocks.append(block)
        if len(self.rest) > MAX_BLOCK:
            blocks.append(self._take_all())
        return blocks

    def end(self) -> list[Block]:
        """The blocks that are complete because nothing follows; a last line without its end gets one."""
        blocks = self.feed("" if self.rest.endswith("\n") else "\n") if self.rest else []
        return [*blocks, self._take_all()] if self.rest else blocks

    def unfinished(self) -> Block | None:
        """What is known of the block that has begun; None where that is nothing yet."""
        lines, line_end, last = self.rest.rpartition("\n")
        known = lines + line_end if _UNDECIDED.fullmatch(last) else self.rest
        if not known.strip():
            return None
        return self._fence.read(known) if self._fence else Prose(known, self._number, self._follows_item)

    def _next(self) -> Block | None:
        if self._fence is not None:
            return self._next_of_code(self._fence)
        lines = self.rest[: self.rest.rfind("\n") + 1]
        tokens = self._parser.parse(lines)
        blocks = [token for token in tokens if token.level == 0 and token.nesting >= 0]
        if not blocks:
            return None
        if blocks[0].type == "fence":
            return self._open_fence(blocks[0], lines)
        if blocks[0].type == "ordered_list_open" and self._number is None:
            self._number = int(blocks[0].attrs.get("start", 1))
        items = [token for token in tokens if token.type == "list_item_open" and token.level == 1]
        if blocks[0].type in _LISTS and len(items) > 1 and (len(blocks) == 1 or _start(items[1]) < _start(blocks[1])):
            return self._take_item(_offset(lines, _start(items[1])))
        if len(blocks) > 1:
            return self._take(_offset(lines, _start(blocks[1])))
        return self._take(len(lines)) if _is_closed(blocks[0], lines) else None

    def _next_of_code(self, fence: _Fence) -> Block | None:
        line, line_end, rest = self.rest.partition("\n")
        if not line_end:
            return None
        self.rest = rest
        block = fence.read(line + line_end)
        if isinstance(block, CodeEnd):
            self._fence = None
        return block

    def _open_fence(self, token: Token, lines: str) -> CodeStart:
        start = _start(token)
        end = _offset(lines, start + 1)
        first_line = lines[_offset(lines, start) : end]
        mark = re.escape(token.markup[0])
        self._fence = _Fence(
            closing=re.compile(rf" {{0,3}}{mark}{{{len(token.markup)},}}[ \t]*\n?"),
            indent=re.compile(rf"^ {{0,{len(first_line) - len(first_line.lstrip(' '))}}}"),
        )
        return CodeStart(self._take(end).source, (token.info.split() or [""])[0])

    def _take_item(self, end: int) -> Prose:
        item = Prose(self.rest[:end], self._number, self._follows_item)
        self.rest = self.rest[end:]
        self._number = None if self._number is None else self._number + 1
        self._follows_item = True
        return item

    def _take(self, end: int) -> Prose:
        block = self._take_item(end)
        self._number, self._follows_item = None, False
        return block

    def _take_all(self) -> Block:
        if self._fence is None:
            return self._take(len(self.rest))
        line, self.rest = self._fence.read(self.rest), ""
        return line


def _is_closed(block: Token, lines: str) -> bool:
    return block.type in _ONE_LINERS or (block.type in _ENDED_BY_BLANK and _BLANK_END.search(lines) is not None)


def _start(token: Token) -> int:
    assert token.map is not None  # every block has its lines
    return token.map[0]


def _offset(lines: str, line: int) -> int:
    """Where the line with that number begins."""
    at = 0
    for _ in range(line):
        at = lines.index("\n", at) + 1
    return at
