"""Norm: of a whole row one call, which makes 8-bit rows too where a matrix reads them; of its parts another kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.jit.spec import kernel
from ggufpy.models.plan import Norm, Op

LOWERS = (Norm,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, Norm)
    return 1, _row(to, op) if op.groups == 1 else _groups(to, op)


def _row(to: Lowering, op: Norm) -> Iterator[Call]:
    w, whole = to.work, to.work.parts(op.y) == 1
    columns = w.columns[op.x]
    values = {
        "step": w.step.all_rows, "x": w.address(op.x), "weight": to.parts.vectors[op.weight.name].at(0, 4 * columns),
        "y": w.address(op.y), "q": to.codes(op.y) if whole else 0, "blocks": columns // BLOCK,
        "columns": op.weight.shape[0], "x_stride": w.stride(op.x), "y_stride": w.stride(op.y),
        "q_stride": w.codes_stride(op.y), "eps": op.eps,
    }  # fmt: skip
    yield to.call(op, kernel("norm"), values, [op.x], [op.y, "q:" + op.y])
    if not whole:
        yield from to.quantised(op, op.y)


def _groups(to: Lowering, op: Norm) -> Iterator[Call]:
    w, length = to.work, op.weight.shape[0]
    values = {
        "step": w.step.all_rows, "x": w.address(op.x), "weight": to.parts.vectors[op.weight.name].at(0, 4 * length),
        "y": w.address(op.y), "groups": op.groups, "length": length, "x_stride": w.stride(op.x),
        "y_stride": w.stride(op.y), "eps": op.eps,
    }  # fmt: skip
    yield to.call(op, kernel("norm_groups"), values, [op.x], [op.y])
    yield from to.quantised(op, op.y)
