"""8-bit rows (`activations.py`) that an op makes beside its floats, where a product reads them next."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul, MatMul

from .activations import EVERY, FORM, eight_bits
from .lowering import BLOCK, Lowering

ARGS = (("q", "signed char*"), ("q_stride", "long long"), ("coded", "int"))
NONE = {"q": 0, "q_stride": 0, "coded": 0}


def rows_wanted(to: Lowering, name: str, width: int, behind: Sequence[Op]) -> int:
    """How many rows of what is written to `name` now one of the ops `behind` multiplies a matrix of codes by: none, the
    exact ones, or, for experts, all."""
    if to.views.place(name)[0] != name and width % BLOCK:
        return 0
    found = 0
    for op in behind:
        if isinstance(op, MatMul | ExpertMatMul) and op.x == name and not to.parts.matrix(op.weight).format.dtype:
            found = max(found, to.shape.end if isinstance(op, ExpertMatMul) else to.shape.few)
        if name in op.writes:
            break
    return found


def codes(to: Lowering, name: str, rows: int) -> dict[str, int]:
    """Values of ARGS: so many rows of `name` are coded, as is noted."""
    if not rows:
        return NONE
    to.note(FORM + name)
    if rows == to.shape.end:
        to.note(EVERY + name)
    eight = eight_bits(to, name)
    return {"q": eight.address, "q_stride": eight.stride, "coded": rows}
