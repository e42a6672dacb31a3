"""Add: one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import Add

LOWERS = (Add,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, Add)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: Add) -> Iterator[Call]:
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x), "y_ptr": to.address(op.y),
        "n_blocks": to.blocks(op.y), "x_stride": to.stride(op.x), "y_stride": to.stride(op.y),
    }  # fmt: skip
    yield to.call(op, kernel("add"), values, [op.x, op.y], [op.y])
