"""8-bit rows (`activations.py`) that an op makes beside its floats, where a product of exact rows reads them next."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpy.models.op import Op
from ggufpy.models.ops import MatMul

from .activations import FORM, eight_bits
from .lowering import BLOCK, Lowering

ARGS = (("q", "signed char*"), ("q_stride", "long long"), ("coded", "int"))
NONE = {"q": 0, "q_stride": 0, "coded": 0}


def wanted(to: Lowering, name: str, width: int, behind: Sequence[Op]) -> bool:
    """Whether one of the ops `behind` multiplies a matrix of codes by what is written to `name` now."""
    if to.shape.few == 0 or (to.views.place(name)[0] != name and width % BLOCK):
        return False
    for op in behind:
        if isinstance(op, MatMul) and op.x == name and not to.parts.matrix(op.weight).format.dtype:
            return True
        if name in op.writes:
            return False
    return False


def codes(to: Lowering, name: str, make: bool) -> dict[str, int]:
    """Values of ARGS: the exact rows of `name` are coded where they are to be made, as is noted."""
    if not make:
        return NONE
    rows = eight_bits(to, name)
    to.note(FORM + name)
    return {"q": rows.address, "q_stride": rows.stride, "coded": to.shape.few}
