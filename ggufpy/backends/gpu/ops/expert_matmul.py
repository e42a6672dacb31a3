"""ExpertMatMul: exact rows by a kernel that reads on the device what was chosen, bulk rows as `expert_bulk.py` has it.

Bulk rows of a step that has too few of them for its experts go with the exact ones: each reads the matrices that it
chose, from L2 where others did, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu import expert_bulk
from ggufpy.backends.gpu.activations import eight_bits, quantised
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import end
from ggufpy.backends.gpu.formats import BLOCK, Format, format_of
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.backends.gpu.weights import MATRIX_ARGS, DeviceMatrix
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul
from ggufpy.quants import get

LOWERS = (ExpertMatMul,)

THREADS, WARP = 128, 32
BUSY = 16  # warps that a multiprocessor should have before one has two rows


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, ExpertMatMul)
    return 1, _works(to, op)


def _works(to: Lowering, op: ExpertMatMul) -> Iterator[Work]:
    matrix = to.parts.matrix(op.weight)
    _check(to, op, matrix)
    apart = expert_bulk.together(to, op, matrix)
    if rows := to.shape.few if apart else to.shape.end:
        yield from _exact(to, op, matrix, rows)
    if apart:
        yield from expert_bulk.works(to, op, matrix)


def _exact(to: Lowering, op: ExpertMatMul, matrix: DeviceMatrix, rows: int) -> Iterator[Work]:
    """The first rows of a step, the same bits whatever their company."""
    if matrix.format.dtype:
        x = to.place(op.x)
        read = {"x": x.address, "x_stride": 4 * x.stride, "x_blocks": 0}
    else:
        yield from quantised(to, op.x, every=rows > to.shape.few)
        eight = eight_bits(to, op.x)
        read = {"x": eight.address, "x_stride": eight.stride, "x_blocks": -(-to.width(op.x) // BLOCK)}
    y, chosen = to.place(op.y), to.place(op.chosen)
    last = matrix.rows if op.shares is None and op.count > 1 else end(to, op.y, matrix.rows)
    pairs = rows if op.shares is not None else rows * op.count
    together = 2 if matrix.rows * pairs >= 2 * BUSY * to.parts.processors else 1
    values = {
        **matrix.arguments, **read, "chosen": chosen.address, "chosen_stride": chosen.stride, "x_rows": rows,
        "shares": 0 if op.shares is None else to.place(op.shares).address, "y": y.address, "y_stride": y.stride,
        "bias": 0 if op.bias is None else to.parts.vector(op.bias), "bias_stride": -(-matrix.rows // BLOCK) * BLOCK,
        "rows": matrix.rows, "columns": matrix.columns, "end": last, "count": op.count, "own": int(op.own),
    }  # fmt: skip
    groups = -(-last // (THREADS // WARP * together))
    yield to.launch(_spec(matrix.format, together, op.shares is not None, op.add), values, (groups * pairs, 1, 1))


def _check(to: Lowering, op: ExpertMatMul, matrix: DeviceMatrix) -> None:
    """Raises GGUFError for parts that are no whole blocks, ValueError for buffers that do not fit."""
    separate = op.shares is None
    for width, apart in ((matrix.columns, op.own), (matrix.rows, separate)):
        if apart and op.count > 1 and width % BLOCK:
            raise GGUFError(
                f"{op.weight.name}: experts with a feed-forward width of {width}; ggufpy runs multiples of {BLOCK}"
            )
    parts_read, parts_written = op.count if op.own else 1, op.count if separate else 1
    if to.width(op.x) != parts_read * matrix.columns or to.width(op.y) != parts_written * matrix.rows:
        raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    if to.width(op.chosen) != op.count or matrix.experts != op.weight.shape[0]:
        raise ValueError(f"{op.weight.name} is of {op.count} of {matrix.experts} experts, {op.chosen} is not")
    if op.shares is not None and to.place(op.shares).stride != to.place(op.chosen).stride:
        raise ValueError(f"{op.chosen} and {op.shares} do not have the same rows")
    if op.add and separate:
        raise ValueError(f"{op.weight.name}: parts of {op.y} cannot be added to")


def _spec(form: Format, together: int, summed: bool, add: bool) -> KernelSpec:
    """The kernel for a format, with so many rows a warp."""
    args = (
        *MATRIX_ARGS, ("x", "const void*"), ("chosen", "const float*"), ("shares", "const float*"),
        ("bias", "const float*"), ("y", "float*"), ("x_stride", "long long"), ("y_stride", "long long"),
        *((name, "int") for name in (
            "x_blocks", "chosen_stride", "bias_stride", "x_rows", "rows", "columns", "end", "count", "own",
        )),
    )  # fmt: skip
    defines = (
        ("CODES", int(not form.dtype)), *form.defines, ("R", together), ("SUMMED", int(summed)), ("ADD", int(add)),
    )  # fmt: skip
    return KernelSpec("expert_matmul", args, defines, THREADS)


def examples() -> list[KernelSpec]:
    """Every way for the commonest format, and each kind of format once."""
    common = format_of(get("Q4_K"))
    ways = ((1, False, False), (2, False, False), (1, True, True), (2, True, True), (2, True, False))
    others = ("Q4_0", "Q4_1", "Q5_0", "Q5_K", "Q6_K", "Q8_0", "Q2_K", "Q3_K", "MXFP4", "TQ2_0", "F16", "BF16", "F32")
    return [*(_spec(common, *way) for way in ways), *(_spec(format_of(get(name)), 2, True, True) for name in others)]
