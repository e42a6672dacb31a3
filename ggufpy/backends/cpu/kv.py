"""Memory of keys and values: pages of 128 positions, each with room in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ggufpy.backends.cpu.kernels.attention import part_bytes, scratch_bytes
from ggufpy.backends.cpu.kernels.attention_tiles import scratch_bytes as tiled_scratch_bytes
from ggufpy.backends.cpu.kernels.kv_types import CHUNK, KvType
from ggufpy.models.plan import Heads

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


class KvMemory:
    """Memory of all pages.

    The memory is zeroed by the system when it is first touched, so that a long context costs what it holds. Keys of a
    layer are [page][head], then its values [page][head]; a head's page is as `kernels/kv_types.py` says.
    """

    def __init__(self, heads: Heads, layers: Sequence[int], shape: CacheShape, lanes: int, threads: int) -> None:
        self.shape, self.lanes = shape, lanes
        self._layers = {layer: i for i, layer in enumerate(layers)}
        self.pages = shape.chunks * shape.sequences
        self.key_head_bytes = shape.key_type.key_page(heads.key_length, lanes)
        self.value_head_bytes = shape.value_type.value_page(heads.value_length, lanes)
        self._page_bytes = (heads.shared * self.key_head_bytes, heads.shared * self.value_head_bytes)
        self._layer_bytes = self.pages * sum(self._page_bytes)
        self._memory = Region(len(layers) * self._layer_bytes, "the key/value cache", sparse=True)
        self.part_bytes = heads.shared * part_bytes(heads.value_length, heads.group, lanes)
        self.parts = Region(self.pages * self.part_bytes, "attention parts", sparse=True)
        lengths = heads.key_length, heads.value_length, heads.group
        self.scratch_bytes = max(scratch_bytes(*lengths, lanes), tiled_scratch_bytes(*lengths))
        self.scratch = Region(threads * self.scratch_bytes, "attention scratch")

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
        for i in range(len(self._layers)):
            start = i * self._layer_bytes
            for size in self._page_bytes:
                pages = self._memory.bytes[start : start + self.pages * size].reshape(self.pages, size)
                pages[target] = pages[source]
                start += self.pages * size
