"""The key/value cache: pages of 128 positions for every layer, handed out to sequences and shared between them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.kernels.attention import block_rows, part_bytes, scratch_bytes
from ggufpy.kernels.attention_tiles import scratch_bytes as tiled_scratch_bytes
from ggufpy.kernels.kv_types import CHUNK, KvType
from ggufpy.plan import Heads

from .memory import Region


@dataclass(frozen=True)
class CacheShape:
    """What a cache is made for: `positions` for each of `sequences`, in the types of keys and values."""

    positions: int
    sequences: int
    key_type: KvType
    value_type: KvType

    @property
    def chunks(self) -> int:
        """Pages of a sequence that is full."""
        return -(-self.positions // CHUNK)


class Owner(Protocol):
    """What holds pages: a sequence."""

    pages: list[int]

    def __hash__(self) -> int: ...


class KvCache:
    """Memory of all pages. A page belongs to every registered owner that lists it.

    The memory is zeroed by the system when it is first touched, so that a long context costs what it holds. Keys of a
    layer are [page][head], then its values [page][head]; a head's page is as `kernels/kv_types.py` says.
    """

    def __init__(self, heads: Heads, layers: int, shape: CacheShape, lanes: int, threads: int) -> None:
        self.shape, self.lanes = shape, lanes
        self._heads, self._layers = heads, layers
        self.pages = shape.chunks * shape.sequences
        self.key_head_bytes = shape.key_type.key_page(heads.key_length, lanes)
        self.value_head_bytes = shape.value_type.value_page(heads.value_length, lanes)
        self._page_bytes = (heads.shared * self.key_head_bytes, heads.shared * self.value_head_bytes)
        self._layer_bytes = self.pages * sum(self._page_bytes)
        self._memory = Region(layers * self._layer_bytes, "the key/value cache", sparse=True)
        self.part_bytes = heads.shared * part_bytes(heads.value_length, heads.group, lanes)
        self.parts = Region(self.pages * self.part_bytes, "attention parts", sparse=True)
        lengths = heads.key_length, heads.value_length, heads.group
        self.scratch_bytes = max(scratch_bytes(*lengths, lanes), tiled_scratch_bytes(*lengths))
        self.scratch = Region(threads * self.scratch_bytes, "attention scratch")
        self._owners: weakref.WeakSet[Owner] = weakref.WeakSet()

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return self._memory.nbytes

    @property
    def block_rows(self) -> int:
        """Rows of a run that attention takes together."""
        return block_rows(self._heads.group)

    def keys(self, layer: int) -> int:
        """The address of a layer's keys."""
        return self._memory.at(layer * self._layer_bytes, self.pages * self._page_bytes[0])

    def values(self, layer: int) -> int:
        """The address of a layer's values."""
        start = layer * self._layer_bytes + self.pages * self._page_bytes[0]
        return self._memory.at(start, self.pages * self._page_bytes[1])

    def register(self, owner: Owner) -> None:
        """From now on the owner's pages are taken, until it has none or is gone."""
        self._owners.add(owner)

    def _users(self) -> NDArray[np.int64]:
        """How many owners each page has. Counted anew, so that no interrupt can leave a count wrong."""
        held = [page for owner in self._owners for page in owner.pages]
        return np.bincount(np.array(held, np.int64), minlength=self.pages)

    @property
    def free(self) -> int:
        """Pages that belong to nobody."""
        return int((self._users() == 0).sum())

    def take(self, count: int) -> list[int]:
        """Pages that nobody has; they are the caller's once it lists them. Raises GGUFError if there are fewer."""
        free = np.flatnonzero(self._users() == 0)
        if len(free) < count:
            raise GGUFError(
                f"the key/value cache is full: all of its {self.pages * CHUNK} positions are taken; "
                "end a sequence, or load the model with a longer context (-c, n_ctx) or more sequences (n_parallel)"
            )
        return [int(page) for page in free[:count]]

    def own(self, page: int) -> int:
        """The page, or a copy of it if it has several owners: something is about to be written there."""
        if len(self._owners) == 1 or self._users()[page] <= 1:
            return page
        (copy,) = self.take(1)
        for layer in range(self._layers):
            start = layer * self._layer_bytes
            for size in self._page_bytes:
                pages = self._memory.bytes[start : start + self.pages * size].reshape(self.pages, size)
                pages[copy] = pages[page]
                start += self.pages * size
        return copy
