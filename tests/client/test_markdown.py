"""Markdown on a terminal: at once, never twice, and the same however it was cut."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from tests.client.fake_terminal import FakeTerminal
from unbroken.client.blocks import BlockSplitter, CodeEnd, CodeLine, CodeStart, Prose
from unbroken.client.look import THEME
from unbroken.client.markdown import MarkdownStream
from unbroken.client.rendering import RowRenderer
from unbroken.client.screen import GrowingRows, Size
from unbroken.client.visible import visible

DOCUMENT = """# Title

A *stream* is **many tokens**, one after
the other. 你好 🌍

1. one
1. two
   - nested `code`
1. three

```python
def f():
    return "```"
```
> quoted

| a | b |
|---|---|
| 1 | 2 |

- last
"""


def stream_on(terminal: FakeTerminal) -> MarkdownStream:
    console = Console(file=terminal, theme=THEME, force_terminal=True, color_system="truecolor", no_color=False)
    return MarkdownStream(GrowingRows(terminal, lambda: Size(terminal.columns, terminal.lines)), RowRenderer(console))


def shown(pieces: list[str], *, columns: int = 40, lines: int = 60) -> str:
    terminal = FakeTerminal(columns, lines)
    stream = stream_on(terminal)
    for piece in pieces:
        stream.feed(piece)
    stream.end()
    return terminal.text


def test_a_document_is_rendered() -> None:
    assert shown([DOCUMENT]) == (
        "Title\n\nA stream is many tokens, one after the\nother. 你好 🌍\n\n 1. one\n 2. two\n     • nested code\n"
        ' 3. three\n\n  def f():\n      return "```"\n\n▌ quoted\n\n a  b\n ────\n 1  2\n\n • last'
    )


def test_every_piece_is_seen_before_the_next_one_comes() -> None:
    terminal = FakeTerminal()
    stream = stream_on(terminal)
    seen = []
    for piece in ["Hello", " wor", "ld\n\n", "- a", " b", "\n```py\n", "x = ", "1\n", "```\n"]:
        stream.feed(piece)
        seen.append(terminal.text)
    assert seen == [
        "Hello",
        "Hello wor",
        "Hello world",
        "Hello world\n\n • a",
        "Hello world\n\n • a b",
        "Hello world\n\n • a b",
        "Hello world\n\n • a b\n\n  x =",
        "Hello world\n\n • a b\n\n  x = 1",
        "Hello world\n\n • a b\n\n  x = 1",
    ]


def test_plain_text_is_only_ever_appended() -> None:
    class Appended(FakeTerminal):
        def write(self, text: str) -> int:
            assert "\x1b" not in text
            assert "\r" not in text
            return super().write(text)

    stream = stream_on(Appended())
    for word in ["one ", "two ", "three "] * 4:
        stream.feed(word)
    stream.end()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_cuts_do_not_matter(size: int) -> None:
    assert shown([DOCUMENT[at : at + size] for at in range(0, len(DOCUMENT), size)]) == shown([DOCUMENT])


LINES = st.sampled_from(
    ["# h\n", "text\n", "more **bold\n", "**\n", "\n", "\n\n", "- a\n", "  - b\n", "2. c\n", "9999999999. d\n", "```\n",
     "~~~ py\n", "| a | b |\n", "|---|:-:|\n", "| `x | y` |\n", "> q\n", "---\n", "===\n", "    code\n", "\t- t\n",
     "[l](u) ![i](p)\n", "<div>\n", "[r]: /x\n", "&#12;&#27;\n", "`", "*", "_", "word ", "你好", "🌍", "\\", "1", "|"]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=25).map("".join) | st.text(max_size=60)
CUTS = st.lists(st.integers(0, 200), max_size=12)


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(at for at in cuts if at < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@given(TEXTS, CUTS)
def test_any_split_of_any_text_ends_in_the_same_screen(text: str, cuts: list[int]) -> None:
    text = visible(text)
    assert shown(cut(text, cuts), lines=400) == shown([text], lines=400)


@given(TEXTS, CUTS, st.integers(12, 50), st.integers(4, 10))
def test_nothing_finished_is_touched_and_no_word_is_lost_on_a_small_terminal(
    text: str, cuts: list[int], columns: int, lines: int
) -> None:
    terminal = FakeTerminal(columns, lines)
    stream = stream_on(terminal)
    for piece in cut(visible(text), cuts):
        before = list(terminal.scrolled)
        stream.feed(piece)
        assert terminal.scrolled[: len(before)] == before
    stream.end()
    for word in ("text", "more", "word"):
        assert terminal.text.count(word) == text.count(word) or columns < 20


@given(TEXTS, CUTS)
def test_blocks_joined_are_the_text(text: str, cuts: list[int]) -> None:
    text = visible(text)
    splitter = BlockSplitter()
    sources = [block.source for piece in cut(text, cuts) for block in splitter.feed(piece)]
    assert "".join(sources) + splitter.rest == text
    sources += [block.source for block in splitter.end()]
    assert "".join(sources).removesuffix("\n") == text.removesuffix("\n")


def test_a_block_is_complete_as_soon_as_nothing_can_change_it() -> None:
    splitter = BlockSplitter()
    assert splitter.feed("# a\n") == [Prose("# a\n")]
    assert splitter.feed("b\n") == []  # a line of = may follow
    assert splitter.feed("\n") == [Prose("b\n\n")]
    assert splitter.feed("3. c\n") == []
    assert splitter.feed("3. d\n") == [Prose("3. c\n", 3)]
    assert splitter.feed("````sh x\n") == [Prose("3. d\n", 4, True), CodeStart("````sh x\n", "sh")]
    assert splitter.feed("```\n````\n") == [CodeLine("```\n", "```"), CodeEnd("````\n")]


def test_an_endless_line_is_bounded() -> None:
    splitter = BlockSplitter()
    for _ in range(100):
        splitter.feed("x" * 1000)
        assert len(splitter.rest) <= 17_000


@given(st.text(alphabet=st.sampled_from("\x1b[31m]8;;\x07\x9b\x00\r\b&#27;x12`*\n\t\u202e"), max_size=80), CUTS)
@example("\x1b]0;title\x07\x1b[2J&#27;[31m&#155;31m&#x1b;]0;x&#7;", [])
def test_a_model_cannot_steer_the_terminal(text: str, cuts: list[int]) -> None:
    terminal = FakeTerminal(60, 200)  # refuses all that a chat does not send
    stream = stream_on(terminal)
    for piece in cut(text, cuts):
        stream.feed(visible(piece))
    stream.end()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", terminal.text)


def test_what_is_no_markdown_on_a_terminal_stays_text() -> None:
    assert shown(["<b>x</b> ![i](p)\n\n[r]: /x\n"]) == "<b>x</b> !i (p)\n\n[r]: /x"


def test_a_narrower_window_in_mid_answer_repeats_nothing() -> None:
    terminal = FakeTerminal(40, 12)
    stream = stream_on(terminal)
    stream.feed("one two three four five")
    terminal.columns = 30
    stream.feed(" six seven")
    stream.end()
    assert terminal.text == "one two three four five six\nseven"
