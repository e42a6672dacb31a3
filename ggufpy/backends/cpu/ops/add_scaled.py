"""AddScaled: one call, with the scales of the step's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import AddScaled

LOWERS = (AddScaled,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, AddScaled)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: AddScaled) -> Iterator[Call]:
    step = to.work.step
    values = {
        "step_ptr": step.all_rows, "scales_ptr": step.scales_address(op.adapter), "x_ptr": to.address(op.x),
        "y_ptr": to.address(op.y), "n_blocks": to.blocks(op.y), "x_stride": to.stride(op.x),
        "y_stride": to.stride(op.y), "factor": op.factor,
    }  # fmt: skip
    yield to.call(op, kernel("add_scaled"), values, [op.x, op.y], [op.y])
