"""Gate: one call, which makes 8-bit rows too where a matrix reads them."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.plan import Gate, Op

LOWERS = (Gate,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, list[Call]]:
    op, w = ops[0], to.work
    assert isinstance(op, Gate)
    values = {
        "step": w.step.all_rows, "gate": w.address(op.gate), "up": w.address(op.up), "y": w.address(op.y),
        "q": to.codes(op.y), "blocks": w.columns[op.y] // BLOCK, "stride": w.stride(op.y),
        "q_stride": w.codes_stride(op.y),
    }  # fmt: skip
    return 1, [to.call(op, kernel("gate", kind=op.kind), values, [op.gate, op.up], [op.y, "q:" + op.y])]
