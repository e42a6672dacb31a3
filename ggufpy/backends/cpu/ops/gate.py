"""Gate: one call, which makes 8-bit rows too where a matrix reads them.

Where experts read parts of y, each part of a row is taken for a row. Where the gate or up then lie in wider buffers, as
beside dense layers, whole rows are, and no 8-bit rows are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import Gate

LOWERS = (Gate,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, Gate)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: Gate) -> Iterator[Call]:
    up = op.gate if op.up is None else op.up  # without one the kernel reads the gate alone
    apart = to.work.parts(op.y) > 1 and any(to.stride(name) != 4 * BLOCK * to.blocks(op.y) for name in (op.gate, up))
    parts = 1 if apart else to.parts_of(op.y)
    code = kernel("gate", kind=op.kind) if op.up is not None else kernel("gate", kind=op.kind, gated=0)
    values = {
        "step_ptr": to.work.step.rows_in_parts(parts), "gate_ptr": to.address(op.gate), "up_ptr": to.address(up),
        "y_ptr": to.address(op.y), "q_ptr": 0 if apart else to.codes(op.y), "n_blocks": to.blocks(op.y) // parts,
        "gate_stride": to.stride(op.gate) // parts, "up_stride": to.stride(up) // parts,
        "y_stride": to.stride(op.y) // parts, "q_stride": to.work.codes_stride(op.y) // parts,
    }  # fmt: skip
    yield to.call(op, code, values, op.reads, [op.y] if apart else to.forms(op.y))
