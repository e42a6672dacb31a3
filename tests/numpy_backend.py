"""A backend that is no CPU of ours: NumPy and float64, which keeps what comes in and computes a text anew every step.

A page has the rows that its layers were given (or token numbers, where they are the first), a row a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufpy.backends.caches import Kv
from ggufpy.backends.program import Group, Rows
from ggufpy.models.interpreter import _Run
from ggufpy.models.ops import Embed, Input
from ggufpy.models.plan import Plan
from ggufpy.runtime.pages import PAGE, pages_of


@dataclass(frozen=True)
class NumpyModel:
    """Layers with weights by name, decoded."""

    plan: Plan
    weights: dict[str, Any]
    positions: int
    sequences: int = 1
    bulk_rows: bool = False
    threads: int = 1
    isa: str = "numpy"
    type_name: str = "F64"
    weight_bytes: int = 0

    def prompt_flops(self, tokens: int) -> float:
        return 0.0

    def program(self, rows: int) -> NumpyProgram:
        return NumpyProgram(self)


class NumpyProgram:
    """See `backends/program.py`."""

    fill, head_rows = 1, 3

    def __init__(self, model: NumpyModel) -> None:
        self._plan = model.plan
        self._weights = {name: np.asarray(model.weights[name], np.float64) for name in model.plan.weights}
        count = pages_of(model.positions) * model.sequences
        self.groups = (Group(Kv(), count),)
        width = 1 if isinstance(model.plan.embed, Embed) else model.plan.width
        self._memory = np.full((count, PAGE, width), np.nan)
        self.kv_bytes, self.closed = self._memory.nbytes, False
        self._logits: dict[int, Any] = {}
        self._hidden: dict[int, Any] = {}

    def run(self, step: Sequence[Rows], x: Any = None) -> Any:
        end = max(rows.end for rows in step)
        out = np.zeros((end, self._plan.width), np.float32)
        for rows in step:
            own = slice(rows.row, rows.end)
            given = rows.tokens[:, None] if x is None else x[own]
            held = self._kept(rows, given)
            buffers = self._computed(held)
            out[own] = buffers["x"][rows.position :]
            hidden = buffers[self._plan.hidden[1]][rows.position :]
            self._hidden.update(zip(range(rows.row, rows.end), hidden, strict=True))
            if "logits" in buffers:
                self._logits.update(zip(range(rows.row, rows.end), buffers["logits"][rows.position :], strict=True))
        return out

    def _kept(self, rows: Rows, given: Any) -> Any:
        """Everything that the sequence has been given, with these rows behind it."""
        stop = rows.position + len(rows.tokens)
        at = np.arange(stop)
        pages = np.asarray(rows.pages[0])[at // PAGE]
        self._memory[pages[rows.position :], at[rows.position :] % PAGE] = given
        return self._memory[pages, at % PAGE]

    def _computed(self, held: Any) -> dict[str, Any]:
        first = isinstance(self._plan.embed, Embed)
        run = _Run(self._weights, held[:, 0].astype(np.int64) if first else np.zeros(len(held), np.int64), {})
        if isinstance(self._plan.embed, Input):
            run.buffers["x"] = held.copy()
            run._widths["x"] = self._plan.width
        for op in (*([self._plan.embed] if first else []), *self._plan.body):
            run.step(op)
        stream = run.buffers["x"].copy()
        for op in self._plan.head:
            run.step(op)
        return {**run.buffers, "x": stream}

    def logits(self, rows: Sequence[int], bulk: bool) -> Any:
        return np.stack([self._logits[row] for row in rows]).astype(np.float32)

    def hidden(self, rows: Sequence[int], bulk: bool) -> Any:
        return np.stack([self._hidden[row] for row in rows]).astype(np.float32)

    def copy(self, group: int, source: int, target: int) -> None:
        self._memory[target] = self._memory[source]

    def move(self, group: int, tables: Any, positions: range, drop: int) -> None:
        raise AssertionError("no test shifts what is computed anew")

    def form(self, group: int) -> str:
        return f"rows of {self._memory.shape[2]} numbers"

    def row_bytes(self, group: int) -> int:
        return int(self._memory.shape[2] * 8)

    def read_page(self, group: int, page: int) -> Any:
        return self._memory[page].view(np.uint8)

    def write_page(self, group: int, page: int, rows: Any) -> None:
        self._memory[page] = np.ascontiguousarray(rows).view(np.float64)

    def close(self) -> None:
        self.closed = True
