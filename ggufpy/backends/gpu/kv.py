"""Memory of keys and values on a device: pages of 128 positions, by group of layers.

A layer has keys [page][head][a head's page], then values likewise. A head's page, as `kernels/kv.cuh` reads it:

    f16, bf16   rows [128][length]
    q8_0        codes int8 [128][length], then f16 scales [128][length / 32]
    q4_0        codes [128][length / 2], of each 32 dimensions i below and i + 16 above; then scales as q8_0

So codes of a position are whole blocks of 16 bytes where there are scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.caches import Cache, layers_by_cache
from ggufpy.backends.cpu.kernels.kv_types import BLOCK, PAGE, KvType
from ggufpy.backends.cpu.portable import HeadPages
from ggufpy.backends.program import Group
from ggufpy.models.ops import Heads, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.support.records import dataclass

from .device import ROW, Device

if TYPE_CHECKING:
    from ggufpy.backends.cpu.kv import CacheShape

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class LayerCache:
    """Where a layer's keys and values are: addresses, bytes of a page of all heads and of one head's, types by name.

    `group` is the row of `StepAddresses.tables` that says where page tables of the layer's group begin.
    """

    keys: int
    values: int
    key_page: int
    value_page: int
    key_head: int
    value_head: int
    key_type: str
    value_type: str
    heads: Heads
    group: int

    @property
    def constants(self) -> tuple[tuple[str, str | int], ...]:
        """Constants of kernels that read or write it through `KvHead` (`kernels/kv.cuh`)."""
        return (
            ("KEY_TYPE", f"kv_{self.key_type}"), ("VALUE_TYPE", f"kv_{self.value_type}"),
            ("KEY_LENGTH", self.heads.key_length), ("VALUE_LENGTH", self.heads.value_length),
        )  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """Where everything is, counted from the beginning of the memory: what can be said without a device."""

    groups: tuple[Group, ...]
    layers: Mapping[int, LayerCache]  # addresses are distances
    nbytes: int


def _layout(plan: Plan, shape: CacheShape, step: int) -> _Layout:
    heads = {op.layer: op.heads for op in plan.body if isinstance(op, StoreKv)}
    layers_of: dict[Cache, list[int]] = layers_by_cache(plan, shape.positions, step)
    groups = tuple(Group(cache, cache.most(shape.positions, step) * shape.sequences) for cache in layers_of)
    layers: dict[int, LayerCache] = {}
    at = 0
    for i, (group, its) in enumerate(zip(groups, layers_of.values(), strict=True)):
        for layer in its:
            one = heads[layer]
            shape.key_type.check(one.key_length, "keys")
            shape.value_type.check(one.value_length, "values")
            key_head = shape.key_type.key_page(one.key_length, lanes=1)
            value_head = shape.value_type.value_page(one.value_length, lanes=1)
            key_page, value_page = one.shared * key_head, one.shared * value_head
            values = at + _aligned(group.pages * key_page)
            layers[layer] = LayerCache(
                at, values, key_page, value_page, key_head, value_head,
                shape.key_type.name, shape.value_type.name, one, i,
            )  # fmt: skip
            at = values + _aligned(group.pages * value_page)
    return _Layout(groups, layers, at)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ROW) * ROW


def estimate(plan: Plan, shape: CacheShape, step: int) -> int:
    """Bytes that the cache of a plan's layers takes, for steps of at most `step` tokens of a sequence."""
    return _layout(plan, shape, step).nbytes


class CacheMemory:
    """Memory of all groups of a plan's layers, for steps of at most `step` tokens of a sequence."""

    def __init__(self, device: Device, plan: Plan, shape: CacheShape, step: int) -> None:
        found = _layout(plan, shape, step)
        self.groups, self.nbytes = found.groups, found.nbytes
        self._device = device
        self._memory = device.allocate(max(found.nbytes, ROW), "the key/value cache")
        self._types = shape.key_type, shape.value_type
        base = self._memory.address
        self._layers = {
            layer: replace(one, keys=base + one.keys, values=base + one.values) for layer, one in found.layers.items()
        }

    def cache(self, layer: int) -> LayerCache:
        """Where a layer's keys and values are."""
        return self._layers[layer]

    def copy(self, group: int, source: int, target: int) -> None:
        """Copies a page of a group, in every layer."""
        for one in self._of(group):
            for start, size in ((one.keys, one.key_page), (one.values, one.value_page)):
                self._device.copy(start + source * size, start + target * size, size)

    def form(self, group: int) -> str:
        """What a row of `read_page` is made of, in the words of the CPU's cache: the same text, the same bytes."""
        names = groupby(self._pages(one).name for one in self._of(group))
        return ", ".join(f"{len(list(some))} layers of {name}" for name, some in names)

    def row_bytes(self, group: int) -> int:
        """Bytes of such a row."""
        return sum(self._pages(one).row_bytes for one in self._of(group))

    def read_page(self, group: int, page: int) -> Bytes:
        """(PAGE, bytes of a position): what `backends/cpu/portable.py` says, layer after layer."""
        rows, start = np.empty((PAGE, self.row_bytes(group)), np.uint8), 0
        for one in self._of(group):
            keys, values = (np.empty((one.heads.shared, size), np.uint8) for size in (one.key_head, one.value_head))
            self._device.download(one.keys + page * one.key_page, keys)
            self._device.download(one.values + page * one.value_page, values)
            form = self._pages(one)
            form.read(*_interleaved(form, keys, values), rows[:, start : start + form.row_bytes])
            start += form.row_bytes
        return rows

    def write_page(self, group: int, page: int, rows: Bytes) -> None:
        """The inverse of `read_page`. Raises GGUFError for numbers that are not finite; what was there then stays."""
        made: list[tuple[LayerCache, Bytes, Bytes]] = []
        start = 0
        for one in self._of(group):
            keys, values = (np.empty((one.heads.shared, size), np.uint8) for size in (one.key_head, one.value_head))
            form = self._pages(one)
            form.fill(keys, values, rows[:, start : start + form.row_bytes])
            made.append((one, *_separated(form, keys, values)))
            start += form.row_bytes
        for one, keys, values in made:
            self._device.upload(one.keys + page * one.key_page, keys)
            self._device.upload(one.values + page * one.value_page, values)

    def _of(self, group: int) -> list[LayerCache]:
        """The layers of a group, in their order."""
        return [one for _, one in sorted(self._layers.items()) if one.group == group]

    def _pages(self, one: LayerCache) -> HeadPages:
        """A layer's pages as they are on a CPU of one lane, where a key lies as a value does."""
        return HeadPages(one.heads, *self._types, lanes=1)


# A CPU's page of one lane and a device's page have the same bytes. Where there are scales they are in another order: on
# the CPU those of a key stand behind each block, those of a value behind its codes; here all stand behind all codes.


def _interleaved(form: HeadPages, keys: Bytes, values: Bytes) -> tuple[Bytes, Bytes]:
    """A device's pages (heads, bytes) of keys and values, as on a CPU of one lane."""
    if form.key_type.scaled:
        codes, scales = _parts(form.key_type, form.heads.key_length, keys)
        keys = np.concatenate([codes, scales], axis=3).reshape(len(keys), -1)
    if form.value_type.scaled:
        parts = _parts(form.value_type, form.heads.value_length, values)
        values = np.concatenate([part.reshape(len(values), PAGE, -1) for part in parts], axis=2)
    return keys, values.reshape(len(values), -1)


def _parts(kind: KvType, length: int, pages: Bytes) -> tuple[Bytes, Bytes]:
    """Codes and scales of a device's pages, (heads, PAGE, blocks, bytes) each."""
    blocks, codes = length // BLOCK, PAGE * length * kind.bits // 8
    first, second = (part.reshape(len(pages), PAGE, blocks, -1) for part in (pages[:, :codes], pages[:, codes:]))
    return first, second


def _separated(form: HeadPages, keys: Bytes, values: Bytes) -> tuple[Bytes, Bytes]:
    """The inverse of `_interleaved`."""
    heads = len(keys)
    if form.key_type.scaled:
        blocks = keys.reshape(heads, PAGE, form.heads.key_length // BLOCK, -1)
        keys = _joined(blocks[..., :-2], blocks[..., -2:])
    if form.value_type.scaled:
        codes = form.heads.value_length * form.value_type.bits // 8
        rows = values.reshape(heads, PAGE, -1)
        values = _joined(rows[..., :codes], rows[..., codes:])
    return keys, values


def _joined(codes: Bytes, scales: Bytes) -> Bytes:
    """A device's pages of codes and scales, (heads, PAGE, ...) each."""
    return np.concatenate([part.reshape(len(part), -1) for part in (codes, scales)], axis=1)
