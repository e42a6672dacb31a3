"""The key/value cache of one context, in f16, laid out as `kernels/rope_store.py` says."""

from __future__ import annotations

from ggufpy.kernels.attention import CHUNK, part_bytes, scratch_bytes
from ggufpy.plan import Heads

from .memory import Region


class KvCache:
    """Keys and values of every layer for `positions` tokens, and what attention needs beside them.

    The memory is zeroed by the system when a page is first touched, so that a long context costs what it holds.
    """

    def __init__(self, heads: Heads, layers: int, positions: int, lanes: int, threads: int) -> None:
        self.lanes = lanes
        self.chunks = -(-positions // CHUNK)
        padded = -(-heads.value_length // lanes) * lanes
        self.key_head_bytes = self.chunks * CHUNK * heads.key_length * 2
        self.value_head_bytes = self.chunks * CHUNK * padded * 2
        self._heads = heads
        self._key_bytes = heads.shared * self.key_head_bytes
        self._value_bytes = heads.shared * self.value_head_bytes
        self._memory = Region(layers * (self._key_bytes + self._value_bytes), "the key/value cache", sparse=True)
        part = part_bytes(heads.value_length, heads.group, lanes)
        self.parts = Region(heads.shared * self.chunks * part, "attention parts", sparse=True)
        self.scratch_bytes = scratch_bytes(heads.value_length, heads.group, lanes)
        self.scratch = Region(threads * self.scratch_bytes, "attention scratch")

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    def keys(self, layer: int) -> int:
        """The address of a layer's keys."""
        return self._memory.at(layer * (self._key_bytes + self._value_bytes), self._key_bytes)

    def values(self, layer: int) -> int:
        """The address of a layer's values."""
        start = layer * (self._key_bytes + self._value_bytes) + self._key_bytes
        return self._memory.at(start, self._value_bytes)
