"""Kernels that work on files rather than in a model: they run at the portable level, on the calling thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggufpy.jit.cache import library
from ggufpy.jit.spec import kernel, load_source
from ggufpy.simd.isa import LEVELS

PORTABLE = LEVELS[-1]


def walk_strings(
    buffer: NDArray[np.uint8],
    start: int,
    end: int,
    count: int,
    byteswap: bool,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> int:
    """Finds `count` strings (u64 length, bytes) in buffer[start:end]; fills in where each begins and how long it is.

    Returns the offset after the last one, or -1-i if string i does not fit. Raises ValueError for arrays that do not
    match the request.
    """
    if buffer.dtype != np.uint8 or buffer.ndim != 1 or not buffer.flags.c_contiguous:
        raise ValueError("buffer must be a contiguous uint8 array")
    if not 0 <= start <= end <= len(buffer):
        raise ValueError(f"[{start}, {end}) is not within the buffer's {len(buffer)} bytes")
    for out in (starts, lengths):
        if out.dtype != np.int64 or out.shape != (count,) or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"starts and lengths must be contiguous int64 arrays of {count}")
    walk = kernel("walk_strings")
    result = np.zeros(1, np.int64)
    args = np.zeros((), load_source(walk).ARGS)
    values = (buffer.ctypes.data, start, end, count, int(byteswap), starts.ctypes.data, lengths.ctypes.data)
    for name, value in zip(args.dtype.names or (), (*values, result.ctypes.data), strict=True):
        args[name] = value
    library(PORTABLE).call(walk, args)
    return int(result[0])
