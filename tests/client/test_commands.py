"""What a typed line means."""

import pytest

from unbroken.client.commands import COMMANDS, Command, Question, Unknown, help_text, read_line

LINES = {
    "": None,
    " \n": None,
    "hello": Question("hello"),
    "  two\nlines ": Question("two\nlines"),
    "/etc/hosts is what?": Question("/etc/hosts is what?"),
    "/new": Command("/new"),
    "/MODEL  gpt-4o ": Command("/model", "gpt-4o"),
    "/system Be\nbrief.": Command("/system", "Be\nbrief."),
    "/quit": Command("/exit"),
    "/?": Command("/help"),
    "/save! a.md": Command("/save!", "a.md"),
    "/modle x": Unknown("/modle", "/model"),
    "/zzz": Unknown("/zzz"),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_a_question_or_a_command(line: str) -> None:
    assert read_line(line) == LINES[line]


def test_help_tells_every_command() -> None:
    assert all(name in help_text() for name in COMMANDS)
