"""What matrices are multiplied by: a tap before the first of those that share an input.

In: the ops of a layer. Out: the ops with taps, and for each tap the weights whose input it sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from ggufpy.support.records import dataclass

from .op import Op
from .ops import ExpertMatMul, MatMul, Tap
from .views import Views


@dataclass(frozen=True)
class MatrixInput:
    """One input: the name of its tap, the first op that multiplies it, the weights of all that do, in order."""

    tap: str
    of: MatMul | ExpertMatMul
    names: dict[str, None] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        """Of each matrix."""
        return self.of.weight.shape[-1]

    @property
    def matrices(self) -> int:
        """Experts, or 1."""
        return self.of.weight.shape[0] if isinstance(self.of, ExpertMatMul) else 1


def with_input_taps(ops: Iterable[Op]) -> tuple[tuple[Op, ...], list[MatrixInput]]:
    """Ops of one layer with a `Tap` before the first product of each input. Buffers that are written to have a new one.

    Experts share an input where the same are chosen.
    """
    now: dict[tuple[str, ...], MatrixInput] = {}  # by buffer, of experts by who is chosen too
    inputs: list[MatrixInput] = []
    out: list[Op] = []
    views = Views()
    for op in ops:
        views.follow(op)
        if isinstance(op, MatMul | ExpertMatMul):
            key: tuple[str, ...] = (op.x, op.chosen) if isinstance(op, ExpertMatMul) else (op.x,)
            if key not in now:
                now[key] = MatrixInput(f"what {op.weight.name} multiplies", op)
                inputs.append(now[key])
                width = op.weight.shape[-1] * (op.count if isinstance(op, ExpertMatMul) and op.own else 1)
                out.append(Tap(now[key].tap, op.x, width))
            now[key].names[op.weight.name] = None
        out.append(op)
        changed = {name for one in op.writes for name in views.sharing(one)}
        for old in [key for key in now if changed & set(key)]:
            del now[old]
    return tuple(out), inputs
