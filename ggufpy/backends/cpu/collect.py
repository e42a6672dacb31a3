"""Sums of squares, by column, of what each matrix of a plan is multiplied by: what importance matrices are made of.

In: a plan, which gets a tap before matrices of each input. Out, after some steps: for every weight its sums and how
many rows they are of. The taps become calls of a kernel; no step waits for Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.jit.spec import kernel
from ggufpy.models.plan import MatMul, Op, Plan, Tap
from ggufpy.models.views import Views

from .lowering import Call, Lowering, Sinks
from .memory import Region


@dataclass
class _Input:
    """One input of matrices: who multiplies it, its sums with what their rounding lost, and the rows they are of."""

    columns: int
    names: dict[str, None]
    sums: Region = field(init=False)
    lows: Region = field(init=False)
    count: Region = field(init=False)

    def __post_init__(self) -> None:
        nbytes = -(-self.columns // BLOCK) * BLOCK * 4
        self.sums, self.lows = Region(nbytes, "sums of squares"), Region(nbytes, "sums of squares")
        self.count = Region(8, "the number of rows summed")

    def lower(self, to: Lowering, op: Tap) -> Iterator[Call]:
        """Adds the squares of the step's rows."""
        step, columns = to.work.step, to.blocks(op.x) * BLOCK
        values = {
            "exact": step.exact_rows, "bulk": step.bulk_rows, "x": to.address(op.x), "stride": to.stride(op.x),
            "columns": columns, "sums": self.sums.at(0, 4 * columns), "lows": self.lows.at(0, 4 * columns),
            "count": self.count.at(0, 8),
        }  # fmt: skip
        yield to.call(op, kernel("collect"), values, [op.x], [op.name])

    @property
    def rows(self) -> int:
        return int(self.count.view(np.int64, 1)[0])

    def total(self) -> NDArray[np.float64]:
        first, second = (r.view(np.float32, self.columns).astype(np.float64) for r in (self.sums, self.lows))
        return first + second


class Collector:
    """Sums for the matrices of a plan's layers, `output`: its head's too. Matrices of the same input share them."""

    def __init__(self, output: bool) -> None:
        self._output = output
        self._inputs: dict[str, _Input] = {}  # by the name of their tap

    @property
    def sinks(self) -> Sinks:
        """What stands behind the taps of `tapped`."""
        return self._inputs

    def tapped(self, plan: Plan) -> Plan:
        """A plan with a tap of what matrices multiply, before the first that does."""
        now: dict[str, _Input] = {}
        layers = tuple(tuple(self._ops(ops, now)) for ops in plan.layers)
        return replace(plan, layers=layers, head=tuple(self._ops(plan.head, {})) if self._output else plan.head)

    def _ops(self, ops: Sequence[Op], now: dict[str, _Input]) -> Iterator[Op]:
        """`now` has the inputs that buffers hold; one that is written to holds a new one."""
        views = Views()
        for op in ops:
            views.follow(op)
            if isinstance(op, MatMul):
                if op.x not in now:
                    name, width = f"what {op.weight.name} multiplies", op.weight.shape[1]
                    now[op.x] = self._inputs.setdefault(name, _Input(width, {}))
                    yield Tap(name, op.x, width)
                now[op.x].names[op.weight.name] = None
            yield op
            for name in (sharing for changed in op.writes for sharing in views.sharing(changed)):
                now.pop(name, None)

    def squares(self) -> dict[str, tuple[NDArray[np.float64], int]]:
        """By weight: sums of squares (columns,) and the rows that they are of."""
        found = {}
        for one in self._inputs.values():
            found.update(dict.fromkeys(one.names, (one.total(), one.rows)))
        return found
