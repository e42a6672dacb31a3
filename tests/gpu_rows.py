"""Ops over rows of floats on a GPU that is the CPU (`gpu_shim`), beside the interpreter's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gpu_matrices import Tensor
from gpu_shim import ShimDevice
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.formats import matrix_bytes
from ggufpy.backends.gpu.lowering import BLOCK, Lowering, Place
from ggufpy.backends.gpu.step import StepAddresses, StepShape
from ggufpy.backends.gpu.weights import DeviceMatrix, upload
from ggufpy.models.interpreter import _Run
from ggufpy.models.op import Op, Weight
from ggufpy.models.views import Views

STRIDE = 16  # rows of scales that adapters are apart: more than there are rows


def whole(width: int) -> int:
    """Columns of whole blocks."""
    return -(-width // BLOCK) * BLOCK


class DeviceRows:
    """Buffers of so many rows, vectors and a step's numbers: `Parts` of a lowering.

    Behind a buffer's blocks, and wherever nothing was written, there are NaNs, which no result can hide.
    """

    def __init__(self, rows: int, order: str = "forward") -> None:
        self.rows, self.device = rows, ShimDevice(order=order, seed=rows)
        self._buffers: dict[str, tuple[Place, int]] = {}
        self._vectors: dict[str, int] = {}
        self._rooms: dict[str, tuple[int, int]] = {}
        self._matrices: dict[str, DeviceMatrix] = {}
        self._step = {"positions": self.upload(np.arange(rows, dtype=np.int32)), "scales": 0, "sources": 0}
        self.processors = self.device.facts.processors

    def upload(self, values: NDArray[Any]) -> int:
        """The address of a copy."""
        address = self.device.allocate(values.nbytes, "a test's").address
        self.device.upload(address, np.ascontiguousarray(values))
        return address

    def make(self, name: str, width: int, values: NDArray[np.float32] | None = None, more: int = 0) -> None:
        """A buffer of `width` columns, with so many blocks `more` that belong to wider layers."""
        held = np.full((self.rows, whole(width) + BLOCK * more), np.nan, np.float32)
        if values is not None:
            held[:, : whole(width)] = 0.0
            held[:, :width] = values
        self._buffers[name] = Place(self.upload(held), held.shape[1]), width

    def say(self, name: str, values: NDArray[Any]) -> None:
        """Numbers of a step: "positions", "scales", "sources"."""
        self._step[name] = self.upload(values)

    def give(self, weight: Weight, values: NDArray[np.float32]) -> None:
        """A vector, or one for each part."""
        rows = values.reshape(-1, values.shape[-1])
        padded = np.zeros((len(rows), whole(rows.shape[1])), np.float32)
        padded[:, : rows.shape[1]] = rows
        self._vectors[weight.name] = self.upload(padded)

    def buffer(self, name: str) -> Place:
        return self._buffers[name][0]

    def vector(self, weight: Weight) -> int:
        return self._vectors[weight.name]

    def give_matrix(self, weight: Weight, type_name: str) -> None:
        """A random matrix of a block type."""
        nbytes = matrix_bytes(quants.get(type_name), weight.shape)
        address = self.device.allocate(nbytes, weight.name).address
        self._matrices[weight.name] = upload(self.device, Tensor(type_name, weight.shape), address)

    def matrix(self, weight: Weight) -> DeviceMatrix:
        return self._matrices[weight.name]

    def room(self, about: str, nbytes: int) -> int:
        if about not in self._rooms:
            self._rooms[about] = self.device.allocate(nbytes, about).address, nbytes
        return self._rooms[about][0]

    def bytes_of(self, about: str) -> NDArray[np.uint8] | None:
        """What is in a room, if there is one."""
        if about not in self._rooms:
            return None
        address, nbytes = self._rooms[about]
        out = np.empty(nbytes, np.uint8)
        self.device.download(address, out)
        return out

    def cache(self, layer: int) -> Any:
        raise NotImplementedError

    angles = cache

    @property
    def step(self) -> StepAddresses:
        said = self._step
        return StepAddresses(said["positions"], 0, 0, STRIDE, 0, 0, 0, said["sources"], said["scales"])

    def works(self, ops: Sequence[Op], shape: StepShape | None = None, apart: bool = False) -> list[Work]:
        """What becomes of ops where the buffers are as wide as they were made; `apart`: of each op without the others.
        All rows are exact ones unless a shape says otherwise."""
        widths = {name: width for name, (_, width) in self._buffers.items()}
        to = Lowering(self, widths, StepShape(self.rows) if shape is None else shape)
        pieces = [[op] for op in ops] if apart else [ops]
        return [work for piece in pieces for work in to.works(piece)]

    def run(self, ops: Sequence[Op]) -> None:
        self.device.run(self.works(ops))

    def __enter__(self) -> DeviceRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()

    def rows_of(self, name: str) -> NDArray[np.float32]:
        """A buffer, with all that is behind its width."""
        place = self.buffer(name)
        out = np.empty((self.rows, place.stride), np.float32)
        self.device.download(place.address, out)
        return out


def exact(
    ops: Sequence[Op], buffers: Mapping[str, Any], weights: Mapping[str, Any], scales: Sequence[float] = ()
) -> dict[str, Any]:
    """The buffers as the interpreter leaves them, in float64; row i is at position i."""
    rows = len(next(iter(buffers.values())))
    found = {name: np.asarray(values, np.float64) for name, values in weights.items()}
    run = _Run(found, np.zeros(rows, np.int64), dict(enumerate(scales)))
    run.buffers.update({name: np.array(values, np.float64) for name, values in buffers.items()})
    run._widths.update({name: values.shape[1] for name, values in run.buffers.items()})
    for op in ops:
        run.step(op)
    return run.buffers


def buffers_of(ops: Sequence[Op]) -> dict[str, int]:
    """How wide the buffers are that ops write, views aside."""
    views, found = Views(), dict[str, int]()
    for op in ops:
        views.follow(op)
        found.update({name: width for name, width in op.writes.items() if views.place(name)[0] == name})
    return found
