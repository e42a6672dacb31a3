"""Products of experts for many rows: rows that chose the same expert are multiplied together, on tensor cores.

A kernel lists by expert which rows chose it, in tiles of at most TILE; grids have as many tiles as there can be, and
those that are not there end at once. Activations and blocks become f16 as in `bulk.py`. Where the outputs of a row's
experts are added up, they are written apart first, so that sums have one order.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggufpy.models.ops import ExpertMatMul
from ggufpy.quants import get
from ggufpy.support.records import dataclass

from .bulk import TILE, half_block, half_rows, halves
from .device import Work
from .elementwise import QUAD, end
from .formats import BLOCK, Format, format_of
from .lowering import Lowering
from .source import KernelSpec
from .weights import MATRIX_ARGS, DeviceMatrix

ENOUGH = 4  # rows that chose an expert on average, from which on they are multiplied together
_LIST_THREADS, _JOIN_THREADS = 256, 128


@dataclass(frozen=True)
class Lists:
    """Addresses of what `expert_lists.cu` writes, and the most tiles that there can be."""

    pairs: int
    tiles: int
    tile_count: int
    most: int


def together(to: Lowering, op: ExpertMatMul, matrix: DeviceMatrix) -> bool:
    """Whether the step's bulk rows are multiplied by expert.

    The other kernel reads an expert's blocks again for each row that chose it; here a tile is read once, but costs as
    much with few rows as with TILE. Where the two meet is not measured. Matrices of f32 stay exact.
    """
    return matrix.format.dtype != "f32" and to.shape.many * op.count >= ENOUGH * matrix.experts


def works(to: Lowering, op: ExpertMatMul, matrix: DeviceMatrix) -> Iterator[Work]:
    """The work of the step's bulk rows."""
    lists = _lists(to, op, matrix.experts)
    if not to.made(f"lists:{op.chosen}"):
        yield _list(to, op, matrix.experts, lists)
        to.note(f"lists:{op.chosen}")
    yield from halves(to, op.x)
    x, y, summed, many = half_rows(to, op.x), to.place(op.y), op.shares is not None, to.shape.many
    pitch = -(-matrix.rows // BLOCK) * BLOCK
    into, stride = y.address + 4 * y.stride * to.shape.first, y.stride
    last = matrix.rows if op.count > 1 else end(to, op.y, matrix.rows)
    if summed:
        last = stride = pitch
        into = to.parts.room("rows of experts", 4 * pitch * many * op.count)
    values = {
        **matrix.arguments, "x": x.address, "x_stride": x.stride, "x_scales": x.scales, "y": into, "y_stride": stride,
        "bias": 0 if op.bias is None else to.parts.vector(op.bias), "bias_stride": pitch, "pairs": lists.pairs,
        "tiles": lists.tiles, "tile_count": lists.tile_count, "rows": matrix.rows, "columns": matrix.columns,
        "end": last, "count": op.count, "own": int(op.own), "steps": -(-matrix.columns // TILE),
    }  # fmt: skip
    yield to.launch(_mma_spec(matrix.format, summed), values, (-(-pitch // TILE), lists.most, 1))
    if op.shares is not None:
        yield _join(to, op, into, pitch)


def _lists(to: Lowering, op: ExpertMatMul, experts: int) -> Lists:
    pairs = to.shape.many * op.count
    most = pairs // TILE + min(experts, pairs)
    head = -(-3 * most // BLOCK) * BLOCK
    at = to.parts.room(f"lists:{op.chosen}", 4 * (BLOCK + head + pairs))
    return Lists(at + 4 * (BLOCK + head), at + 4 * BLOCK, at, most)


def _list(to: Lowering, op: ExpertMatMul, experts: int, lists: Lists) -> Work:
    chosen = to.place(op.chosen)
    values = {
        "chosen": chosen.address + 4 * chosen.stride * to.shape.first, "chosen_stride": chosen.stride,
        "pairs": lists.pairs, "tiles": lists.tiles, "tile_count": lists.tile_count, "rows": to.shape.many,
        "count": op.count,
    }  # fmt: skip
    return to.launch(_lists_spec(experts), values, (1, 1, 1))


def _join(to: Lowering, op: ExpertMatMul, pairs: int, pitch: int) -> Work:
    assert op.shares is not None
    y, shares, first = to.place(op.y), to.place(op.shares), to.shape.first
    last = end(to, op.y, to.width(op.y))
    values = {
        "pairs": pairs, "pitch": pitch, "shares": shares.address + 4 * shares.stride * first,
        "shares_stride": shares.stride, "y": y.address + 4 * y.stride * first, "y_stride": y.stride, "end": last,
        "count": op.count,
    }  # fmt: skip
    return to.launch(_join_spec(op.add), values, (-(-last // (QUAD * _JOIN_THREADS)), to.shape.many, 1))


def _lists_spec(experts: int) -> KernelSpec:
    args = (
        ("chosen", "const float*"), ("pairs", "int*"), ("tiles", "int*"), ("tile_count", "int*"),
        ("chosen_stride", "int"), ("rows", "int"), ("count", "int"),
    )  # fmt: skip
    return KernelSpec("expert_lists", args, (("EXPERTS", experts),), _LIST_THREADS)


def _mma_spec(form: Format, pairs: bool) -> KernelSpec:
    numbers = ("x_stride", "y_stride", "bias_stride", "rows", "columns", "end", "count", "own", "steps")
    args = (
        *MATRIX_ARGS, ("x", "const void*"), ("x_scales", "const float*"), ("bias", "const float*"), ("y", "float*"),
        ("pairs", "const int*"), ("tiles", "const int*"), ("tile_count", "const int*"),
        *((name, "int") for name in numbers),
    )  # fmt: skip
    return KernelSpec("expert_mma", args, (*half_block(form), ("PAIRS", int(pairs))), 128)


def _join_spec(add: bool) -> KernelSpec:
    args = (
        ("pairs", "const float*"), ("shares", "const float*"), ("y", "float*"), ("pitch", "int"),
        ("shares_stride", "int"), ("y_stride", "int"), ("end", "int"), ("count", "int"),
    )  # fmt: skip
    return KernelSpec("expert_join", args, (("ADD", int(add)),), _JOIN_THREADS)


def examples() -> list[KernelSpec]:
    """One of each variant, for the formats that differ most."""
    formats = [format_of(get(name)) for name in ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "MXFP4", "F16", "BF16")]
    products = [_mma_spec(form, True) for form in formats]
    return [
        _lists_spec(128),
        _lists_spec(2048),
        *map(_join_spec, (False, True)),
        *products,
        _mma_spec(formats[0], False),
    ]
