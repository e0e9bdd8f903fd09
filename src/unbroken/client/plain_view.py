"""Answers for a pipe: exactly the model's text."""

from collections.abc import Sequence
from typing import Protocol, TextIO

from unbroken.chat.events import Event, TextDelta, ToolCallDelta, ToolCallStarted
from unbroken.client.tool_calls import ToolCalls
from unbroken.client.visible import visible


class AnswerView(Protocol):
    """Shows one answer."""

    def wait(self) -> None:
        """Show that the answer is waited for, until there is something to show of it."""

    def show(self, events: Sequence[Event]) -> None:
        """Show what these events say, now."""

    def end(self) -> None:
        """Leave the output at the start of a line: the answer is over, however it ended."""


class PlainView:
    """Writes the text as it comes, flushed with every group of events; a last line gets its end.

    On a terminal that can do nothing else, characters that steer it are left out.
    """

    def __init__(self, output: TextIO, aside: TextIO, *, is_terminal: bool = False) -> None:
        self._output = output
        self._aside = aside
        self._is_terminal = is_terminal
        self._is_at_line_start = True
        self._calls = ToolCalls()

    def wait(self) -> None:
        """Write nothing: what goes into a pipe is the answer."""

    def show(self, events: Sequence[Event]) -> None:
        """Write the text of these events; tool calls wait for the end."""
        for event in events:
            match event:
                case TextDelta(text, choice=0) if text:
                    self._output.write(visible(text) if self._is_terminal else text)
                    self._is_at_line_start = text.endswith("\n")
                case ToolCallStarted(choice=0) | ToolCallDelta(choice=0):
                    self._calls.take(event)
        self._output.flush()

    def end(self) -> None:
        """End the last line, and tell of the tool calls beside the output."""
        if not self._is_at_line_start:
            self._output.write("\n")
            self._output.flush()
        for line in self._calls.lines():
            print(line, file=self._aside, flush=True)
