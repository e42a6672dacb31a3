"""Answers on a terminal: finished pieces are printed for good, the one that is being written is drawn over itself.

In: pieces of an answer as they come. Out: text with rich's colours, and cursor movements within what is unfinished,
which never is higher than the window: so nothing is lost above it, and a window that is full scrolls as it always does.
"""

from __future__ import annotations

import os
import re
import sys
import time

from rich.console import Console, ConsoleDimensions
from rich.text import Text
from rich.theme import Theme

from ggufpy.commands._chat.blocks import Blocks
from ggufpy.commands._chat.markdown import Piece, drawable
from ggufpy.support.clean import clean

PAUSE = 0.05  # seconds between two drawings at least
SHARE = 4.0  # and at least as many times as long as a drawing takes
LEAST_WIDTH = 8  # columns; in fewer nothing can be read anyway
_COLOURS = {"markdown.code": "bold cyan"}  # rich's has a black ground, which is wrong on white
_STYLES = re.compile("\x1b\\[[0-9;]*m")


class Screen:
    """A terminal, which has the file `descriptor`: widths and heights are asked for at every drawing, so that windows
    may change theirs. None where `console` knows them."""

    def __init__(self, console: Console | None = None, descriptor: int | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, theme=Theme(_COLOURS))
        self._descriptor = descriptor
        self._measure()
        self._live: list[str] = []  # lines that can be drawn over; the cursor is at the end of the last one
        self._writer: _Writer | None = None
        self._held = ""  # white space that comes to sight with what follows it
        self.markdown = True
        self.thoughts = "show"

    # -- an answer --

    def begin(self) -> None:
        """An answer is awaited."""
        self._live, self._held = [], ""
        self._paint([], [self._dim("...")])

    def thought(self, text: str) -> None:
        """More of what the model thinks."""
        if self.thoughts == "hide":
            return
        if not isinstance(self._writer, _Thinking):
            self._leave()
            self._writer = _Thinking(self, folded=self.thoughts == "fold")
        self._writer.add(text)

    def content(self, text: str) -> None:
        """More of the answer."""
        if self._writer is None or isinstance(self._writer, _Thinking):
            self._held += text
            text = self._held
            if not text.strip():
                return  # white space ahead of an answer, or between thoughts and it
            self._held = ""
            self._leave()
            self._writer = _Writer(self, Blocks(plain=not self.markdown))
        self._writer.add(text)

    def end(self) -> None:
        """The answer is over."""
        self._leave()
        self._paint([], [])

    def _leave(self) -> None:
        if self._writer is not None:
            self._writer.finish()
            self._writer = None

    # -- what is said beside --

    def say(self, text: str) -> None:
        """Something that was asked for."""
        self._print(text, "")

    def note(self, text: str) -> None:
        """Something by the way."""
        self._print(text, "dim")

    def error(self, text: str) -> None:
        """Something that cannot be done."""
        self._print(text, "red")

    def _print(self, text: str, style: str) -> None:
        self._measure()
        self.console.print(Text(clean(text), style=style))

    # -- drawing --

    def _measure(self) -> None:
        """The window's own size, not that of COLUMNS and LINES, which may be those of another time."""
        if self._descriptor is not None:
            size = os.get_terminal_size(self._descriptor)
            if size.columns and size.lines:  # some say that they are 0
                self.console.size = ConsoleDimensions(size.columns, size.lines)

    @property
    def width(self) -> int:
        """Columns that are drawn in: not the last one, at which terminals differ."""
        return max(self.console.width - 1, LEAST_WIDTH)

    @property
    def room(self) -> int:
        """Lines that can be drawn over."""
        return max(self.console.height - 1, 1)

    def lines(self, piece: Piece, style: str = "") -> list[str]:
        """A piece as lines of text with escape sequences, blank ones at both ends left out."""
        self._measure()
        with self.console.capture() as captured:
            self.console.print(drawable(piece, self.width), width=self.width, style=style or None, end="")
        lines = [line.rstrip(" ") for line in captured.get().split("\n")]
        while lines and _is_blank(lines[-1]):
            lines.pop()
        while lines and _is_blank(lines[0]):
            lines.pop(0)
        return lines

    def draw(self, final: list[str], live: list[str]) -> None:
        """Puts lines where the unfinished ones were: `final` for good, below them as much of `live` as fits."""
        self._paint(final, live[-self.room :])

    def _dim(self, text: str) -> str:
        return self.lines(Piece(text, plain=True), "dim")[0]

    def _paint(self, final: list[str], live: list[str]) -> None:
        old, new = self._live, [*final, *live]
        if final and not live:
            new.append("")  # the cursor goes below what is finished
        same = 0
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        if same == len(new) < len(old):  # what is left ends in a line that stays: the cursor must be behind it
            same = max(same - 1, 0)
        if same < len(old) or same < len(new):
            self._write(_moves(len(old), same) + _over(new[same:], below=same < len(old)))
        self._live = live

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()


class _Writer:
    """One text on a screen, drawn as often as is worth it."""

    style = ""

    def __init__(self, screen: Screen, blocks: Blocks) -> None:
        self._screen, self._blocks = screen, blocks
        self._final: list[str] = []  # lines that are finished and not drawn yet
        self._begun = False
        self._next = 0.0  # when it may be drawn again

    def add(self, text: str) -> None:
        """More of the text."""
        self._blocks.push(text)
        now = time.monotonic()
        if now >= self._next:
            self._draw()
            after = time.monotonic()
            self._next = after + max(PAUSE, SHARE * (after - now))

    def finish(self) -> None:
        """The text is over."""
        self._print(self._blocks.finish())
        self._screen.draw(self._final, [])
        self._final = []

    def _lines(self, piece: Piece) -> list[str]:
        return self._screen.lines(piece, self.style)

    def _print(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._final += self._below(piece)
            self._begun = True

    def _below(self, piece: Piece) -> list[str]:
        """The lines of a piece, with the blank one above it."""
        lines = self._lines(piece)
        return ["", *lines] if self._begun and lines and not piece.joined else lines

    def _draw(self) -> None:
        self._print(self._blocks.ready())
        self._print(self._blocks.shorten(self._screen.room, lambda piece: len(self._below(piece))))
        rest = self._blocks.rest
        live = [] if rest is None else self._below(rest)
        if self._final or live:  # else there is only markup so far
            self._screen.draw(self._final, live)
            self._final = []


class _Thinking(_Writer):
    """What the model thinks, dim; `folded` it is one line that says how much there was."""

    style = "dim"

    def __init__(self, screen: Screen, folded: bool) -> None:
        super().__init__(screen, Blocks(plain=True))
        self._folded, self._words, self._inside = folded, 0, False

    def add(self, text: str) -> None:
        """See _Writer."""
        if not self._folded:
            super().add(text)
            return
        for letter in text:
            self._words += not self._inside and not letter.isspace()
            self._inside = not letter.isspace()
        self._screen.draw([], self._lines(Piece(f"thinking: {self._words} words", plain=True)))

    def finish(self) -> None:
        """See _Writer."""
        if self._folded:
            line = f"thought {self._words} words (/params thoughts=show to read them)"
            self._screen.draw([*self._lines(Piece(line, plain=True)), ""], [])
            return
        super().finish()
        self._screen.draw([""], [])


def _moves(count: int, same: int) -> str:
    """From the end of `count` lines to the beginning of the first one that is not the same."""
    if same == count:
        return "\n" if count else ""
    up = count - 1 - same
    return "\r" + (f"\x1b[{up}A" if up else "")


def _over(lines: list[str], below: bool) -> str:
    """Lines, and the end of what was there. Nothing is erased before it is written over: that would flicker, and tmux
    takes a window that is erased as a whole for one to remember."""
    return "\x1b[K\n".join(lines) + ("\x1b[J" if below else "")


def _is_blank(line: str) -> bool:
    return not _STYLES.sub("", line).strip()
