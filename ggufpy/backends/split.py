"""A program of several, each with some of the layers: what one leaves is given to the next."""

from __future__ import annotations

from collections.abc import Sequence

from .program import Floats, Ints, Program, Rows


class SplitProgram:
    """Programs for consecutive layers as one. Each has its keys and values, under the same numbers of pages."""

    def __init__(self, parts: Sequence[Program]) -> None:
        pages = {part.pages for part in parts}
        if len(pages) != 1:
            raise ValueError(f"programs of {sorted(pages)} pages cannot be one")
        self._parts = tuple(parts)
        self.pages, self.head_rows = pages.pop(), parts[-1].head_rows
        self.kv_bytes = sum(part.kv_bytes for part in parts)
        self.fill = max(part.fill for part in parts)

    def run(self, step: Sequence[Rows], x: Floats | None = None) -> Floats:
        first, *others = self._parts
        found = first.run(step, x)
        for part in others:
            found = part.run(step, found)
        return found

    def logits(self, rows: Sequence[int], bulk: bool) -> Floats:
        return self._parts[-1].logits(rows, bulk)

    def copy(self, source: int, target: int) -> None:
        for part in self._parts:
            part.copy(source, target)

    def move(self, pages: Ints, positions: range, drop: int) -> None:
        for part in self._parts:
            part.move(pages, positions, drop)

    def close(self) -> None:
        for part in self._parts:
            part.close()
