"""Layers on several devices: what the program of one leaves is given to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .caches import Cache
from .program import Bytes, Floats, Group, Ints, Loaded, PageTable, Program, Rows


class SplitModel:
    """Consecutive layers of a model, each part loaded by a backend of its own, as one model."""

    def __init__(self, parts: Sequence[Loaded]) -> None:
        self._parts = tuple(parts)
        layers = tuple(layer for part in parts for layer in part.plan.layers)
        self.plan = replace(parts[0].plan, layers=layers, head=parts[-1].plan.head)
        self.positions = min(part.positions for part in parts)
        self.sequences = min(part.sequences for part in parts)
        self.bulk_rows = any(part.bulk_rows for part in parts)
        self.threads = max(part.threads for part in parts)
        self.isa = " + ".join(dict.fromkeys(part.isa for part in parts))
        self.type_name = max(parts, key=lambda part: part.weight_bytes).type_name
        self.weight_bytes = sum(part.weight_bytes for part in parts)

    def prompt_flops(self, tokens: int) -> float:
        return sum(part.prompt_flops(tokens) for part in self._parts)

    def program(self, rows: int) -> SplitProgram:
        made: list[Program] = []
        try:
            for part in self._parts:
                made.append(part.program(rows))
        except BaseException:
            for each in made:
                each.close()
            raise
        return SplitProgram(made)


class SplitProgram:
    """Programs for consecutive layers as one. A group of layers has the same numbers of pages in each that has it."""

    def __init__(self, parts: Sequence[Program]) -> None:
        pages: dict[Cache, int] = {}
        for group in (group for part in parts for group in part.groups):
            if pages.setdefault(group.cache, group.pages) != group.pages:
                raise ValueError(f"programs of {pages[group.cache]} and {group.pages} pages cannot be one")
        self.groups = tuple(Group(*item) for item in pages.items())
        places = {cache: i for i, cache in enumerate(pages)}
        self._parts = tuple(parts)
        self._own = [[places[group.cache] for group in part.groups] for part in parts]  # groups of each part
        self.head_rows = parts[-1].head_rows
        self.kv_bytes = sum(part.kv_bytes for part in parts)
        self.fill = max(part.fill for part in parts)

    def run(self, step: Sequence[Rows], x: Floats | None = None) -> Floats:
        first, *others = [self._of(part, step) for part in range(len(self._parts))]
        state = self._parts[0].run(first, x)
        for part, rows in zip(self._parts[1:], others, strict=True):
            state = part.run(rows, state)
        return state

    def _of(self, part: int, step: Sequence[Rows]) -> Sequence[Rows]:
        """The rows with the tables of a part's groups."""
        own = self._own[part]
        if own == list(range(len(self.groups))):
            return step
        return [rows._replace(pages=rows.pages[own].view(PageTable)) for rows in step]

    def logits(self, rows: Sequence[int], bulk: bool) -> Floats:
        return self._parts[-1].logits(rows, bulk)

    def hidden(self, rows: Sequence[int], bulk: bool) -> Floats:
        return self._parts[-1].hidden(rows, bulk)

    def copy(self, group: int, source: int, target: int) -> None:
        for part, i in self._having(group):
            part.copy(i, source, target)

    def move(self, group: int, tables: tuple[Ints, Ints], positions: range, drop: int) -> None:
        for part, i in self._having(group):
            part.move(i, tables, positions, drop)

    def _having(self, group: int) -> list[tuple[Program, int]]:
        """The parts that have layers of a group, and its number in each."""
        return [(part, own.index(group)) for part, own in zip(self._parts, self._own, strict=True) if group in own]

    def form(self, group: int) -> str:
        """As one program of all layers would say it: what is kept may be read by one that is split elsewhere."""
        runs: list[tuple[int, str]] = []
        for part, i in self._having(group):
            for told in part.form(i).split(", "):
                count, layers, name = told.partition(" layers of ")
                if layers and runs and runs[-1][1] == name:
                    runs[-1] = (runs[-1][0] + int(count), name)
                else:
                    runs.append((int(count), name) if layers else (0, told))
        return ", ".join(f"{count} layers of {name}" if count else name for count, name in runs)

    def row_bytes(self, group: int) -> int:
        return sum(part.row_bytes(i) for part, i in self._having(group))

    def read_page(self, group: int, page: int) -> Bytes:
        return np.concatenate([part.read_page(i, page) for part, i in self._having(group)], axis=1)

    def write_page(self, group: int, page: int, rows: Bytes) -> None:
        start = 0
        for part, i in self._having(group):
            end = start + part.row_bytes(i)
            part.write_page(i, page, rows[:, start:end])
            start = end

    def close(self) -> None:
        for part in self._parts:
            part.close()
