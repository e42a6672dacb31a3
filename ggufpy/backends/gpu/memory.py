"""A program's memory on a device: what ops refer to (`lowering.Parts`), and what a step says to kernels (`step.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.kv_types import PAGE
from ggufpy.backends.program import Rows
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Rope
from ggufpy.models.views import Views
from ggufpy.support.records import dataclass

from .device import ROW, Device, Memory
from .kv import CacheMemory, LayerCache
from .lowering import BLOCK, Place
from .step import TILE, StepAddresses, StepShape
from .weights import DeviceMatrix

SPARE_ROWS = 64  # behind a buffer's last: kernels that take several rows together may read them
NOWHERE = -1  # the position of a row that only fills up

Whole = NDArray[np.int32]


def whole_blocks(width: int) -> int:
    """Columns of rows that are padded to whole blocks."""
    return -(-width // BLOCK) * BLOCK


def aligned(nbytes: int) -> int:
    """Bytes of a piece of memory within another."""
    return -(-nbytes // ROW) * ROW


@dataclass(frozen=True)
class StepSize:
    """The most that a step can have: rows, sequences of `pages` each, groups of layers, and adapters."""

    rows: int
    sequences: int
    pages: int
    groups: int
    adapters: int


@dataclass(frozen=True)
class _Field:
    """Where a field of a step begins, in 32-bit numbers, and how many it has."""

    start: int
    count: int


def buffer_widths(ops: Iterable[Op]) -> dict[str, int]:
    """How wide each buffer is at most. Views have no memory of their own; what is written to one is in its buffer."""
    views, found = Views(), dict[str, int]()
    for op in ops:
        views.follow(op)
        for name, width in op.writes.items():
            buffer, at = views.place(name)
            found[buffer] = max(found.get(buffer, 0), at + width)
    return found


class StepMemory:
    """Numbers of one step, written here and uploaded as one piece: fields of constant places, pages last."""

    def __init__(self, device: Device, size: StepSize) -> None:
        self._device, self._size = device, size
        self._stride = stride = -(-size.rows // BLOCK) * BLOCK
        tiles = -(-size.rows // TILE) + size.sequences
        counts = {
            "positions": stride, "ends": stride, "tables": max(size.groups, 1) * stride, "tile_count": BLOCK,
            "tiles": 2 * tiles, "sources": stride, "scales": size.adapters * stride,
            "pages": max(size.groups, 1) * size.sequences * size.pages,
        }  # fmt: skip
        starts = accumulate((-(-count // BLOCK) * BLOCK for count in counts.values()), initial=0)
        self._fields = {name: _Field(start, counts[name]) for name, start in zip(counts, starts, strict=False)}
        last = self._fields["pages"]
        self._host: Whole = np.zeros(last.start + max(last.count, 1), np.int32)
        self._memory = device.allocate(self._host.nbytes, "the step")
        self._sent = b""
        at = {name: self._memory.address + 4 * field.start for name, field in self._fields.items()}
        self.addresses = StepAddresses(table_stride=stride, **at)

    def _of(self, name: str) -> Whole:
        field = self._fields[name]
        return self._host[field.start : field.start + field.count]

    def write(self, step: Sequence[Rows]) -> None:
        """Says what rows of a step are, and uploads it. Raises ValueError for what there is no room for."""
        size, end = self._size, max(part.end for part in step)
        if end > size.rows or len(step) > size.sequences:
            raise ValueError(f"a step of {end} rows and {len(step)} texts, of {size.rows} and {size.sequences}")
        positions, ends = self._of("positions"), self._of("ends")
        tables = self._of("tables").reshape(-1, self._stride)
        pages = self._of("pages")
        positions[:end], ends[:end], tables[:, :end] = NOWHERE, 0, 0
        at = 0
        for part in step:
            rows, count = slice(part.row, part.end), len(part.tokens)
            stop = part.position + count
            held = -(-stop // PAGE)
            if part.pages.shape[0] != size.groups or part.position < 0 or part.pages.shape[1] < held:
                raise ValueError(f"{count} rows from position {part.position}, with a page table {part.pages.shape}")
            positions[rows] = np.arange(part.position, stop)
            ends[rows] = stop
            for group in range(size.groups):
                pages[at : at + held] = part.pages[group, :held]
                tables[group, rows] = at
                at += held
        self._write_tiles(step)
        self._write_scales(step)
        self._send(self._fields["pages"].start + at)

    def _write_tiles(self, step: Sequence[Rows]) -> None:
        pairs = [
            (row, min(TILE, part.end - row))
            for part in step
            if part.bulk
            for row in range(part.row, part.end, TILE)
        ]  # fmt: skip
        self._of("tile_count")[0] = len(pairs)
        if pairs:
            self._of("tiles")[: 2 * len(pairs)] = np.array(pairs, np.int32).ravel()

    def _write_scales(self, step: Sequence[Rows]) -> None:
        """What each row's sequence says of adapters; 0 where it says nothing."""
        if not self._size.adapters:
            return
        scales = self.scales
        scales[:] = 0.0
        for part in step:
            if part.scales:
                scales[:, part.row : part.end] = np.array(part.scales[: len(scales)], np.float32)[:, None]

    @property
    def scales(self) -> NDArray[np.float32]:
        """(adapters, rows) as they were written last."""
        return self._of("scales").view(np.float32).reshape(self._size.adapters, self._stride)

    def write_sources(self, rows: Sequence[int], scales: NDArray[np.float32]) -> None:
        """Says of which rows of another step this one's are copies, with the `scales` of that."""
        if len(rows) > self._size.rows:
            raise ValueError(f"{len(rows)} rows of a head, of {self._size.rows}")
        self._of("sources")[: len(rows)] = rows
        if self._size.adapters:
            self.scales[:, : len(rows)] = scales[:, rows]
        self._send(self._fields["pages"].start)

    def _send(self, count: int) -> None:
        """Uploads the first numbers, unless the device has just these: a head's rows are often the same."""
        data = self._host[:count]
        if (content := data.tobytes()) != self._sent:
            self._device.upload(self._memory.address, data)
            self._sent = content


class Rooms:
    """Memory by what it is for. One that grows moves: work that was made before keeps what it had."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._rooms: dict[str, Memory] = {}
        self._old: list[Memory] = []

    def get(self, about: str, nbytes: int) -> int:
        """The address of at least so many bytes."""
        found = self._rooms.get(about)
        if found is None or found.nbytes < nbytes:
            if found is not None:
                self._old.append(found)
            found = self._rooms[about] = self._device.allocate(max(aligned(nbytes), ROW), about)
        return found.address


class Buffers:
    """float32 rows by name, (rows, whole blocks) each, and some to spare."""

    def __init__(self, device: Device, widths: Mapping[str, int], rows: int) -> None:
        strides = {name: whole_blocks(width) for name, width in widths.items()}
        sizes = [aligned(4 * stride * (rows + SPARE_ROWS)) for stride in strides.values()]
        self._memory = device.allocate(max(sum(sizes), ROW), "buffers")
        starts = accumulate(sizes, initial=self._memory.address)
        self._places = {
            name: Place(start, stride) for (name, stride), start in zip(strides.items(), starts, strict=False)
        }

    def place(self, name: str) -> Place:
        return self._places[name]


class Vectors:
    """float32 vectors by name, each (or each of its parts) padded with zeros to whole blocks."""

    def __init__(self, device: Device, values: Mapping[str, NDArray[np.float32]]) -> None:
        sizes = [aligned(each.nbytes) for each in values.values()]
        self._memory = device.allocate(max(sum(sizes), ROW), "vectors")
        starts = accumulate(sizes, initial=self._memory.address)
        self._addresses = dict(zip(values, starts, strict=False))
        for name, each in values.items():
            device.upload(self._addresses[name], each)

    def address(self, name: str) -> int:
        return self._addresses[name]


@dataclass(frozen=True)
class ProgramParts:
    """See `lowering.Parts`: those of a program's layers, or of its head, which has buffers and a step of its own."""

    buffers: Buffers
    matrices: Mapping[str, DeviceMatrix]
    vectors: Vectors
    kept: CacheMemory
    rooms: Rooms
    turns: Mapping[Rope, int]
    step: StepAddresses
    processors: int

    def buffer(self, name: str) -> Place:
        return self.buffers.place(name)

    def matrix(self, weight: Weight) -> DeviceMatrix:
        return self.matrices[weight.name]

    def vector(self, weight: Weight) -> int:
        return self.vectors.address(weight.name)

    def cache(self, layer: int) -> LayerCache:
        return self.kept.cache(layer)

    def angles(self, rope: Rope) -> int:
        return self.turns[rope]

    def room(self, about: str, nbytes: int) -> int:
        return self.rooms.get(about, nbytes)


def shape_of(step: Sequence[Rows]) -> StepShape:
    """Which rows of a step are exact, and which come in bulk."""
    bulk = [part for part in step if part.bulk]
    few = max((part.end for part in step if not part.bulk), default=0)
    if not bulk:
        return StepShape(few)
    first = min(part.row for part in bulk)
    return StepShape(few, first, max(part.end for part in bulk) - first, len(bulk))
