"""MXFP4 of gpt-oss: experts as `…_blocks`, bytes of two E2M1, and `…_scales`, exponents (E8M0) of each 32.

In: "quant_method": "mxfp4", for a tensor (experts, out, in) such as mlp.experts.gate_up_proj
    gate_up_proj_blocks  U8 (experts, out, in / 32, 16)   two neighbours in a byte, the first in its low four bits
    gate_up_proj_scales  U8 (experts, out, in / 32)       e of 2^(e - 127)
Out: gate_up_proj.weight (experts, out, in), rows of gate and up taking turns, which MXFP4 of GGUF holds without loss.
The name ends in ".weight" because the tensor lies the other way round than in an unquantised checkpoint, whose
gate_up_proj is (experts, in, out): transposed, no blocks could stay as they are. Rules of the architecture take both.

transformers (`integrations/mxfp4.py`, `convert_moe_packed_tensors`) has the same numbers, exactly, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows
from ggufpy.format.values import shown

from ._fp4 import MX, mx
from ._settings import Tensors, method, said

NAME = "MXFP4"


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says so, or says nothing and has blocks with scales."""
    if said(config):
        return method(config) == "mxfp4"
    return any(name.endswith("_blocks") and f"{name[:-7]}_scales" in tensors for name in tensors)


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for tensors that are missing or do not fit."""
    made: dict[str, Rows] = {}
    for name, stored in tensors.items():
        base, _, ending = name.rpartition("_")
        other = f"{base}_{'scales' if ending == 'blocks' else 'blocks'}"
        if ending not in ("blocks", "scales"):
            made[name] = stored
        elif other not in tensors:
            raise GGUFError(f"tensor {shown(other)} is missing from the checkpoint")
        elif ending == "blocks":
            if stored.dtype != "U8" or len(stored.shape) < 3 or stored.shape[-1] * 2 != MX:
                raise GGUFError(f"tensor {shown(name)} is {stored.dtype} {list(stored.shape)}, no blocks of 32")
            *outer, groups, _ = stored.shape
            made[f"{base}.weight"] = mx(stored, tensors[other], (*outer, groups * MX))
    return made
