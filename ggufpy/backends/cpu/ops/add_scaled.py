"""AddScaled: one call, with the scales of the step's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.plan import AddScaled, Op

LOWERS = (AddScaled,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, AddScaled)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: AddScaled) -> Iterator[Call]:
    w = to.work
    values = {
        "step": w.step.all_rows, "scales": w.step.scales_address(op.adapter), "x": w.address(op.x),
        "y": w.address(op.y), "blocks": w.columns[op.y] // BLOCK, "stride": w.stride(op.y), "factor": op.factor,
    }  # fmt: skip
    yield to.call(op, kernel("add_scaled"), values, [op.x, op.y], [op.y])
    yield from to.quantised(op, op.y)
