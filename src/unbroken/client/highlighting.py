"""Code, coloured line by line as it comes."""

from collections import deque

from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text

from unbroken.client.look import CODE

CONTEXT_LINES = 60  # before the line, for strings and comments over several lines
MAX_LINE = 1000  # characters; longer ones are data, and colouring them takes long


class Highlighter:
    """Colours the lines of one piece of code in a language; unknown ones stay plain."""

    def __init__(self, language: str) -> None:
        self._syntax = Syntax("", language or "text", theme=ANSISyntaxTheme(dict(CODE)))
        self._context: deque[str] = deque(maxlen=CONTEXT_LINES)

    def part(self, code: str) -> Text:
        """A line that still grows, coloured by itself."""
        return self._coloured([code])

    def line(self, code: str) -> Text:
        """The next whole line."""
        text = self._coloured([*self._context, code])
        self._context.append(code if len(code) <= MAX_LINE else "")
        return text

    def _coloured(self, lines: list[str]) -> Text:
        if len(lines[-1]) > MAX_LINE:
            return Text(lines[-1])
        coloured = self._syntax.highlight("\n".join(lines)).split("\n", allow_blank=True)[len(lines) - 1]
        return Text(coloured.plain, spans=coloured.spans)
