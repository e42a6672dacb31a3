"""MatMul: exact rows by kernels that read the weights once for up to eight of them, bulk rows as `bulk.py` has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.activations import eight_bits, quantised
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import end
from ggufpy.backends.gpu.formats import BLOCK, Format, format_of
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.backends.gpu.weights import MATRIX_ARGS, DeviceMatrix
from ggufpy.models.op import Op
from ggufpy.models.ops import MatMul
from ggufpy.quants import get
from ggufpy.support.records import dataclass

LOWERS = (MatMul,)
WARP, THREADS = 32, 128
WARPS = THREADS // WARP
SHARING = (1, 2, 4, 8)  # rows of activations that may share a reading of the weights
ROWS = {1: 2, 2: 2, 4: 2, 8: 4}  # of the matrix that a warp has then: they share a reading of the activations
BUSY = 16  # warps that a multiprocessor should have
ENOUGH = 8  # with which it may make do where rows share

_ARGS = (
    *MATRIX_ARGS, ("x_stride", "long long"), ("y", "float*"), ("y_stride", "long long"), ("bias", "const float*"),
    ("rows", "int"), ("end", "int"), ("count", "int"), ("add", "int"),
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How a product is shared out: rows of activations together, rows of the matrix that a warp has, and warps that
    have the same rows, each a part of the columns."""

    together: int
    rows: int
    split: int


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, MatMul)
    return 1, _works(to, op)


def _works(to: Lowering, op: MatMul) -> Iterator[Work]:
    matrix = to.parts.matrix(op.weight)
    if matrix.columns != to.width(op.x) or matrix.rows != to.width(op.y) or op.x in to.views.sharing(op.y):
        raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    if to.shape.few:
        yield from _exact(to, op, matrix)
    if to.shape.many:
        from ggufpy.backends.gpu import bulk  # knows libraries' products, which decoding never needs

        yield from bulk.works(to, op)


def _exact(to: Lowering, op: MatMul, matrix: DeviceMatrix) -> Iterator[Work]:
    """Rows in groups that share a reading of the weights, the same bits whatever their company."""
    y, last = to.place(op.y), end(to, op.y, matrix.rows)
    values: dict[str, int | float] = {
        **matrix.arguments, "y_stride": y.stride, "bias": 0 if op.bias is None else to.parts.vector(op.bias),
        "rows": matrix.rows, "end": last, "add": int(op.add),
    }  # fmt: skip
    numbers, aligned = bool(matrix.format.dtype), False
    if numbers:
        x = to.place(op.x)
        start, stride, size = x.address, x.stride, 4 * x.stride
        aligned = start % 16 == 0 and stride % 4 == 0 and _filled(to, op.x)
        values["columns"] = matrix.columns
    else:
        yield from quantised(to, op.x)
        eight = eight_bits(to, op.x)
        start, stride, size = eight.address, eight.stride, eight.stride
    values["x_stride"] = stride
    for first in range(0, to.shape.few, SHARING[-1]):
        count = min(to.shape.few - first, SHARING[-1])
        variant = variant_of(matrix.rows, matrix.blocks, count, to.parts.processors)
        given = {**values, "x": start + first * size, "y": y.address + 4 * first * y.stride, "count": count}
        grid = -(-last // (variant.rows * WARPS // variant.split))
        yield to.launch(spec(matrix.format, variant, aligned), given, (grid, 1, 1))


def _filled(to: Lowering, name: str) -> bool:
    """Whether there are zeros behind the last column up to whole blocks."""
    return to.width(name) % BLOCK == 0 or to.views.place(name)[0] == name


def variant_of(rows: int, blocks: int, count: int, processors: int) -> Variant:
    """For so many rows of activations. How columns are split depends on the matrix and the device alone, and so do the
    bits of a product."""
    split = 1
    while split < WARPS and rows * split < BUSY * processors and blocks >= 2 * split * WARP:
        split *= 2
    together = next(size for size in SHARING if size >= count)
    each = ROWS[together]
    while each > 1 and rows * split < ENOUGH * processors * each:
        each //= 2
    return Variant(together, each, split)


def spec(form: Format, variant: Variant, aligned: bool = True) -> KernelSpec:
    """The kernel for a format. `aligned` counts where it is one of numbers."""
    shared = (("N", variant.together), ("R", variant.rows), ("SPLIT", variant.split))
    if form.dtype:
        args = (("x", "const float*"), *_ARGS, ("columns", "int"))
        return KernelSpec("matvec_numbers", args, (*form.defines, *shared, ("ALIGNED", int(aligned))), THREADS)
    return KernelSpec("matvec", (("x", "const signed char*"), *_ARGS), (*form.defines, *shared), THREADS)


def examples() -> list[KernelSpec]:
    """Every way to share rows out for the commonest formats, and one with most registers of each other."""
    variants = [Variant(together, rows, 1) for together, rows in ROWS.items()]
    variants += [Variant(1, 1, 1), Variant(1, 1, 4), Variant(8, 1, 2)]
    common = [format_of(get(name)) for name in ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16")]
    others = ("Q4_1", "Q5_0", "Q5_1", "Q5_K", "Q2_K", "Q3_K", "IQ4_XS", "IQ3_XXS", "TQ2_0", "BF16", "F32")
    made = [spec(form, variant) for form in common for variant in variants]
    made += [spec(format_of(get(name)), Variant(8, 4, 1)) for name in others]
    return [*made, spec(common[-1], variants[0], False)]
