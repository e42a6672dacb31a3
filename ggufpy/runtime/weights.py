"""Packs a file's tensors into panels: decode the block type's fields chunk by chunk, interleave them in compiled code.

Scales are stored as f16 after multiplication by a power of two chosen for the matrix, so that neither the smallest
nor the largest leaves f16's range; the kernel divides it out again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.kernels.cache import Library
from ggufpy.kernels.layout import BLOCK, block_bytes
from ggufpy.kernels.spec import Kernel, kernel, load_source
from ggufpy.quants.base import BlockType, Fields, FloatPanel, IntPanel

from .memory import Region

CHUNK = 1 << 20  # bytes of blocks decoded at a time, so that temporaries stay in cache
LARGEST_HALF = 65504.0
COMFORT = 256.0  # where the largest scale of the first chunk is put


class Source(Protocol):
    """A tensor as the file gives it."""

    name: str

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    def little(self) -> NDArray[np.uint8]: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Matrix:
    """A packed matrix: `panels` × `blocks` of 32 columns; true sizes in `rows` and `columns`."""

    panel: IntPanel | FloatPanel
    rows: int
    columns: int
    panels: int
    blocks: int
    multiplier: float
    memory: Region

    def kernel(self, tokens: int) -> Kernel:
        """The matrix kernel that reads this panel format."""
        return matmul_kernel(self.panel, tokens)


def matmul_kernel(panel: IntPanel | FloatPanel, tokens: int) -> Kernel:
    if isinstance(panel, FloatPanel):
        return kernel("matmul_float", dtype=panel.dtype, tokens=tokens)
    return kernel("matmul_int", **_constants(panel), offset=panel.offset, tokens=tokens)


def pack_kernel(panel: IntPanel | FloatPanel) -> Kernel:
    if isinstance(panel, FloatPanel):
        return kernel("pack_float", size=_element(panel))
    return kernel("pack_int", **_constants(panel))


def _constants(panel: IntPanel) -> dict[str, int]:
    return {"bits": panel.bits, "group": panel.group, "has_min": int(panel.has_min)}


def _element(panel: FloatPanel) -> int:
    return 4 if panel.dtype == "f32" else 2


def packed_bytes(source: Source, lanes: int) -> int:
    """Bytes of a (rows, columns) tensor in memory."""
    panel, (rows, columns) = quants.get(source.type).panel, source.shape
    panels, blocks = -(-rows // lanes), -(-columns // BLOCK)
    if isinstance(panel, FloatPanel):
        return panels * blocks * BLOCK * lanes * _element(panel)
    return panels * blocks * block_bytes(panel, lanes)


class Packer:
    """Packs matrices for one library of kernels with a few threads. `advance(bytes)` reports progress."""

    def __init__(self, library: Library, threads: int, advance: Callable[[int], None]) -> None:
        self._library, self._advance = library, advance
        self._lanes = library.level.lanes
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def pack(self, source: Source, memory: Region | None = None) -> Matrix:
        """Packs a (rows, columns) tensor into zeroed `memory` of its packed size, or memory of its own.

        Raises GGUFError if its scales are not finite.
        """
        rows, columns = source.shape
        kind = quants.get(source.type)
        panel = kind.panel
        lanes = self._lanes
        nbytes = packed_bytes(source, lanes)
        memory = memory or Region(nbytes, source.name)
        memory.at(0, nbytes)
        panels, blocks = -(-rows // lanes), -(-columns // BLOCK)
        multiplier = 1.0
        if isinstance(panel, FloatPanel):
            self._pack_floats(panel, kind, source, memory)
        else:
            multiplier = 1.0 / self._pack_ints(kind, panel, source, memory)
        source.release()
        return Matrix(panel, rows, columns, panels, blocks, multiplier, memory)

    def _chunks(self, rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
        step = max(CHUNK // max(row_bytes, 1) // self._lanes, 1) * self._lanes
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def _each(self, work: Callable[[int, int], float], data: NDArray[np.uint8]) -> float:
        """Does the work on all rows, chunk by chunk on all threads; the largest of its results."""
        return max(self._pool.map(lambda span: work(*span), self._chunks(*data.shape)), default=0.0)

    def _pack_ints(self, kind: BlockType, panel: IntPanel, source: Source, memory: Region) -> float:
        """Packs all rows; returns the power of two that scales and minima were multiplied by."""
        data = source.little()
        factor = _first_factor(kind, data)
        while True:
            worst = self._each(self._int_work(kind, panel, data, memory, factor), data)
            if not math.isfinite(worst):
                raise GGUFError(f"tensor {source.name} has a scale or minimum that is not finite")
            if worst <= LARGEST_HALF:
                self._advance(data.size)
                return factor
            factor *= 2.0 ** math.floor(math.log2(LARGEST_HALF / 2 / worst))

    def _int_work(
        self, kind: BlockType, panel: IntPanel, data: NDArray[np.uint8], memory: Region, factor: float
    ) -> Callable[[int, int], float]:
        """Work on rows start to stop; it returns their largest scale or minimum, times the factor."""
        lanes, code = self._lanes, pack_kernel(panel)
        dtype = load_source(code).ARGS

        def work(start: int, stop: int) -> float:
            fields = kind.fields(np.ascontiguousarray(data[start:stop]))
            columns = fields.codes.shape[1]
            checked = _checked(fields, panel, stop - start, columns)
            blocks = columns // BLOCK
            stride = blocks * block_bytes(panel, lanes)
            args = np.zeros((), dtype)
            args["codes"] = checked.codes.ctypes.data
            args["scale"] = checked.scale.ctypes.data
            args["minimum"] = checked.minimum.ctypes.data if checked.minimum is not None else 0
            args["rows"], args["blocks"], args["factor"] = stop - start, blocks, factor
            panels = -(-(stop - start) // lanes)
            args["out"] = memory.at(start // lanes * stride, panels * stride)
            self._library.call(code, args)
            return _largest(checked) * factor

        return work

    def _pack_floats(self, panel: FloatPanel, kind: BlockType, source: Source, memory: Region) -> None:
        columns = source.shape[1]
        data = source.little()
        code = pack_kernel(panel)
        dtype, lanes, element = load_source(code).ARGS, self._lanes, _element(panel)
        blocks = -(-columns // BLOCK)
        stride = blocks * BLOCK * lanes * element

        def work(start: int, stop: int) -> float:
            part = np.ascontiguousarray(data[start:stop])
            plain: NDArray[Any] = kind.decode(part) if panel.dtype == "f32" else part.view(np.uint16)
            values = np.ascontiguousarray(plain).reshape(stop - start, columns)
            args = np.zeros((), dtype)
            args["source"], args["rows"], args["columns"] = values.ctypes.data, stop - start, columns
            args["blocks"] = blocks
            args["out"] = memory.at(start // lanes * stride, -(-(stop - start) // lanes) * stride)
            self._library.call(code, args)
            return 0.0

        self._each(work, data)
        self._advance(data.size)


def _checked(fields: Fields, panel: IntPanel, rows: int, columns: int) -> Fields:
    """Fields as contiguous arrays of the shapes and types that the kernel reads. Raises ValueError otherwise."""
    scale_shape = (rows, columns // panel.group)
    codes = np.ascontiguousarray(fields.codes)
    scale = np.ascontiguousarray(fields.scale)
    minimum = None if fields.minimum is None else np.ascontiguousarray(fields.minimum)
    if codes.dtype != np.uint8 or codes.shape != (rows, columns) or columns % BLOCK:
        raise ValueError(f"codes are {codes.dtype} {codes.shape}")
    for part in (scale, minimum) if panel.has_min else (scale,):
        if part is None or part.dtype != np.float32 or part.shape != scale_shape:
            raise ValueError(f"scales or minima are not float32 {scale_shape}")
    return Fields(codes, scale, minimum)


def _largest(fields: Fields) -> float:
    """The largest magnitude among scales and minima; infinity if one is not a number."""
    parts = [fields.scale] if fields.minimum is None else [fields.scale, fields.minimum]
    tops = [float(np.max(np.abs(p), initial=0.0)) for p in parts]
    return max(tops) if all(map(math.isfinite, tops)) else math.inf


def _first_factor(kind: BlockType, data: NDArray[np.uint8]) -> float:
    """A power of two that brings the largest scale of the first rows to about COMFORT."""
    if not len(data):
        return 1.0
    top = _largest(kind.fields(np.ascontiguousarray(data[:16])))
    if not math.isfinite(top) or top == 0.0:
        return 1.0
    return float(2.0 ** max(-100, min(100, round(math.log2(COMFORT / top)))))


def vector(source: Any, name: str) -> NDArray[np.float32]:
    """A small tensor (norm weights, biases) as float32. Raises GGUFError if it is not finite."""
    values = np.asarray(source.to_numpy(), np.float32)
    if not np.all(np.isfinite(values)):
        raise GGUFError(f"tensor {name} has a value that is not finite")
    return values
