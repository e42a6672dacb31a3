"""Tensors of every block type, what is in the bytes of packed ones, and a program's memory on a GPU of tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gpu_shim import ShimDevice
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.formats import BLOCK, Format, matrix_bytes
from ggufpy.backends.gpu.lowering import Lowering, Place
from ggufpy.backends.gpu.step import StepShape
from ggufpy.backends.gpu.weights import DeviceMatrix, upload, vector
from ggufpy.models.op import Op, Weight
from ggufpy.quants.base import DTYPES


class Tensor:
    """Random blocks of a type, or given ones, as a file's tensor."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int = 0, blocks: NDArray[np.uint8] | None = None):
        self.name, self.type, self.shape = "blk.0.some", name, shape
        self.blocks = random_blocks(name, shape, seed) if blocks is None else blocks
        self.nbytes, self.released = self.blocks.nbytes, False

    def little(self) -> NDArray[np.uint8]:
        return self.blocks

    def release(self) -> None:
        self.released = True

    def to_numpy(self) -> NDArray[Any]:
        return quants.dequantize(self.blocks, self.type)


def random_blocks(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Any codes; floats of a block (its scales) are small and finite."""
    kind, random = quants.get(name), np.random.default_rng(seed)
    *rows, columns = shape
    if kind.whole:
        whole = random.integers(-100, 101, shape).astype(DTYPES[kind.layout[0].dtype])
        return whole.view(np.uint8)
    if kind.weights == 1:
        return quants.quantize(random.standard_normal(shape).astype(np.float32) * 3, name)
    blocks = random.integers(0, 256, (*rows, columns // kind.weights * kind.nbytes), dtype=np.uint8)
    records = kind.records(blocks)
    for field in kind.layout:
        if field.dtype in ("f16", "f32"):
            values = random.uniform(0.001, 0.02, records[field.name].shape) * random.choice([-1, 1])
            records[field.name] = values.astype(records[field.name].dtype)
    if name == "IQ1_M":  # its f16 scale is spread over the upper nibbles of these words
        records["scales"][..., 3] = records["scales"][..., 3] & 0x0FFF | 0x2000
    if name == "MXFP4":
        records["e"] = random.integers(118, 128, records["e"].shape)
    if name == "NVFP4":
        records["d"] = random.integers(0, 0x7F, records["d"].shape)
    return blocks


def decoded(form: Format, data: NDArray[np.uint8], multiplier: float, rows: int, columns: int) -> NDArray[np.float64]:
    """The weights that are in a matrix's bytes."""
    places, _ = form.places(rows, columns)
    sizes = form.sections(rows, columns)
    part = {name: data[at : at + sizes[name]] for name, at in places.items()}
    if form.dtype:
        width = -(-columns // 32) * 32
        if form.dtype == "bf16":
            numbers = (part["low"].view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = part["low"].view("<f2" if form.dtype == "f16" else "<f4")
        assert not numbers.reshape(rows, width)[:, columns:].any()
        return numbers.reshape(rows, width)[:, :columns].astype(np.float64)
    blocks = rows * columns // 32
    codes = _codes(form, part, blocks)
    if form.book:
        codes = np.array([*form.book, *[0] * (16 - len(form.book))])[codes]
    elif form.bits == 8:
        codes = codes.astype(np.uint8).view(np.int8).astype(np.int64)
    else:
        codes = codes - form.offset
    scale, minimum = _scales(form, part, blocks)
    groups = codes.reshape(blocks, -1, form.group)
    return multiplier * (groups * scale[..., None] + minimum[..., None]).reshape(rows, columns)


def _codes(form: Format, part: dict[str, NDArray[np.uint8]], blocks: int) -> NDArray[np.int64]:
    """Column by column, straight from the text of formats.py."""
    low = part["low"].reshape(blocks, -1).astype(np.int64)
    high = part["high"].reshape(blocks, -1).astype(np.int64) if "high" in part else None
    out = np.empty((blocks, 32), np.int64)
    for k in range(32):
        pair_at, pair_shift = 4 * (k // 16) + k % 4, 2 * (k % 16 // 4)
        if form.bits == 8:
            assert high is not None
            out[:, k] = low[:, k] if k < 16 else high[:, k - 16]
        elif form.bits <= 3:
            out[:, k] = low[:, pair_at] >> pair_shift & 3
        elif form.book:
            out[:, k] = low[:, k // 2] >> 4 * (k % 2) & 15
        else:
            out[:, k] = low[:, k % 16] >> 4 * (k // 16) & 15
        if form.bits in (3, 5):
            assert high is not None
            out[:, k] += (high[:, k % 4] >> (k // 4) & 1) << (2 if form.bits == 3 else 4)
        elif form.bits == 6:
            assert high is not None
            out[:, k] += (high[:, pair_at] >> pair_shift & 3) << 4
    return out


def _scales(form: Format, part: dict[str, NDArray[np.uint8]], blocks: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """(blocks, groups) of scales and of minima."""
    groups = 32 // form.group
    if form.scales == "half":
        values = part["scales"].view("<f2").astype(np.float64).reshape(blocks // form.share, -1)
        values = np.repeat(values, form.share, axis=0)
        return values[:, :groups], values[:, groups:] if form.minimum else np.zeros((blocks, groups))
    if form.scales == "sixes":
        words = part["scales"].reshape(-1, 16)
        d, dmin = words[:, :4].copy().view("<f2").astype(np.float64).T
        a, b, c = (words[:, at : at + 4].copy().view("<u4").astype(np.int64) >> 4 * np.arange(8) for at in (4, 8, 12))
        scale = d[:, None] * ((a & 15) + 16 * (c & 3))
        return scale.reshape(-1, 1), (-dmin[:, None] * ((b & 15) + 4 * (c & 12))).reshape(-1, 1)
    tops = part["tops"].view("<f2").astype(np.float64).reshape(blocks // 8, -1)
    if form.scales == "bytes":
        scale = tops[:, :1] * part["scales"].view(np.int8).reshape(-1, 16)
        return scale.reshape(blocks, 2), np.zeros((blocks, 2))
    pairs = part["scales"].reshape(-1, 16)
    scale, minimum = tops[:, :1] * (pairs & 15), -tops[:, 1:] * (pairs >> 4)
    return scale.reshape(blocks, 2), minimum.reshape(blocks, 2)


class MatrixRows:
    """Buffers of so many rows, matrices and vectors on a device: `Parts` of a lowering.

    Wherever a buffer was given no values there are NaNs, which no result can hide.
    """

    def __init__(self, rows: int, order: str = "forward", processors: int = 1) -> None:
        self.rows, self.device, self.processors = rows, ShimDevice(order=order, seed=rows), processors
        self.widths: dict[str, int] = {}
        self._buffers: dict[str, Place] = {}
        self._matrices: dict[str, DeviceMatrix] = {}
        self._vectors: dict[str, int] = {}
        self._rooms: dict[str, tuple[int, int]] = {}

    def _put(self, values: NDArray[Any]) -> int:
        address = self.device.allocate(values.nbytes, "a test's").address
        self.device.upload(address, np.ascontiguousarray(values))
        return address

    def make(self, name: str, values: NDArray[np.float32], more: int = 0) -> None:
        """A buffer with values (rows, width), zeros to the end of the block, and so many more blocks of NaNs."""
        width = values.shape[1]
        whole = -(-width // BLOCK) * BLOCK
        held = np.full((self.rows, whole + BLOCK * more), np.nan, np.float32)
        held[:, width:whole], held[:, :width] = 0.0, values
        self._buffers[name], self.widths[name] = Place(self._put(held), held.shape[1]), width

    def give(self, tensor: Tensor, name: str) -> Weight:
        """A matrix."""
        address = self.device.allocate(matrix_bytes(quants.get(tensor.type), tensor.shape), name).address
        self._matrices[name] = upload(self.device, tensor, address)
        return Weight(name, tensor.shape)

    def give_vector(self, values: NDArray[np.float32], name: str) -> Weight:
        """A vector."""
        self._vectors[name] = self._put(vector(Tensor("F32", values.shape, blocks=values.view(np.uint8))))
        return Weight(name, values.shape)

    def buffer(self, name: str) -> Place:
        return self._buffers[name]

    def matrix(self, weight: Weight) -> DeviceMatrix:
        return self._matrices[weight.name]

    def vector(self, weight: Weight) -> int:
        return self._vectors[weight.name]

    def room(self, about: str, nbytes: int) -> int:
        address, held = self._rooms.get(about, (0, 0))
        if held < nbytes:
            address = self.device.allocate(nbytes, about).address
            self._rooms[about] = address, nbytes
        return address

    def cache(self, layer: int) -> Any:
        raise NotImplementedError

    angles = cache

    @property
    def step(self) -> Any:
        raise NotImplementedError

    def works(self, ops: Sequence[Op], shape: StepShape | None = None) -> list[Work]:
        """What becomes of ops, of all rows exactly where no shape is given."""
        return list(Lowering(self, self.widths, shape or StepShape(self.rows)).works(ops))

    def run(self, ops: Sequence[Op]) -> None:
        self.device.run(self.works(ops))

    def rows_of(self, name: str) -> NDArray[np.float32]:
        """A buffer, with all that is behind its width."""
        place = self.buffer(name)
        out = np.empty((self.rows, place.stride), np.float32)
        self.device.download(place.address, out)
        return out

    def __enter__(self) -> MatrixRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()
