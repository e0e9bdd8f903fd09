"""Rich's Markdown with a quieter look, and without cutting anything off."""

from typing import ClassVar

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import (
    CodeBlock,
    Heading,
    HorizontalRule,
    ListElement,
    ListItem,
    Markdown,
    MarkdownElement,
    TableElement,
)
from rich.padding import Padding
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table

from unbroken.client.highlighting import Highlighter

NUMBER_WIDTH = 3  # " 1."; an item does not know how many will follow it
CODE_INDENT = 2


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}  # all to the left


class _Rule(HorizontalRule):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style="dim")


class _Code(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        highlighter = Highlighter(self.lexer_name)
        for line in str(self.text).rstrip("\n").split("\n"):
            yield Padding(highlighter.line(line), (0, 0, 0, CODE_INDENT))


class _List(ListElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, item in enumerate(self.items, 1 if self.list_start is None else self.list_start):
            if self.list_type == "bullet_list_open":
                yield from item.render_bullet(console, options)
            else:
                yield from _numbered(item, number, console, options)


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for rendered in super().__rich_console__(console, options):
            if isinstance(rendered, Table):
                for column in rendered.columns:
                    column.overflow = "fold"  # the default cuts long words off
            yield rendered


class QuietMarkdown(Markdown):
    """Markdown that is parsed elsewhere: set `parsed`."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "hr": _Rule,
        "fence": _Code,
        "code_block": _Code,
        "bullet_list_open": _List,
        "ordered_list_open": _List,
        "table_open": _Table,
    }


def _numbered(item: ListItem, number: int, console: Console, options: ConsoleOptions) -> RenderResult:
    numeral = f"{number}.".rjust(NUMBER_WIDTH) + " "
    lines = console.render_lines(item.elements, options.update(width=options.max_width - len(numeral)))
    for position, line in enumerate(lines):
        yield Segment(" " * len(numeral) if position else numeral)
        yield from line
        yield Segment.line()
