"""A cache of random keys and values on a device, rows that attend to it, and what they must get, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gpu_matrices import Tensor
from gpu_shim import ShimDevice
from numpy.typing import NDArray

from ggufpy.backends.gpu.kv import LayerCache
from ggufpy.backends.gpu.lowering import Lowering, Place
from ggufpy.backends.gpu.step import TILE, StepAddresses, StepShape
from ggufpy.backends.gpu.weights import DeviceMatrix, matrix_of
from ggufpy.models.op import Weight
from ggufpy.models.ops import Attend, Heads

PAGE = 128
PAGES = 40  # entries of a page table here
LEFT = 7.0  # what y is full of before
SINKS = Weight("sinks", (0,))
Array = NDArray[Any]


def head_page(kind: str, length: int, rng: np.random.Generator) -> tuple[bytes, Array]:
    """A random head's page and its numbers (PAGE, length), as kv.py says pages are laid out."""
    shape = (PAGE, length)
    if kind == "f16":
        half = rng.standard_normal(shape).astype("<f2")
        return half.tobytes(), half.astype(np.float64)
    if kind == "bf16":
        bits = rng.standard_normal(shape).astype("<f4").view("<u4") >> 16
        return bits.astype("<u2").tobytes(), (bits << 16).astype("<u4").view("<f4").astype(np.float64)
    scales = (rng.uniform(0.5, 2.0, (PAGE, length // 32)) / (100 if kind == "q8_0" else 6)).astype("<f2")
    spread = scales.astype(np.float64).repeat(32, axis=1)
    if kind == "q8_0":
        codes = rng.integers(-127, 128, shape).astype(np.int8)
        return codes.tobytes() + scales.tobytes(), codes * spread
    codes = rng.integers(0, 16, shape).astype(np.uint8)
    halves = codes.reshape(PAGE, -1, 2, 16)
    packed = halves[:, :, 0] | halves[:, :, 1] << 4
    return packed.tobytes() + scales.tobytes(), (codes.astype(np.float64) - 8) * spread


@dataclass(frozen=True)
class Row:
    """A row of a step: whose it is and where."""

    sequence: int
    position: int


@dataclass(frozen=True)
class Texts:
    """Sequences of `lengths` positions in one cache. Pages that no one has are NaNs: page 0, and those between."""

    heads: Heads
    kinds: tuple[str, str]
    lengths: tuple[int, ...]
    seed: int = 0
    keys: list[Array] = field(default_factory=list)  # by sequence (positions, kv heads, length)
    values: list[Array] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)
    memory: list[Array] = field(default_factory=list)  # (pages, bytes) of keys, of values

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        counts = [-(-length // PAGE) for length in self.lengths]
        free = list(rng.permutation(np.arange(1, 2 * sum(counts) + 2)))
        self.numbers.extend([int(free.pop()) for _ in range(count)] for count in counts)
        for kind, length, kept in (
            (self.kinds[0], self.heads.key_length, self.keys), (self.kinds[1], self.heads.value_length, self.values)
        ):  # fmt: skip
            size = self.heads.shared * len(head_page(kind, length, rng)[0])
            memory = np.full((2 * sum(counts) + 2, size), 0xFF, np.uint8)
            for own in self.numbers:
                pages = []
                for number in own:
                    parts = [head_page(kind, length, rng) for _ in range(self.heads.shared)]
                    memory[number] = np.frombuffer(b"".join(part[0] for part in parts), np.uint8)
                    pages.append(np.stack([part[1] for part in parts], axis=1))
                kept.append(np.concatenate(pages))
            self.memory.append(memory)

    def expected(self, op: Attend, row: Row, q: Array, sinks: Array) -> Array:
        """What a row gets, (query heads x value length)."""
        p, end = row.position, self.lengths[row.sequence]
        first, last = 0, p + 1
        if op.causal and op.window:
            first = max(0, p + 1 - op.window)
        elif not op.causal:
            near = op.window // 2 if op.window else end
            first, last = max(0, p - near), min(end, p + near + 1)
        keys, values = (kept[row.sequence][first:last].repeat(op.heads.group, 1) for kept in (self.keys, self.values))
        scores = np.einsum("hd,mhd->hm", q.astype(np.float64).reshape(op.heads.queries, -1), keys) * op.scale
        if op.softcap:
            scores = op.softcap * np.tanh(scores / op.softcap)
        if op.sinks is not None:
            scores = np.concatenate([scores, sinks.astype(np.float64)[:, None]], axis=1)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        made: Array = np.einsum("hm,mhd->hd", weights[:, : last - first], values)
        return made.reshape(-1)


class Parts:
    """What a lowering refers to, for one step on a device."""

    def __init__(self, device: ShimDevice, texts: Texts, op: Attend, shape: StepShape) -> None:
        self._device, self._shape = device, shape
        self._strides = {"q": _blocks(texts.heads.queries * texts.heads.key_length), "y": _blocks(op.writes["y"]) + 32}
        self._places = {
            name: Place(device.allocate(4 * shape.end * stride, name).address, stride)
            for name, stride in self._strides.items()
        }
        self._sinks = device.allocate(4 * _blocks(texts.heads.queries), "sinks").address
        memory = [device.allocate(pages.nbytes, "cache").address for pages in texts.memory]
        for address, pages in zip(memory, texts.memory, strict=True):
            device.upload(address, pages)
        page = [pages.shape[1] for pages in texts.memory]
        head = [size // texts.heads.shared for size in page]
        self._cache = LayerCache(*memory, *page, *head, *texts.kinds, texts.heads, 1)
        self._rooms: dict[str, tuple[int, int]] = {}
        self._matrices: dict[str, DeviceMatrix] = {}
        self.processors = device.facts.processors
        self.step: StepAddresses

    def buffer(self, name: str) -> Place:
        return self._places[name]

    def vector(self, weight: Weight) -> int:
        return self._sinks

    def cache(self, layer: int) -> LayerCache:
        assert layer == 3
        return self._cache

    def room(self, about: str, nbytes: int) -> int:
        if about not in self._rooms:
            room = self._device.allocate(nbytes, about)
            self._device.upload(room.address, np.full(nbytes, 0xFF, np.uint8))
            self._rooms[about] = room.address, nbytes
        return self._rooms[about][0]

    def bytes_of(self, about: str) -> NDArray[np.uint8]:
        """What is in a room."""
        address, nbytes = self._rooms[about]
        out = np.empty(nbytes, np.uint8)
        self._device.download(address, out)
        return out

    def give_matrix(self, weight: Weight, type_name: str) -> None:
        """A matrix of a type, of which nothing is read."""
        self._matrices[weight.name] = matrix_of(Tensor(type_name, weight.shape), 0, 1.0)

    def matrix(self, weight: Weight) -> DeviceMatrix:
        return self._matrices[weight.name]

    def put(self, values: Array) -> int:
        """Memory that has these."""
        memory = self._device.allocate(max(values.nbytes, 4), "step")
        self._device.upload(memory.address, values)
        return memory.address


def _blocks(width: int) -> int:
    return -(-width // 32) * 32


def prepared(
    device: ShimDevice, texts: Texts, op: Attend, few: Sequence[Row], many: Sequence[Row], q: Array, sinks: Array
) -> tuple[Parts, Lowering, list[int]]:
    """For exact rows and, from the next multiple of 4 on, bulk ones, which come by text, in order of position: what
    the op refers to, what lowers it, and the rows that there are."""
    first = -(-len(few) // 4) * 4
    shape = StepShape(len(few), first if many else 0, len(many), len({row.sequence for row in many}))
    at = [*range(len(few)), *range(first, first + len(many))]
    parts = Parts(device, texts, op, shape)
    parts.step = _step(parts, texts, op, shape, dict(zip(at, [*few, *many], strict=True)))
    where, out = parts.buffer("q"), parts.buffer("y")
    rows = np.zeros((shape.end, where.stride), np.float32)
    rows[at, : q.shape[1]] = q
    device.upload(where.address, rows)
    device.upload(out.address, np.full((shape.end, out.stride), LEFT, np.float32))
    device.upload(parts.vector(SINKS), sinks.astype(np.float32))
    return parts, Lowering(parts, {"q": q.shape[1], "y": op.writes["y"]}, shape), at


def attend(
    device: ShimDevice, texts: Texts, op: Attend, few: Sequence[Row], many: Sequence[Row], q: Array, sinks: Array
) -> Array:
    """Runs the op on such rows. Returns y of all rows that there are, as wide as the buffer is."""
    parts, lowering, at = prepared(device, texts, op, few, many, q, sinks)
    device.run(list(lowering.works([op])))
    out = parts.buffer("y")
    y = np.empty((lowering.shape.end, out.stride), np.float32)
    device.download(out.address, y)
    made: Array = y[at]
    return made


def _step(parts: Parts, texts: Texts, op: Attend, shape: StepShape, rows: dict[int, Row]) -> StepAddresses:
    """What kernels read of a step: exact rows have each a page table, bulk rows one for each text."""
    positions, ends, tables = np.full(shape.end, -1, np.int32), np.zeros(shape.end, np.int32), np.zeros(shape.end, int)
    pages: list[int] = []
    tiles: list[tuple[int, int]] = []
    for i, row in rows.items():
        positions[i], ends[i] = row.position, texts.lengths[row.sequence] if row.position >= 0 else 0
        new = i < shape.few or i == shape.first or rows[i - 1].sequence != row.sequence
        if new:
            last = max(other.position for j, other in rows.items() if other == row or j >= max(shape.few, i))
            pages += _pages(texts, op, row, last)
        tables[i] = len(pages) - PAGES if new else tables[i - 1]
        if i >= shape.few and (new or tiles[-1][1] == TILE):
            tiles.append((i, 1))
        elif i >= shape.few:
            tiles[-1] = (tiles[-1][0], tiles[-1][1] + 1)
    stride = shape.end + 3
    table = np.zeros((2, stride), np.int32)
    table[1, : shape.end] = tables
    listed = np.zeros((shape.tiles + 1, 2), np.int32)
    listed[: len(tiles)] = np.array(tiles).reshape(-1, 2)
    return StepAddresses(
        parts.put(positions), parts.put(ends), parts.put(table), stride, parts.put(np.array(pages, np.int32)),
        parts.put(listed), parts.put(np.array([len(tiles)], np.int32)), 0, 0,
    )  # fmt: skip


def _pages(texts: Texts, op: Attend, row: Row, last: int) -> list[int]:
    """PAGES entries of the page table that rows from `row` to position `last` see: 0, which is no one's, elsewhere."""
    first, end = 0, last + 1 if op.causal else texts.lengths[row.sequence]
    if op.causal and op.window:
        first = max(0, row.position + 1 - op.window)
    numbers = enumerate(texts.numbers[row.sequence])
    seen = [number if first // PAGE <= i <= (end - 1) // PAGE else 0 for i, number in numbers]
    return seen + [0] * (PAGES - len(seen))
