"""Matrices and vectors in a device's memory. `formats.py` says how they lie, `packing.py` takes blocks apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.models.source import SourceTensor
from ggufpy.quants.base import Bytes
from ggufpy.support.records import dataclass

from .device import Device
from .formats import BLOCK, Format, format_of, matrix_bytes
from .packing import LARGEST_HALF, pack_rows

PIECE = 1 << 21  # weights that are packed at a time
COMFORT = 256.0  # where the largest scale of the first rows is put: rows that follow may have much larger ones
# Types whose f16 scales are those of the file: they are kept bit by bit.
PLAIN_SCALES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "IQ4_NL", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")
# What every kernel takes that reads a matrix; the order is that of `blocks.cuh` and `numbers.cuh`.
MATRIX_ARGS = (
    ("low", "const void*"), ("high", "const void*"), ("scales", "const void*"), ("tops", "const void*"),
    ("blocks", "int"), ("multiplier", "float"),
)  # fmt: skip


@dataclass(frozen=True)
class DeviceMatrix:
    """A matrix, or the matrices of `experts` one after the other: row r of expert e is row e · rows + r.

    `places` says where each array of the format begins behind `address`. What is decoded is multiplied by
    `multiplier`.
    """

    rows: int
    columns: int
    format: Format
    address: int
    nbytes: int
    multiplier: float
    experts: int = 1

    @property
    def blocks(self) -> int:
        """Blocks of 32 columns of a row."""
        return -(-self.columns // BLOCK)

    @property
    def arguments(self) -> Mapping[str, int | float]:
        """Values of MATRIX_ARGS."""
        places, _ = self.format.places(self.experts * self.rows, self.columns)
        given: dict[str, int | float] = dict.fromkeys(("low", "high", "scales", "tops"), 0)
        given.update((name, self.address + at) for name, at in places.items())
        return {**given, "blocks": self.blocks, "multiplier": self.multiplier}


def pack(tensor: SourceTensor, put: Callable[[int, NDArray[Any]], None]) -> float:
    """Packs a (rows, columns) or (experts, rows, columns) tensor; returns the matrix's multiplier.

    `put(at, bytes)` is given a few MB at a time, and some places again where scales turned out to be too large.
    Raises GGUFError if scales are not finite.
    """
    kind, data = quants.get(tensor.type), tensor.little()
    form, rows = format_of(kind), np.ascontiguousarray(data.reshape(-1, data.shape[-1]))
    places, _ = form.places(len(rows), tensor.shape[-1])
    exact = form.scales != "half" or kind.name in PLAIN_SCALES
    factor = 1.0 if exact else _first_factor(pack_rows(kind, form, rows[:1], 1.0).largest)
    step = max(PIECE // tensor.shape[-1], 1)
    while True:
        worst = 0.0
        for start in range(0, len(rows), step):
            piece = pack_rows(kind, form, rows[start : start + step], factor)
            worst = max(worst, piece.largest)
            for name, array in piece.arrays.items():
                count = min(step, len(rows) - start)
                put(places[name] + array.size // count * start, np.ascontiguousarray(array))
        if not math.isfinite(worst):
            raise GGUFError(f"tensor {tensor.name} has a scale or minimum that is not finite")
        if worst * factor <= LARGEST_HALF:
            tensor.release()
            return 1.0 / factor
        factor *= 2.0 ** math.floor(math.log2(LARGEST_HALF / 2 / (worst * factor)))


def _first_factor(largest: float) -> float:
    """A power of two, which puts the largest scale of the first rows where the others have room."""
    return 2.0 ** round(math.log2(COMFORT / largest)) if 0 < largest < math.inf else 1.0


def upload(device: Device, tensor: SourceTensor, address: int) -> DeviceMatrix:
    """Packs a tensor into `matrix_bytes` of device memory. Raises GGUFError if its scales are not finite."""
    multiplier = pack(tensor, lambda at, array: device.upload(address + at, array))
    return matrix_of(tensor, address, multiplier)


def matrix_of(tensor: SourceTensor, address: int, multiplier: float) -> DeviceMatrix:
    """What was packed."""
    *experts, rows, columns = tensor.shape
    kind = quants.get(tensor.type)
    nbytes = matrix_bytes(kind, tensor.shape)
    return DeviceMatrix(rows, columns, format_of(kind), address, nbytes, multiplier, math.prod(experts))


def packed(tensor: SourceTensor) -> tuple[Bytes, float]:
    """All bytes of a packed tensor in the host's memory, and its multiplier."""
    out = np.zeros(matrix_bytes(quants.get(tensor.type), tensor.shape), np.uint8)

    def put(at: int, array: NDArray[Any]) -> None:
        flat = array.reshape(-1).view(np.uint8)
        out[at : at + flat.size] = flat

    return out, pack(tensor, put)


def vector_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of (n,) or (parts, n) numbers: float32, each n filled up to whole blocks."""
    *parts, count = shape
    return math.prod(parts) * -(-count // BLOCK) * BLOCK * 4


def vector(tensor: SourceTensor) -> NDArray[np.float32]:
    """A small tensor (norm weights, biases) as float32, each of its rows filled up with zeros to whole blocks.

    Raises GGUFError if it is not finite.
    """
    values = np.asarray(tensor.to_numpy(), np.float32)
    if not np.all(np.isfinite(values)):
        raise GGUFError(f"tensor {tensor.name} has a value that is not finite")
    fill = -values.shape[-1] % BLOCK
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, fill)])
