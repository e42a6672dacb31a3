"""A tensor of an open file: what it is, its bytes, its values."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.format import blocktypes
from ggufpy.format.header import Entry
from ggufpy.format.strings import Buffer


class Tensor:
    """One tensor. It keeps the file mapped, or the memory that it is in, for as long as it or a view of it lives."""

    __slots__ = ("_buffer", "_entry", "byteorder", "name")

    def __init__(self, name: str, entry: Entry, buffer: Buffer | memoryview, byteorder: str) -> None:
        self.name = name
        self.byteorder = byteorder
        self._entry = entry
        self._buffer = buffer

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions in NumPy order: (rows, columns) of a matrix, () of a single value."""
        return self._entry.shape

    @property
    def type(self) -> str:
        """The type's name: "F32", "Q4_K"."""
        return self._entry.layout.name

    @property
    def nbytes(self) -> int:
        """Bytes of data in the file."""
        return self._entry.nbytes

    @property
    def offset(self) -> int:
        """The byte of its file where the data start."""
        return self._entry.offset

    @property
    def parts(self) -> tuple[Entry, Buffer | memoryview, str]:
        """What a tensor is made of, but for its name."""
        return self._entry, self._buffer, self.byteorder

    @property
    def data(self) -> NDArray[np.uint8]:
        """The data as they lie in the file, in its byte order, a read-only uint8 (rows..., bytes a row)."""
        shape = (*self.shape[:-1], blocktypes.row_bytes(self._entry.layout, self.shape))
        if not self.nbytes:
            return np.empty(shape, np.uint8)
        return np.frombuffer(self._buffer, np.uint8, self.nbytes, self.offset).reshape(shape)

    def little(self) -> NDArray[np.uint8]:
        """The data in little-endian order: `data` itself, or a swapped copy where the file is big-endian."""
        if self.byteorder == "little":
            return self.data
        return blocktypes.swapped(self.data, self._entry.layout)

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop`, counted through all matrices, in little-endian order; a view where they lie so."""
        layout = self._entry.layout
        part = self.data.reshape(-1, blocktypes.row_bytes(layout, self.shape))[start:stop]
        return part if self.byteorder == "little" else blocktypes.swapped(part, layout)

    def chunks(self, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        """The data in little-endian order as flat runs of whole blocks, of about `nbytes` each."""
        flat = self.data.reshape(-1)
        block = self._entry.layout.nbytes
        step = max(nbytes // block, 1) * block
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            yield part if self.byteorder == "little" else blocktypes.swapped(part, self._entry.layout)

    def to_numpy(self) -> NDArray[Any]:
        """The values, decoded to float32 of `shape`; F64 stays float64 and integers keep their type."""
        layout = self._entry.layout
        if layout.dtype is not None:
            values = self.little().reshape(-1).view("<" + layout.dtype).reshape(self.shape)
            return values.astype(np.float32 if layout.dtype == "f2" else layout.dtype)
        if not self.nbytes:
            return np.empty(self.shape, np.float32)
        from ggufpy import quants

        return quants.by_id(layout.id).decode(self.little()).reshape(self.shape)

    def release(self) -> None:
        """Let the system drop this tensor's pages from memory; they come back when they are read again."""
        if sys.platform != "win32" and isinstance(self._buffer, mmap.mmap) and self.nbytes:
            start = self.offset - self.offset % mmap.PAGESIZE
            self._buffer.madvise(mmap.MADV_DONTNEED, start, self.offset + self.nbytes - start)

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, shape={self.shape}, type={self.type})"
