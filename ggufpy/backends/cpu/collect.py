"""Sums of squares, by column, of what each matrix of a plan is multiplied by: what importance matrices are made of.

In: a plan, which gets a tap before matrices of each input. Out, after some steps: for every weight its sums and how
many rows they are of, for each expert where it is of experts. The taps become calls of kernels; no step waits for
Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.jit.spec import kernel
from ggufpy.models.inputs import MatrixInput, with_input_taps
from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul, Tap
from ggufpy.models.plan import Plan

from .lowering import Call, Lowering, Sinks
from .memory import Region


class SquaresSink:
    """What stands behind the tap of one input: its sums with what their rounding lost, and the rows they are of."""

    def __init__(self, of: MatrixInput) -> None:
        self._input = of
        self._padded = -(-of.columns // BLOCK) * BLOCK
        nbytes = of.matrices * self._padded * 4
        self._sums, self._lows = Region(nbytes, "sums of squares"), Region(nbytes, "sums of squares")
        self._counts = Region(8 * of.matrices, "the numbers of rows summed")

    def lower(self, to: Lowering, op: Tap) -> Iterator[Call]:
        """Adds the squares of the step's rows."""
        w, of, matrices = to.work, self._input.of, self._input.matrices
        nbytes = 4 * matrices * self._padded
        values = {
            "n_columns": self._padded, "sums_ptr": self._sums.at(0, nbytes), "lows_ptr": self._lows.at(0, nbytes),
            "x_ptr": to.address(op.x),
        }  # fmt: skip
        if isinstance(of, ExpertMatMul):
            reads, code = [op.x, "e:" + of.chosen], kernel("collect_experts")
            values |= {
                "n_experts": matrices, "x_stride": to.stride(op.x),
                "x_part_stride": 4 * self._padded if of.own else 0,
                "counts_ptr": self._counts.at(0, 8 * matrices),
                **w.lists[of.chosen].addresses(*w.forms.chosen[of.chosen], w.rows),
            }  # fmt: skip
        else:
            reads, code = [op.x], kernel("collect")
            values |= {
                "exact_ptr": w.step.exact_rows, "bulk_ptr": w.step.bulk_rows, "x_stride": to.stride(op.x),
                "count_ptr": self._counts.at(0, 8),
            }  # fmt: skip
        yield to.call(op, code, values, reads, [op.name])

    @property
    def rows(self) -> NDArray[np.int64]:
        """(matrices,)."""
        counted: NDArray[np.int64] = self._counts.view(np.int64, self._input.matrices).copy()
        return counted

    def total(self) -> NDArray[np.float64]:
        """(matrices, columns)."""
        shape = self._input.matrices, self._padded
        first, second = (r.view(np.float32, *shape).astype(np.float64) for r in (self._sums, self._lows))
        return (first + second)[:, : self._input.columns]


class Collector:
    """Sums for the matrices of a plan's layers, `output`: its head's too. Matrices of the same input share them."""

    def __init__(self, output: bool) -> None:
        self._output = output
        self._inputs: dict[str, MatrixInput] = {}  # by the name of their tap
        self._sinks: dict[str, SquaresSink] = {}

    @property
    def sinks(self) -> Sinks:
        """What stands behind the taps of `tapped`."""
        return self._sinks

    def tapped(self, plan: Plan) -> Plan:
        """A plan with a tap of what matrices multiply, before the first that does."""
        layers = tuple(self._ops(ops) for ops in plan.layers)
        return replace(plan, layers=layers, head=self._ops(plan.head) if self._output else plan.head)

    def _ops(self, ops: Iterable[Op]) -> tuple[Op, ...]:
        tapped, inputs = with_input_taps(ops)
        for one in inputs:
            if one.tap not in self._sinks:  # what has been summed stays where a plan is tapped anew
                self._sinks[one.tap] = SquaresSink(one)
            self._inputs[one.tap] = one
        return tapped

    def squares(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """By weight: sums of squares (matrices, columns) and the rows that they are of (matrices,)."""
        by_weight = {}
        for tap, one in self._inputs.items():
            sink = self._sinks[tap]
            by_weight.update(dict.fromkeys(one.names, (sink.total(), sink.rows)))
        return by_weight
