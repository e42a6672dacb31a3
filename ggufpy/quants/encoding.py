"""Rows of numbers → rows of blocks, in compiled code on several threads; arrays are checked here, before kernels.

In: (rows, n) of float32, float16, or uint16 holding bf16 bits, as a file has them. Out: uint8 (rows, bytes a row).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.quants.base import BlockType, Bytes, Floats

if TYPE_CHECKING:
    from ggufpy.jit.spec import Kernel
    from ggufpy.simd.isa import Level

SOURCES = {"float32": 0, "float16": 1, "uint16": 2}
PART = 1 << 20  # weights that a thread takes at a time
HUGE = 2.0**28  # more than any type with 16-bit scales holds; beyond it, sums of searches may overflow


class NotFinite(GGUFError):
    """A value is infinite or NaN: the first of a thread's part is in this row of what was to be encoded."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} has a value that is not finite")
        self.row = row


class Encoder:
    """Encodes parts of one block type with a few threads; the kernel is compiled when it is first used."""

    def __init__(self, block: BlockType, threads: int) -> None:
        self._block, self._threads = block, threads

    def encode(self, x: NDArray[Any], importance: Floats | None, out: Bytes, *, zero_bad: bool = False) -> None:
        """x (rows, n), importance (1 or rows, n) → out (rows, bytes a row).

        Raises NotFinite, unless `zero_bad`, which encodes what is not finite as zero; GGUFError for a scale that its
        type cannot hold; ValueError for arrays that do not match.
        """
        _check(self._block, x, importance, out)
        if not self._block.uses_importance:
            importance = None
        if not x.size:
            return
        columns = x.shape[1]
        if importance is None:  # blocks stand alone: any number of them is a row
            x, out = x.reshape(-1, self._block.weights), out.reshape(-1, self._block.nbytes)
        shared = importance is None or len(importance) == 1

        def work(part: slice) -> None:
            weight = importance if importance is None or shared else importance[part]
            bad = self._encode(x[part], weight, out[part])
            if bad >= 0 and not zero_bad:
                raise NotFinite((part.start + bad) * x.shape[1] // columns)

        parts = list(_parts(*x.shape))
        if len(parts) == 1 or self._threads == 1:
            for part in parts:
                work(part)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(work, parts):
                pass

    def _encode(self, x: NDArray[Any], importance: Floats | None, out: Bytes) -> int:
        """A thread's part: the number of a row with a value that is not finite, or -1."""
        halves = any(field.dtype in ("f16", "u16") for field in self._block.layout)  # IQ1_M has its f16 in u16
        if halves and x.dtype != np.float16 and largest(x) >= HUGE and largest(finite(x)) >= HUGE:
            raise _too_large(self._block, x, "scale")
        bad = run_kernel(self._block, x, importance, out)
        check_scales(self._block, x, out)
        return bad


def _parts(rows: int, columns: int) -> Iterator[slice]:
    step = max(PART // columns // 16, 1) * 16
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _check(block: BlockType, x: NDArray[Any], importance: Floats | None, out: Bytes) -> None:
    numbers = x.dtype.name in SOURCES and x.dtype.isnative
    if x.ndim != 2 or not numbers or not x.flags.c_contiguous or x.shape[1] % block.weights:
        raise ValueError(f"x is {x.dtype} {x.shape}")
    rows, columns = x.shape
    width = columns // block.weights * block.nbytes
    if out.dtype != np.uint8 or out.shape != (rows, width) or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"out is {out.dtype} {out.shape}, not uint8 {(rows, width)}")
    if importance is None:
        return
    fits = importance.shape in ((1, columns), x.shape)
    if importance.dtype != np.float32 or not fits or not importance.flags.c_contiguous:
        raise ValueError(f"importance is {importance.dtype} {importance.shape}")


def encoder_kernel(block: BlockType, weighted: bool) -> Kernel:
    """What encodes a type, with importance or without."""
    from ggufpy.jit.spec import kernel

    return kernel(f"encode_{block.encoder}", type=block.name.lower(), weighted=int(weighted))


def run_kernel(
    block: BlockType, x: NDArray[Any], importance: Floats | None, out: Bytes, level: Level | None = None
) -> int:
    """Encodes checked rows on the calling thread; the number of a row with a value that is not finite, or -1.

    By default at the best level that gives right answers.
    """
    from ggufpy.jit.cache import library
    from ggufpy.jit.spec import load_source
    from ggufpy.quants.trial import level_for

    code = encoder_kernel(block, importance is not None)
    level = level or level_for(code)
    rows = len(x)
    if block.encoder == "lanes" and rows < level.lanes:  # the kernel walks a row in each lane
        again = np.arange(level.lanes) % rows
        wide = np.empty((level.lanes, out.shape[1]), np.uint8)
        if importance is not None and len(importance) > 1:
            importance = importance[again]
        bad = run_kernel(block, x[again], importance, wide, level)
        out[...] = wide[:rows]
        return bad
    source: Any = load_source(code)
    scratch = np.empty(source.SCRATCH * level.lanes + 64, np.uint8)
    bad_row = np.full(1, -1, np.int64)
    args = np.zeros((), source.ARGS)
    args["x_ptr"], args["x_stride"], args["x_type"] = x.ctypes.data, x.strides[0], SOURCES[x.dtype.name]
    args["n_rows"], args["n_blocks"] = rows, x.shape[1] // block.weights
    if importance is not None:
        args["importance_ptr"] = importance.ctypes.data
        args["importance_stride"] = importance.strides[0] if len(importance) > 1 else 0
    args["out_ptr"], args["out_stride"] = out.ctypes.data, out.shape[1]
    args["scratch_ptr"], args["bad_ptr"] = scratch.ctypes.data, bad_row.ctypes.data
    tables = block.tables()
    addresses = np.array([table.ctypes.data for table in tables] or [0], np.int64)
    args["tables_ptr"] = addresses.ctypes.data
    library(level).call(code, args)
    return int(bad_row[0])


def check_scales(block: BlockType, x: NDArray[Any], encoded: Bytes) -> None:
    """GGUFError if a scale became infinite: decoding would give NaN."""
    for field, wrong in block.faults(block.records(encoded).reshape(-1)):
        if wrong.any():
            raise _too_large(block, x, field.note)


def largest(x: NDArray[Any]) -> float:
    """The largest magnitude in float32, float16 or bf16 bits, 0 of nothing; NaN if there is one."""
    if x.dtype == np.uint16:
        bits = np.uint32((x & np.uint16(0x7FFF)).max(initial=0))
        return float((bits << np.uint32(16)).view(np.float32))
    return float(np.maximum(x.max(initial=0), -x.min(initial=0)))


def finite(x: NDArray[Any]) -> NDArray[Any]:
    """The elements that are finite, one after the other."""
    number = (x & np.uint16(0x7F80)) != 0x7F80 if x.dtype == np.uint16 else np.isfinite(x)
    kept: NDArray[Any] = x[number]
    return kept


def _too_large(block: BlockType, x: NDArray[Any], what: str) -> GGUFError:
    return GGUFError(
        f"x reaches {largest(finite(x)):.6g}, too large for the 16-bit {what} of {block.name}: "
        "scale the weights down or use BF16 or F32"
    )
