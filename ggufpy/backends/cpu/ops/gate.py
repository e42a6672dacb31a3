"""Gate: one call, which makes 8-bit rows too where a matrix reads them.

Where experts read parts of y, each part of a row is taken for a row.
"""

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
    parts = w.parts(op.y)
    values = {
        "step": w.step.rows_in_parts(parts), "gate": w.address(op.gate), "up": w.address(op.up), "y": w.address(op.y),
        "q": to.codes(op.y), "blocks": w.columns[op.y] // BLOCK // parts, "stride": w.stride(op.y) // parts,
        "q_stride": w.codes_stride(op.y) // parts,
    }  # fmt: skip
    return 1, [to.call(op, kernel("gate", kind=op.kind), values, [op.gate, op.up], [op.y, "q:" + op.y])]
