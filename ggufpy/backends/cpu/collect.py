"""Sums of squares, by column, of what each matrix of a plan is multiplied by: what importance matrices are made of.

In: a plan, which gets a tap before matrices of each input. Out, after some steps: for every weight its sums and how
many rows they are of, for each expert where it is of experts. The taps become calls of kernels; no step waits for
Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul, MatMul, Tap
from ggufpy.models.plan import Plan
from ggufpy.models.views import Views

from .lowering import Call, Lowering, Sinks
from .memory import Region


@dataclass
class _Input:
    """One input of matrices: who multiplies it, its sums with what their rounding lost, and the rows they are of.

    `of` is the first op that multiplies it.
    """

    of: MatMul | ExpertMatMul
    names: dict[str, None]
    sums: Region = field(init=False)
    lows: Region = field(init=False)
    counts: Region = field(init=False)

    def __post_init__(self) -> None:
        nbytes = self.matrices * self._padded * 4
        self.sums, self.lows = Region(nbytes, "sums of squares"), Region(nbytes, "sums of squares")
        self.counts = Region(8 * self.matrices, "the numbers of rows summed")

    @property
    def matrices(self) -> int:
        return self.of.weight.shape[0] if isinstance(self.of, ExpertMatMul) else 1

    @property
    def _padded(self) -> int:
        return -(-self.of.weight.shape[-1] // BLOCK) * BLOCK

    def lower(self, to: Lowering, op: Tap) -> Iterator[Call]:
        """Adds the squares of the step's rows."""
        w, nbytes = to.work, 4 * self.matrices * self._padded
        values = {
            "n_columns": self._padded, "sums_ptr": self.sums.at(0, nbytes), "lows_ptr": self.lows.at(0, nbytes),
            "x_ptr": to.address(op.x),
        }  # fmt: skip
        if isinstance(self.of, ExpertMatMul):
            reads, code = [op.x, "e:" + self.of.chosen], kernel("collect_experts")
            values |= {
                "n_experts": self.matrices, "x_stride": to.stride(op.x),
                "x_part_stride": 4 * self._padded if self.of.own else 0,
                "counts_ptr": self.counts.at(0, 8 * self.matrices),
                **w.lists[self.of.chosen].addresses(*w.forms.chosen[self.of.chosen], w.rows),
            }  # fmt: skip
        else:
            reads, code = [op.x], kernel("collect")
            values |= {
                "exact_ptr": w.step.exact_rows, "bulk_ptr": w.step.bulk_rows, "x_stride": to.stride(op.x),
                "count_ptr": self.counts.at(0, 8),
            }  # fmt: skip
        yield to.call(op, code, values, reads, [op.name])

    @property
    def rows(self) -> NDArray[np.int64]:
        """(matrices,)."""
        counted: NDArray[np.int64] = self.counts.view(np.int64, self.matrices).copy()
        return counted

    def total(self) -> NDArray[np.float64]:
        """(matrices, columns)."""
        shape = self.matrices, self._padded
        first, second = (r.view(np.float32, *shape).astype(np.float64) for r in (self.sums, self.lows))
        return (first + second)[:, : self.of.weight.shape[-1]]


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
        now: dict[tuple[str, ...], _Input] = {}
        layers = tuple(tuple(self._ops(ops, now)) for ops in plan.layers)
        return replace(plan, layers=layers, head=tuple(self._ops(plan.head, {})) if self._output else plan.head)

    def _ops(self, ops: Sequence[Op], now: dict[tuple[str, ...], _Input]) -> Iterator[Op]:
        """`now` has the inputs that buffers hold, of experts by who is chosen too; one that is written to has a new."""
        views = Views()
        for op in ops:
            views.follow(op)
            if isinstance(op, MatMul | ExpertMatMul):
                key: tuple[str, ...] = (op.x, op.chosen) if isinstance(op, ExpertMatMul) else (op.x,)
                if key not in now:
                    name = f"what {op.weight.name} multiplies"
                    now[key] = self._inputs.setdefault(name, _Input(op, {}))
                    width = op.weight.shape[-1] * (op.count if isinstance(op, ExpertMatMul) and op.own else 1)
                    yield Tap(name, op.x, width)
                now[key].names[op.weight.name] = None
            yield op
            changed = {name for one in op.writes for name in views.sharing(one)}
            for old in [key for key in now if changed & set(key)]:
                del now[old]

    def squares(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """By weight: sums of squares (matrices, columns) and the rows that they are of (matrices,)."""
        by_weight = {}
        for one in self._inputs.values():
            by_weight.update(dict.fromkeys(one.names, (one.total(), one.rows)))
        return by_weight
