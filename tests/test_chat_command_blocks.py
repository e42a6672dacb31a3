"""Answers drawn piece by piece: what is on the screen at the end is what drawing all of it at once shows."""

from __future__ import annotations

import io
import re

import pyte
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from ggufpy.commands._chat.blocks import Blocks
from ggufpy.commands._chat.markdown import Piece, drawable
from ggufpy.commands._chat.screen import Screen

ANSWER = """# Sorting

Some **bold** text,
*italic*, `code` and [a link](https://example.org/a?b=c) & more.

1. First with `x < y`
2. Second
   - nested
   - again

```python
def add(a, b):

    return a + b  # 日本語
```
| Name | Speed |
|------|------:|
| quick | n log n |

> A quote with <b>html</b>
> in two lines

***
Done 🎉
"""
STYLES = re.compile("\x1b\\[[0-9;]*m")
WORDS = st.sampled_from(
    ["a", "word", "**b**", "*", "**", "`c`", "`", "_x_", "[l](u)", "<b>", "&amp;", "&#27;[2J", "1.", "-", "#", "|",
     "3 * 4", "日本", "\\*"]
)  # fmt: skip
LINES = st.one_of(
    st.lists(WORDS, max_size=6).map(" ".join),
    st.sampled_from(
        ["", "", "# head", "- item", "  - inner", "1. one", "2) two", "```", "```py", "~~~", "> quote", "| a | b |",
         "|---|---|", "---", "===", "    indented", "[a]: http://b", "<div>", "\t", "text  ", "* star", "+ plus"]
    ),
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=14).map("\n".join)


class Window:
    """A terminal that is emulated, and a screen that draws on it; what scrolls out of it is kept."""

    def __init__(self, width: int, height: int) -> None:
        self.emulated = pyte.HistoryScreen(width, height, history=10_000)
        self.stream = pyte.Stream(self.emulated)
        self.emulated.set_mode(pyte.modes.LNM)  # what a terminal's driver makes of a newline
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=True, color_system="truecolor", width=width, height=height)
        self.screen = Screen(console)

    def pump(self) -> None:
        self.stream.feed(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()

    @property
    def lines(self) -> list[str]:
        """All that can be seen, above the window too."""
        self.pump()
        width = self.emulated.columns
        above = ["".join(line[x].data for x in range(width)) for line in self.emulated.history.top]
        return [line.rstrip() for line in [*above, *self.emulated.display]]

    def write(self, text: str, sizes: list[int], every: bool = True) -> None:
        """An answer in parts of so many characters, each drawn when it comes."""
        self.screen.begin()
        at = i = 0
        while at < len(text):
            size = sizes[i % len(sizes)]
            self.screen.content(text[at : at + size])
            if every and self.screen._writer is not None:
                self.screen._writer._next = 0.0
            self.pump()
            at, i = at + size, i + 1
        self.screen.end()


def at_once(text: str, width: int) -> list[str]:
    """The lines of a text that is drawn as one."""
    window = Window(width, 100)
    return [STYLES.sub("", line).rstrip() for line in window.screen.lines(Piece(text))]


def has_room(text: str, width: int) -> bool:
    """Whether lists and quotes are drawn as such: without room each piece is text as it stands, and pieces are not the
    whole."""
    return not isinstance(drawable(Piece(text), width), Text)


def letters(lines: list[str]) -> str:
    """What stands in lines, but for white space and what separates words."""
    return "".join("".join(lines).split())


def full(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize("height", [6, 12, 100])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_an_answer_in_parts_is_the_answer(height: int, size: int) -> None:
    window = Window(50, height)
    window.write(ANSWER, [size])
    assert full(window.lines) == full(at_once(ANSWER, 50))


DRAWN = st.lists(st.sampled_from(["", "a", "bb", "ccc"]), max_size=5)


@given(drawings=st.lists(st.tuples(DRAWN, DRAWN), max_size=12), height=st.integers(2, 8))
@settings(max_examples=300, deadline=None)
def test_what_is_drawn_over_is_gone(drawings: list[tuple[list[str], list[str]]], height: int) -> None:
    """Whatever changes from one drawing to the next, finished lines stay, and below them is what was drawn last."""
    window = Window(20, height)
    finished: list[str] = []
    live: list[str] = []
    for final, live in drawings:
        window.screen.draw(final, live)
        finished += final
    shown = [*finished, *live[-(height - 1) :]]
    assert "\n".join(window.lines).rstrip() == "\n".join(shown).rstrip()


@given(text=TEXTS, sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), width=st.integers(20, 60))
@settings(max_examples=60, deadline=None)
def test_any_answer_in_parts_is_the_answer(text: str, sizes: list[int], width: int) -> None:
    assume(has_room(text, width))
    window = Window(width, 60)
    window.write(text, sizes)
    assert full(window.lines) == full(at_once(text, width))


@given(text=TEXTS, sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), height=st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_in_a_small_window_nothing_is_lost(text: str, sizes: list[int], height: int) -> None:
    """Blocks higher than the window are drawn in parts: lists, paragraphs and code, whose words are all there."""
    assume(has_room(text, 24))
    window = Window(24, height)
    window.write(text, sizes)
    assert sorted(letters(window.lines)) == sorted(letters(at_once(text, 24)))


@given(text=st.text(max_size=200), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_only_colours_reach_the_terminal(text: str, sizes: list[int]) -> None:
    window = Window(40, 10)
    blocks = Blocks()
    blocks.push(text)
    for piece in [*blocks.finish(), Piece(text), Piece(text, plain=True)]:
        for line in window.screen.lines(piece):
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", STYLES.sub("", line))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("word " * 4000, "w"),
        ("x" * 20_000, "x"),
        ("```" + "y" * 20_000, "y"),
        ("```" + "y" * 8000 + "\n" + "z" * 8000, "z"),
        ("```q\n" + "z" * 20_000, "z"),
        ("```python\n" + "w = 1\n" * 2000, "w"),
        ("- item\n" * 1400, "m"),
        ("> quote\n" * 1200, "q"),
        ("word\n" * 4000, "w"),
        ("|a|b|\n|-|-|\n" + "|m|n|\n" * 1500, "m"),
        ("*a **b " * 2500, "a"),
    ],
)
def test_blocks_without_end_are_drawn_in_parts(text: str, letter: str) -> None:
    window = Window(60, 12)
    window.write(text, [997], every=False)
    assert letters(window.lines).count(letter) == text.count(letter)


def test_code_below_empty_lines_begins_once() -> None:
    text = "above\n\n\n\n" + "```python\n" + "".join(f"x{i}\n" for i in range(20)) + "```\n"
    window = Window(40, 6)
    window.write(text, [4])
    assert full(window.lines) == full(at_once(text, 40))


def test_code_goes_on_in_its_colours() -> None:
    """A block of code that is drawn in parts: a text that is open at the end of one part is a text in the next."""
    window = Window(40, 5)
    code = "```python\nx = '''\n" + "".join(f"line {i} if\n" for i in range(12)) + "'''\n```"
    window.write(code, [5])
    assert full(window.lines) == full(at_once(code, 40))
    colours = {
        cell.fg for line in [*window.emulated.history.top] for x, cell in line.items() if "line" in row(line) and x < 4
    }
    assert len(colours) == 1


def row(line: dict[int, pyte.screens.Char]) -> str:
    return "".join(line[x].data for x in range(40))
