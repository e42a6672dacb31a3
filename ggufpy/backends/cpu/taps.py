"""Taps whose sink is a function in Python: the rows of a buffer are given to it, and taken back.

In: the rows of a step, and a workspace between two pieces of a tape. Out: the workspace as the function leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.program import Ints, Rows
from ggufpy.errors import GGUFError
from ggufpy.models.ops import Tap
from ggufpy.models.taps import Hook, TapRows
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from .lowering import Call, Cut, Lowering
from .workspace import Workspace

Run = Callable[[Call], None]


@dataclass(frozen=True)
class Given:
    """Which rows of a workspace are real, and what they are. A slice where they stand together, so they are a view.

    `run` runs a kernel on every thread. `parts` are the texts that the rows are of, in order; a head's rows have none.
    """

    rows: slice | Ints
    about: TapRows
    run: Run
    parts: tuple[Rows, ...] = ()

    def named(self, name: str, part: slice = slice(None)) -> TapRows:
        """What some of the rows are, for hooks of an activation."""
        about = self.about
        return TapRows(about.sequence[part], about.position[part], about.token[part], name)


@dataclass(frozen=True)
class HookSink:
    """The tape is cut at taps of this name, for functions that are called in turn."""

    hooks: tuple[Hook, ...]

    def lower(self, to: Lowering, op: Tap) -> Iterator[Call | Cut]:
        if op.attention is None:
            return to.cut(op, RowsCut(op, self.hooks, *to.views.place(op.x)))
        from .attention_taps import weights_cut  # what few hooks want

        return to.cut(op, weights_cut(to, op, op.attention, self.hooks))


@dataclass(frozen=True)
class RowsCut(Cut):
    """Where hooks are given a tap's buffer, from column `at` on."""

    op: Tap
    hooks: tuple[Hook, ...]
    buffer: str
    at: int

    def give(self, given: Given, work: Workspace) -> None:
        """Has the hooks look at the rows. Raises GGUFError if one returns something else than as many numbers."""
        op = self.op
        buffer = work.rows_of(self.buffer)[:, self.at : self.at + op.width]
        values = buffer[given.rows]
        by_head = values.reshape(len(values), op.heads, -1) if op.heads else values
        ask(self.hooks, by_head, given.named(op.name))
        if not isinstance(given.rows, slice):  # a copy, and changed perhaps
            buffer[given.rows] = values


def ask(hooks: Sequence[Hook], values: NDArray[Any], about: TapRows) -> None:
    """Has each hook in turn look at the values and change them. Raises GGUFError for what does not fit them."""
    for hook in hooks:
        changed = hook(values, about)
        if changed is not None:
            values[...] = _checked(changed, values.shape, about.name)


def _checked(changed: object, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if isinstance(changed, np.ndarray) and changed.shape == shape and changed.dtype.kind in "fiu":
        return changed
    what = f"{changed.dtype} {changed.shape}" if isinstance(changed, np.ndarray) else checks.shown(changed)
    raise GGUFError(f"the hook of {name} returned {what}; None, or an array {shape} of numbers must come of it")


def of_step(step: Sequence[Rows], run: Run) -> Given:
    """The rows of a step, in their order."""
    order = sorted(range(len(step)), key=lambda i: step[i].row)
    parts = tuple(step[i] for i in order)
    each = np.concatenate([np.arange(part.row, part.end) for part in parts])
    about = TapRows(
        np.repeat(np.array(order, np.int64), [len(part.tokens) for part in parts]),
        np.concatenate([np.arange(part.position, part.position + len(part.tokens)) for part in parts]),
        np.concatenate([part.tokens for part in parts]),
    )
    together = len(each) == each[-1] - each[0] + 1
    return Given(slice(int(each[0]), int(each[-1]) + 1) if together else each, about, run, parts)


def of_head(step: Given, rows: Sequence[int]) -> Given:
    """Some rows of a step, copied to rows from 0 on."""
    wanted = np.asarray(rows, np.int64)
    at = wanted - step.rows.start if isinstance(step.rows, slice) else np.searchsorted(step.rows, wanted)
    about = step.about
    return Given(slice(0, len(rows)), TapRows(about.sequence[at], about.position[at], about.token[at]), step.run)
