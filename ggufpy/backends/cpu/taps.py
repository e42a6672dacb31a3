"""Taps whose sink is a function in Python: the rows of a buffer are given to it, and taken back.

In: the rows of a step, and a workspace between two pieces of a tape. Out: the workspace as the function leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class HookSink:
    """The tape is cut at taps of this name, for a function."""

    hook: Hook

    def lower(self, to: Lowering, op: Tap) -> Iterator[Call | Cut]:
        return to.cut(op, self.hook)


@dataclass(frozen=True)
class Given:
    """Which rows of a workspace are real, and what they are. A slice where they stand together, so they are a view."""

    rows: slice | Ints
    about: TapRows

    def give(self, cut: Cut, work: Workspace) -> None:
        """Has the hook look at them. Raises GGUFError if it returns something else than as many rows of numbers."""
        buffer = work.rows_of(cut.buffer)[:, cut.at : cut.at + cut.op.width]
        values = buffer[self.rows]
        changed = cut.hook(values, self.about)
        if changed is not None:
            buffer[self.rows] = _checked(changed, values.shape, cut.op.name)
        elif not isinstance(self.rows, slice):  # a copy, and changed perhaps
            buffer[self.rows] = values


def _checked(changed: object, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if isinstance(changed, np.ndarray) and changed.shape == shape and changed.dtype.kind in "fiu":
        return changed
    what = f"{changed.dtype} {changed.shape}" if isinstance(changed, np.ndarray) else checks.shown(changed)
    raise GGUFError(f"the hook of {name} returned {what}; None, or an array {shape} of numbers must come of it")


def of_step(step: Sequence[Rows]) -> Given:
    """The rows of a step, in their order."""
    order = sorted(range(len(step)), key=lambda i: step[i].row)
    parts = [step[i] for i in order]
    each = np.concatenate([np.arange(part.row, part.end) for part in parts])
    about = TapRows(
        np.repeat(np.array(order, np.int64), [len(part.tokens) for part in parts]),
        np.concatenate([np.arange(part.position, part.position + len(part.tokens)) for part in parts]),
        np.concatenate([part.tokens for part in parts]),
    )
    together = len(each) == each[-1] - each[0] + 1
    return Given(slice(int(each[0]), int(each[-1]) + 1) if together else each, about)


def of_head(step: Given, rows: Sequence[int]) -> Given:
    """Some rows of a step, copied to rows from 0 on."""
    wanted = np.asarray(rows, np.int64)
    at = wanted - step.rows.start if isinstance(step.rows, slice) else np.searchsorted(step.rows, wanted)
    about = step.about
    return Given(slice(0, len(rows)), TapRows(about.sequence[at], about.position[at], about.token[at]))
