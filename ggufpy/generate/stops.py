"""Strings at which a text ends. In: text as it comes. Out: what of it can be shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Cuts a stream of text at the first of some strings, and never lets out the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None  # the string that has come

    @property
    def hit(self) -> bool:
        """Whether one has come."""
        return self.found is not None

    def push(self, text: str) -> str:
        """Add text; returns what can be shown now. After `hit` nothing more comes out."""
        if self.hit or not self._stops:
            return "" if self.hit else text
        self._held += text
        places = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            place, self.found = min(places, key=lambda found: found[0])
            out, self._held = self._held[:place], ""
            return out
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        out = self._held[: len(self._held) - keep]
        self._held = self._held[len(out) :]
        return out

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
