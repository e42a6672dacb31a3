"""GPTQ: `qweight` of words along the input, `qzeros` along the output, `scales`, and `g_idx` where columns are ordered.

In: "quant_method": "gptq", for each layer (out, in) with `groups` groups of columns
    qweight  I32 (in · bits / 32, out)        code i of a column from bit i · bits on: 2, 3, 4 or 8 bits
    qzeros   I32 (groups, out · bits / 32)    codes along a row; "gptq" has zeros less 1, "gptq_v2" the zeros themselves
    scales   f16, bf16 or f32 (groups, out)
    g_idx    I32 (in)                         the group of each column; without it they are group_size side by side
Out: weight (out, in) = (q - z) · s in float32, exact. The library (GPTQModel 7, `qlinear.dequantize_weight`) rounds it
to the dtype of its scales. It adds the 1 to whole words of 2, 4 and 8-bit zeros, so that the largest code carries over
to its neighbour (`convert_gptq_v1_to_v2_format_module`), and to each code of 3 bits; so is it here.

Settings of single layers ("dynamic") are read from shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

NAME = "GPTQ"
BITS = (2, 3, 4, 8)
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}  # 1 in each code of a word


@dataclass(frozen=True)
class Layout:
    """What config.json says of all layers. `lifted`: whether zeros are stored less 1; `words`: whether that 1 is added
    to words, or to codes without a bound; `varied`: whether layers may have other bits and groups."""

    bits: int
    group: int
    lifted: bool = True
    words: bool = True
    varied: bool = False
    ordered: bool = False
    known: tuple[int, ...] = BITS


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says quant_method "gptq"; or nothing, and has the tensors of early AutoGPTQ, which has its settings elsewhere."""
    if said(config):
        return method(config) == "gptq"
    return any(_is_unsaid(name, tensors) for name in tensors if name.endswith(".qweight"))


def _is_unsaid(name: str, tensors: Tensors) -> bool:
    """Whether a `qweight` is as wide as its scales, as AWQ's are not."""
    scales = tensors.get(name.removesuffix("qweight") + "scales")
    return scales is not None and scales.shape[-1:] == tensors[name].shape[-1:]


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    return decoded(config, tensors, layout(config))


def layout(config: Mapping[str, Any]) -> Layout:
    """The settings, checked."""
    settings = said(config)
    bits = number(settings, "bits|wbits", 4)
    if bits not in BITS:
        raise refuse("bits", bits, BITS)
    group = number(settings, "group_size|groupsize", -1)
    kind = text(settings, "checkpoint_format|format", "gptq")
    if kind not in ("gptq", "gptq_v2"):
        raise refuse("checkpoint_format", kind, ("gptq", "gptq_v2"))
    if settings.get("is_marlin_format"):
        raise refuse("checkpoint_format", "marlin", ("gptq", "gptq_v2"))
    if text(settings, "pack_dtype", "int32") != "int32":
        raise refuse("pack_dtype", settings["pack_dtype"], ("int32",))
    varied = bool(settings.get("dynamic")) or not settings
    return Layout(bits, group, kind == "gptq", varied=varied, ordered=bool(settings.get("desc_act")))


def decoded(config: Mapping[str, Any], tensors: Tensors, settings: Layout) -> Mapping[str, Rows]:
    """The weights of modules in GPTQ's layout, and all other tensors."""
    layers, rest = modules(tensors, "qweight", ("qzeros", "scales"), ("g_idx",))
    for module in layers:
        rest[f"{module.name}.weight"] = as_unquantised(config, module.name, weight(module, settings))
    return rest


def weight(module: Module, settings: Layout) -> Rows:
    """The matrix of a module. GGUFError where its tensors do not fit each other or the settings."""
    scales = module.get("scales", FLOATS, (None, None))
    groups, out = scales.shape
    qweight = module.get("qweight", WORDS, (None, out))
    qzeros = module.get("qzeros", WORDS, (groups, None))
    bits = _bits(module, settings, qzeros.shape[1], out)
    columns = qweight.shape[0] * 32 // bits
    if "g_idx" in module.parts:
        columns = min(module.get("g_idx", ("I32", "I64"), (None,)).shape[0], columns)
        module.get("g_idx", ("I32", "I64"), (columns,))
    elif settings.ordered:
        raise module.wrong("it has no g_idx, which config.json's desc_act asks for")
    if qweight.shape[0] != -(-columns * bits // 32):
        raise module.wrong(f"its qweight has {qweight.shape[0]} rows; {columns} columns of {bits} bits take others")
    group = _group(module, settings, columns, groups)
    return GptqRows((out, columns), bits, group, qweight, (scales, qzeros), settings)


def _bits(module: Module, settings: Layout, words: int, out: int) -> int:
    """Bits of the module's codes, by the width of its zeros. config.json's count unless layers differ."""
    fits = [bits for bits in settings.known if -(-out * bits // 32) == words]
    if settings.bits in fits:
        return settings.bits
    if not fits or not settings.varied:
        raise module.wrong(f"its qzeros have {words} words a row; {out} zeros of {settings.bits} bits take others")
    return fits[0]


def _group(module: Module, settings: Layout, columns: int, groups: int) -> Groups:
    """How many columns side by side share a scale, or the group of each."""
    size = columns if settings.group == -1 else settings.group
    if size < 1:
        raise refuse("group_size", settings.group, ("-1", "whole numbers from 1"))
    if settings.varied and -(-columns // size) != groups and columns % groups == 0:
        size = columns // groups
    regular = np.arange(columns) // size
    if "g_idx" in module.parts:
        order = module.parts["g_idx"].array.astype(np.int64)
        if order.min() < 0 or order.max() >= groups:
            raise module.wrong(f"its g_idx names groups {order.min()} to {order.max()}, of {groups}")
        if not np.array_equal(order, regular):
            return order
    if -(-columns // size) != groups:
        raise module.wrong(f"its scales have {groups} groups, and {columns} columns in groups of {size} are others")
    return min(size, columns)


@dataclass(frozen=True, eq=False)
class GptqRows(Grouped):
    """A matrix whose words go along the input. `side` is its scales and zeros."""

    size: tuple[int, int]
    bits: int
    groups: Groups
    qweight: Stored
    side: tuple[Stored, Stored]
    settings: Layout

    @property
    def parts(self) -> tuple[Stored, ...]:
        return self.qweight, *self.side

    def codes(self, start: int, stop: int) -> Codes:
        return unpacked(self.qweight.array[:, start:stop].T, self.bits)[:, : self.columns]

    def scales(self, start: int, stop: int) -> Floats:
        return np.ascontiguousarray(wide(self.side[0].array[:, start:stop], self.side[0].dtype).T)

    def zeros(self, start: int, stop: int) -> Floats:
        words: NDArray[np.uint32] = self.side[1].array.view(np.uint32)
        if self.settings.lifted and self.settings.words and self.bits in _ONES:
            words = words + np.uint32(_ONES[self.bits])
        codes = some_columns(words, self.bits, start, stop).astype(np.int16)
        if self.settings.lifted and not self.settings.words:
            codes += 1
        elif self.settings.lifted and self.bits not in _ONES:
            codes = (codes + 1) % (1 << self.bits)
        return np.ascontiguousarray(codes.T, np.float32)
