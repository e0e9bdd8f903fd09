"""A terminal as the place where a chat is seen."""

from unbroken.client.plain_view import AnswerView
from unbroken.client.rendering import RowRenderer
from unbroken.client.screen import GrowingRows
from unbroken.client.terminal_view import TerminalView


class TerminalSurface:
    """Answers as Markdown, the chat's own lines dim, complaints in red."""

    def __init__(self, screen: GrowingRows, renderer: RowRenderer) -> None:
        self._screen = screen
        self._renderer = renderer

    def new_view(self) -> AnswerView:
        """A view that renders Markdown."""
        return TerminalView(self._screen, self._renderer)

    def say(self, text: str) -> None:
        """Show the lines dim."""
        self._show(text, "chat.aside")

    def complain(self, text: str) -> None:
        """Show the sentence in red."""
        self._show(text, "chat.error")

    def _show(self, text: str, style: str) -> None:
        self._screen.finish()
        self._screen.show(self._renderer.text(text, style, self._screen.width))
        self._screen.finish()
