"""Answers as they are seen: through a pipe exactly, on a terminal readably."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.client.fake_terminal import FakeTerminal
from unbroken.chat.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from unbroken.client.look import THEME
from unbroken.client.plain_view import PlainView
from unbroken.client.rendering import RowRenderer
from unbroken.client.screen import GrowingRows, Size
from unbroken.client.surface import PlainSurface, open_surface
from unbroken.client.terminal_view import TerminalView


class Flushed(io.StringIO):
    """Tells what has been flushed."""

    seen = ""

    def flush(self) -> None:
        self.seen = self.getvalue()


def terminal_view(terminal: FakeTerminal, *, no_color: bool = False) -> TerminalView:
    console = Console(file=terminal, theme=THEME, force_terminal=True, color_system="truecolor", no_color=no_color)
    return TerminalView(GrowingRows(terminal, lambda: Size(terminal.columns, terminal.lines)), RowRenderer(console))


@given(st.lists(st.text(), max_size=10))
def test_what_goes_into_a_pipe_is_exactly_the_text(pieces: list[str]) -> None:
    output = Flushed(newline="")
    view = PlainView(output, io.StringIO())
    view.wait()
    said = ""
    for piece in pieces:
        view.show([TextDelta(piece)])
        said += piece
        assert output.seen == said
    view.end()
    assert output.seen == (said if said.endswith("\n") or not said else f"{said}\n")


def test_tool_calls_do_not_go_into_the_pipe() -> None:
    output, aside = io.StringIO(), io.StringIO()
    view = PlainView(output, aside)
    view.show([ToolCallStarted(0, "1", "f"), ToolCallDelta(0, '{"a": 1}'), ReasoningDelta("hm"), TextDelta("x", 1)])
    view.end()
    assert output.getvalue() == ""
    assert aside.getvalue() == "→ f(a=1)\n"


def test_a_terminal_without_styles_gets_text_that_steers_nothing() -> None:
    output = io.StringIO()
    PlainView(output, output, is_terminal=True).show([TextDelta("a\x1b[31mb\r\n")])
    assert output.getvalue() == "a[31mb\n"


def test_reasoning_text_and_calls_are_told_apart() -> None:
    terminal = FakeTerminal(60, 30)
    view = terminal_view(terminal)
    events: list[Event] = [
        Started("1", "m"),
        ReasoningDelta("let me\n\nth"),
        ReasoningDelta("ink"),
        TextDelta("It is "),
        TextDelta("**so**"),
        ToolCallStarted(0, "1", "get_weather"),
        ToolCallDelta(0, '{"city": "Ber'),
        ToolCallStarted(1, "2", "now"),
        ToolCallDelta(0, 'lin"}'),
        Finished("tool_calls"),
    ]
    for event in events:
        view.show([event])
    view.end()
    assert terminal.text == 'let me\n\nthink\n\nIt is so\n\n→ get_weather(city="Berlin")\n→ now()'
    terminal_at_once = FakeTerminal(60, 30)
    view = terminal_view(terminal_at_once)
    view.show(events)
    view.end()
    assert terminal_at_once.text == terminal.text


def test_arguments_that_are_too_long_for_the_screen_are_all_there_in_the_end() -> None:
    terminal = FakeTerminal(20, 8)
    view = terminal_view(terminal)
    view.show([ToolCallStarted(0, "1", "write")])
    for number in range(30):
        view.show([ToolCallDelta(0, f"word{number} ")])
    view.end()
    assert all(terminal.text.count(f"word{number} ") + terminal.text.count(f"word{number}\n") for number in range(29))


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_means_no_colour(no_color: bool) -> None:
    class Kept(FakeTerminal):
        raw = ""

        def write(self, text: str) -> int:
            self.raw += text
            return super().write(text)

    terminal = Kept()
    view = terminal_view(terminal, no_color=no_color)
    view.show([TextDelta("a `b` **c**\n")])
    view.end()
    assert ("\x1b[36m" in terminal.raw) is not no_color
    assert "\x1b[1m" in terminal.raw


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_is_not_steered(term: str) -> None:
    terminal = FakeTerminal()
    assert isinstance(open_surface(terminal, terminal, {"TERM": term}), PlainSurface)
    assert not isinstance(open_surface(terminal, terminal, {"TERM": "xterm"}), PlainSurface)


def test_a_pipe_is_plain() -> None:
    assert isinstance(open_surface(io.StringIO(), io.StringIO(), {"TERM": "xterm"}), PlainSurface)
