"""Packs a file's tensors into panels, chunks of rows on all threads: no thread waits for another matrix to be done.

Types with `lane_fields` go straight from blocks to panels in compiled code. Of others, the block type's fields are
decoded in NumPy and interleaved in compiled code. Scales are stored as f16 after multiplication by a power of two
chosen for the matrix, so that neither the smallest nor the largest leaves f16's range; the kernel divides it out again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.kernels.cache import Library
from ggufpy.kernels.layout import BLOCK, block_bytes
from ggufpy.kernels.spec import load_source
from ggufpy.quants.base import Fields, FloatPanel, IntPanel

from .memory import Region
from .weights import Matrix, Source, element_bytes, pack_kernel, packed_bytes

FIELD_CHUNK = 1 << 20  # bytes of blocks that NumPy decodes at a time, so that temporaries stay in cache
CHUNK = 1 << 22  # bytes that compiled code takes at a time
FIRST_ROWS = 16  # they give the first guess of the factor
LARGEST_HALF = 65504.0
COMFORT = 256.0  # where the largest scale of the first rows is put

Work = Callable[[int, int], float]  # packs rows start to stop, returns their largest scale or minimum, 0 if none


class _Job:
    """A matrix that is being packed: `spans` gives out its rows, `done` takes what came of them."""

    def __init__(self, library: Library, source: Source, memory: Region) -> None:
        self.source, self.memory, self.kind = source, memory, quants.get(source.type)
        memory.at(0, packed_bytes(source, library.level.lanes))
        self.packed = False
        self._library, self._lanes = library, library.level.lanes
        self._factor = 0.0  # what scales are multiplied by; not known before the first rows were looked at
        self._left, self._worst = 0, 0.0

    def spans(self) -> Iterator[tuple[Work, int, int]]:
        """Work, and rows from and to which it is wanted. Those of a matrix that is not `packed` are given out anew."""
        data = self.source.little()
        self._left, self._worst, self.packed = len(data), 0.0, not len(data)
        if not self._factor:
            self._factor = 1.0
            if isinstance(self.kind.panel, IntPanel) and len(data):
                self._factor = _first_factor(self._work(data)(0, min(FIRST_ROWS, len(data))))
        work = self._work(data)
        by_fields = isinstance(self.kind.panel, IntPanel) and self.kind.packer == "numpy"
        chunk = FIELD_CHUNK if by_fields else CHUNK
        step = max(chunk // max(data.shape[1], 1) // self._lanes, 1) * self._lanes
        for start in range(0, len(data), step):
            yield work, start, min(start + step, len(data))

    def done(self, rows: int, largest: float) -> bool:
        """Whether these were the last rows: then `finish` is to be called. For one thread at a time."""
        self._left -= rows
        self._worst = max(self._worst, largest)
        return self._left == 0

    def finish(self, advance: Callable[[int], None]) -> None:
        """Raises GGUFError for scales that are not finite; where they are too large, chooses another factor."""
        self.source.release()
        if not math.isfinite(self._worst):
            raise GGUFError(f"tensor {self.source.name} has a scale or minimum that is not finite")
        worst = self._worst * self._factor
        if worst <= LARGEST_HALF:
            self.packed = True
            advance(self.source.nbytes)
        else:
            self._factor *= 2.0 ** math.floor(math.log2(LARGEST_HALF / 2 / worst))

    def matrix(self) -> Matrix:
        """What was packed."""
        (rows, columns), panel = self.source.shape, self.kind.panel
        panels, blocks = -(-rows // self._lanes), -(-columns // BLOCK)
        return Matrix(panel, rows, columns, panels, blocks, 1.0 / self._factor, self.memory)

    def _work(self, data: NDArray[np.uint8]) -> Work:
        if isinstance(self.kind.panel, FloatPanel):
            return self._float_work(self.kind.panel, data)
        if self.kind.packer == "lanes":
            return self._lane_work(self.kind.panel, data)
        return self._field_work(self.kind.panel, data)

    def _lane_work(self, panel: IntPanel, data: NDArray[np.uint8]) -> Work:
        """Rows straight from their blocks."""
        lanes, kind, memory, factor = self._lanes, self.kind, self.memory, self._factor
        code = pack_kernel(kind)
        dtype, (blocks, rest) = load_source(code).ARGS, divmod(data.shape[1], kind.nbytes)
        if data.dtype != np.uint8 or rest:
            raise ValueError(f"rows of {kind.name} are {data.dtype} {data.shape}")
        stride = blocks * (kind.weights // BLOCK) * block_bytes(panel, lanes)

        def work(start: int, stop: int) -> float:
            part, top = _whole_panels(data[start:stop], lanes), np.zeros(lanes, np.int32)
            args = np.zeros((), dtype)
            args["source"], args["stride"] = part.ctypes.data, part.shape[1]
            args["rows"], args["blocks"], args["factor"] = stop - start, blocks, factor
            args["out"] = memory.at(start // lanes * stride, len(part) // lanes * stride)
            args["top"] = top.ctypes.data
            self._library.call(code, args)
            largest = float(np.max(top).view(np.float32))
            return largest if math.isfinite(largest) else math.inf

        return work

    def _field_work(self, panel: IntPanel, data: NDArray[np.uint8]) -> Work:
        """Rows by way of `fields`, for types whose blocks no kernel takes apart."""
        lanes, kind, memory, factor = self._lanes, self.kind, self.memory, self._factor
        code = pack_kernel(kind)
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
            return _largest(checked)

        return work

    def _float_work(self, panel: FloatPanel, data: NDArray[np.uint8]) -> Work:
        """Rows of numbers, as they are or as float32."""
        lanes, kind, memory, columns = self._lanes, self.kind, self.memory, self.source.shape[1]
        code, element = pack_kernel(kind), element_bytes(panel)
        dtype, blocks = load_source(code).ARGS, -(-columns // BLOCK)
        stride = blocks * BLOCK * lanes * element
        plain = kind.layout[0].dtype == panel.dtype  # as the panel wants them; others are decoded

        def work(start: int, stop: int) -> float:
            part = _whole_panels(data[start:stop], lanes)
            values = part if plain else kind.decode(part).view(np.uint8)
            if values.shape != (len(part), columns * element):
                raise ValueError(f"{kind.name}: rows of {columns} numbers are {values.shape}")
            args = np.zeros((), dtype)
            args["source"], args["rows"], args["columns"] = values.ctypes.data, len(values), columns
            args["blocks"] = blocks
            args["out"] = memory.at(start // lanes * stride, len(values) // lanes * stride)
            self._library.call(code, args)
            return 0.0

        return work


class Packer:
    """Packs matrices for one library of kernels with a few threads. `advance(bytes)` reports progress."""

    def __init__(self, library: Library, threads: int, advance: Callable[[int], None]) -> None:
        self._library, self._advance, self._threads = library, advance, threads
        self._pool = ThreadPoolExecutor(threads)
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)

    def pack(self, source: Source, memory: Region | None = None) -> Matrix:
        """Packs a (rows, columns) tensor into zeroed `memory` of its packed size, or memory of its own.

        Raises GGUFError if its scales are not finite.
        """
        memory = memory or Region(packed_bytes(source, self._library.level.lanes), source.name)
        return self.pack_all([(source, memory)])[0]

    def pack_all(self, wanted: Sequence[tuple[Source, Region]]) -> list[Matrix]:
        """Packs tensors, each into zeroed memory of its packed size. Raises GGUFError as `pack` does."""
        jobs = [_Job(self._library, source, memory) for source, memory in wanted]
        left, self._stopped = jobs, False
        while left:
            spans = ((job, *span) for job in left for span in job.spans())
            threads = [self._pool.submit(self._drain, spans) for _ in range(self._threads)]
            wait(threads)  # also for those that end because one failed
            for thread in threads:
                thread.result()
            left = [job for job in left if not job.packed]
        return [job.matrix() for job in jobs]

    def _drain(self, spans: Iterator[tuple[_Job, Work, int, int]]) -> None:
        """What one thread does: spans until there are none. Where one fails, the others end too."""
        try:
            while not self._stopped:
                with self._lock:  # a generator runs for one thread at a time
                    span = next(spans, None)
                if span is None:
                    return
                job, work, start, stop = span
                largest = work(start, stop)
                with self._lock:
                    last = job.done(stop - start, largest)
                if last:
                    job.finish(self._advance)
        except BaseException:
            self._stopped = True
            raise


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


def _first_factor(top: float) -> float:
    """A power of two that brings the largest scale of the first rows to about COMFORT."""
    if not math.isfinite(top) or top == 0.0:
        return 1.0
    return float(2.0 ** max(-100, min(100, round(math.log2(COMFORT / top)))))


def _whole_panels(rows: NDArray[np.uint8], lanes: int) -> NDArray[np.uint8]:
    """Contiguous rows; if the last panel lacks some, a copy with rows of zeros."""
    missing = -len(rows) % lanes
    return np.pad(rows, ((0, missing), (0, 0))) if missing else np.ascontiguousarray(rows)
