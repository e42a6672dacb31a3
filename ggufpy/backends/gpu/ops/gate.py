"""Gate: one launch, which makes 8-bit rows too where a matrix reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu import coded
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import launch, places, spec
from ggufpy.backends.gpu.lowering import Lowering, Place
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import Gate

LOWERS = (Gate,)
KINDS = ("silu", "gelu", "gelu_erf", "relu", "relu2", "clamped")
_NONE = Place(0, 0)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, Gate)
    return 1, _works(to, op, ops[1:])


def _works(to: Lowering, op: Gate, behind: Sequence[Op]) -> Iterator[Work]:
    up = _NONE if op.up is None else to.place(op.up)
    values = {
        **places(gate=to.place(op.gate), up=up, y=to.place(op.y)),
        **coded.codes(to, op.y, coded.rows_wanted(to, op.y, op.width, behind)),
    }
    yield launch(to, _spec(op.kind), op.y, op.width, values)


def _spec(kind: str) -> KernelSpec:
    """`kind` goes to `kernels/gate.cuh` as the name of a constant there."""
    return spec("gate", ["gate", "up"], "y", coded.ARGS, (("KIND", kind.upper()),))


def examples() -> list[KernelSpec]:
    """One of each kernel that is made here."""
    return [_spec(kind) for kind in KINDS]
