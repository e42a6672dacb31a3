"""Text that comes in pieces, for parsers that are generators: they yield where they need more of it.

A parser reads as if it had the whole text, and is resumed with each piece. What it has taken is gone, so the work is
linear in the text whatever the pieces are. What may turn out to be something else is kept aside until it is known
(`keep`, `kept`, `forget`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]  # a parser that returns a T
Emit = Callable[[str], None]

_SPACE = re.compile(r"\s+")


class NoCall(Exception):
    """What looked like a call is none: its text is content."""


class Finder:
    """Finds the first of several texts, the longest where several begin at one place."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = sorted({text for text in texts if text}, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")
        self._beginnings = {text[:n] for text in self.texts for n in range(1, len(text))}
        self._longest = max(map(len, self.texts), default=0)

    def search(self, text: str, start: int) -> re.Match[str] | None:
        return self._pattern.search(text, start)

    def may_grow(self, text: str, start: int) -> bool:
        """Whether the rest of `text` may be how a longer one begins than was found at `start`."""
        return len(text) - start < self._longest and text[start:] in self._beginnings

    def held(self, text: str, start: int) -> int:
        """How many characters at the end of `text` may be how a text begins."""
        for n in range(min(len(text) - start, self._longest - 1), 0, -1):
            if text[len(text) - n :] in self._beginnings:
                return n
        return 0


class Reader:
    """The text so far that no one has taken."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._kept: list[str] | None = None

    def push(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        self._ended = True

    # -- what has been taken --

    def keep(self) -> None:
        """From here on, what is taken is kept aside."""
        self._kept = []

    def forget(self) -> None:
        self._kept = None

    def kept(self) -> str:
        """What was taken since `keep`; no more is kept."""
        text = "".join(self._kept or ())
        self._kept = None
        return text

    def take(self, count: int) -> str:
        """The next characters, which must be there."""
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._kept is not None:
            self._kept.append(text)
        return text

    # -- what comes next --

    def more(self) -> Steps[bool]:
        """Waits for another piece; whether there is more to come."""
        if self._ended:
            return False
        yield
        return True

    def peek(self, count: int = 1) -> Steps[str]:
        """The next `count` characters, fewer at the end of the text. They are not taken."""
        while len(self._text) - self._at < count and (yield from self.more()):
            pass
        return self._text[self._at : self._at + count]

    def span(self, pattern: re.Pattern[str]) -> str:
        """Takes what matches at this place of the text that is there; "" where nothing does."""
        found = pattern.match(self._text, self._at)
        return self.take(found.end() - self._at) if found else ""

    def run(self, pattern: re.Pattern[str], limit: int) -> Steps[str]:
        """Takes all that comes of the characters that `pattern` (one or more of a class) matches, up to `limit`."""
        parts: list[str] = []
        count = 0
        while (yield from self.peek()):
            part = self.span(pattern)
            if not part:
                break
            parts.append(part)
            count += len(part)
            if count > limit:
                raise NoCall
        return "".join(parts)

    def space(self) -> Steps[str]:
        """Takes white space."""
        parts: list[str] = []
        while (yield from self.peek()):
            part = self.span(_SPACE)
            if not part:
                break
            parts.append(part)
        return "".join(parts)

    def starts(self, text: str) -> Steps[bool]:
        """Whether `text` comes next. Waits only while it may."""
        while True:
            there = self._text[self._at : self._at + len(text)]
            if len(there) == len(text) or not text.startswith(there):
                return there == text
            if not (yield from self.more()):
                return False

    def literal(self, text: str) -> Steps[bool]:
        """Takes `text` if it comes next."""
        found = yield from self.starts(text)
        if found:
            self.take(len(text))
        return found

    def any_of(self, finder: Finder) -> Steps[str]:
        """Takes the longest text of a finder that comes next; "" if none does."""
        for text in finder.texts:
            if (yield from self.literal(text)):
                return text
        return ""

    def until(self, finder: Finder, emit: Emit) -> Steps[str]:
        """Hands on what comes before the first text that a finder has, takes and returns that; "" at the end.

        What may be how such a text begins waits for what follows.
        """
        while True:
            found = finder.search(self._text, self._at)
            if found and (self._ended or not finder.may_grow(self._text, found.start())):
                if found.start() > self._at:
                    emit(self.take(found.start() - self._at))
                return self.take(len(found.group()))
            stop = found.start() if found else len(self._text) - finder.held(self._text, self._at)
            if stop > self._at:
                emit(self.take(stop - self._at))
            if not (yield from self.more()):
                break
        if self._at < len(self._text):
            emit(self.take(len(self._text) - self._at))
        return ""
