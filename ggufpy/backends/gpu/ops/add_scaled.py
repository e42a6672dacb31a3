"""AddScaled: one launch, with the scales of the step's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import launch, places, spec
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import AddScaled

LOWERS = (AddScaled,)
_ADD = spec("add_scaled", ["x"], "y", (("scales", "const float*"), ("factor", "float")))


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, AddScaled)
    return 1, _works(to, op)


def _works(to: Lowering, op: AddScaled) -> Iterator[Work]:
    step = to.parts.step
    values = {
        **places(x=to.place(op.x), y=to.place(op.y)), "scales": step.scales + 4 * step.table_stride * op.adapter,
        "factor": op.factor,
    }  # fmt: skip
    yield launch(to, _ADD, op.y, op.width, values)


def examples() -> list[KernelSpec]:
    """One of each kernel that is made here."""
    return [_ADD]
