"""Add: one launch, with the norm of the sum where that comes next (`residual.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu import residual
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import launch, places, spec
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import Add

LOWERS = (Add,)
_ADD = spec("add", ["x"], "y")


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    if found := residual.begins(to, ops):
        return found.taken, residual.works(to, found)
    op = ops[0]
    assert isinstance(op, Add)
    return 1, _works(to, op)


def _works(to: Lowering, op: Add) -> Iterator[Work]:
    yield launch(to, _ADD, op.y, op.width, places(x=to.place(op.x), y=to.place(op.y)))


def examples() -> list[KernelSpec]:
    """One of each kernel that is made here."""
    return [_ADD]
