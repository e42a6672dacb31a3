"""What tests of rotation and of the cache on a device share: parts of a program, and a step in device memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gpu_shim import ShimDevice

from ggufpy.backends.cpu.kernels.kv_types import PAGE, KvType
from ggufpy.backends.cpu.kv import CacheShape
from ggufpy.backends.gpu.kv import CacheMemory, LayerCache
from ggufpy.backends.gpu.lowering import Lowering, Place
from ggufpy.backends.gpu.rotation import angle_bytes, angle_works
from ggufpy.backends.gpu.step import StepAddresses, StepShape
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Embed, Rope
from ggufpy.models.plan import Plan

STRIDE = 32


def plan_of(*layers: Sequence[Op]) -> Plan:
    """Layers alone."""
    return Plan(4096, 8, Embed(Weight("embed", (8, 8)), "x"), tuple(tuple(layer) for layer in layers), ())


def shape_of(positions: int, sequences: int, keys: str, values: str) -> CacheShape:
    return CacheShape(positions, sequences, KvType(keys), KvType(values))


@contextmanager
def opened(order: str = "forward") -> Iterator[ShimDevice]:
    """A device that gives its memory back: all devices' is looked at after each launch."""
    device = ShimDevice(order=order)
    try:
        yield device
    finally:
        device.close()


class Parts:
    """Buffers with rows of a program, of which a step has `rows`."""

    processors = 4

    def __init__(self, device: ShimDevice, memory: CacheMemory | None = None) -> None:
        self.device, self.memory = device, memory
        self.buffers: dict[str, tuple[Place, tuple[int, int]]] = {}
        self.rooms: dict[str, tuple[int, int]] = {}
        self.turns: dict[Rope, int] = {}
        self.step = StepAddresses(*[0] * 9)

    def put(self, values: Any) -> int:
        """The address of an array's copy on the device."""
        values = np.ascontiguousarray(values)
        address = self.device.allocate(max(values.nbytes, 4), "an array").address
        self.device.upload(address, values)
        return address

    def take(self, name: str) -> Any:
        """A buffer's rows; what lies behind its width must have stayed zeros."""
        place, (rows, width) = self.buffers[name]
        whole = np.empty((rows, place.stride), np.float32)
        self.device.download(place.address, whole)
        assert not whole[:, width:].any(), f"{name} is written behind its width"
        return whole[:, :width]

    def fill(self, name: str, values: Any) -> None:
        """Makes a buffer of rows."""
        rows, width = values.shape
        stride = -(-width // STRIDE) * STRIDE
        whole = np.zeros((rows, stride), np.float32)
        whole[:, :width] = values
        self.buffers[name] = Place(self.put(whole), stride), (rows, width)

    def begin(self, positions: Sequence[int], tables: Sequence[Sequence[Sequence[int]]], ropes: Sequence[Rope]) -> None:
        """A step: a position a row, and by group the page table of each row; angles are made at once."""
        flat: list[int] = []
        starts = np.zeros((len(tables), len(positions) + 3), np.int32)  # rows of it are further apart than rows
        for group, its in enumerate(tables):
            for row, pages in enumerate(its):
                starts[group, row] = len(flat)
                flat += pages
        at = self.put(np.array(positions, np.int32))
        self.step = StepAddresses(
            at, 0, self.put(starts), starts.shape[1], self.put(np.array([*flat, 0], np.int32)), 0, 0, 0, 0
        )
        for rope in ropes:
            nbytes = max(angle_bytes(rope, len(positions)), 4)
            self.turns[rope] = self.device.allocate(nbytes, "angles").address
        self.device.run(angle_works(ropes, self.step, len(positions), self.turns.__getitem__))

    def buffer(self, name: str) -> Place:
        return self.buffers[name][0]

    def matrix(self, weight: Weight) -> Any:
        raise NotImplementedError

    def vector(self, weight: Weight) -> int:
        raise NotImplementedError

    def cache(self, layer: int) -> LayerCache:
        assert self.memory is not None
        return self.memory.cache(layer)

    def angles(self, rope: Rope) -> int:
        return self.turns[rope]

    def room(self, about: str, nbytes: int) -> int:
        if self.rooms.setdefault(about, (0, 0))[1] < nbytes:
            self.rooms[about] = self.device.allocate(nbytes, about).address, nbytes
        return self.rooms[about][0]

    def run(self, ops: Sequence[Op], rows: int) -> int:
        """Runs ops on the rows of a step; how many launches that took."""
        widths: Mapping[str, int] = {name: width for name, (_, (_, width)) in self.buffers.items()}
        works = list(Lowering(self, widths, StepShape(rows)).works(ops))
        self.device.run(works)
        return len(works)


def pages_for(positions: int, rng: np.random.Generator, pages: int) -> list[int]:
    """Page numbers for so many positions, in mixed order, of those that there are."""
    return [int(page) for page in rng.permutation(pages)[: -(-positions // PAGE)]]
