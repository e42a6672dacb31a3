"""compressed-tensors, as llm-compressor writes it: whole numbers and floats of 1 to 8 bits, by layer.

In: "quant_method": "compressed-tensors", for a layer (out, in)
    pack-quantized        weight_packed I32 (out, in · bits / 32), code i from bit i · bits on; weight_scale (out,
                          groups); weight_shape; where it is not symmetric weight_zero_point I32 (out · bits / 32,
                          groups), packed along out; where columns are ordered weight_g_idx (in). All codes are stored
                          plus 2^(bits - 1)
    int-, float- and      weight I8 or F8_E4M3 (out, in); weight_scale of the whole, of rows, groups or blocks, in
    naive-quantized,      floats or (mxfp8) exponents; weight_zero_point I8
    mxfp8-quantized
    nvfp4-pack-quantized  weight_packed U8 (out, in / 2), two E2M1 in a byte, the first in its low four bits;
                          weight_scale F8_E4M3 (out, in / 16); weight_global_scale F32 (1), which is divided by
    mxfp4-pack-quantized  weight_packed as before; weight_scale U8 (out, in / 32), exponents
and for a stack of experts X, such as gate_up_proj, the same by expert, (experts, out, in), as X.weight_packed,
X_weight_packed or X_packed and so on. weight_global_scale may be (experts, 2), of gate and of up; weight_shape may be
missing
Out: weight (out, in) = (q - z) · s in float32, v · (s / global) for NVFP4; of stacks X.weight (experts, out, in), of
8 bits X as it lies. The library (`lifecycle/forward.py`, `_dequantize`) has the same products and rounds each once to
the dtype of its scales.

Of which format and how many bits a layer is shows from its tensors, so that targets and "ignore" of config.json need
not be matched: its groups only say what there may be. Sparse formats, and layers with transforms, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Floats, Rows
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from ._fp4 import mx, nv
from ._groups import Grouped, Groups
from ._packed import Codes, some_columns, unpacked
from ._scaled import EIGHT, scaled, wide
from ._settings import FLOATS, Module, Tensors, method, modules, refuse, said
from ._stacks import fused_nv, joined, of_expert
from .fp8 import ASIDE, block_size

NAME = "compressed-tensors"
FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision", "dense",
)  # fmt: skip
_PARTS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale")
# A tensor beside a stack, the stack, and what it is: experts.gate_up_proj_weight_scale, experts.gate_up_proj_packed.
_BESIDE = re.compile(r"^(.+\.experts\.[a-z_]+_proj)_(?:weight_)?(packed|scale|shape|zero_point|g_idx|global_scale)$")
_RANKS = {"weight_shape": 1, "weight_g_idx": 1}  # of what all experts may share
_TURNED = ("gpt_oss",)  # whose stacks of floats are (experts, in, out)


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says so."""
    return method(config) in ("compressed-tensors", "compressed_tensors")


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    groups = _groups(said(config))
    blocks = [block for group in groups for block in block_size(group.get("block_structure"), "block_structure")]
    bits = {group["num_bits"] for group in groups if type(group.get("num_bits")) is int}
    there, plain = _as_layers({name: stored for name, stored in tensors.items() if not ASIDE.search(name)})
    packed, rest = modules({n: t for n, t in there.items() if _is_packed(n, there)}, "weight_packed", ("weight_scale",),
                           _PARTS)  # fmt: skip
    for module in packed:
        if f"{module.name}.weight" in there:
            raise module.wrong("it has both weight and weight_packed")
        if len(module.parts["weight_packed"].shape) == 3 and config.get("model_type") in _TURNED:
            raise module.wrong("stacks of experts of this model are not known to be packed: take single experts")
        rest[f"{module.name}.weight"] = _packed(module, bits)
    for name, stored in there.items():
        if not _is_packed(name, there):
            rest |= _plain(name, stored, there, blocks)
    return {name.removesuffix(".weight") if name in plain else name: rows for name, rows in rest.items()}


def _as_layers(tensors: Mapping[str, Stored]) -> tuple[dict[str, Stored], set[str]]:
    """Tensors with those of stacks under the names of layers, and the weights of 8 bits that are no layer's by name."""
    names = {name: name for name in tensors}
    plain: set[str] = set()
    for name in tensors:
        beside = _BESIDE.match(name)
        if beside is None:
            continue
        base, part = beside.groups()
        if base in tensors and tensors[base].dtype in (*EIGHT, "I8"):
            plain.add(f"{base}.weight")
            names[base] = f"{base}.weight"
        names[name] = f"{base}.weight_{part}"
    layers = {names[name]: stored for name, stored in tensors.items()}
    if len(layers) != len(tensors):
        twice = next(name for name, layer in names.items() if layer != name and tensors[name] is not layers[layer])
        raise GGUFError(f"tensor {shown(twice)} is there twice, under names that mean the same")
    return layers, plain


def _is_packed(name: str, tensors: Tensors) -> bool:
    """Whether a tensor belongs to a layer that has weight_packed."""
    base, _, part = name.rpartition(".")
    return part == "weight_packed" or (part in _PARTS and f"{base}.weight_packed" in tensors)


def _groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What config_groups say of weights, checked. GGUFError for formats that are not known."""
    groups = settings.get("config_groups") or {}
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        raise refuse("config_groups", groups, ("an object of objects",))
    for where in (settings, *groups.values()):
        kind = where.get("format")
        if kind is not None and kind not in FORMATS:
            raise refuse("format", kind, FORMATS)
    sparse = settings.get("sparsity_config") or {}
    if isinstance(sparse, Mapping) and sparse.get("format") not in (None, "dense"):
        raise refuse("sparsity_config.format", sparse.get("format"), ("dense",))
    transform = settings.get("transform_config")
    if isinstance(transform, Mapping) and transform.get("config_groups"):
        raise GGUFError("config.json: quantization_config.transform_config turns inputs of layers; no file can say so")
    weights = [group.get("weights") for group in groups.values()]
    return [one for one in weights if isinstance(one, Mapping)]


def _plain(name: str, stored: Stored, tensors: Tensors, blocks: Sequence[tuple[int, int]]) -> dict[str, Rows]:
    """A tensor that is not packed, by its name; nothing for scales and zeros, which go with their weight."""
    if name.endswith((".weight_scale", ".weight_zero_point")):
        owner = name.rpartition(".")[0] + ".weight"
        if owner not in tensors or tensors[owner].dtype not in (*EIGHT, "I8"):
            raise GGUFError(f"tensor {shown(name)} belongs to no weight of 8 bits")
        return {}
    if not name.endswith(".weight") or stored.dtype not in (*EIGHT, "I8"):
        return {name: stored}
    scale, zeros = tensors.get(f"{name}_scale"), tensors.get(f"{name}_zero_point")
    if scale is None:
        raise GGUFError(f"tensor {shown(f'{name}_scale')} is missing from the checkpoint")
    if zeros is not None and stored.dtype != "I8":
        if zeros.array.any():
            raise GGUFError(f"tensor {shown(zeros.name)} is not all 0, and its weight is {stored.dtype}")
        zeros = None
    return {name: scaled(stored, scale, blocks, zeros)}


def _packed(module: Module, bits: set[int]) -> Rows:
    """The matrix of a layer with weight_packed, or a stack of them."""
    shape = module.parts["weight_packed"].shape
    if len(shape) != 3 or 0 in shape:
        return _layer(module, bits)

    def make(i: int) -> Rows:
        parts = {part: of_expert(stored, shape[0], i, _RANKS.get(part)) for part, stored in module.parts.items()}
        return _layer(Module(module.name, parts), bits, fused_nv)

    return joined(shape[0], make)


def _layer(module: Module, bits: set[int], as_nv: Callable[..., Rows] = nv) -> Rows:
    codes = module.parts["weight_packed"]
    if codes.dtype == "U8":
        scale, size = module.parts["weight_scale"], (*codes.shape[:-1], 2 * codes.columns)
        if "weight_global_scale" not in module.parts:
            return mx(codes, scale, size)
        return as_nv(codes, scale, size, module.parts["weight_global_scale"], divides=True)
    return _words(module, bits)


def _words(module: Module, bits: set[int]) -> Rows:
    """Codes in words of 32 bits."""
    words = module.get("weight_packed", ("I32",), (None, None))
    out, columns = _size(module, words, bits)
    fits = [n for n in range(1, 9) if -(-columns * n // 32) == words.shape[1]]
    if words.shape[0] != out or not fits or columns < 1:
        raise module.wrong(f"its weight_packed {list(words.shape)} does not hold {out} × {columns}, its weight_shape")
    width = next((n for n in fits if n in bits), fits[0])
    if bits and width not in bits:
        raise module.wrong(f"its codes have {width} bits, and config.json says {sorted(bits)}")
    scale = module.parts["weight_scale"]
    by_row = len(scale.shape) == 2 and scale.shape[0] == out
    scale = module.get("weight_scale", FLOATS, scale.shape if by_row else (1,) * len(scale.shape))
    groups = scale.columns if scale.shape else 1
    zeros = None
    if "weight_zero_point" in module.parts:
        zeros = module.get("weight_zero_point", ("I32",), (-(-out * width // 32), groups))
    return PackedRows((out, columns), width, _grouping(module, columns, groups), words, scale, zeros)


def _size(module: Module, words: Stored, bits: set[int]) -> tuple[int, int]:
    """(out, in): what weight_shape says, or where it is missing what all codes of whole words are."""
    if "weight_shape" in module.parts:
        whole = module.parts["weight_shape"].shape == (3,)  # a stack may say how many experts there are
        out, columns = module.get("weight_shape", ("I64", "I32"), (3,) if whole else (2,)).array[-2:]
        return int(out), int(columns)
    if len(bits) != 1 or 32 % max(bits):
        raise GGUFError(f"tensor {shown(f'{module.name}.weight_shape')} is missing from the checkpoint")
    return words.shape[0], words.shape[1] * 32 // max(bits)


def _grouping(module: Module, columns: int, groups: int) -> Groups:
    """How many columns side by side share a scale, or the group of each."""
    if "weight_g_idx" in module.parts:
        order = module.get("weight_g_idx", ("I32", "I64"), (columns,)).array.astype(np.int64)
        if order.min() < -1 or order.max() >= groups:
            raise module.wrong(f"its weight_g_idx names groups {order.min()} to {order.max()}, of {groups}")
        if order.min() >= 0:
            size = columns // groups
            regular = columns % groups == 0 and np.array_equal(order, np.arange(columns) // size)
            return size if regular else order
        if order.max() >= 0:
            raise module.wrong("its weight_g_idx leaves columns without a group")
    if columns % groups:
        raise module.wrong(f"its scales have {groups} groups, which {columns} columns do not divide into")
    return columns // groups


@dataclass(frozen=True, eq=False)
class PackedRows(Grouped):
    """A matrix whose words go along its rows; zeros go along its columns."""

    size: tuple[int, int]
    bits: int
    groups: Groups
    words: Stored
    scale: Stored
    zero: Stored | None

    @property
    def parts(self) -> tuple[Stored, ...]:
        side = (self.words, self.scale)
        return side if self.zero is None else (*side, self.zero)

    def codes(self, start: int, stop: int) -> Codes:
        return unpacked(self.words.array[start:stop], self.bits)[:, : self.columns]

    def scales(self, start: int, stop: int) -> Floats:
        if self.scale.shape[:1] != self.size[:1]:  # one for all
            return np.broadcast_to(wide(self.scale.array, self.scale.dtype).reshape(1, 1), (stop - start, 1))
        return wide(self.scale.array[start:stop], self.scale.dtype)

    def zeros(self, start: int, stop: int) -> Floats:
        if self.zero is None:
            return np.full_like(self.scales(start, stop), 1 << (self.bits - 1))
        codes = some_columns(np.ascontiguousarray(self.zero.array.T), self.bits, start, stop)
        return np.ascontiguousarray(codes.T, np.float32)
