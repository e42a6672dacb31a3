"""MLX, as mlx-lm writes it: codes in words of 32 bits along a row, with a scale and an offset for each group.

In: "quantization": {"group_size", "bits", "mode"} of config.json, with entries of the same kind, or false, by layer;
for a layer (..., out, in)
    affine         weight U32 (..., out, in · bits / 32), code i from bit i · bits on, of 1, 2, 3, 4, 5, 6 or 8 bits;
                   scales and biases (..., out, in / group_size), floats
    mxfp4, mxfp8   weight U32 of E2M1 or E4M3; scales U8 (..., out, in / 32), exponents
    nvfp4          weight U32 of E2M1; scales U8 (..., out, in / 16), E4M3; global_scale where there is one, F32 () or
                   (experts) of a stack: the largest number, for which codes and scales have 6 · 448
Out: weight = q · s + b in float32, and v · s. MLX (`mx.dequantize`) has the same and rounds to the dtype of its scales.
Experts that mlx-lm has stacked, with their biases, come apart again (`switch_mlp` in most models, `experts` in gpt-oss,
whose rows of gate and up it has taken apart): experts.0.gate_proj.weight, as an unquantised checkpoint has them.

Codes of up to 4 bits are Q4_1 and those of 5 Q5_1, without loss where scales and offsets fit f16, whatever the group.
6 and 8 bits with offsets have no blocks of their own; the nearest is Q8_0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ggufpy.convert.safetensors import Part, Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes, Floats, Rows, Window
from ggufpy.format.values import shown
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from ._blocks import BLOCK, fifth_bits, fit_halves, halves, nibbles
from ._fp4 import MX, NV, mx, nv
from ._packed import Codes, unpacked
from ._quantised import Decoded, InBlocks
from ._scaled import all_of, scaled, wide
from ._settings import FLOATS, Module, Tensors, modules, said
from ._stacks import joined, of_expert

NAME = "MLX"
BITS = (1, 2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
MODES = {"affine": (64, 4), "mxfp4": (MX, 4), "mxfp8": (MX, 8), "nvfp4": (NV, 4)}  # group_size and bits, if not said
_LARGEST = 6 * 448  # of E2M1 and E4M3
_STACKED = re.compile(r"^(.+)\.(?:switch_mlp|experts)\.((?:gate|up|down)_proj)\.(weight|bias)$")
# Names of one expert's matrices where they are not those of mlx-lm.
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


@dataclass(frozen=True)
class Settings:
    """How a layer is stored."""

    group: int
    bits: int
    mode: str


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says so, as no other format does, or says nothing and has mlx-lm's stacks of experts."""
    return _said(config) is not None or (not said(config) and any(map(_STACKED.match, tensors)))


def _said(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """MLX's settings, which are in "quantization" and have no quant_method."""
    for part in (config, config.get("text_config")):
        if not isinstance(part, Mapping):
            continue
        for key in ("quantization", "quantization_config"):
            value = part.get(key)
            if isinstance(value, Mapping) and "quant_method" not in value and "bits" in value:
                return value
    return None


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    values = _said(config)
    if values is None:
        return dict(_apart(dict(tensors)))
    whole = _settings(values, "quantization")
    layers = {name.removesuffix(".scales") for name in tensors if name.endswith(".scales")}
    mine = {name: stored for name, stored in tensors.items() if name.rpartition(".")[0] in layers}
    quantised, rest = modules(
        {name: t for name, t in mine.items() if not name.endswith(".bias")}, "scales", ("weight",),
        ("biases", "global_scale"),
    )  # fmt: skip
    rest |= {name: t for name, t in tensors.items() if name not in mine or name.endswith(".bias")}
    for module in quantised:
        own = values.get(module.name)
        settings = whole if own is None or isinstance(own, bool) else _settings(own, f"quantization.{module.name}")
        rest[f"{module.name}.weight"] = _weight(module, settings)
    return dict(_apart(rest))


def _settings(values: Any, what: str) -> Settings:
    """bits, group_size and mode, checked. Where one is not said, it is the mode's own, not that of other layers."""
    if not isinstance(values, Mapping):
        raise GGUFError(f"config.json: {what} is {checks.shown(values)}, no object with bits and group_size")
    mode = values.get("mode", "affine")
    if not isinstance(mode, str) or mode not in MODES:
        raise GGUFError(f"config.json: {what}.mode is {checks.shown(mode)}; ggufpy knows {', '.join(MODES)}")
    group, bits = values.get("group_size", MODES[mode][0]), values.get("bits", MODES[mode][1])
    groups, widths = (GROUPS, BITS) if mode == "affine" else ((MODES[mode][0],), (MODES[mode][1],))
    for name, value, known in (("group_size", group, groups), ("bits", bits, widths)):
        if type(value) is not int or value not in known:
            raise GGUFError(
                f"config.json: {what}.{name} is {checks.shown(value)}; ggufpy knows {', '.join(map(str, known))}"
            )
    return Settings(group, bits, mode)


def _weight(module: Module, settings: Settings) -> Rows:
    """The tensor of a layer."""
    words, scales = module.parts["weight"], module.parts["scales"]
    *outer, count = words.shape or (0,)
    columns = count * 32 // settings.bits
    size = (*outer, columns)
    words = module.get("weight", ("U32",), words.shape)
    if len(size) not in (2, 3) or columns * settings.bits != count * 32 or columns % settings.group:
        raise module.wrong(f"its weight {list(words.shape)} is no matrix of {settings.bits} bits in groups of "
                           f"{settings.group}")  # fmt: skip
    grouped = (*outer, columns // settings.group)
    if settings.mode == "affine":
        if "biases" not in module.parts:
            raise GGUFError(f"tensor {shown(f'{module.name}.biases')} is missing from the checkpoint")
        both = (module.get("scales", FLOATS, grouped), module.get("biases", FLOATS, grouped))
        return Affine(size, settings.bits, settings.group, words, both)
    scales = module.get("scales", ("U8",), grouped)
    if settings.mode == "mxfp4":
        return mx(words, scales, size)
    if settings.mode == "nvfp4":
        return _nvfp4(words, scales, size, module.parts.get("global_scale"))
    eight = Stored(words.name, "F8_E4M3", size, np.ascontiguousarray(words.array).view(np.uint8).reshape(-1))
    return scaled(eight, scales, [(1, MX)])


def _nvfp4(words: Stored, scales: Stored, size: tuple[int, ...], factor: Stored | None) -> Rows:
    """Where each expert has a largest number of its own, they are made one by one."""
    if factor is None or len(factor.shape) != 1 or len(size) != 3:
        return nv(words, scales, size, factor, unit=_LARGEST)
    count = size[0]

    def make(i: int) -> Rows:
        return nv(Part(words, i), Part(scales, i), size[1:], of_expert(factor, count, i), unit=_LARGEST)

    return joined(count, make)


@dataclass(frozen=True, eq=False)
class Affine(Decoded):
    """q · s + b. `both` are scales and offsets."""

    size: tuple[int, ...]
    bits: int
    group: int
    words: Stored
    both: tuple[Stored, Stored]

    @property
    def parts(self) -> tuple[Stored, ...]:
        return self.words, *self.both

    def codes(self, start: int, stop: int) -> Codes:
        """(stop - start, columns)."""
        return unpacked(self.words.array.reshape(-1, self.words.columns)[start:stop], self.bits)

    def by_group(self, which: int, start: int, stop: int) -> Floats:
        """Scales (0) or offsets (1), (stop - start, groups)."""
        stored = self.both[which]
        return wide(stored.array.reshape(-1, stored.columns)[start:stop], stored.dtype)

    def floats(self, start: int, stop: int) -> Floats:
        q = self.codes(start, stop).astype(np.float32).reshape(stop - start, -1, self.group)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused when it is written
            q *= self.by_group(0, start, stop)[:, :, None]
            q += self.by_group(1, start, stop)[:, :, None]
        return q.reshape(stop - start, -1)

    @property
    def _kind(self) -> str:
        return "Q4_1" if self.bits <= 4 else "Q5_1" if self.bits == 5 else ""

    @cached_property
    def _fits(self) -> bool:
        """Whether all scales and offsets are numbers of f16."""
        return all(fit_halves(some) for stored in self.both for some in all_of(stored))

    @cached_property
    def _finite(self) -> bool:
        return all(bool(np.all(np.abs(some) < 65504)) for stored in self.both for some in all_of(stored))

    @property
    def exact(self) -> Rows | None:
        return Ones(self, self._kind) if self._kind and self._fits else None

    @property
    def near(self) -> Rows | None:
        return Ones(self, self._kind) if self._kind and self._finite else self.in_eights


@dataclass(frozen=True, eq=False)
class Ones(InBlocks):
    """The codes in blocks of Q4_1 or Q5_1, with d = s and m = b in f16."""

    source: Affine
    kind: str

    def rows(self, start: int, stop: int) -> Bytes:
        q = self.source.codes(start, stop).reshape(stop - start, -1, BLOCK)
        of_block = np.arange(q.shape[1]) * BLOCK // self.source.group
        fields = [halves(self.source.by_group(which, start, stop)[:, of_block]) for which in range(2)]
        fields += [fifth_bits(q)] if self.kind == "Q5_1" else []
        return np.concatenate([*fields, nibbles(q)], axis=2).reshape(stop - start, -1)


def _apart(tensors: Mapping[str, Rows]) -> Iterator[tuple[str, Rows]]:
    """Tensors by name, those of stacked experts one by one."""
    for name, rows in tensors.items():
        stack = _STACKED.match(name)
        if stack is None or len(rows.shape) != (3 if stack[3] == "weight" else 2):
            yield name, rows
            continue
        before, part, ending = stack.groups()
        if before.endswith("block_sparse_moe"):
            part = _MIXTRAL.get(part, part)
        count, *rest = rows.shape
        height = rest[0] if len(rest) > 1 else 1
        for i in range(count):
            yield f"{before}.experts.{i}.{part}.{ending}", Window(rows, i * height, tuple(rest))
