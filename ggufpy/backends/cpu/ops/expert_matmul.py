"""ExpertMatMul: all rows of the step, exact and bulk, by one kernel, through the lists of rows by expert.

What an expert reads or writes as a part of a row begins at a whole block of 32 columns: such parts of other widths are
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.backends.cpu.weights import Matrix, expert_kernel
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul
from ggufpy.quants.base import IntPanel

LOWERS = (ExpertMatMul,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, ExpertMatMul)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: ExpertMatMul) -> Iterator[Call]:
    matrix = to.parts.matrices[op.weight.name]
    _check(to, op, matrix)
    if isinstance(matrix.panel, IntPanel):
        yield from to.quantised(op.x)
    yield _product(to, op, matrix)


def _check(to: Lowering, op: ExpertMatMul, matrix: Matrix) -> None:
    """Raises GGUFError for parts that are no whole blocks, ValueError for buffers that do not fit."""
    lanes = to.parts.cache.lanes
    separate = op.shares is None
    for width, apart in ((matrix.columns, op.own), (matrix.rows, separate)):
        if apart and op.count > 1 and width % BLOCK:
            raise GGUFError(
                f"{op.weight.name}: experts with a feed-forward width of {width}; ggufpy runs multiples of {BLOCK}"
            )
    x, y = op.count if op.own else 1, op.count if separate else 1
    if to.blocks(op.x) != x * matrix.blocks or to.room(op.y) < y * matrix.panels * lanes:
        raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    if op.shares is not None and to.room(op.shares) < op.count:
        raise ValueError(f"{op.shares} has no {op.count} shares")
    chosen = to.work.forms.chosen[op.chosen]
    if (matrix.experts, op.count) != chosen:
        raise ValueError(f"{op.weight.name} is of {op.count} of {matrix.experts} experts, {op.chosen} of {chosen}")
    if op.add and separate:
        raise ValueError(f"{op.weight.name}: parts of {op.y} cannot be added to")


def _read_as(to: Lowering, op: ExpertMatMul, quantised: bool) -> dict[str, int]:
    """Where x is, from row to row and from part to part."""
    if quantised:
        x, stride = to.work.codes_address(op.x), to.work.codes_stride(op.x)
        return {"x_ptr": x, "x_stride": stride, "x_part_stride": stride // op.count if op.own else 0}
    part = 4 * BLOCK * to.blocks(op.x) // op.count if op.own else 0
    return {"x_ptr": to.address(op.x), "x_stride": to.stride(op.x), "x_part_stride": part}


def _product(to: Lowering, op: ExpertMatMul, matrix: Matrix) -> Call:
    w, quantised = to.work, isinstance(matrix.panel, IntPanel)
    shares, bias, bias_stride = 0, 0, -(-matrix.rows // BLOCK) * BLOCK * 4
    if op.shares is not None:
        shares = to.address(op.shares)
    if op.bias is not None:
        bias = to.parts.vectors[op.bias.name].at(0, matrix.experts * bias_stride)
    values = {
        "step_ptr": w.step.all_rows, "n_experts": w.forms.chosen[op.chosen][0],
        "weights_ptr": matrix.memory.at(0, matrix.experts * matrix.expert_bytes), "expert_bytes": matrix.expert_bytes,
        **_read_as(to, op, quantised), "y_ptr": to.address(op.y), "y_stride": to.stride(op.y),
        "y_part_stride": 4 * BLOCK * to.blocks(op.y) // op.count if op.shares is None else 0, "shares_ptr": shares,
        "shares_stride": to.stride(op.shares) if op.shares is not None else 0, "bias_ptr": bias,
        "bias_stride": bias_stride, "n_panels": matrix.panels, "n_blocks": matrix.blocks, "adds": int(op.add),
        "multiplier": matrix.multiplier, **w.lists[op.chosen].addresses(*w.forms.chosen[op.chosen], w.rows),
    }  # fmt: skip
    read = ["q:" + op.x if quantised else op.x, "e:" + op.chosen, *([op.shares] if op.shares is not None else [])]
    return to.call(op, expert_kernel(matrix.panel), values, read, [op.y])
