"""MatMul: exact rows by groups that share a reading of the weights, bulk rows by a kernel for many, if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.backends.cpu.weights import Matrix
from ggufpy.backends.cpu.workspace import MOST
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.plan import MatMul, Op

LOWERS = (MatMul,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, MatMul)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: MatMul) -> Iterator[Call]:
    w, kind, matrix, lanes = to.work, to.kind, to.parts.matrices[op.weight.name], to.parts.cache.lanes
    if w.columns[op.x] != matrix.blocks * BLOCK or w.columns[op.y] < matrix.panels * lanes:
        raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    code = to.parts.bulk.get(op.weight.name) if kind.bulk else None
    if code is None or kind.group:
        many = kind.bulk and code is None  # all rows of the step
        rows = w.step.all_rows if code is None else w.step.exact_rows
        yield _exact(to, op, matrix, rows, MOST if many else kind.group)
    if code is not None:
        yield from _bulk(to, op, matrix, code)
    yield from to.quantised(op, op.y)


def _exact(to: Lowering, op: MatMul, matrix: Matrix, rows: int, group: int) -> Call:
    """Rows in groups that share a reading of the weights, the same bits whatever their company."""
    w, code = to.work, matrix.kernel(group)
    quantised = code.source == "matmul_int"
    values = {
        "step": rows, "weights": matrix.memory.at(0, matrix.memory.nbytes),
        "x": w.codes_address(op.x) if quantised else w.address(op.x), "y": w.address(op.y),
        "bias": _bias(to, op, matrix), "panels": matrix.panels, "blocks": matrix.blocks,
        "x_stride": w.codes_stride(op.x) if quantised else w.stride(op.x),
        "y_stride": w.stride(op.y), "add": int(op.add), "multiplier": matrix.multiplier,
    }  # fmt: skip
    return to.call(op, code, values, ["q:" + op.x if quantised else op.x], [op.y])


def _bulk(to: Lowering, op: MatMul, matrix: Matrix, code: Kernel) -> Iterator[Call]:
    """The step's bulk rows, in blocks."""
    w, span = to.work, to.work.step.bulk_rows
    if op.x not in to.tiled:
        given = {
            "span": span, "x": w.address(op.x), "x_stride": w.stride(op.x), "tiles": w.tiles_address(op.x),
            "blocks": matrix.blocks,
        }  # fmt: skip
        yield to.call(op, kernel("to_tiles"), given, [op.x], ["t:" + op.x])
        to.tiled.add(op.x)
    scratch = to.parts.scratch
    values = {
        "span": span, "weights": matrix.memory.at(0, matrix.memory.nbytes), "tiles": w.tiles_address(op.x),
        "y": w.address(op.y), "bias": _bias(to, op, matrix), "panels": matrix.panels, "blocks": matrix.blocks,
        "y_stride": w.stride(op.y), "add": int(op.add), "multiplier": matrix.multiplier,
        "scratch": scratch.at(0, scratch.nbytes), "scratch_bytes": scratch.nbytes // to.parts.threads,
    }  # fmt: skip
    yield to.call(op, code, values, ["t:" + op.x], [op.y])


def _bias(to: Lowering, op: MatMul, matrix: Matrix) -> int:
    if op.bias is None:
        return 0
    return to.parts.vectors[op.bias.name].at(0, 4 * matrix.panels * to.parts.cache.lanes)
