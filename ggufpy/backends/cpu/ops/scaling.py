"""ScaleByGate, ScaleByPosition and Clamp: one call each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.scaling import Clamp, ScaleByGate, ScaleByPosition

LOWERS = (ScaleByGate, ScaleByPosition, Clamp)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    if isinstance(op, ScaleByGate):
        return 1, _gate(to, op)
    if isinstance(op, ScaleByPosition):
        return 1, _position(to, op)
    assert isinstance(op, Clamp)
    return 1, _clamp(to, op)


def _gate(to: Lowering, op: ScaleByGate) -> Iterator[Call]:
    (columns,) = op.weight.shape
    if op.x in to.views.sharing(op.y) or to.width(op.x) != columns:
        raise ValueError(f"{op} does not fit its buffers")
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x),
        "weight_ptr": to.parts.vectors[op.weight.name].at(0, 128 * to.blocks(op.x)), "y_ptr": to.address(op.y),
        "n_x_blocks": to.blocks(op.x), "n_y_blocks": to.blocks(op.y), "x_stride": to.stride(op.x),
        "y_stride": to.stride(op.y),
    }  # fmt: skip
    yield to.call(op, kernel("scale_by_gate"), values, [op.x, op.y], [op.y])


def _position(to: Lowering, op: ScaleByPosition) -> Iterator[Call]:
    values = {
        "step_ptr": to.work.step.all_rows, "factors_ptr": to.parts.factors[op.by].at(0, 4 * to.work.rows),
        "x_ptr": to.address(op.x), "n_blocks": to.blocks(op.x), "x_stride": to.stride(op.x),
    }  # fmt: skip
    yield to.call(op, kernel("scale_rows"), values, [op.x], [op.x])


def _clamp(to: Lowering, op: Clamp) -> Iterator[Call]:
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x), "n_blocks": to.blocks(op.x),
        "x_stride": to.stride(op.x), "low": op.low, "high": op.high,
    }  # fmt: skip
    yield to.call(op, kernel("clamp"), values, [op.x], [op.x])
