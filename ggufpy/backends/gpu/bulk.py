"""Products of many rows (prompts): activations become f16, and so do the matrix's blocks, in one of three ways.

- `SIXTEEN`: slices of the matrix's rows are decoded to f16 in memory, and the library multiplies (`Product`).
- `TILES`: our own kernel decodes blocks in shared memory, on their way to the tensor cores (`matmul_mma.cu`).
- `FLOATS`: a matrix of f32 is multiplied in f32 (`matmul_f32.cu`): who keeps one so wants it exact.

f16 is exact to 11 bits, where bf16 has 8, but ends at 65504: rows of activations that do not fit are multiplied by a
power of two (`to_half.cu`), and their sums divided by it. Sums are float32. Weights of bf16 become f16 too, which
changes none between 2^-14 and 65504; smaller ones are rounded to 2^-24, larger ones held within.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from ggufpy import quants
from ggufpy.models.ops import MatMul
from ggufpy.support.records import dataclass

from .device import Product, Work
from .elementwise import QUAD, end
from .formats import BLOCK, Format, format_of
from .lowering import Lowering
from .source import KernelSpec
from .weights import MATRIX_ARGS, DeviceMatrix

TILE = 64  # rows, and columns, that matmul_mma.cu makes at a time; f16 rows are whole tiles of them
SLICE = 64 << 20  # bytes of f16 that a matrix is decoded to at a time, at most
BLOCKS_A_PROCESSOR = 4  # of matmul_mma.cu's threads and shared memory, as fit every level at once
Way = Literal["sixteen", "tiles", "floats"]


@dataclass(frozen=True)
class HalfRows:
    """Bulk rows of a buffer as f16: where the first is, their distance in halves, and float32 scales by row."""

    address: int
    stride: int
    scales: int


def way_of(matrix: DeviceMatrix, rows: int) -> Way:
    """How so many rows are multiplied.

    By bytes: decoding first reads a block's bytes, writes two bytes a weight and reads them again, once whatever the
    number of rows; our kernel reads the block's bytes again for each TILE rows, but decodes on the cores that multiply.
    With one tile it moves an eighth of the bytes of a 4-bit matrix. With more it would still move fewer, up to some
    hundred rows, but decodes every block for each tile, and the library's product is nearer to the rate of the tensor
    cores. Where the two meet is not measured: ours has what is one tile. f16 matrices need no decoding: the library.
    """
    if matrix.format.dtype == "f32":
        return "floats"
    return "tiles" if rows <= TILE and matrix.format.dtype != "f16" else "sixteen"


def works(to: Lowering, op: MatMul) -> Iterator[Work]:
    """The work of the step's bulk rows."""
    matrix = to.parts.matrix(op.weight)
    if matrix.columns != to.width(op.x) or matrix.rows != to.width(op.y):
        raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
    way = way_of(matrix, to.shape.many)
    if way == "floats":
        yield _floats(to, op, matrix)
        return
    yield from halves(to, op.x)
    rows = half_rows(to, op.x)
    yield from (_tiles if way == "tiles" else _sixteen)(to, op, matrix, rows)


def half_rows(to: Lowering, name: str) -> HalfRows:
    """Where the bulk rows of a buffer are as f16, in whole tiles of rows."""
    stride, rows = to.place(name).stride, -(-to.shape.many // TILE) * TILE
    room = to.parts.room(f"f16:{name}", rows * (2 * stride + 4))
    return HalfRows(room, stride, room + 2 * stride * rows)


def halves(to: Lowering, name: str) -> Iterator[Work]:
    """Makes the bulk rows of a buffer f16, unless they are up to date."""
    if to.made(f"f16:{name}"):
        return
    x, made = to.place(name), half_rows(to, name)
    values = {
        "x": x.address + 4 * x.stride * to.shape.first, "x_stride": x.stride, "y": made.address,
        "y_stride": made.stride, "scales": made.scales, "columns": to.width(name),
    }  # fmt: skip
    yield to.launch(_TO_HALF, values, (to.shape.many, 1, 1))
    to.note(f"f16:{name}")


def _padded(matrix: DeviceMatrix) -> int:
    """Columns of y that a product writes: whole blocks."""
    return -(-matrix.rows // BLOCK) * BLOCK


def _y(to: Lowering, op: MatMul) -> dict[str, int | float]:
    """Where bulk rows of y are, and what is added to them."""
    y = to.place(op.y)
    bias = 0 if op.bias is None else to.parts.vector(op.bias)
    last = end(to, op.y, to.width(op.y))
    return {"y": y.address + 4 * y.stride * to.shape.first, "y_stride": y.stride, "bias": bias, "end": last}


def _sixteen(to: Lowering, op: MatMul, matrix: DeviceMatrix, x: HalfRows) -> Iterator[Work]:
    given: dict[str, int | float] = {**_y(to, op), "x_scales": x.scales, "rows": to.shape.many}
    whole = matrix.format.dtype == "f16"
    last = int(given["end"])
    grid = (-(-last // (QUAD * _ADJUST_THREADS)), -(-to.shape.many // _ADJUST_ROWS), 1)
    # Rows behind an f16 matrix's last are not there: the product leaves their columns out, which are zeros before it.
    add = op.add or op.bias is not None or (whole and last > matrix.rows)
    if add:
        yield to.launch(_adjust_spec(after=False, add=op.add), given, grid)
    k, end_row = matrix.blocks * BLOCK, matrix.rows if whole else last
    step = end_row if whole else max(SLICE // (2 * k) // BLOCK, 1) * BLOCK
    for at in range(0, end_row, step):
        count, c = min(step, end_row - at), int(given["y"]) + 4 * at
        w = matrix.address if whole else to.parts.room("f16 weights", max(SLICE, 2 * k * BLOCK))
        if not whole:
            yield _decode(to, matrix, w, at, count)
        yield Product(to.shape.many, count, k, x.address, x.stride, w, k, c, int(given["y_stride"]), "f16", add)
    yield to.launch(_adjust_spec(after=True, add=False), given, grid)


def _decode(to: Lowering, matrix: DeviceMatrix, out: int, first: int, count: int) -> Work:
    """Rows first to first + count as f16; rows that are not there are zeros."""
    blocks = count * matrix.blocks
    values = {
        **matrix.arguments, "out": out, "first": first * matrix.blocks, "count": blocks,
        "ends": matrix.rows * matrix.blocks,
    }  # fmt: skip
    return to.launch(_decode_spec(matrix.format), values, (-(-blocks // _DECODE_THREADS), 1, 1))


def _tiles(to: Lowering, op: MatMul, matrix: DeviceMatrix, x: HalfRows) -> Iterator[Work]:
    padded, tiles, steps = _padded(matrix), -(-to.shape.many // TILE), -(-matrix.blocks * BLOCK // TILE)
    across, most = -(-padded // TILE), BLOCKS_A_PROCESSOR * to.parts.processors
    # Where tiles of y are too few for the device, columns are split too: at least four steps of them each.
    steps_a_part = -(-steps // max(min(most // (across * tiles), steps // 4), 1))
    parts = -(-steps // steps_a_part)
    sums = to.parts.room("sums of parts", 4 * TILE * TILE * most) if parts > 1 else 0
    given = {**_y(to, op), "x_scales": x.scales, "padded": padded, "sums": sums}
    values = {
        **matrix.arguments, **given, "x": x.address, "x_stride": x.stride, "rows": to.shape.many,
        "w_rows": matrix.rows, "steps": steps, "steps_a_part": steps_a_part,
    }  # fmt: skip
    yield to.launch(_mma_spec(matrix.format, op.add, parts > 1), values, (across, tiles, parts))
    if parts > 1:
        grid = (-(-padded // (QUAD * _ADJUST_THREADS)), to.shape.many, 1)
        yield to.launch(_join_spec(op.add), {**given, "m": tiles * TILE, "parts": parts}, grid)


def _floats(to: Lowering, op: MatMul, matrix: DeviceMatrix) -> Work:
    x = to.place(op.x)
    values = {
        **_y(to, op), "x": x.address + 4 * x.stride * to.shape.first, "x_stride": x.stride, "rows": to.shape.many,
        "w": matrix.address, "w_stride": matrix.blocks * BLOCK, "w_rows": matrix.rows, "columns": matrix.columns,
    }  # fmt: skip
    return to.launch(_floats_spec(op.add), values, (-(-_padded(matrix) // TILE), -(-to.shape.many // TILE), 1))


_ADJUST_THREADS = _DECODE_THREADS = 128
_ADJUST_ROWS = 8  # ROWS of adjust_rows.cu
_Y = (("y", "float*"), ("bias", "const float*"), ("y_stride", "int"), ("end", "int"))
_TO_HALF = KernelSpec("to_half", (
    ("x", "const float*"), ("y", "void*"), ("scales", "float*"), ("x_stride", "int"), ("y_stride", "int"),
    ("columns", "int"),
))  # fmt: skip


def _ints(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, "int") for name in names)


def half_block(format: Format) -> tuple[tuple[str, str | int], ...]:
    """What half_block.cuh is compiled with."""
    return (("CODES", int(not format.dtype)), *format.defines)


def _decode_spec(format: Format) -> KernelSpec:
    args = (*MATRIX_ARGS, ("out", "void*"), *_ints("first", "count", "ends"))
    return KernelSpec("decode_half", args, half_block(format), _DECODE_THREADS)


def _mma_spec(format: Format, add: bool, split: bool) -> KernelSpec:
    args = (
        *MATRIX_ARGS, *_Y, ("x", "const void*"), ("x_scales", "const float*"), ("sums", "float*"),
        *_ints("x_stride", "rows", "w_rows", "padded", "steps", "steps_a_part"),
    )  # fmt: skip
    return KernelSpec("matmul_mma", args, (*half_block(format), ("ADD", int(add)), ("SPLIT", int(split))), 128)


def _join_spec(add: bool) -> KernelSpec:
    args = (*_Y, ("sums", "const float*"), ("x_scales", "const float*"), *_ints("padded", "m", "parts"))
    return KernelSpec("join_sums", args, (("ADD", int(add)),), _ADJUST_THREADS)


def _adjust_spec(after: bool, add: bool) -> KernelSpec:
    args = (*_Y, ("x_scales", "const float*"), ("rows", "int"))
    return KernelSpec("adjust_rows", args, (("AFTER", int(after)), ("ADD", int(add))), _ADJUST_THREADS)


def _floats_spec(add: bool) -> KernelSpec:
    args = (
        *_Y, ("x", "const float*"), ("w", "const float*"),
        *_ints("x_stride", "w_stride", "rows", "w_rows", "columns"),
    )  # fmt: skip
    return KernelSpec("matmul_f32", args, (("ADD", int(add)),), 256)


def examples() -> list[KernelSpec]:
    """One of each variant; of formats that differ in the numbers of their book alone, one."""
    found = [_TO_HALF, *(_adjust_spec(after, add) for after, add in ((False, False), (False, True), (True, False)))]
    for add in (False, True):
        found += [_join_spec(add), _floats_spec(add)]
    formats = {
        replace(form, book=(0,) if form.book else ()): form for form in map(format_of, map(quants.get, quants.names()))
    }.values()  # fmt: skip
    for format in formats:
        if format.dtype not in ("f16", "f32"):
            found += [_decode_spec(format), _mma_spec(format, False, False)]
    common = format_of(quants.get("Q4_0"))
    found += [_mma_spec(common, add, split) for add, split in ((False, True), (True, False))]
    return found
