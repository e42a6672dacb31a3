"""A page of keys and values as rows of bytes that do not depend on the machine's vector length.

A row is one position of one layer: the keys of every head, then the values of every head. A key of f16 or bf16 is its
numbers, little-endian; of q8_0 or q4_0 it is, for each 32 dimensions, 32 or 16 bytes of codes and their f16 scale.
Values are as in a page (`kernels/kv_types.py`), without the padding. Three heads of 64 dimensions in f16 make a row of
3 · 128 + 3 · 128 bytes; number 5 of the second head's value is at 384 + 128 + 10.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.kv_types import BLOCK, PAGE, KvType
from ggufpy.errors import GGUFError
from ggufpy.models.ops import Heads
from ggufpy.support.records import dataclass

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class HeadPages:
    """How the pages of a layer's heads lie at a level of `lanes`, and the rows that they make."""

    heads: Heads
    key_type: KvType
    value_type: KvType
    lanes: int

    @property
    def name(self) -> str:
        """What rows are made of: two that are equal hold the same."""
        h = self.heads
        return f"{h.shared} x ({h.key_length} {self.key_type.name} + {h.value_length} {self.value_type.name})"

    @property
    def key_bytes(self) -> int:
        """Bytes of the keys of a row."""
        return self.heads.shared * _packed(self.key_type, self.heads.key_length)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.key_bytes + self.heads.shared * _packed(self.value_type, self.heads.value_length)

    def read(self, keys: Bytes, values: Bytes, rows: Bytes) -> None:
        """Writes the rows (PAGE, row_bytes) of a page: its keys (heads, bytes of a head's page), and its values."""
        for there, here in zip(self._key_views(keys), self._key_rows(rows), strict=True):
            here[...] = there
        self._value_rows(rows)[...] = self._value_view(values)

    def fill(self, keys: Bytes, values: Bytes, rows: Bytes) -> None:
        """Makes a page of rows, the inverse of `read`. Raises GGUFError for numbers that are not finite."""
        key_rows, value_rows = self._key_rows(rows), self._value_rows(rows)
        codes = self.heads.value_length * self.value_type.bits // 8
        _check(self.key_type, key_rows[-1])
        _check(self.value_type, (value_rows[..., codes:] if self.value_type.scaled else value_rows).view("<u2"))
        for there, here in zip(self._key_views(keys), key_rows, strict=True):
            there[...] = here
        self._value_view(values)[...] = value_rows

    def _key_views(self, keys: Bytes) -> list[NDArray[Any]]:
        """A page's keys where they lie, as 16-bit numbers (tiles, lanes, heads, dimensions); of a type with scales the
        codes, bytes (tiles, lanes, heads, blocks, bytes), and the scales (tiles, lanes, heads, blocks, 1)."""
        shared, lanes, tiles = self.heads.shared, self.lanes, PAGE // self.lanes
        if not self.key_type.scaled:
            return [keys.view("<u2").reshape(shared, tiles, self.heads.key_length, lanes).transpose(1, 3, 0, 2)]
        blocks, size = self.heads.key_length // BLOCK, BLOCK * self.key_type.bits // 8
        whole = keys.reshape(shared, tiles, blocks, (size + 2) * lanes)
        codes = whole[..., : size * lanes].reshape(shared, tiles, blocks, size, lanes)
        scales = whole[..., size * lanes :].view("<u2").reshape(shared, tiles, blocks, 1, lanes)
        return [codes.transpose(1, 4, 0, 2, 3), scales.transpose(1, 4, 0, 2, 3)]

    def _key_rows(self, rows: Bytes) -> list[NDArray[Any]]:
        """The same of rows."""
        shape = (PAGE // self.lanes, self.lanes, self.heads.shared)
        keyed = rows[:, : self.key_bytes]
        if not self.key_type.scaled:
            return [keyed.view("<u2").reshape(*shape, -1)]
        size = BLOCK * self.key_type.bits // 8
        blocks = keyed.reshape(*shape, self.heads.key_length // BLOCK, size + 2)
        return [blocks[..., :size], blocks[..., size:].view("<u2")]

    def _value_view(self, values: Bytes) -> Bytes:
        """A page's values where they lie, without padding: (PAGE, heads, bytes)."""
        packed = _packed(self.value_type, self.heads.value_length)
        view: Bytes = values.reshape(self.heads.shared, PAGE, -1)[..., :packed].transpose(1, 0, 2)
        return view

    def _value_rows(self, rows: Bytes) -> Bytes:
        """The same of rows."""
        return rows[:, self.key_bytes :].reshape(PAGE, self.heads.shared, -1)


def _packed(kind: KvType, length: int) -> int:
    """Bytes of a head's numbers at one position, without padding."""
    return length * kind.bits // 8 + (length // BLOCK * 2 if kind.scaled else 0)


def _check(kind: KvType, numbers: NDArray[Any]) -> None:
    """Raises GGUFError where a 16-bit number (of f16 where these are scales) is infinite or none at all."""
    exponent = 0x7F80 if kind.name == "bf16" else 0x7C00
    if ((numbers & exponent) == exponent).any():
        raise GGUFError("what was saved holds keys or values that are not finite: it is damaged, save it again")
