"""Answers for a terminal: Markdown as it streams, reasoning dim, tool calls as what they are."""

from collections.abc import Sequence
from enum import Enum

from unbroken.chat.events import Event, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted
from unbroken.client.markdown import MarkdownStream
from unbroken.client.rendering import RowRenderer
from unbroken.client.screen import GrowingRows, Row
from unbroken.client.tool_calls import ToolCalls
from unbroken.client.visible import visible

WAITING = "waiting…"
_BLANK = Row("", 0)


class _Part(Enum):
    NOTHING = "nothing"
    WAITING = "waiting"
    REASONING = "reasoning"
    TEXT = "text"
    CALLS = "calls"


class TerminalView:
    """Shows one answer at the end of a terminal's output."""

    def __init__(self, screen: GrowingRows, renderer: RowRenderer) -> None:
        self._screen = screen
        self._renderer = renderer
        self._part = _Part.NOTHING
        self._text = MarkdownStream(screen, renderer)
        self._thought = ""  # the last line of the reasoning
        self._calls = ToolCalls()

    def wait(self) -> None:
        """Show that the answer is waited for; it goes away with the first thing that is shown."""
        self._enter(_Part.WAITING)
        self._screen.show(self._aside(WAITING))

    def show(self, events: Sequence[Event]) -> None:
        """Show these events; neighbouring pieces of text are drawn once."""
        text = ""
        for event in events:
            if isinstance(event, TextDelta) and event.choice == 0:
                text += event.text
                continue
            self._show_text(text)
            text = ""
            match event:
                case ReasoningDelta(thought, choice=0):
                    self._show_reasoning(thought)
                case ToolCallStarted(choice=0) | ToolCallDelta(choice=0):
                    self._show_call(event)
        self._show_text(text)

    def end(self) -> None:
        """Finish what is shown."""
        self._enter(_Part.NOTHING)

    def _show_text(self, text: str) -> None:
        if text:
            self._enter(_Part.TEXT)
            self._text.feed(visible(text))

    def _show_reasoning(self, thought: str) -> None:
        self._enter(_Part.REASONING)
        *lines, self._thought = (self._thought + visible(thought)).split("\n")
        for line in lines:
            self._screen.show(self._aside(line) or [_BLANK])
            self._screen.finish()
        self._screen.show(self._aside(self._thought))

    def _show_call(self, event: ToolCallStarted | ToolCallDelta) -> None:
        self._enter(_Part.CALLS)
        self._calls.take(event)
        self._screen.show(self._call_rows()[-self._screen.reach :])

    def _call_rows(self) -> list[Row]:
        return [row for line in self._calls.lines() for row in self._aside(line)]

    def _enter(self, part: _Part) -> None:
        """Finish the part that was shown and begin another."""
        if part is self._part:
            return
        match self._part:
            case _Part.WAITING:
                self._screen.show([])
            case _Part.TEXT:
                self._text.end()
                self._text = MarkdownStream(self._screen, self._renderer)
            case _Part.CALLS:
                self._screen.show(self._call_rows())  # those too that were too many to show at once
                self._calls = ToolCalls()
        self._screen.finish()
        if self._is_said(part) and self._is_said(self._part):
            self._screen.show([_BLANK])
            self._screen.finish()
        self._part, self._thought = part, ""

    @staticmethod
    def _is_said(part: _Part) -> bool:
        """Whether it is a part of the answer."""
        return part not in (_Part.NOTHING, _Part.WAITING)

    def _aside(self, text: str) -> list[Row]:
        return self._renderer.text(text, "chat.aside", self._screen.width) if text else []
