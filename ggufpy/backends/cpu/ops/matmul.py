"""MatMul: exact rows by groups that share a reading of the weights, bulk rows by a kernel for many, if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.backends.cpu.weights import Matrix
from ggufpy.backends.cpu.workspace import MOST
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import MatMul

LOWERS = (MatMul,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, MatMul)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: MatMul) -> Iterator[Call]:
    kind, matrix, step = to.kind, to.parts.matrices[op.weight.name], to.work.step
    if to.blocks(op.x) != matrix.blocks or to.room(op.y) < matrix.panels * to.parts.cache.lanes:
        raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    code = to.parts.bulk.get(op.weight.name) if kind.bulk else None
    if code is None or kind.group:
        many = kind.bulk and code is None  # all rows of the step
        rows = step.all_rows if code is None else step.exact_rows
        yield from _exact(to, op, matrix, rows, MOST if many else kind.group)
    if code is not None:
        yield from _bulk(to, op, matrix, code)


def _exact(to: Lowering, op: MatMul, matrix: Matrix, rows: int, group: int) -> Iterator[Call]:
    """Rows in groups that share a reading of the weights, the same bits whatever their company."""
    code = matrix.kernel(group)
    quantised = code.source == "matmul_int"
    if quantised:
        yield from to.quantised(op.x)
    values = {
        "step_ptr": rows, "weights_ptr": matrix.memory.at(0, matrix.memory.nbytes),
        "x_ptr": to.work.codes_address(op.x) if quantised else to.address(op.x), "y_ptr": to.address(op.y),
        "bias_ptr": _bias(to, op, matrix), "n_panels": matrix.panels, "n_blocks": matrix.blocks,
        "x_stride": to.work.codes_stride(op.x) if quantised else to.stride(op.x),
        "y_stride": to.stride(op.y), "adds": int(op.add), "multiplier": matrix.multiplier,
    }  # fmt: skip
    yield to.call(op, code, values, ["q:" + op.x if quantised else op.x], [op.y])


def _bulk(to: Lowering, op: MatMul, matrix: Matrix, code: Kernel) -> Iterator[Call]:
    """The step's bulk rows, in blocks."""
    span, tiles = to.work.step.bulk_rows, to.work.tiles_address(op.x)
    if not to.made("t:" + op.x):
        given = {
            "span_ptr": span, "x_ptr": to.address(op.x), "x_stride": to.stride(op.x), "tiles_ptr": tiles,
            "n_blocks": matrix.blocks,
        }  # fmt: skip
        yield to.call(op, kernel("to_tiles"), given, [op.x], ["t:" + op.x])
    scratch = to.parts.scratch
    values = {
        "span_ptr": span, "weights_ptr": matrix.memory.at(0, matrix.memory.nbytes), "tiles_ptr": tiles,
        "y_ptr": to.address(op.y), "bias_ptr": _bias(to, op, matrix), "n_panels": matrix.panels,
        "n_blocks": matrix.blocks, "y_stride": to.stride(op.y), "adds": int(op.add), "multiplier": matrix.multiplier,
        "scratch_ptr": scratch.at(0, scratch.nbytes), "scratch_bytes": scratch.nbytes // to.parts.threads,
    }  # fmt: skip
    yield to.call(op, code, values, ["t:" + op.x], [op.y])


def _bias(to: Lowering, op: MatMul, matrix: Matrix) -> int:
    if op.bias is None:
        return 0
    return to.parts.vectors[op.bias.name].at(0, 4 * matrix.panels * to.parts.cache.lanes)
