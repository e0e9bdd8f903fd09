"""Where a chat is seen: a terminal, or a plain stream of text."""

import os
from collections.abc import Mapping
from typing import Protocol, TextIO

from unbroken.client.plain_view import AnswerView, PlainView
from unbroken.client.visible import visible


class Surface(Protocol):
    """Shows answers, and what the chat itself has to say."""

    def new_view(self) -> AnswerView:
        """What shows the next answer."""

    def say(self, text: str) -> None:
        """Show lines of the chat's own, less prominent than an answer."""

    def complain(self, text: str) -> None:
        """Show that something went wrong."""


class PlainSurface:
    """A pipe, a file, or a terminal that knows no styles."""

    def __init__(self, output: TextIO, aside: TextIO) -> None:
        self._output = output
        self._aside = aside

    def new_view(self) -> AnswerView:
        """A view that writes the model's text."""
        return PlainView(self._output, self._aside, is_terminal=self._output.isatty())

    def say(self, text: str) -> None:
        """Print the lines beside the output."""
        print(visible(text), file=self._aside, flush=True)

    def complain(self, text: str) -> None:
        """Print the sentence beside the output."""
        print(f"unbroken: {visible(text)}", file=self._aside, flush=True)


def open_surface(output: TextIO, aside: TextIO, environment: Mapping[str, str]) -> Surface:
    """The best surface for `output`; a plain one keeps everything but answers in `aside`."""
    if not output.isatty() or environment.get("TERM", "dumb") in ("dumb", "unknown"):
        return PlainSurface(output, aside)
    return _terminal(output)


def _terminal(output: TextIO) -> Surface:
    from rich.console import Console  # takes longer to import than a pipe needs to be served

    from unbroken.client.look import THEME
    from unbroken.client.rendering import RowRenderer
    from unbroken.client.screen import GrowingRows, Size
    from unbroken.client.terminal_surface import TerminalSurface

    def size() -> Size:
        try:
            columns, lines = os.get_terminal_size(output.fileno())
        except (OSError, ValueError):
            columns = lines = 0
        return Size(columns or 80, lines or 24)  # some terminals say 0 where they do not know

    screen = GrowingRows(output, size)
    return TerminalSurface(screen, RowRenderer(Console(file=output, theme=THEME, force_terminal=True)))
