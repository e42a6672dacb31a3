"""MatMul: exact rows by kernels that read the weights once for up to eight of them, bulk rows as `bulk.py` has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu import bulk
from ggufpy.backends.gpu.activations import eight_bits, quantised
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import end
from ggufpy.backends.gpu.formats import Format, format_of
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.backends.gpu.weights import MATRIX_ARGS
from ggufpy.models.op import Op
from ggufpy.models.ops import MatMul
from ggufpy.quants import get
from ggufpy.support.records import dataclass

LOWERS = (MatMul,)
WARP, THREADS = 32, 128
WARPS = THREADS // WARP
SHARING = (1, 2, 4, 8)  # rows of activations that may share a reading of the weights
ROWS = {1: 2, 2: 2, 4: 2, 8: 4}  # of the matrix that a warp has then: they share a reading of the activations
# Blocks of a multiprocessor by rows together: without a bound, compilers save registers by loading weights late, one
# by one, where all loads of some passes are to be under way before the first is used.
RESIDENT = {1: 6, 2: 6, 4: 4, 8: 3}
FEWER = {2: 5, 4: 3, 8: 2}  # of several matrices: compilers had to spill 8 bytes for one block more at sm_86 and sm_120
# Of one row of the matrix a warp: `variant_of` has that where there are less than four blocks for each multiprocessor,
# and with fewer registers than four leave compilers spilled at most levels.
SINGLE = {1: 4, 2: 4, 4: 3}
BUSY = 16  # warps that a multiprocessor should have
ENOUGH = 8  # with which it may make do where rows share

MOST = 3  # matrices of a launch
# Of each matrix, with its number behind the name; those of MATRIX_ARGS but for what all have in common.
_OWN = (
    *((name, kind) for name, kind in MATRIX_ARGS if name != "blocks"), ("y", "float*"), ("y_stride", "long long"),
    ("bias", "const float*"), ("rows", "int"), ("end", "int"), ("add", "int"), ("first", "int"),
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How a product is shared out: rows of activations together, rows of the matrix that a warp has, and warps that
    have the same rows, each a part of the columns."""

    together: int
    rows: int
    split: int


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    taken = _alike(to, ops)
    return len(taken), _works(to, taken)


def _alike(to: Lowering, ops: Sequence[Op]) -> list[MatMul]:
    """The first op, and those behind it that read the same rows by matrices of the same format: of queries, keys and
    values, of gates and what they gate. What one writes, none of the others may read."""
    first = ops[0]
    assert isinstance(first, MatMul)
    taken = [first]
    for op in ops[1:MOST]:
        if not isinstance(op, MatMul) or op.x != first.x or op.y in to.views.sharing(first.x):
            break
        form, columns = to.parts.matrix(op.weight).format, op.weight.shape[1]
        if form != to.parts.matrix(first.weight).format or columns != first.weight.shape[1]:
            break
        if any(op.y in to.views.sharing(other.y) for other in taken):
            break
        taken.append(op)
    return taken


def _works(to: Lowering, ops: Sequence[MatMul]) -> Iterator[Work]:
    for op in ops:
        matrix = to.parts.matrix(op.weight)
        if matrix.columns != to.width(op.x) or matrix.rows != to.width(op.y) or op.x in to.views.sharing(op.y):
            raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    if to.shape.few:
        yield from _exact(to, ops)
    if to.shape.many:
        for op in ops:
            yield from bulk.works(to, op)


def _exact(to: Lowering, ops: Sequence[MatMul]) -> Iterator[Work]:
    """Rows in groups that share a reading of the weights, the same bits whatever their company."""
    x, matrix = ops[0].x, to.parts.matrix(ops[0].weight)
    common: dict[str, int | float] = {"blocks": matrix.blocks}
    if matrix.format.dtype:
        place = to.place(x)
        start, stride, size = place.address, place.stride, 4 * place.stride
    else:
        yield from quantised(to, x)
        eight = eight_bits(to, x)
        start, stride, size = eight.address, eight.stride, eight.stride
    common["x_stride"] = stride
    for first in range(0, to.shape.few, SHARING[-1]):
        count = min(to.shape.few - first, SHARING[-1])
        rows = sum(op.weight.shape[0] for op in ops)
        variant = variant_of(rows, matrix.blocks, count, to.parts.processors)
        own, grid = _own(to, ops, first, variant)
        values = {**common, **own, "x": start + first * size, "count": count}
        yield to.launch(spec(matrix.format, variant, len(ops)), values, (grid, 1, 1))


def _own(to: Lowering, ops: Sequence[MatMul], first: int, variant: Variant) -> tuple[dict[str, int | float], int]:
    """What a launch takes of each matrix, for rows of activations from `first` on, and how many blocks it has."""
    values: dict[str, int | float] = {}
    grid = 0
    for i, op in enumerate(ops):
        matrix, y = to.parts.matrix(op.weight), to.place(op.y)
        last = end(to, op.y, matrix.rows)
        own = {
            **matrix.arguments, "y": y.address + 4 * first * y.stride, "y_stride": y.stride,
            "bias": 0 if op.bias is None else to.parts.vector(op.bias), "rows": matrix.rows, "end": last,
            "add": int(op.add), "first": grid,
        }  # fmt: skip
        values.update((f"{name}{i}", own[name]) for name, _ in _OWN)
        grid += -(-last // (variant.rows * WARPS // variant.split))
    return values, grid


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


def spec(form: Format, variant: Variant, parts: int = 1) -> KernelSpec:
    """The kernel for so many matrices of a format."""
    resident = {
        **RESIDENT, **(FEWER if parts > 1 else {}), **(SINGLE if variant.rows == 1 else {}),
    }[variant.together]  # fmt: skip
    shared = (
        ("PARTS", parts), ("N", variant.together), ("R", variant.rows), ("SPLIT", variant.split),
        ("RESIDENT", resident),
    )  # fmt: skip
    args = (
        ("x_stride", "long long"), ("blocks", "int"), ("count", "int"),
        *((f"{name}{i}", kind) for i in range(parts) for name, kind in _OWN),
    )  # fmt: skip
    if form.dtype:
        return KernelSpec("matvec_numbers", (("x", "const float*"), *args), (*form.defines, *shared), THREADS)
    return KernelSpec("matvec", (("x", "const signed char*"), *args), (*form.defines, *shared), THREADS)


def examples() -> list[KernelSpec]:
    """Every way to share rows out for the two formats that take most registers, and the two ends of it for each."""
    ways = [Variant(together, rows, 1) for together, rows in ROWS.items()]
    ways += [Variant(1, 1, 1), Variant(1, 1, 4), Variant(2, 1, 1), Variant(4, 1, 1), Variant(8, 1, 2), Variant(8, 2, 1)]
    names = (
        "Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16", "Q4_1", "Q5_0", "Q5_1", "Q5_K", "Q2_K", "Q3_K", "IQ4_XS", "IQ3_XXS",
        "TQ2_0", "BF16", "F32",
    )  # fmt: skip
    made = [spec(format_of(get(name)), way, parts) for name in ("Q8_0", "Q5_K") for way in ways for parts in (1, MOST)]
    for form in (format_of(get(name)) for name in names):
        made += [spec(form, ways[0]), spec(form, ways[0], MOST), spec(form, ways[3], MOST)]
    return list(dict.fromkeys(made))
