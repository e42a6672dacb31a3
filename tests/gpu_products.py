"""What products on a GPU that is the CPU (`gpu_shim`) refer to: buffers, matrices of a type, vectors, rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gpu_shim import ShimDevice
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.lowering import BLOCK, Lowering, Place
from ggufpy.backends.gpu.step import StepAddresses, StepShape
from ggufpy.backends.gpu.weights import DeviceMatrix, matrix_of, packed, vector
from ggufpy.models.op import Op, Weight

Floats = NDArray[np.float32]


class Tensor:
    """An array as a file has it in a type."""

    def __init__(self, name: str, type: str, values: NDArray[Any]) -> None:
        self.name, self.type, self.shape = name, type, values.shape
        self._blocks = quants.quantize(values, type)
        self.nbytes = self._blocks.nbytes

    def little(self) -> NDArray[np.uint8]:
        return self._blocks

    def release(self) -> None:
        pass

    def to_numpy(self) -> NDArray[Any]:
        return quants.dequantize(self._blocks, self.type).reshape(self.shape)


class Products:
    """`Parts` of a lowering. Buffers have NaNs wherever nothing was written, which no result can hide."""

    def __init__(self, rows: int, level: str = "sm_80", order: str = "forward") -> None:
        self.rows, self.device = rows, ShimDevice(level, order=order, seed=rows)
        self.widths: dict[str, int] = {}
        self.values: dict[str, NDArray[Any]] = {}  # of weights, as they are decoded
        self._buffers: dict[str, Place] = {}
        self._matrices: dict[str, DeviceMatrix] = {}
        self._vectors: dict[str, int] = {}
        self._rooms: dict[str, tuple[int, int]] = {}
        self.processors = self.device.facts.processors

    def upload(self, values: NDArray[Any]) -> int:
        """The address of a copy."""
        address = self.device.allocate(values.nbytes, "a test's").address
        self.device.upload(address, np.ascontiguousarray(values))
        return address

    def make(self, name: str, values: Floats, wide: int = 0) -> None:
        """A buffer with these rows, of as many columns as a wider layer needs."""
        width = values.shape[1]
        blocks = -(-width // BLOCK) * BLOCK
        held = np.full((self.rows, max(blocks, wide)), np.nan, np.float32)
        held[:, :blocks] = 0.0
        held[:, :width] = values
        self._buffers[name], self.widths[name] = Place(self.upload(held), held.shape[1]), width

    def give(self, name: str, type: str, values: NDArray[Any]) -> Weight:
        """A matrix in a type, or the matrices of experts."""
        tensor = Tensor(name, type, values)
        data, multiplier = packed(tensor)
        self._matrices[name] = matrix_of(tensor, self.upload(data), multiplier)
        self.values[name] = tensor.to_numpy()
        return Weight(name, tensor.shape)

    def give_vector(self, name: str, values: Floats) -> Weight:
        self._vectors[name] = self.upload(vector(Tensor(name, "F32", values)))
        self.values[name] = values
        return Weight(name, values.shape)

    def buffer(self, name: str) -> Place:
        return self._buffers[name]

    def matrix(self, weight: Weight) -> DeviceMatrix:
        return self._matrices[weight.name]

    def vector(self, weight: Weight) -> int:
        return self._vectors[weight.name]

    def room(self, about: str, nbytes: int) -> int:
        if about not in self._rooms or self._rooms[about][1] < nbytes:
            self._rooms[about] = self.device.allocate(nbytes, about).address, nbytes
        return self._rooms[about][0]

    def cache(self, layer: int) -> Any:
        raise NotImplementedError

    angles = cache

    @property
    def step(self) -> StepAddresses:
        return StepAddresses(0, 0, 0, 0, 0, 0, 0, 0, 0)

    def lowering(self, shape: StepShape) -> Lowering:
        return Lowering(self, self.widths, shape)

    def run(self, ops: Sequence[Op], shape: StepShape) -> list[Work]:
        works = list(self.lowering(shape).works(ops))
        self.device.run(works)
        return works

    def rows_of(self, name: str) -> Floats:
        """A buffer, with all that is behind its width."""
        place = self.buffer(name)
        out = np.empty((self.rows, place.stride), np.float32)
        self.device.download(place.address, out)
        return out

    def __enter__(self) -> Products:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()


def half(rows: Mapping[str, Any] | NDArray[Any]) -> NDArray[np.float64]:
    """Rounded to f16."""
    return np.asarray(rows, np.float64).astype(np.float16).astype(np.float64)


def half_rows(rows: Floats) -> NDArray[np.float64]:
    """Rows as f16 holds them, each multiplied by a power of two where its largest is not within 2^-4 .. 2^15."""
    largest = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
    scale = np.ones_like(largest)
    far = (largest > 0) & ((largest < 2.0**-4) | (largest >= 2.0**15))
    scale[far] = 2.0 ** np.minimum(8 - np.floor(np.log2(largest[far])), 40)
    return half(rows * scale) / scale
