"""Scale and SoftCap: one call each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import Scale, SoftCap

LOWERS = (Scale, SoftCap)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, Scale | SoftCap)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: Scale | SoftCap) -> Iterator[Call]:
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x), "n_blocks": to.blocks(op.x),
        "x_stride": to.stride(op.x), **({"factor": op.factor} if isinstance(op, Scale) else {"cap": op.cap}),
    }  # fmt: skip
    yield to.call(op, kernel("scale" if isinstance(op, Scale) else "soft_cap"), values, [op.x], [op.x])
