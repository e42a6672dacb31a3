"""Weights of 4-bit floats (E2M1), two neighbours in a byte, with a scale for each 32 or 16 of a row.

MX: scales are powers of two (E8M0) for 32: MXFP4 of GGUF has the same numbers, and only the bits move.
NV: scales are E4M3 for 16, with a factor for the whole matrix, w = v · (s · factor) in float32. NVFP4 of GGUF has no
such factor: it holds the numbers without loss where every s · factor is a number of E4M3 itself. Otherwise the nearest
is Q6_K, with the codes as they are and s in 7 bits: its blocks of 256 have the factor in f16, so nothing but that is
rounded where the scales of a block are within a factor of 8. NVFP4 would round every scale to 4 bits, or to none.

OCP Microscaling Formats 1.0; NVFP4 as in compressed-tensors (`nvfp4/base.py`) and ModelOpt (`nvfp4_tensor.py`).
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes, Floats, Rows, rows_of
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from ._blocks import halves, nibbles
from ._quantised import Decoded, InBlocks
from ._scaled import EXPONENTS, eights, powers

MX, NV = 32, 16  # weights that share a scale
LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # twice E2M1
_SUPER, _NV_BLOCK = 256, 64
_UNIT = 2.0**-9  # what all numbers of E4M3 are multiples of
_LEAST = 2.0**-17  # below it a factor would keep less than 8 bits in f16


@cache
def _pairs() -> Floats:
    """(256, 2): what the two halves of a byte stand for."""
    byte = np.arange(256)
    pairs: Floats = np.stack([LEVELS[byte & 15], LEVELS[byte >> 4]], axis=1).astype(np.float32)
    pairs *= np.float32(0.5)
    pairs[byte & 15 == 8, 0] = pairs[byte >> 4 == 8, 1] = -0.0
    return pairs


@dataclass(frozen=True, eq=False)
class Fp4(Decoded):
    """A tensor of `size` (..., rows, columns). `group` says what scales are; `factor` is 1 for MX, and what scales are
    divided by where it `divides`."""

    packed: Stored
    scale: Stored
    size: tuple[int, ...]
    group: int
    factor: float = 1.0
    divides: bool = False

    @property
    def parts(self) -> tuple[Stored, ...]:
        return self.packed, self.scale

    def raw(self, start: int, stop: int) -> Bytes:
        """Bytes of two weights, (stop - start, columns / 2)."""
        some = self.packed.array.reshape(rows_of(self.size), -1)[start:stop]
        return np.ascontiguousarray(some).view(np.uint8)

    def scale_bytes(self, start: int, stop: int) -> Bytes:
        """(stop - start, columns / group)."""
        some: Bytes = self.scale.array.reshape(rows_of(self.size), -1)[start:stop]
        return some

    @cached_property
    def values(self) -> Floats:
        """(256,) what each byte of a scale multiplies by, the factor in it."""
        if self.group == MX:
            return powers()
        values: Floats = eights("F8_E4M3").copy()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.divides:
                values /= np.float32(self.factor)
            else:
                values *= np.float32(self.factor)
        return values

    @property
    def unit(self) -> float:
        """What a scale of 1 multiplies by."""
        return 1 / self.factor if self.divides else self.factor

    def floats(self, start: int, stop: int) -> Floats:
        pairs = _pairs()[self.raw(start, stop)].reshape(stop - start, -1, self.group)
        with np.errstate(over="ignore", invalid="ignore"):
            pairs *= self.values[self.scale_bytes(start, stop)][:, :, None]
        return pairs.reshape(stop - start, -1)

    @cached_property
    def _used(self) -> NDArray[np.int64]:
        """The bytes that scales are, each once."""
        seen = np.zeros(256, np.int64)
        for some in self.scale.pieces():
            seen += np.bincount(some, minlength=256)
        return np.flatnonzero(seen)

    @cached_property
    def folded(self) -> Bytes | None:
        """(256,) the E4M3 that has the factor in it for each scale that is used, if there is one for all."""
        if self.columns % _NV_BLOCK:
            return None
        wanted, known = self.values[self._used], eights("F8_E4M3")[:127]
        place = np.minimum(np.searchsorted(known, wanted), 126)
        if not np.array_equal(known[place], wanted):
            return None
        table = np.zeros(256, np.uint8)
        table[self._used] = place
        return table

    @property
    def exact(self) -> Rows | None:
        if self.group == MX:
            return None if 255 in self._used else Mxfp4(self)
        return None if self.folded is None else Nvfp4(self)

    @property
    def near(self) -> Rows | None:
        if self.group == MX:
            return None
        signs = bool(np.any(self._used >= 127))  # negative and NaN
        if self.columns % _SUPER == 0 and not signs and _LEAST <= self.unit < 2.0**5:
            return Q6K(self)
        return self.in_eights


@dataclass(frozen=True, eq=False)
class _OfFours(InBlocks):
    """Codes of 4 bits in blocks of any width."""

    source: Fp4

    def codes(self, start: int, stop: int, width: int) -> Bytes:
        """The 4 bits of each weight, (n, columns / width, width)."""
        raw = self.source.raw(start, stop)
        return np.stack([raw & np.uint8(15), raw >> np.uint8(4)], axis=2).reshape(stop - start, -1, width)


class Mxfp4(_OfFours):
    """MXFP4: the scale's exponent, then weight j of 32 beside weight j + 16."""

    kind = "MXFP4"

    def rows(self, start: int, stop: int) -> Bytes:
        e = self.source.scale_bytes(start, stop)[:, :, None]
        return np.concatenate([e, nibbles(self.codes(start, stop, MX))], axis=2).reshape(stop - start, -1)


class Nvfp4(_OfFours):
    """NVFP4: four scales, then for each of them weight j of 16 beside weight j + 8."""

    kind = "NVFP4"

    def rows(self, start: int, stop: int) -> Bytes:
        table, n = self.source.folded, stop - start
        assert table is not None
        d = table[self.source.scale_bytes(start, stop)].reshape(n, -1, 4)
        low = nibbles(self.codes(start, stop, NV)).reshape(n, -1, 32)
        return np.concatenate([d, low], axis=2).reshape(n, -1)


class Q6K(_OfFours):
    """Q6_K: codes are twice E2M1, scales of groups of 16 whole numbers up to 127, d the unit they are counted in."""

    kind = "Q6_K"

    def rows(self, start: int, stop: int) -> Bytes:
        n = stop - start
        q = (LEVELS[self.codes(start, stop, _SUPER)] + np.int8(32)).view(np.uint8)
        s = eights("F8_E4M3")[self.source.scale_bytes(start, stop)].reshape(n, -1, _SUPER // NV) / np.float32(_UNIT)
        _, exponent = np.frexp(s.max(axis=2))
        over = np.maximum(exponent - 7, 0)
        over += np.rint(np.ldexp(s.max(axis=2), -over)) > 127
        scales = np.rint(np.ldexp(s, -over[:, :, None])).astype(np.int8)
        d = np.ldexp(np.float32(self.source.unit * _UNIT / 2), over)
        parts = q.reshape(n, -1, 2, 128)
        low = np.concatenate([nibbles(parts[:, :, r]) for r in range(2)], axis=2)
        high = (parts >> np.uint8(4)).reshape(n, -1, 2, 4, 32)
        upper = high[..., 0, :] | high[..., 1, :] << 2 | high[..., 2, :] << 4 | high[..., 3, :] << 6
        fields = [low, upper.reshape(n, -1, 64), scales.view(np.uint8), halves(d)]
        return np.concatenate(fields, axis=2).reshape(n, -1)


def mx(packed: Stored, scale: Stored, size: tuple[int, ...]) -> Fp4:
    """A tensor of MX. GGUFError where the scales do not fit."""
    return _checked(packed, scale, Fp4(packed, scale, size, MX), EXPONENTS)


def nv(
    packed: Stored,
    scale: Stored,
    size: tuple[int, ...],
    factor: Stored | None,
    divides: bool = False,
    unit: float = 1.0,
) -> Fp4:
    """A tensor of NV, `factor` one number of `unit`s that scales are multiplied with, or divided by. GGUFError where
    scales or factor do not fit."""
    number = 1.0 if factor is None else float(np.float32(_single(factor)) / np.float32(unit))
    return _checked(packed, scale, Fp4(packed, scale, size, NV, number, divides), ("F8_E4M3", "U8"))


def _checked(packed: Stored, scale: Stored, made: Fp4, dtypes: tuple[str, ...]) -> Fp4:
    *outer, columns = made.size
    if packed.size * 2 != rows_of(made.size) * columns or columns % made.group or 0 in made.size:
        raise GGUFError(f"tensor {shown(packed.name)} has the shape {list(packed.shape)}, not groups of {made.group}")
    if scale.dtype not in dtypes:
        raise GGUFError(f"tensor {shown(scale.name)} is {scale.dtype}; it must be {' or '.join(dtypes)}")
    if scale.shape != (*outer, columns // made.group):
        raise GGUFError(
            f"tensor {shown(scale.name)} has the shape {list(scale.shape)}; "
            f"it must be {[*outer, columns // made.group]}"
        )
    return made


def _single(stored: Stored) -> float:
    if stored.dtype not in ("F32", "F16", "BF16") or stored.array.size != 1:
        raise GGUFError(f"tensor {shown(stored.name)} is {stored.dtype} {list(stored.shape)}; it must be one number")
    number = float(stored.to_numpy().reshape(-1)[0])
    if not np.isfinite(number) or number <= 0:
        raise GGUFError(f"tensor {shown(stored.name)} is {number}, which is no scale")
    return number
