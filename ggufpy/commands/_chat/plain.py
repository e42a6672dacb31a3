"""Answers without a terminal that can be drawn on: text as it comes, nothing around it. Notes go to stderr."""

from __future__ import annotations

import sys

from ggufpy.support import console
from ggufpy.support.clean import clean


class Plain:
    """Stdout. `quiet` shows no answers, `thoughts` whether thoughts are shown ahead of them."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.markdown = False
        self.thoughts = "hide"
        self._last = ""  # the end of what was written of this answer
        self._thinking = False

    def begin(self) -> None:
        """An answer is awaited."""
        self._last, self._thinking = "", False

    def thought(self, text: str) -> None:
        """More of what the model thinks."""
        if self.thoughts == "show":
            self._thinking = True
            self._write(text)

    def content(self, text: str) -> None:
        """More of the answer."""
        if self._thinking:
            self._thinking = False
            self._write("\n\n")
        self._write(text)

    def end(self) -> None:
        """The answer is over."""
        if self._last != "\n":
            self._write("\n")

    def say(self, text: str) -> None:
        """Something that was asked for."""
        console.note(clean(text))

    def note(self, text: str) -> None:
        """Something by the way."""
        console.note(clean(text))

    def error(self, text: str) -> None:
        """Something that cannot be done."""
        console.note(f"ggufpy chat: {clean(text)}")

    def _write(self, text: str) -> None:
        if text and not self.quiet:
            self._last = text[-1]
            sys.stdout.write(clean(text))
            sys.stdout.flush()
