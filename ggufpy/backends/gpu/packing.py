"""From a file's blocks to the arrays of `formats.py`, some rows at a time, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import BlockType, Bytes, Fields, Records
from ggufpy.quants.bits import compact, joined
from ggufpy.support.records import dataclass

from .formats import BLOCK, Format
from .moves import HALVES, Arrays, moved

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Piece:
    """Consecutive rows in a format: the bytes of each array, and the largest scale or minimum before its factor,
    infinity if one is not a number."""

    arrays: Arrays
    largest: float


def pack_rows(kind: BlockType, form: Format, rows: Bytes, factor: float) -> Piece:
    """(rows, bytes a row) C-contiguous uint8 of a type. f16 scales that are products are multiplied by `factor`."""
    if form.dtype:
        return Piece({"low": _numbers(kind, form, rows)}, 0.0)
    records = kind.records(rows)
    arrays = moved(kind.name, records)
    if form.scales != "half":
        return Piece(*_with_sub_scales(kind, form, records, arrays))
    if arrays is not None and kind.name in HALVES:
        scales = np.stack([records[name] for name in HALVES[kind.name]], axis=-1)
        return Piece({**arrays, "scales": _bytes(scales)}, _largest(scales))
    parts = kind.unpack(records)
    codes = parts.codes.reshape(-1, BLOCK)
    made, largest = _half_scales(form, parts, len(codes), factor)
    return Piece({**(arrays or _split(form, _numbered(kind, form, codes))), "scales": made}, largest)


def _with_sub_scales(kind: BlockType, form: Format, records: Records, arrays: Arrays | None) -> tuple[Arrays, float]:
    """The arrays with scales of scales, and the largest of what those are multiplied by."""
    arrays = arrays or _split(form, _numbered(kind, form, kind.unpack(records).codes.reshape(-1, BLOCK)))
    sub = _SUB_SCALES[form.scales](kind, records)
    tops = np.stack([records[name] for name in ("d", "dmin")[: 2 if form.minimum else 1]], axis=-1)
    if form.scales == "sixes":
        return {**arrays, "scales": np.concatenate([_bytes(tops), sub], axis=-1)}, _largest(tops)
    return {**arrays, "scales": sub, "tops": _bytes(tops)}, _largest(tops)


def _largest(values: NDArray[Any]) -> float:
    """The size of the largest, infinity if one is not a number."""
    largest = float(np.max(np.abs(values.astype(np.float32)), initial=0.0))
    return largest if np.isfinite(largest) else np.inf


def _bytes(array: NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(array).view(np.uint8)


def _numbers(kind: BlockType, form: Format, rows: Bytes) -> Bytes:
    """Numbers as they are in the file, or decoded, each row filled up to whole blocks."""
    values = rows if kind.layout[0].dtype == form.dtype else kind.decode(rows).view(np.uint8)
    size = values.shape[1] // (rows.shape[1] // kind.nbytes)
    fill = -values.shape[1] % (BLOCK * size)
    return np.pad(values, ((0, 0), (0, fill))) if fill else values


def _numbered(kind: BlockType, form: Format, codes: Bytes) -> Bytes:
    """Codes of a panel as those of a format: places in the book, or less what no code is below."""
    panel: Any = kind.panel
    if form.book:
        place = np.zeros(256, np.uint8)
        place[[value + panel.offset for value in form.book]] = range(len(form.book))
        numbered: Bytes = place[codes]
        return numbered
    return codes - np.uint8(panel.offset - form.offset) if panel.offset != form.offset else codes


def _split(form: Format, codes: Bytes) -> Arrays:
    """(blocks, 32) codes as the arrays of their bits."""
    if form.book:
        return {"low": codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)}
    if form.bits == 8:
        signed = codes ^ np.uint8(0x80)
        return {"low": signed[:, :16], "high": signed[:, 16:]}
    if form.bits == 2:
        return {"low": _pairs(codes)}
    if form.bits == 3:
        return {"low": _pairs(codes & np.uint8(3)), "high": _ones(codes >> np.uint8(2))}
    low = joined(codes & np.uint8(15), 4)
    if form.bits == 4:
        return {"low": low}
    above = codes >> np.uint8(4)
    return {"low": low, "high": _ones(above) if form.bits == 5 else _pairs(above)}


def _pairs(codes: Bytes) -> Bytes:
    """(blocks, 32) of two bits → (blocks, 8)."""
    runs = codes.reshape(-1, 2, 4, 4)
    out: Bytes = runs[:, :, 0].copy()
    for j in range(1, 4):
        out |= runs[:, :, j] << np.uint8(2 * j)
    pairs: Bytes = out.reshape(-1, 8)
    return pairs


def _ones(codes: Bytes) -> Bytes:
    """(blocks, 32) of one bit → (blocks, 4)."""
    packed: Bytes = np.packbits(codes.reshape(-1, 8, 4), axis=1, bitorder="little").reshape(-1, 4)
    return packed


def _half_scales(form: Format, parts: Fields, blocks: int, factor: float) -> tuple[Bytes, float]:
    """f16 scales, or scales and minima, and the largest of them before the factor."""
    groups = (blocks, BLOCK // form.group)
    taken = [part.reshape(groups) for part in (parts.scale, parts.minimum) if part is not None]
    wanted = np.concatenate(taken, axis=-1)[:: form.share]
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large, the caller looks at
        half = (wanted * np.float32(factor)).astype("<f2")
    return half.view(np.uint8), _largest(wanted)


def _sixes(kind: BlockType, records: Records) -> Bytes:
    """Of a block of 256: words of the low nibbles of 8 scales, of 8 minima, and of their upper two bits."""
    first, second, last = np.split(compact(records["scales"]), 3, axis=-1)
    sc = np.concatenate([first & np.uint8(63), first >> np.uint8(6) << np.uint8(4) | last & np.uint8(15)], axis=-1)
    mn = np.concatenate([second & np.uint8(63), second >> np.uint8(6) << np.uint8(4) | last >> np.uint8(4)], axis=-1)
    above = sc >> np.uint8(4) | mn >> np.uint8(4) << np.uint8(2)
    words = [part[..., 0::2] & np.uint8(15) | part[..., 1::2] << np.uint8(4) for part in (sc, mn, above)]
    return np.concatenate(words, axis=-1)


def _byte_scales(kind: BlockType, records: Records) -> Bytes:
    """16 signed bytes of a block of 256: those of Q6_K as they are, those of Q3_K of 6 bits less 32."""
    packed = compact(records["scales"])
    if kind.name == "Q6_K":
        return packed
    low = np.concatenate([packed[..., :8] & np.uint8(15), packed[..., :8] >> np.uint8(4)], axis=-1)
    high = [packed[..., 8:] >> np.uint8(shift) & np.uint8(3) for shift in (0, 2, 4, 6)]
    scales: Bytes = (low | np.concatenate(high, axis=-1) << np.uint8(4)) - np.uint8(32)
    return scales


def _nibble_scales(kind: BlockType, records: Records) -> Bytes:
    return compact(records["scales"])


_SUB_SCALES: Mapping[str, Callable[[BlockType, Records], Bytes]] = {
    "sixes": _sixes, "bytes": _byte_scales, "nibbles": _nibble_scales,
}  # fmt: skip
