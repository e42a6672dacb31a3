"""Packs a file's tensors into panels, on all threads.

Most types go from the file's bytes to panels in compiled code: a batch of matrices is one list of chunks of rows
(`kernels/queue.py`), which threads work off without Python. Of other types NumPy makes numbers or fields, chunk by
chunk on threads of Python, which compiled code then interleaves. Scales are stored as f16 after multiplication by a
power of two chosen for the matrix, so that neither the smallest nor the largest leaves f16's range; the kernel divides
it out again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.cpu.kernels.layout import BLOCK, block_bytes
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import Library
from ggufpy.jit.spec import Kernel, kernel, load_source
from ggufpy.models.source import SourceTensor
from ggufpy.quants.base import Fields, FloatPanel, IntPanel

from .memory import Region
from .threads import Team, yield_address
from .weights import Matrix, element_bytes, pack_kernel, packed_bytes

QUEUE = kernel("queue")
FIELD_BYTES = 1 << 20  # bytes of blocks that NumPy decodes at a time, so that temporaries stay in cache
PACKED_BYTES = 1 << 21  # bytes that compiled code takes at a time
BATCH = 1 << 26  # bytes between two reports of progress, after which the file's pages are given back
FIRST_ROWS = 16  # they give the first guess of the factor
LARGEST_HALF = 65504.0
COMFORT = 256.0  # where the largest scale of the first rows is put


@dataclass
class _Entry:
    """A call of a packing kernel, with what its addresses point to; `tops` and `known` are of scales and minima."""

    kernel: Kernel
    args: NDArray[Any]
    held: object
    tops: NDArray[np.int32] | None
    known: float

    @property
    def largest(self) -> float:
        """The largest scale or minimum of the rows once they are packed, infinity if one is not a number."""
        largest = self.known if self.tops is None else float(np.max(self.tops).view(np.float32))
        return largest if math.isfinite(largest) else math.inf


class _Job:
    """A matrix that is being packed: `begin`, its `spans` one by one, `finish`; over again while it is not `packed`."""

    def __init__(self, library: Library, source: SourceTensor, memory: Region) -> None:
        self.source, self.memory, self.kind = source, memory, quants.get(source.type)
        memory.at(0, packed_bytes(source, library.level.lanes))
        self.packed = False
        panel = self.kind.panel
        # Whether the kernel reads rows as they are in the file.
        self.plain = self.kind.layout[0].dtype == panel.dtype if isinstance(panel, FloatPanel) else self._by_lanes
        self._library, self._lanes = library, library.level.lanes
        self._data = np.zeros((0, 1), np.uint8)
        # What scales are multiplied by; not known before the first rows were looked at.
        self.factor = 0.0 if isinstance(panel, IntPanel) else 1.0
        self._left, self._worst = 0, 0.0

    @property
    def _by_lanes(self) -> bool:
        return self.kind.packer == "lanes"

    @property
    def rows(self) -> int:
        return len(self._data)

    def begin(self) -> None:
        """Looks at the data. A matrix without rows is packed."""
        self._data = self.source.little()
        if self._data.ndim == 3:
            self._data = _one_after_the_other(self._data, self._lanes)
        self._left, self._worst, self.packed = len(self._data), 0.0, not len(self._data)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Rows from and to which are taken at a time."""
        chunk, rows = PACKED_BYTES if self.plain else FIELD_BYTES, len(self._data)
        step = max(chunk // max(self._data.shape[1], 1) // self._lanes, 1) * self._lanes
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def guess(self, largest: float) -> None:
        """The factor by the largest scale of the first rows, which were packed with a factor of 1."""
        self.factor = _first_factor(largest)

    def done(self, rows: int, largest: float) -> bool:
        """Whether these were the last rows: then `finish` is to be called. For one thread at a time."""
        self._left -= rows
        self._worst = max(self._worst, largest)
        return self._left == 0

    def finish(self, advance: Callable[[int], None]) -> None:
        """Raises GGUFError for scales that are not finite; where they are too large, chooses another factor."""
        self._data = self._data[:0]
        self.source.release()
        if not math.isfinite(self._worst):
            raise GGUFError(f"tensor {self.source.name} has a scale or minimum that is not finite")
        worst = self._worst * self.factor
        if worst <= LARGEST_HALF:
            self.packed = True
            advance(self.source.nbytes)
        else:
            self.factor *= 2.0 ** math.floor(math.log2(LARGEST_HALF / 2 / worst))

    def matrix(self) -> Matrix:
        """What was packed."""
        (*experts, rows, columns), panel = self.source.shape, self.kind.panel
        panels, blocks, multiplier = -(-rows // self._lanes), -(-columns // BLOCK), 1.0 / (self.factor or 1.0)
        return Matrix(panel, rows, columns, panels, blocks, multiplier, self.memory, math.prod(experts))

    def entry(self, start: int, stop: int) -> _Entry:
        """The call that packs rows start to stop."""
        panel = self.kind.panel
        if isinstance(panel, FloatPanel):
            return self._float_entry(panel, start, stop)
        return (self._lane_entry if self._by_lanes else self._field_entry)(panel, start, stop)

    def work(self, start: int, stop: int) -> float:
        """Packs rows start to stop here; returns the largest of their scales and minima."""
        entry = self.entry(start, stop)
        self._library.call(entry.kernel, entry.args)
        return entry.largest

    def _lane_entry(self, panel: IntPanel, start: int, stop: int) -> _Entry:
        """Rows straight from their blocks."""
        lanes, kind, data = self._lanes, self.kind, self._data
        blocks, rest = divmod(data.shape[1], kind.nbytes)
        if data.dtype != np.uint8 or rest:
            raise ValueError(f"rows of {kind.name} are {data.dtype} {data.shape}")
        stride = blocks * (kind.weights // BLOCK) * block_bytes(panel, lanes)
        part, tops = _whole_panels(data[start:stop], lanes), np.zeros(lanes, np.int32)
        out = self.memory.at(start // lanes * stride, len(part) // lanes * stride)
        given = {
            "source_ptr": part.ctypes.data, "source_stride": part.shape[1], "n_rows": stop - start, "n_blocks": blocks,
            "factor": self.factor or 1.0, "out_ptr": out, "top_ptr": tops.ctypes.data,
        }  # fmt: skip
        return _entry(pack_kernel(kind), given, part, tops)

    def _float_entry(self, panel: FloatPanel, start: int, stop: int) -> _Entry:
        """Rows of numbers, as they are or as float32."""
        lanes, kind, columns, element = self._lanes, self.kind, self.source.shape[-1], element_bytes(panel)
        blocks = -(-columns // BLOCK)
        stride = blocks * BLOCK * lanes * element
        part = _whole_panels(self._data[start:stop], lanes)
        values = part if self.plain else kind.decode(part).view(np.uint8)
        if values.shape != (len(part), columns * element):
            raise ValueError(f"{kind.name}: rows of {columns} numbers are {values.shape}")
        out = self.memory.at(start // lanes * stride, len(values) // lanes * stride)
        given = {
            "source_ptr": values.ctypes.data, "n_rows": len(values), "n_columns": columns, "n_blocks": blocks,
            "out_ptr": out,
        }  # fmt: skip
        return _entry(pack_kernel(kind), given, values)

    def _field_entry(self, panel: IntPanel, start: int, stop: int) -> _Entry:
        """Rows by way of `fields`, for types whose blocks no kernel takes apart."""
        fields = self.kind.fields(np.ascontiguousarray(self._data[start:stop]))
        columns = fields.codes.shape[1]
        checked = _checked(fields, panel, stop - start, columns)
        blocks = columns // BLOCK
        stride = blocks * block_bytes(panel, self._lanes)
        panels = -(-(stop - start) // self._lanes)
        given = {
            "codes_ptr": checked.codes.ctypes.data, "scale_ptr": checked.scale.ctypes.data,
            "minimum_ptr": checked.minimum.ctypes.data if checked.minimum is not None else 0, "n_rows": stop - start,
            "n_blocks": blocks, "factor": self.factor or 1.0,
            "out_ptr": self.memory.at(start // self._lanes * stride, panels * stride),
        }  # fmt: skip
        return _entry(pack_kernel(self.kind), given, checked, known=_largest(checked))


def _entry(
    code: Kernel, given: Mapping[str, float], held: object, tops: NDArray[np.int32] | None = None, known: float = 0.0
) -> _Entry:
    args = np.zeros((), load_source(code).ARGS)
    for name, value in given.items():
        args[name] = value
    return _Entry(code, args, held, tops, known)


class _Queue:
    """Threads that work off lists of entries without Python."""

    def __init__(self, library: Library, threads: int) -> None:
        self._library, self._team = library, Team(threads, library)
        self._args, self._next = np.zeros((), load_source(QUEUE).ARGS), np.zeros(1, np.int64)
        self._args["next_ptr"], self._args["barrier_ptr"] = self._next.ctypes.data, self._team.barrier
        self._args["yield_ptr"] = yield_address()

    def run(self, entries: Sequence[_Entry]) -> None:
        """Returns when all are done."""
        table = np.array([(self._library.address(e.kernel), e.args.ctypes.data) for e in entries], np.int64)
        self._next[0] = 0
        self._args["entries_ptr"], self._args["n_entries"] = table.ctypes.data, len(table)
        self._team.run(self._library.address(QUEUE), self._args.ctypes.data)

    def close(self) -> None:
        self._team.close()


class Packer:
    """Packs matrices for one library of kernels with a few threads. `advance(bytes)` reports progress."""

    def __init__(self, library: Library, threads: int, advance: Callable[[int], None]) -> None:
        self._library, self._advance, self._threads = library, advance, threads
        self._queue = _Queue(library, threads)
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *error: object) -> None:
        self._queue.close()

    def pack(self, source: SourceTensor, memory: Region | None = None) -> Matrix:
        """Packs a tensor into zeroed `memory` of its packed size, or memory of its own.

        It is (rows, columns) or (experts, rows, columns). Raises GGUFError if its scales are not finite.
        """
        memory = memory or Region(packed_bytes(source, self._library.level.lanes), source.name)
        return self.pack_all([(source, memory)])[0]

    def pack_all(self, wanted: Sequence[tuple[SourceTensor, Region]]) -> list[Matrix]:
        """Packs tensors, each into zeroed memory of its packed size. Raises GGUFError as `pack` does."""
        jobs = [_Job(self._library, source, memory) for source, memory in wanted]
        left = jobs
        while left:
            for job in left:
                job.begin()
            left = [job for job in left if not job.packed]
            for batch in _batches([job for job in left if job.plain]):
                self._pack_plain(batch)
            self._pack_others([job for job in left if not job.plain])
            left = [job for job in left if not job.packed]
        return [job.matrix() for job in jobs]

    def _pack_plain(self, jobs: Sequence[_Job]) -> None:
        """Packs matrices whose rows compiled code reads; first some rows of those that have no factor yet."""
        new = [job for job in jobs if not job.factor]
        if new:
            first = [job.entry(0, min(FIRST_ROWS, job.rows)) for job in new]
            self._queue.run(first)
            for job, entry in zip(new, first, strict=True):
                job.guess(entry.largest)
        spans = [(job, stop - start, job.entry(start, stop)) for job in jobs for start, stop in job.spans()]
        self._queue.run([entry for _, _, entry in spans])
        for job, rows, entry in spans:
            if job.done(rows, entry.largest):
                job.finish(self._advance)

    def _pack_others(self, jobs: Sequence[_Job]) -> None:
        """Packs matrices of which NumPy makes numbers or fields first, on threads that share one queue."""
        if not jobs:
            return
        for job in jobs:
            if not job.factor:
                job.guess(job.work(0, min(FIRST_ROWS, job.rows)))
        self._stopped = False
        spans = ((job, *span) for job in jobs for span in job.spans())
        with ThreadPoolExecutor(self._threads) as pool:
            threads = [pool.submit(self._drain, spans) for _ in range(self._threads)]
            try:
                wait(threads)  # also for those that end because one failed
            finally:
                self._stopped = True
        for thread in threads:
            thread.result()

    def _drain(self, spans: Iterator[tuple[_Job, int, int]]) -> None:
        """What one thread does: spans until there are none. Where one fails, the others end too."""
        try:
            while not self._stopped:
                with self._lock:  # a generator runs for one thread at a time
                    span = next(spans, None)
                if span is None:
                    return
                job, start, stop = span
                largest = job.work(start, stop)
                with self._lock:
                    last = job.done(stop - start, largest)
                if last:
                    job.finish(self._advance)
        except BaseException:
            self._stopped = True
            raise


def _batches(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Some matrices at a time, of BATCH bytes or a little more."""
    batch: list[_Job] = []
    size = 0
    for job in jobs:
        batch.append(job)
        size += job.source.nbytes
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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


def _one_after_the_other(data: NDArray[np.uint8], lanes: int) -> NDArray[np.uint8]:
    """(experts, rows, bytes a row) → rows of bytes, those of each expert in panels of its own, filled up with zeros."""
    missing = -data.shape[1] % lanes
    whole = np.pad(data, ((0, 0), (0, missing), (0, 0))) if missing else data
    return whole.reshape(-1, data.shape[2])


def _whole_panels(rows: NDArray[np.uint8], lanes: int) -> NDArray[np.uint8]:
    """Contiguous rows; if the last panel lacks some, a copy with rows of zeros."""
    missing = -len(rows) % lanes
    return np.pad(rows, ((0, missing), (0, 0))) if missing else np.ascontiguousarray(rows)
