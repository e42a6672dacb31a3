"""AWQ: codes of 4 bits, eight to a word, with zeros and scales for each group of columns.

In: "quant_method": "awq" with "version"
    gemm  qweight I32 (in, out / 8), qzeros I32 (groups, out / 8), scales f16 (groups, out). Of the eight codes of a
          word, those of outputs 0 2 4 6 1 3 5 7 follow one another from the lowest bits on.
    gemv  qweight I32 (out, in / 8), qzeros I32 (out, z), scales f16 (out, 8 z), codes in order. z has room for all
          groups, and for more.
Out: weight (out, in) = (q - z) · s in float32, exact; the library (AutoAWQ 0.2, `packing_utils.dequantize_gemm`) rounds
it to f16. Other versions have layouts for one kind of GPU, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ggufpy.convert.safetensors import Stored
from ggufpy.format.rows import Floats, Rows
from ggufpy.support.records import dataclass

from ._groups import Grouped, Groups
from ._packed import Codes, some_columns, unpacked
from ._scaled import wide
from ._settings import (
    FLOATS,
    WORDS,
    Module,
    Tensors,
    as_unquantised,
    method,
    modules,
    number,
    refuse,
    said,
    text,
)

NAME = "AWQ"
VERSIONS = ("gemm", "gemv")
_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where the codes of eight outputs in turn are in their word


@dataclass(frozen=True)
class Layout:
    """What config.json says of all layers; `varied`: whether layers may have groups of their own."""

    bits: int
    group: int
    version: str = "gemm"
    varied: bool = False


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says quant_method "awq"."""
    return method(config) == "awq"


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    settings = said(config)
    bits = number(settings, "bits|w_bit", 4)
    if bits != 4:
        raise refuse("bits", bits, (4,))
    version = text(settings, "version|format|checkpoint_format", "gemm")
    if version not in VERSIONS:
        raise refuse("version", version, VERSIONS)
    layout = Layout(bits, number(settings, "group_size|q_group_size", 128), version, bool(settings.get("dynamic")))
    return decoded(config, tensors, layout)


def decoded(config: Mapping[str, Any], tensors: Tensors, settings: Layout) -> Mapping[str, Rows]:
    """The weights of modules in AWQ's layout, and all other tensors."""
    layers, rest = modules(tensors, "qweight", ("qzeros", "scales"))
    for module in layers:
        made = _gemm(module, settings) if settings.version == "gemm" else _gemv(module, settings)
        rest[f"{module.name}.weight"] = as_unquantised(config, module.name, made)
    return rest


def _group(module: Module, settings: Layout, columns: int, groups: int | None) -> int:
    """Columns side by side that share a scale, where there are as many `groups` as they need."""
    size = columns if settings.group == -1 else settings.group
    if settings.varied and groups is not None and columns % groups == 0:
        size = columns // groups
    if size < 1 or columns % size or groups not in (None, columns // size):
        there = "" if groups is None else f" for {groups} groups"
        raise module.wrong(f"{columns} columns with scales{there} are not groups of {size}")
    return size


def _gemm(module: Module, settings: Layout) -> Rows:
    scales = module.get("scales", FLOATS, (None, None))
    groups, out = scales.shape
    if out % 8:
        raise module.wrong(f"it has {out} outputs, which are not whole words of eight")
    words = out * settings.bits // 32
    qweight = module.get("qweight", WORDS, (None, words))
    qzeros = module.get("qzeros", WORDS, (groups, words))
    columns = qweight.shape[0]
    group = _group(module, settings, columns, groups)
    return Gemm((out, columns), settings.bits, group, qweight, qzeros, scales)


def _gemv(module: Module, settings: Layout) -> Rows:
    qweight = module.get("qweight", WORDS, (None, None))
    out, columns = qweight.shape[0], qweight.shape[1] * 32 // settings.bits
    group = _group(module, settings, columns, None)
    qzeros = module.get("qzeros", WORDS, (out, None))
    scales = module.get("scales", FLOATS, (out, qzeros.shape[1] * 8))
    if scales.shape[1] < columns // group:
        raise module.wrong(f"it has {scales.shape[1]} scales a row, of {columns // group} groups")
    return Gemv((out, columns), settings.bits, group, qweight, qzeros, scales)


@dataclass(frozen=True, eq=False)
class Awq(Grouped):
    """A matrix (out, in) of either layout."""

    size: tuple[int, int]
    bits: int
    groups: Groups
    qweight: Stored
    qzeros: Stored
    stored_scales: Stored

    @property
    def parts(self) -> tuple[Stored, ...]:
        return self.qweight, self.qzeros, self.stored_scales


class Gemm(Awq):
    """Words along the output."""

    def codes(self, start: int, stop: int) -> Codes:
        return np.ascontiguousarray(some_columns(self.qweight.array, self.bits, start, stop, _PLACES).T)

    def scales(self, start: int, stop: int) -> Floats:
        return np.ascontiguousarray(wide(self.stored_scales.array[:, start:stop], self.stored_scales.dtype).T)

    def zeros(self, start: int, stop: int) -> Floats:
        codes = some_columns(self.qzeros.array, self.bits, start, stop, _PLACES)
        return np.ascontiguousarray(codes.T, np.float32)


class Gemv(Awq):
    """Words along the input."""

    @property
    def count(self) -> int:
        """Groups of a row, without those that only fill up."""
        assert isinstance(self.groups, int)
        return self.columns // self.groups

    def codes(self, start: int, stop: int) -> Codes:
        return unpacked(self.qweight.array[start:stop], self.bits)

    def scales(self, start: int, stop: int) -> Floats:
        return self.stored_scales.floats(start, stop)[:, : self.count]

    def zeros(self, start: int, stop: int) -> Floats:
        return unpacked(self.qzeros.array[start:stop], self.bits)[:, : self.count].astype(np.float32)
