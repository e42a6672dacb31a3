"""BitNet: matrices of -1, 0 and 1, packed in four to a byte, or floats that become such whenever they are used.

In: "quant_method": "bitnet"
    weight         U8 (rows / 4, columns): row r of (4, rows / 4) in bits 2 (r // (rows / 4)), as 0, 1, 2 for -1, 0, 1
    weight_scale   one number: a factor for "linear_class": "autobitlinear", a divisor for "bitlinear"
or, for "quantization_mode": "online", weight (rows, columns) in floats, whose mean size is what 1 stands for
Out: weight (rows, columns), which TQ2_0 holds without loss where the number fits half precision.

Facts: integrations/bitnet.py of transformers (unpack_weights, AutoBitLinear, WeightQuant).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ggufpy import quants
from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes, Floats, Rows
from ggufpy.format.values import shown
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from ._quantised import Decoded, InBlocks

NAME = "BitNet"
_BLOCK, _PIECE = 256, 1 << 22
_LEAST = 1e-5  # of what 1 stands for


class Ternary(Decoded):
    """A matrix of -1, 0 and 1 times a number."""

    @abstractmethod
    def unit(self) -> np.float32:
        """What 1 stands for."""

    @abstractmethod
    def signs(self, start: int, stop: int) -> Floats:
        """Rows of -1, 0 and 1."""

    def floats(self, start: int, stop: int) -> Floats:
        numbers: Floats = self.signs(start, stop) * self.unit()
        return numbers

    @property
    def exact(self) -> Rows | None:
        fits = self.columns % _BLOCK == 0 and np.float32(np.float16(self.unit())) == self.unit()
        return _Blocks(self) if fits else None


@dataclass(frozen=True, eq=False)
class _Blocks(InBlocks):
    """The same as TQ2_0."""

    source: Ternary
    kind = "TQ2_0"

    def rows(self, start: int, stop: int) -> Bytes:
        return quants.quantize(self.source.floats(start, stop), "TQ2_0")


class Packed(Ternary):
    """Four rows in a row of bytes."""

    def __init__(self, stored: Stored, unit: np.float32) -> None:
        self._bytes, self._unit = stored, unit

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self._bytes.shape
        return 4 * rows, columns

    @property
    def parts(self) -> tuple[Stored, ...]:
        return (self._bytes,)

    def unit(self) -> np.float32:
        return self._unit

    def signs(self, start: int, stop: int) -> Floats:
        height = self._bytes.shape[0]
        which = np.arange(start, stop)
        packed = self._bytes.array[which % height] >> (2 * (which // height)).astype(np.uint8)[:, None]
        return (packed & 3).astype(np.float32) - 1


class Online(Ternary):
    """Floats, rounded to -1, 0 and 1 of their mean size."""

    def __init__(self, stored: Stored) -> None:
        self._floats = stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self._floats.shape

    @property
    def parts(self) -> tuple[Stored, ...]:
        return (self._floats,)

    @cached_property
    def _unit(self) -> np.float32:
        rows, columns = self.shape
        step = max(_PIECE // max(columns, 1), 1)
        total = math.fsum(
            float(np.abs(self._floats.floats(first, min(first + step, rows))).sum(dtype=np.float64))
            for first in range(0, rows, step)
        )
        unit: np.float32 = np.float32(max(total / max(rows * columns, 1), _LEAST))
        return unit

    def unit(self) -> np.float32:
        return self._unit

    def signs(self, start: int, stop: int) -> Floats:
        scaled = self._floats.floats(start, stop) * (np.float32(1) / self.unit())
        signs: Floats = np.clip(np.rint(scaled), -1, 1)
        return signs


def claims(config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> bool:
    """Says so."""
    said = config.get("quantization_config")
    return isinstance(said, Mapping) and said.get("quant_method") == "bitnet"


def decode(config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that nobody knows, and tensors that do not fit."""
    said = checks.mapping("config.json: quantization_config", config["quantization_config"])
    kind, mode = said.get("linear_class", "bitlinear"), said.get("quantization_mode", "offline")
    if kind not in ("bitlinear", "autobitlinear") or mode not in ("offline", "online") or said.get("use_rms_norm"):
        others = ", ".join(checks.shown(value) for value in (kind, mode, said.get("use_rms_norm")))
        raise GGUFError(f"config.json: quantization_config is BitNet's with {others}, which ggufpy does not know")
    made: dict[str, Rows] = {}
    for name, stored in tensors.items():
        if name.endswith(".weight_scale"):
            if name.removesuffix("_scale") not in tensors:
                raise GGUFError(f"tensor {shown(name.removesuffix('_scale'))} is missing from the checkpoint")
        elif stored.dtype == "U8":
            made[name] = Packed(stored, _unit(name, stored, tensors, kind == "bitlinear"))
        elif mode == "online" and name.endswith("_proj.weight") and len(stored.shape) == 2:
            made[name] = Online(stored)
        else:
            made[name] = stored
    return made


def _unit(name: str, stored: Stored, tensors: Mapping[str, Stored], divides: bool) -> np.float32:
    """What 1 stands for in a packed matrix."""
    scale = tensors.get(f"{name}_scale")
    if scale is None or math.prod(scale.shape) != 1 or len(stored.shape) != 2:
        raise GGUFError(f"tensor {shown(name)} is no packed matrix with one {shown(name + '_scale')}")
    value = scale.to_numpy().reshape(-1)[0]
    if not np.isfinite(value) or value == 0:
        raise GGUFError(f"tensor {shown(name + '_scale')} is {float(value)}")
    unit: np.float32 = np.float32(1) / np.float32(value) if divides else np.float32(value)
    return unit
