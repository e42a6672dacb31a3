"""Tensor types as the container sees them: block size, and the multi-byte fields that a byte order concerns.

Blocks are described in `ggufpy.quants`, imported only when a file holds a type that NumPy has not.
In a big-endian file every 16, 32 or 64-bit number in a block is reversed; bytes stay as they are.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.quants.base import BlockType


class Swap(NamedTuple):
    """`number` numbers of `size` bytes each, from byte `offset` of a block, which a byte order concerns."""

    offset: int
    size: int
    number: int


@dataclass(frozen=True)
class Layout:
    """A tensor type: `weights` values in `nbytes` bytes; `dtype` is its NumPy code where NumPy has one."""

    id: int
    name: str
    weights: int
    nbytes: int
    dtype: str | None = None
    swaps: tuple[Swap, ...] = ()


def _plain(type_id: int, name: str, dtype: str) -> Layout:
    size = np.dtype(dtype).itemsize
    return Layout(type_id, name, 1, size, dtype, (Swap(0, size, 1),) if size > 1 else ())


PLAIN = (
    _plain(0, "F32", "f4"),
    _plain(1, "F16", "f2"),
    _plain(24, "I8", "i1"),
    _plain(25, "I16", "i2"),
    _plain(26, "I32", "i4"),
    _plain(27, "I64", "i8"),
    _plain(28, "F64", "f8"),
)
_PLAIN_ID = {t.id: t for t in PLAIN}
_PLAIN_NAME = {t.name: t for t in PLAIN}
PLAIN_DTYPE = {np.dtype(t.dtype): t for t in PLAIN}


@cache
def by_id(type_id: int) -> Layout:
    """The tensor type with this number; GGUFError where there is none."""
    if type_id in _PLAIN_ID:
        return _PLAIN_ID[type_id]
    from ggufpy import quants

    return _layout(quants.by_id(type_id))


def by_name(name: str) -> Layout:
    """The tensor type of this name ("F32", "Q4_K", any case); GGUFError where there is none."""
    if isinstance(name, str) and name.upper() in _PLAIN_NAME:
        return _PLAIN_NAME[name.upper()]
    from ggufpy import quants

    return _layout(quants.get(name))


def _layout(block: BlockType) -> Layout:
    """A block type of `ggufpy.quants`; the members of its blocks lie one after the other."""
    swaps = []
    offset = 0
    for field in block.layout:
        if field.itemsize > 1:
            swaps.append(Swap(offset, field.itemsize, field.count))
        offset += field.nbytes
    return Layout(block.id, block.name, block.weights, block.nbytes, None, tuple(swaps))


def row_bytes(layout: Layout, shape: tuple[int, ...]) -> int:
    """Bytes of one row (the last dimension; one value where `shape` is ()), an exact integer."""
    width = shape[-1] if shape else 1
    if width % layout.weights:
        raise GGUFError(f"rows of {width} values do not divide into blocks of {layout.weights} ({layout.name})")
    return width // layout.weights * layout.nbytes


def total_bytes(layout: Layout, shape: tuple[int, ...]) -> int:
    """Bytes of the whole tensor, an exact integer."""
    rows = 1
    for n in shape[:-1]:
        rows *= n
    return rows * row_bytes(layout, shape)


def swapped(blocks: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """A copy of whole blocks (uint8, any shape) in the other byte order. It is its own inverse."""
    flat: NDArray[np.uint8] = blocks.reshape(-1, layout.nbytes).copy()
    for offset, size, count in layout.swaps:
        field = flat[:, offset : offset + size * count].reshape(-1, count, size)  # a copy
        flat[:, offset : offset + size * count] = field[:, :, ::-1].reshape(-1, count * size)
    return flat.reshape(blocks.shape)
