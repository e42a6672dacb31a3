"""What a block type is: its layout in a file, how it is decoded and encoded, and the panel it runs as.

A *panel format* is what kernels compute with; many block types share one. An integer panel holds unsigned
codes with one scale (and optionally one minimum) for each `group` consecutive weights of a row, so that

    weight = scale * (code - offset) + minimum

and a float panel holds the weights themselves.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Records = NDArray[np.void]

# Weights handled at a time: temporaries stay in a core's L2 cache, and memory stays bounded.
CACHED = 1 << 16

# Element names of a layout, and how NumPy reads them from a little-endian file; bf16 is read as its bits.
DTYPES: dict[str, str] = {
    "u8": "u1", "i8": "i1", "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "i64": "<i8",
    "f16": "<f2", "bf16": "<u2", "f32": "<f4", "f64": "<f8",
}  # fmt: skip


# Bits of the exponent, all set in what is not finite, by element name and the dtype that bits are read as.
EXPONENTS = {
    "f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80), "f32": ("<u4", 0x7F800000), "f64": ("<u8", 0x7FF0000000000000),
}  # fmt: skip


@dataclass(frozen=True)
class IntPanel:
    """Codes of `bits` (2, 4, 5, 6 or 8), one f16 scale for each `group` (16 or 32) weights of a row."""

    bits: int
    group: int
    offset: int
    has_min: bool = False


@dataclass(frozen=True)
class FloatPanel:
    """Weights as they are; dtype is "f16", "bf16" or "f32"."""

    dtype: str


Panel = IntPanel | FloatPanel


@dataclass(frozen=True)
class Fields:
    """What an integer panel is packed from: (rows, k) codes, (rows, k / group) float32 scales and minima."""

    codes: Bytes
    scale: Floats
    minimum: Floats | None = None


@dataclass(frozen=True)
class Field:
    """One member of a block, in file order: `count` elements of `dtype` (a key of DTYPES)."""

    name: str
    dtype: str
    count: int
    note: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element; where it has several, a file of the other byte order has them swapped."""
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole member."""
        return self.itemsize * self.count


class BlockType(ABC):
    """One GGUF tensor type: `weights` values are stored in `nbytes` bytes, laid out as `layout` says.

    `formula` says in one line what a weight is; `record` is `layout` as a packed little-endian NumPy dtype.
    """

    name: ClassVar[str]
    id: ClassVar[int]
    weights: ClassVar[int]
    nbytes: ClassVar[int]
    layout: ClassVar[tuple[Field, ...]]
    formula: ClassVar[str]
    panel: ClassVar[Panel]
    record: ClassVar[np.dtype[np.void]]
    # How it is written: in NumPy (`encode`), or compiled, a row in each lane or block after block; "" if it is not.
    encoder: ClassVar[Literal["", "numpy", "lanes", "blocks"]] = ""
    needs_importance: ClassVar[bool] = False
    uses_importance: ClassVar[bool] = True  # False: ggml rounds the same whatever the importance
    decoder: ClassVar[Literal["numpy", "blocks"]] = "numpy"  # "blocks": compiled too, for arrays of more than CACHED
    packer: ClassVar[Literal["numpy", "lanes"]] = "numpy"  # how an integer panel is packed: from `fields`, or compiled
    source: ClassVar[type[np.float32] | type[np.float64]] = np.float32  # what `encode` is given
    code_values: ClassVar[tuple[int, ...]] = ()  # ascending: codes of `fields` that `put_codes` writes

    def __init_subclass__(cls) -> None:
        if "layout" in cls.__dict__:
            cls.record = np.dtype([_member(field) for field in cls.layout])

    def records(self, blocks: Bytes) -> Records:
        """(rows, bytes a row) C-contiguous uint8 → (rows, blocks a row) records of `layout`, not copied."""
        return blocks.view(self.record)

    def decode(self, blocks: Bytes) -> Floats:
        """(..., n / weights * nbytes) uint8 → (..., n) float32. GGUFError if they are not whole blocks."""
        shape = self._check(blocks)
        out = np.empty(shape, dtype=np.float32)
        flat = np.ascontiguousarray(blocks).reshape(out.size // self.weights, self.nbytes)
        weights = out.reshape(flat.shape[0], self.weights)
        if self.decoder == "blocks" and out.size > CACHED:
            from ggufpy.quants.decoding import decode_blocks  # a kernel takes a second to compile the first time

            decode_blocks(self, flat, weights)
            return out
        step = CACHED // self.weights
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, flat.shape[0], step):
                self.decode_blocks(flat[start : start + step], weights[start : start + step])
        return out

    def decode_blocks(self, blocks: Bytes, out: Floats) -> None:
        """(m, nbytes) contiguous uint8 → written to `out`, (m, weights) float32."""
        panel = self.panel
        assert isinstance(panel, IntPanel)  # float types override this
        fields = self.fields(blocks.reshape(1, -1))
        grouped = out.reshape(-1, panel.group)
        codes = fields.codes.reshape(grouped.shape)
        np.subtract(codes, np.float32(panel.offset), out=grouped, dtype=np.float32)
        np.multiply(grouped, fields.scale.reshape(-1, 1), out=grouped)
        if fields.minimum is not None:
            np.add(grouped, fields.minimum.reshape(-1, 1), out=grouped)

    def encode(self, x: NDArray[Any]) -> Bytes:
        """(rows, n) of `source` → (rows, bytes a row), where `encoder` is "numpy". Unchecked: `quantize` checks."""
        raise NotImplementedError(self.name)

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """The function `encode(x, w, mean, out, work, tables)` of kernels/encode_lanes.py; see there."""
        raise NotImplementedError(self.name)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """The function `encode(x, w, mean, out, work, tables)` of kernels/encode_blocks.py; see there."""
        raise NotImplementedError(self.name)

    def block_decoder(self, v: Any) -> Any:
        """The function `decode(at, out)` of kernels/decode.py; see there. Its bits are those of `decode_blocks`."""
        raise NotImplementedError(self.name)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """The functions codes, scale and minimum (or None) of quants/words.py. Their values are those of `fields`."""
        raise NotImplementedError(self.name)

    def tables(self) -> Sequence[NDArray[Any]]:
        """Contiguous arrays, kept for the life of the process, that an encoder looks things up in."""
        return ()

    def faults(self, records: Records) -> Iterator[tuple[Field, NDArray[np.bool_]]]:
        """For each field that holds floats: which of (m,) records have one that is infinite or NaN."""
        for field in self.layout:
            if field.dtype in EXPONENTS:
                dtype, mask = EXPONENTS[field.dtype]
                bits = records[field.name].copy().view(dtype)  # one pass over the records, the rest is done in a cache
                wrong = (bits & bits.dtype.type(mask)) == bits.dtype.type(mask)
                yield field, wrong if wrong.ndim == 1 else wrong.any(axis=-1)

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers as they are, which weights never are."""
        return self.weights == 1 and self.layout[0].dtype[0] == "i"

    @property
    def encodes(self) -> bool:
        """Whether the type can be written."""
        return bool(self.encoder)

    def fields(self, blocks: Bytes) -> Fields:
        """(rows, bytes a row) C-contiguous uint8 → what an integer `panel` is packed from, losslessly.

        GGUFError if the type has a float panel.
        """
        if not isinstance(self.panel, IntPanel):
            raise GGUFError(f"{self.name} has no integer panel: its weights are used as they are")
        rows, k = self._check(blocks)
        groups = (rows, k // self.panel.group)
        if k == 0 or rows == 0:
            none = np.empty(groups, dtype=np.float32)
            return Fields(np.empty((rows, k), dtype=np.uint8), none, none if self.panel.has_min else None)
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged block may hold an infinite or NaN scale
            parts = self.unpack(self.records(blocks))
        minimum = None if parts.minimum is None else parts.minimum.reshape(groups)
        return Fields(parts.codes.reshape(rows, k), parts.scale.reshape(groups), minimum)

    def unpack(self, rec: Records) -> Fields:
        """(rows, blocks a row) records, not empty → `fields` in any shape. Integer panels need it."""
        raise NotImplementedError(self.name)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """(rows, blocks a row) records get other codes (rows, blocks a row, weights), each one of `code_values`."""
        raise NotImplementedError(self.name)

    def byteswap(self, blocks: Bytes) -> Bytes:
        """(..., bytes a row) uint8 of the other byte order → a copy in this one."""
        self._check(blocks)
        out = np.array(blocks, order="C").reshape(-1, self.nbytes) if blocks.size else blocks.copy()
        start = 0
        for field in self.layout if blocks.size else ():
            if field.itemsize > 1:
                member = out[:, start : start + field.nbytes].reshape(-1, field.count, field.itemsize)
                out[:, start : start + field.nbytes] = member[..., ::-1].reshape(-1, field.nbytes)
            start += field.nbytes
        return out.reshape(blocks.shape)

    def _check(self, blocks: Bytes) -> tuple[int, ...]:
        """The shape of the weights that `blocks` hold."""
        if blocks.dtype != np.uint8 or blocks.ndim == 0:
            raise GGUFError(
                f"{self.name} blocks must be a uint8 array of (..., bytes a row), "
                f"got {blocks.dtype} of shape {blocks.shape}"
            )
        count, rest = divmod(blocks.shape[-1], self.nbytes)
        if rest:
            raise GGUFError(
                f"{blocks.shape[-1]} bytes a row are not whole {self.name} blocks of {self.nbytes} bytes: "
                f"pass a multiple of {self.nbytes}"
            )
        return (*blocks.shape[:-1], count * self.weights)


class PlainType(BlockType):
    """A type of one number a weight, in one field `w`; it runs as a float panel."""

    weights = 1

    def decode_blocks(self, blocks: Bytes, out: Floats) -> None:
        """(m, nbytes) contiguous uint8 → the same numbers in float32, rounded to nearest."""
        out[...] = self.records(blocks)["w"]

    def encode(self, x: NDArray[Any]) -> Bytes:
        """(rows, n) of `source` → (rows, bytes a row), to nearest, ties to even; what is too large becomes infinite."""
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(x, dtype=DTYPES[self.layout[0].dtype])
        return cast.view(np.uint8)


def _member(field: Field) -> tuple[str, str] | tuple[str, str, tuple[int]]:
    if field.count == 1:
        return field.name, DTYPES[field.dtype]
    return field.name, DTYPES[field.dtype], (field.count,)
