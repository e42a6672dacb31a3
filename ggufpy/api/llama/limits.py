"""What ends a text beside its tokens: strings, a line that is indented too little, time that is up at a line's end.

In: text as it comes. Out: what of it can be shown, and why it ended (llama.cpp: tools/server, process_token).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ggufpy.generate.stops import StopFilter

BLANKS = " \t"


class Limits:
    """See above. `indent`: how many blanks every line but the first must begin with, 0 for no such rule; `seconds`: for
    how long lines may come from the first text on, None for no end."""

    def __init__(
        self, stops: Sequence[str], indent: int = 0, seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._stops = StopFilter(stops)
        self._indent, self._seconds, self._clock = indent, seconds, clock
        self._since: float | None = None
        self._blanks: str | None = None  # of a line that has nothing else yet; None elsewhere
        self._cut = False
        self.new_line = False

    @property
    def hit(self) -> bool:
        """Whether the text has ended here."""
        return self._cut or self._stops.hit

    @property
    def stop_type(self) -> str:
        """Why: "word" for a string, "limit" for the rest, "none" where it has not."""
        return "limit" if self._cut else "word" if self._stops.hit else "none"

    @property
    def found(self) -> str | None:
        """The string at which it has ended, if it is one."""
        return None if self._cut else self._stops.found

    def push(self, text: str) -> str:
        """Text that has come; returns what can be shown now."""
        if self._since is None:
            self._since = self._clock()
        if self.hit:
            return ""
        shown = self._indented(self._stops.push(text))
        if "\n" in shown:
            self.new_line = True
            if self._seconds is not None and self._clock() - self._since > self._seconds:
                self._cut = True
        return shown

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        held = "" if self._cut else self._indented(self._stops.flush())
        blanks, self._blanks = self._blanks or "", None
        return held + blanks

    def _indented(self, text: str) -> str:
        """The text up to the first line that begins with too few blanks; those of a line are held until it goes on."""
        if not self._indent:
            return text
        shown = ""
        for character in text:
            if self._blanks is not None and character in BLANKS:
                self._blanks += character
                continue
            if self._blanks is not None:
                shown += self._blanks
                short, self._blanks = len(self._blanks) < self._indent, None
                if short:
                    self._cut = True
                    return shown
            shown += character
            if character == "\n":
                self._blanks = ""
        return shown
