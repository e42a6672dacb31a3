"""SoftCap: one launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import launch, places, spec
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import SoftCap

LOWERS = (SoftCap,)
_CAP = spec("soft_cap", [], "x", (("cap", "float"),))


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, SoftCap)
    return 1, _works(to, op)


def _works(to: Lowering, op: SoftCap) -> Iterator[Work]:
    yield launch(to, _CAP, op.x, op.width, {**places(x=to.place(op.x)), "cap": op.cap})


def examples() -> list[KernelSpec]:
    """One of each kernel that is made here."""
    return [_CAP]
