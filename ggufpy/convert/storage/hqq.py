"""HQQ: codes packed half above half, with a scale and a zero, both of floats, for each group.

In: "quant_method": "hqq". A layer has `W_q`, `scale`, `zero`, and what it was quantised with as tensors of one number
or of letters: `nbits`, `group_size`, `axis`, `shape`, `packing`, `view_as_float` and others that say nothing here.
    The matrix (out, in) is taken as (n, group_size) where `axis` is 1, as (group_size, n) where it is 0. Of p rows
    packed together, "4bit_u8" has rows 0 to p - 1 in the high four bits of bytes (p, ...), the next p in the low ones;
    "2bit_u8" and "1bit_u8" likewise, "8bit_u8" as they are; "3bit_32" ten in the low 30 bits of an I32, the first
    highest, filled up with zeros.
Out: weight (out, in) = (q - z) · s in float32, each step rounded, as the library (hqq 0.2, `Quantizer.dequantize`) has
it where its compute_dtype is float32. In f16 and bf16 it rounds both the difference and the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from ggufpy.convert.safetensors import Stored
from ggufpy.format.rows import Floats, Rows
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from ._groups import Grouped, Groups
from ._packed import Codes
from ._quantised import Decoded
from ._scaled import wide
from ._settings import FLOATS, Module, Tensors, as_unquantised, method, modules

NAME = "HQQ"
BITS = (8, 6, 5, 4, 3, 2, 1)
_NEEDED = ("scale", "zero", "nbits", "group_size", "shape", "axis", "packing")
_SAID = (
    "unpack_view_dtype", "view_as_float", "quant_scale", "quant_zero", "compute_dtype", "offload_meta", "optimize",
    "encoded_state_dict", "stores_quant_config", "channel_wise", "round_zero",
)  # fmt: skip
_PACKINGS = {"8bit_u8": (8, 8), "4bit_u8": (4, 8), "3bit_32": (3, 32), "2bit_u8": (2, 8), "1bit_u8": (1, 8)}
_PACKED_AS = {8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says quant_method "hqq"."""
    return method(config) == "hqq"


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    bases = {name.removesuffix(".W_q") for name in tensors if name.endswith(".W_q")}
    inner = {name: stored for name, stored in tensors.items() if name.rpartition(".")[0] in bases}
    layers, beside = modules(inner, "W_q", _NEEDED, _SAID)
    rest: dict[str, Rows] = {name: stored for name, stored in tensors.items() if name not in inner}
    rest |= beside
    for module in layers:
        rest[f"{module.name}.weight"] = as_unquantised(config, module.name, weight(module))
    return rest


def _number(module: Module, part: str) -> int:
    """A tensor of one whole number."""
    stored = module.parts[part]
    if stored.dtype not in ("I32", "I64", "U8", "BOOL") or prod(stored.shape) != 1:
        raise module.wrong(f"its {part} is {stored.dtype} {list(stored.shape)}; it must be one whole number")
    return int(stored.array.reshape(-1)[0])


def _one_of(module: Module, part: str, known: tuple[int, ...]) -> int:
    value = _number(module, part)
    if value not in known:
        raise module.wrong(f"its {part} is {value}; ggufpy knows {', '.join(map(str, known))}")
    return value


def _packing(module: Module, bits: int) -> str:
    stored = module.get("packing", ("U8",), (None,))
    name = stored.array.tobytes().decode("latin-1")
    if name != _PACKED_AS[bits]:
        raise module.wrong(f"its packing is {shown(name)}; {bits} bits are packed as {_PACKED_AS[bits]}")
    return name


def weight(module: Module) -> Rows:
    """The matrix of a module. GGUFError where its tensors do not fit each other."""
    bits, axis = _one_of(module, "nbits", BITS), _one_of(module, "axis", (0, 1))
    shape = tuple(int(n) for n in module.get("shape", ("I32", "I64"), (2,)).array)
    group, total = _number(module, "group_size"), prod(shape)
    if min(shape) < 1 or max(shape) > 1 << 31 or group < 1 or total % group:
        raise module.wrong(f"a matrix of shape {list(shape)} is not groups of {group}")
    lines = (total // group, group) if axis == 1 else (group, total // group)
    packed = Packed(module.parts["W_q"], _packing(module, bits), lines)
    if module.parts["W_q"].size != packed.nbytes:
        raise module.wrong(f"its W_q has {module.parts['W_q'].size:,} bytes; {bits} bits each take {packed.nbytes:,}")
    sides = []
    for part in ("scale", "zero"):
        stored = module.parts[part]
        if stored.dtype not in FLOATS or prod(stored.shape) != total // group:
            raise module.wrong(f"its {part} is {stored.dtype} {list(stored.shape)}, of {total // group} groups")
        sides.append(stored)
    if axis == 1 and shape[1] % group == 0:
        return HqqRows((shape[0], shape[1]), bits, group, packed, (sides[0], sides[1]))
    return HqqFlat((shape[0], shape[1]), axis, group, packed, (sides[0], sides[1]))


@dataclass(frozen=True, eq=False)
class Packed:
    """Codes of a matrix of `lines` (n, columns), which are packed some rows together."""

    stored: Stored
    packing: str
    lines: tuple[int, int]

    @property
    def _planes(self) -> int:
        """Codes in a word."""
        bits, word = _PACKINGS[self.packing]
        return word // bits

    @property
    def _words(self) -> int:
        return -(-self.lines[0] // self._planes) * self.lines[1]

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self._words * _PACKINGS[self.packing][1] // 8

    def codes(self, start: int, stop: int) -> Codes:
        """Codes `start` to `stop`, counted through all lines."""
        bits, word = _PACKINGS[self.packing]
        words = self.stored.array.reshape(-1).view("<u4" if word == 32 else np.uint8)
        pieces = []
        while start < stop:
            plane, first = divmod(start, self._words)
            count = min(stop - start, self._words - first)
            shift = bits * (self._planes - 1 - plane)
            pieces.append((words[first : first + count] >> shift).astype(np.uint8) & np.uint8((1 << bits) - 1))
            start += count
        return np.concatenate(pieces)


def _side(stored: Stored, start: int, stop: int) -> Floats:
    """Scales or zeros of some groups, float32."""
    return wide(stored.array.reshape(-1)[start:stop], stored.dtype)


@dataclass(frozen=True, eq=False)
class HqqRows(Grouped):
    """A matrix whose groups are columns side by side. `side` is its scales and zeros."""

    size: tuple[int, int]
    bits: int
    groups: Groups
    packed: Packed
    side: tuple[Stored, Stored]

    @property
    def parts(self) -> tuple[Stored, ...]:
        return self.packed.stored, *self.side

    def codes(self, start: int, stop: int) -> Codes:
        return self.packed.codes(start * self.columns, stop * self.columns).reshape(-1, self.columns)

    def scales(self, start: int, stop: int) -> Floats:
        return self._some(self.side[0], start, stop)

    def zeros(self, start: int, stop: int) -> Floats:
        return self._some(self.side[1], start, stop)

    def _some(self, stored: Stored, start: int, stop: int) -> Floats:
        assert isinstance(self.groups, int)
        count = self.columns // self.groups
        return _side(stored, start * count, stop * count).reshape(-1, count)


@dataclass(frozen=True, eq=False)
class HqqFlat(Decoded):
    """A matrix whose groups are not columns side by side: every so-maniest number, or runs across rows."""

    size: tuple[int, int]
    axis: int
    group: int
    packed: Packed
    side: tuple[Stored, Stored]

    @property
    def parts(self) -> tuple[Stored, ...]:
        return self.packed.stored, *self.side

    @property
    def near(self) -> Rows | None:
        return self.in_eights

    def floats(self, start: int, stop: int) -> Floats:
        first, last = start * self.columns, stop * self.columns
        place = np.arange(first, last)
        group = place // self.group if self.axis == 1 else place % self.packed.lines[1]
        low, high = int(group.min()), int(group.max()) + 1
        values = self.packed.codes(first, last).astype(np.float32)
        values -= _side(self.side[1], low, high)[group - low]
        values *= _side(self.side[0], low, high)[group - low]
        return values.reshape(-1, self.columns)
