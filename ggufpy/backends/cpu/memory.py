"""Memory that kernels work on: regions with a known length, and the one place where addresses are given out."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError

ALIGN = 64
SLACK = 4096  # readable bytes past the end, for vectors and prefetches that run over
HUGE = 1 << 21


def _anonymous(nbytes: int) -> mmap.mmap:
    """Memory of this process alone: huge pages serve only such, and a fork gets a copy."""
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to whole cache lines."""
    return -(-nbytes // ALIGN) * ALIGN


class Region:
    """Zeroed memory of `nbytes`, aligned to cache lines, freed when the last user is gone.

    `sparse` memory is given by the system page by page as it is first touched; other memory, if large, as huge pages.
    """

    def __init__(self, nbytes: int, what: str, sparse: bool = False) -> None:
        self.nbytes, self.what = nbytes, what
        huge = nbytes >= HUGE and not sparse
        align = HUGE if huge else ALIGN
        try:
            mapping = _anonymous(nbytes + SLACK + align)
        except (OSError, OverflowError, ValueError) as error:
            raise GGUFError(f"not enough memory for {what}: {nbytes / 2**20:,.0f} MiB") from error
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a system without huge pages serves small ones
                mapping.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(mapping, np.uint8)
        start = -whole.ctypes.data % align
        self.bytes: NDArray[np.uint8] = whole[start : start + nbytes]
        self._address = int(self.bytes.ctypes.data)  # asked for some 2,000 times a tape

    def parts(self, sizes: Mapping[str, int]) -> dict[str, Region]:
        """Consecutive pieces of this memory by name, each aligned to cache lines. ValueError if they do not fit."""
        pieces, start = {}, 0
        for name, nbytes in sizes.items():
            self.at(start, nbytes)
            piece = object.__new__(Region)
            piece.nbytes, piece.what, piece.bytes = nbytes, name, self.bytes[start : start + nbytes]
            piece._address = self._address + start
            pieces[name] = piece
            start += aligned(nbytes)
        return pieces

    def view(self, dtype: Any, *shape: int) -> NDArray[Any]:
        """The region's beginning as an array. Raises ValueError if it does not fit."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > self.nbytes:
            raise ValueError(f"{self.what}: {size} bytes wanted of {self.nbytes}")
        view: NDArray[Any] = self.bytes[:size].view(dtype)
        return view.reshape(shape)

    def at(self, offset: int, nbytes: int) -> int:
        """The address of `nbytes` bytes from `offset`. Raises ValueError unless all of them lie inside."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{self.what}: bytes {offset} to {offset + nbytes} of {self.nbytes}")
        return self._address + offset
