"""FP8: weights E4M3 or E5M2 with scales, as DeepSeek, Qwen, Mistral and Meta's FBGEMM have them.

In: "quant_method": "fp8" or "fbgemm_fp8", or 8-bit floats with scales beside them; for a weight (..., out, in)
    weight                F8_E4M3 or F8_E5M2; I8 or U8 where it is two E2M1 to a byte with a scale for each 32
    weight_scale_inv      what to multiply by, whatever it is called: of each block of "weight_block_size" rows and
                          columns (128 × 128), of each row or of the whole; also weight_scale, qscale_weight, and all
                          endings on the names of experts' tensors. Floats, or E8M0, also as plain bytes
Out: weight = code · scale in float32. transformers (`integrations/finegrained_fp8.py`) has the same product and rounds
it to its dtype, bfloat16 by default. Scales of activations and caches say nothing of the weights and are left out.
Weights of 8 bits without scales anywhere in the checkpoint are the numbers they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows
from ggufpy.format.values import shown

from ._fp4 import MX, mx
from ._scaled import EIGHT, EXPONENTS, scaled
from ._settings import Tensors, method, refuse, said

NAME = "FP8"
METHODS = ("fp8", "fbgemm_fp8")
# Endings of scales, and of what they belong to.
_ENDINGS = (
    ("_scale_inv", ""), ("_scale", ""), (".qscale_weight", ".weight"), ("_weight_scale_inv", ""), ("_weight_scale", ""),
)  # fmt: skip
ASIDE = re.compile(r"(?:^|[._])(?:activation_scale|input_scale|input_scale_ub|qscale_act|[kqv]_scale|prob_output_scale"
                   r"|kv_scale|output_scale|input_global_scale)$")  # fmt: skip


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says so, or says nothing and has scales beside weights of 8 bits."""
    if said(config):
        return method(config) in METHODS
    owners = [_owner(name, tensors) for name in tensors if "scale" in name]
    return any(owner is not None and tensors[owner].dtype in EIGHT for owner in owners)


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    block = block_size(said(config).get("weight_block_size"), "weight_block_size")
    return eight_bits(tensors, block)


def block_size(value: Any, name: str) -> Sequence[tuple[int, int]]:
    """Rows and columns of a block as config.json has them; nothing where it says none."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise refuse(name, value, ("[rows, columns]",))
    return [(value[0], value[1])]


def eight_bits(tensors: Mapping[str, Stored], blocks: Sequence[tuple[int, int]]) -> dict[str, Rows]:
    """Tensors of 8 bits with the scales that stand beside them, and all others as they are.

    Raises GGUFError for scales without a tensor, and tensors of 8 bits without scales where others have them.
    """
    made: dict[str, Rows] = {}
    scaled_ones: set[str] = set()
    for name, stored in tensors.items():
        owner = _owner(name, tensors)
        if owner is not None:
            if owner in scaled_ones:
                raise GGUFError(f"tensor {shown(owner)} has scales twice")
            scaled_ones.add(owner)
            made[owner] = _weight(tensors[owner], stored, blocks)
        elif re.search(r"scale(?:_inv)?$|qscale_weight$", name) and not ASIDE.search(name) and _names_weight(name):
            raise GGUFError(f"tensor {shown(name)} has scales of no tensor of 8 bits")
        elif not ASIDE.search(name):
            made.setdefault(name, stored)
    bare = [name for name, stored in tensors.items() if stored.dtype in EIGHT and name not in scaled_ones]
    if scaled_ones and bare:
        raise GGUFError(f"tensor {shown(bare[0])} is {tensors[bare[0]].dtype} and has no scales")
    return made


def _names_weight(name: str) -> bool:
    """Whether a name of scales is that of a weight's: models have other tensors that end so."""
    return name.endswith(("_scale_inv", "weight_scale", ".qscale_weight"))


def _owner(name: str, tensors: Tensors) -> str | None:
    """The tensor of 8 bits, or of pairs of 4, that a tensor has the scales of."""
    for ending, replaced in _ENDINGS:
        if name.endswith(ending):
            owner = name.removesuffix(ending) + replaced
            if owner in tensors and tensors[owner].dtype in (*EIGHT, "I8", "U8"):
                return owner
    return None


def _weight(codes: Stored, scale: Stored, blocks: Sequence[tuple[int, int]]) -> Rows:
    if codes.dtype in EIGHT:
        return scaled(codes, scale, blocks)
    columns = 2 * codes.columns
    if scale.dtype not in EXPONENTS or scale.columns * MX != columns:
        raise GGUFError(f"tensor {shown(codes.name)} is {codes.dtype}, and its scales are not those of 4-bit floats")
    return mx(codes, scale, (*codes.shape[:-1], columns))
