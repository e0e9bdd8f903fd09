"""Blocks of Markdown as screen rows."""

from collections.abc import Iterable

from rich.console import COLOR_SYSTEMS, Console, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from unbroken.client.blocks import Prose, markdown_parser
from unbroken.client.elements import CODE_INDENT, QuietMarkdown
from unbroken.client.screen import Row
from unbroken.client.visible import visible


class RowRenderer:
    """Renders as one console does; what comes out steers nothing but its own styles."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._parser = markdown_parser()

    def prose(self, block: Prose, width: int) -> list[Row]:
        """The rows of a block of Markdown."""
        markdown = QuietMarkdown("", hyperlinks=False)
        markdown.parsed = self._parser.parse(block.source)
        if block.number is not None and markdown.parsed:
            markdown.parsed[0].attrs["start"] = block.number
        rows = self._rows(markdown, width)
        while rows and not rows[-1].text:
            rows.pop()
        while rows and not rows[0].text:
            rows.pop(0)
        return rows

    def code(self, code: Text, width: int) -> list[Row]:
        """The rows of one line of coloured code; a long one goes on in the next row."""
        code.no_wrap, code.overflow = False, "fold"
        return self._rows(Padding(code, (0, 0, 0, CODE_INDENT)), width)

    def text(self, text: str, style: str, width: int) -> list[Row]:
        """The rows of plain text in a style of the theme."""
        return self._rows(Text(text, style=style, overflow="fold"), width)

    def _rows(self, renderable: RenderableType, width: int) -> list[Row]:
        options = self._console.options.update(width=width, height=None)
        return [self._row(line) for line in self._console.render_lines(renderable, options, pad=False)]

    def _row(self, segments: Iterable[Segment]) -> Row:
        # Cleaned here once more: "&#12;" becomes a control character only when Markdown is read.
        line = [Segment(visible(segment.text), segment.style) for segment in segments if not segment.control]
        while line and not line[-1].text.rstrip(" "):
            line.pop()
        if line:
            line[-1] = Segment(line[-1].text.rstrip(" "), line[-1].style)
        line = list(Segment.simplify(line))
        if self._console.no_color:
            line = list(Segment.remove_color(line))
        system = COLOR_SYSTEMS.get(self._console.color_system or "")
        text = "".join((style or Style.null()).render(text, color_system=system) for text, style, _ in line)
        return Row(text, Segment.get_line_length(line))
