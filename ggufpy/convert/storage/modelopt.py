"""NVIDIA's ModelOpt: NVFP4 and FP8, also mixed by layer.

In: "quant_method": "modelopt" in config.json, or hf_quant_config.json beside it; for a layer (out, in)
    NVFP4   weight U8 (out, in / 2), two E2M1 in a byte, the first in its low four bits; weight_scale F8_E4M3
            (out, in / 16); weight_scale_2 F32 ()
    FP8     weight F8_E4M3 (out, in); weight_scale (), (out) or of blocks
    MXFP8   weight F8_E4M3 (out, in); weight_scale U8 (out, in / 32), exponents
and for a stack of experts X, which gate_up_proj and down_proj of gpt-oss and Llama 4 are
    NVFP4   X U8 (experts, in / 2, out), two neighbours along in to a byte; X_weight_scale F8_E4M3 (experts, in / 16,
            out); X_weight_scale_2 F32 () or (experts). Where the shapes say so, out comes before in
    FP8     X F8_E4M3, lying as in a checkpoint of floats; X_weight_scale
Out: weight (out, in) in float32: v · (scale · scale_2), or v · scale; of stacks in NVFP4 X.weight (experts, out, in).
ModelOpt (`qtensor/nvfp4_tensor.py`; its export turns stacks, `maybe_transpose_expert_weight_dimensions`) has the same
products and rounds them to the model's dtype. Which layer is what shows from its tensors. Scales of inputs and caches
are left out. Layers whose inputs are scaled beforehand (AWQ's pre_quant_scale) are refused: they would be other ones.

What GGUF has for NVFP4 is said in `_fp4`: llama.cpp puts scale_2 into a tensor of its own, which no plan here takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.convert.safetensors import Part, Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows
from ggufpy.format.values import shown

from ._fp4 import NV, nv
from ._settings import Tensors, method, refuse, said
from ._stacks import fused_nv, joined, of_expert
from .fp8 import block_size, eight_bits

NAME = "ModelOpt"
ALGORITHMS = (
    "NVFP4", "W4A16_NVFP4", "W4A8_NVFP4_FP8", "NVFP4_W4A16", "FP8", "FP8_PB_WO", "FP8_PER_CHANNEL_PER_TOKEN", "MXFP8",
    "MIXED_PRECISION",
)  # fmt: skip


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says so."""
    return method(config).startswith("modelopt")


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    settings = said(config)
    _check(settings)
    before = next((name for name in tensors if name.endswith("pre_quant_scale")), None)
    if before is not None:
        raise GGUFError(f"tensor {shown(before)} scales a layer's input, which no file can say: use another export")
    made: dict[str, Rows] = {}
    taken: set[str] = set()
    for name, factor in tensors.items():
        if not name.endswith("weight_scale_2"):
            continue
        base, side = name.removesuffix("_scale_2"), name.removesuffix("_2")
        base = base if base in tensors or base.endswith(".weight") else base.removesuffix("_weight")
        for part in (base, side):
            if part not in tensors:
                raise GGUFError(f"tensor {shown(part)} is missing from the checkpoint")
        taken |= {name, base, side}
        made[base if base.endswith(".weight") else f"{base}.weight"] = _nvfp4(tensors[base], tensors[side], factor)
    rest = {name: stored for name, stored in tensors.items() if name not in taken}
    return {**eight_bits(rest, block_size(settings.get("weight_block_size"), "weight_block_size")), **made}


def _nvfp4(codes: Stored, scale: Stored, factor: Stored) -> Rows:
    """A matrix, or a stack of them."""
    if codes.dtype != "U8":
        raise GGUFError(f"tensor {shown(codes.name)} is {codes.dtype}; NVFP4 has its weights as U8")
    if len(codes.shape) != 3 or 0 in codes.shape:
        return nv(codes, scale, (*codes.shape[:-1], 2 * codes.columns), factor)
    count, a, b = codes.shape
    turned = scale.shape == (count, a * 2 // NV, b)
    if not turned and scale.shape != (count, a, b * 2 // NV):
        raise GGUFError(
            f"tensor {shown(scale.name)} has the shape {list(scale.shape)}, which are no scales of groups of {NV} for "
            f"{list(codes.shape)}, whichever way round these lie"
        )
    size = (b, 2 * a) if turned else (a, 2 * b)

    def make(i: int) -> Rows:
        return fused_nv(Part(codes, i, turned), Part(scale, i, turned), size, of_expert(factor, count, i))

    return joined(count, make)


def _check(settings: Mapping[str, Any]) -> None:
    """GGUFError for algorithms that are not known, of all layers or of single ones."""
    layers = settings.get("quantized_layers") or {}
    if not isinstance(layers, Mapping):
        raise refuse("quantized_layers", layers, ("an object",))
    said_ones = [settings.get("quant_algo")]
    said_ones += [layer.get("quant_algo") for layer in layers.values() if isinstance(layer, Mapping)]
    for algorithm in said_ones:
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise refuse("quant_algo", algorithm, ALGORITHMS)
