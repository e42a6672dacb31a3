"""Memory of keys and values: pages of 128 positions, by group of layers, and what attention works in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.caches import layers_by_cache
from ggufpy.backends.cpu.kernels.attention import part_bytes, scratch_bytes
from ggufpy.backends.cpu.kernels.attention_tiles import scratch_bytes as tiled_scratch_bytes
from ggufpy.backends.cpu.kernels.kv_types import PAGE, KvType
from ggufpy.backends.program import Group
from ggufpy.models.ops import Attend, Heads, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.support.records import dataclass

from .memory import Region
from .portable import HeadPages

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class CacheShape:
    """What a cache is made for: `positions` for each of `sequences`, in the types of keys and values."""

    positions: int
    sequences: int
    key_type: KvType
    value_type: KvType

    @property
    def pages(self) -> int:
        """Pages of the positions of a sequence that is full."""
        return -(-self.positions // PAGE)


class KvMemory:
    """Memory of the pages of some layers, whose keys and values have one geometry.

    The memory is zeroed by the system when it is first touched, so that a long context costs what it holds. Keys of a
    layer are [page][head], then its values [page][head]; a head's page is as `kernels/kv_types.py` says.
    """

    def __init__(self, heads: Heads, layers: Sequence[int], pages: int, shape: CacheShape, lanes: int) -> None:
        self.shape, self.pages = shape, pages
        self.form = HeadPages(heads, shape.key_type, shape.value_type, lanes)
        self._layers = {layer: i for i, layer in enumerate(layers)}
        self.key_head_bytes = shape.key_type.key_page(heads.key_length, lanes)
        self.value_head_bytes = shape.value_type.value_page(heads.value_length, lanes)
        self._page_bytes = (heads.shared * self.key_head_bytes, heads.shared * self.value_head_bytes)
        self._layer_bytes = self.pages * sum(self._page_bytes)
        self._memory = Region(len(layers) * self._layer_bytes, "the key/value cache", sparse=True)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return self._memory.nbytes

    def keys(self, layer: int) -> int:
        """The address of a layer's keys."""
        return self._memory.at(self._layers[layer] * self._layer_bytes, self.pages * self._page_bytes[0])

    def values(self, layer: int) -> int:
        """The address of a layer's values."""
        start = self._layers[layer] * self._layer_bytes + self.pages * self._page_bytes[0]
        return self._memory.at(start, self.pages * self._page_bytes[1])

    def copy(self, source: int, target: int) -> None:
        """Copies a page, in every layer."""
        for layer in self._layers:
            for pages in self._pages(layer):
                pages[target] = pages[source]

    def page(self, layer: int, page: int) -> tuple[Bytes, Bytes]:
        """A page's keys and values where they lie, (heads, bytes of a head's page) each."""
        keys, values = (pages[page].reshape(self.form.heads.shared, -1) for pages in self._pages(layer))
        return keys, values

    def _pages(self, layer: int) -> list[Bytes]:
        """A layer's pages of keys and of values, (pages, bytes) each."""
        found, start = [], self._layers[layer] * self._layer_bytes
        for size in self._page_bytes:
            found.append(self._memory.bytes[start : start + self.pages * size].reshape(self.pages, size))
            start += self.pages * size
        return found


class CacheMemory:
    """Memory of all groups of a plan's layers, for steps of at most `step` tokens of a sequence.

    Layers of a group share page numbers; those of one geometry of heads share a `KvMemory`. Parts and scratch serve
    one layer after the other, so they are as large as the largest wants.
    """

    def __init__(self, plan: Plan, shape: CacheShape, step: int, lanes: int, threads: int) -> None:
        self.shape, self.lanes = shape, lanes
        heads = {op.layer: op.heads for op in plan.body if isinstance(op, StoreKv)}
        layers_of = layers_by_cache(plan, shape.positions, step)
        counts = [cache.most(shape.positions, step) * shape.sequences for cache in layers_of]
        self.groups = tuple(map(Group, layers_of, counts))
        self._group_of = {layer: i for i, layers in enumerate(layers_of.values()) for layer in layers}
        self._memories: list[list[KvMemory]] = []
        self._of: dict[int, KvMemory] = {}
        for group, layers in zip(self.groups, layers_of.values(), strict=True):
            alike: dict[Heads, list[int]] = {}
            for layer in layers:
                alike.setdefault(heads[layer], []).append(layer)
            memories = {one: KvMemory(one, some, group.pages, shape, lanes) for one, some in alike.items()}
            self._of.update((layer, memories[heads[layer]]) for layer in layers)
            self._memories.append(list(memories.values()))
        self._make_rooms([op.heads for op in plan.body if isinstance(op, Attend)], threads)

    def _make_rooms(self, heads: Sequence[Heads], threads: int) -> None:
        """What attention of these geometries works in."""
        sizes = [one.shared * part_bytes(one.value_length, one.group, self.lanes) for one in heads]
        self.part_bytes = max(sizes, default=0)  # of a page
        pages = self.shape.pages * self.shape.sequences  # a row alone leaves parts by page of its sequence
        self.parts = Region(pages * self.part_bytes, "attention parts", sparse=True)
        lengths = [(one.key_length, one.value_length, one.group) for one in heads]
        wanted = [max(scratch_bytes(*one, self.lanes), tiled_scratch_bytes(*one)) for one in lengths]
        self.scratch_bytes = max(wanted, default=0)
        self.scratch = Region(threads * self.scratch_bytes, "attention scratch")

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(memory.nbytes for memories in self._memories for memory in memories)

    def of(self, layer: int) -> KvMemory:
        """What has a layer's keys and values."""
        return self._of[layer]

    def group_of(self, layer: int) -> int:
        """The number of a layer's group."""
        return self._group_of[layer]

    def copy(self, group: int, source: int, target: int) -> None:
        """Copies a page of a group, in every layer."""
        for memory in self._memories[group]:
            memory.copy(source, target)

    def form(self, group: int) -> str:
        """What a row of `read_page` is made of, as "30 layers of 3 x (64 f16 + 64 f16)"."""
        names = groupby(self._of[layer].form.name for layer in self._layers_of(group))
        return ", ".join(f"{len(list(some))} layers of {name}" for name, some in names)

    def row_bytes(self, group: int) -> int:
        """Bytes of such a row."""
        return sum(self._of[layer].form.row_bytes for layer in self._layers_of(group))

    def read_page(self, group: int, page: int) -> Bytes:
        """(PAGE, bytes of a position): what `portable.py` makes of a page, layer after layer."""
        rows, start = np.empty((PAGE, self.row_bytes(group)), np.uint8), 0
        for layer in self._layers_of(group):
            form = self._of[layer].form
            form.read(*self._of[layer].page(layer, page), rows[:, start : start + form.row_bytes])
            start += form.row_bytes
        return rows

    def write_page(self, group: int, page: int, rows: Bytes) -> None:
        """The inverse of `read_page`. Raises GGUFError for numbers that are not finite."""
        start = 0
        for layer in self._layers_of(group):
            form = self._of[layer].form
            form.fill(*self._of[layer].page(layer, page), rows[:, start : start + form.row_bytes])
            start += form.row_bytes

    def _layers_of(self, group: int) -> list[int]:
        return sorted(layer for layer, its in self._group_of.items() if its == group)
