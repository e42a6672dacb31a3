"""LongRoPE between config.json and a file: two sets of factors for pairs, and what turned pairs are multiplied by.

Facts: modeling_rope_utils.py of transformers, conversion/phi.py of llama.cpp. Factors are tensors of a file, (pairs,).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.rows import Numbers
from ggufpy.format.values import Typed, shown

from .checkpoint import Derived, HfConfig, Rule, Written, f32, made, rope_config, rotated_keys, shortest, u32

SETS = ("long", "short")
KINDS = ("longrope", "su", "yarn")  # older files have the latter two for it
_TRAINED = "rope.scaling.original_context_length"
_ATTENTION = "rope.scaling.attn_factor"


def trained_length(config: HfConfig) -> int:
    """The context that a model was trained with first."""
    return config.rope().count("original_max_position_embeddings", config.count("max_position_embeddings"))


def is_long(config: HfConfig) -> bool:
    """Whether positions are scaled so. YaRN without factors is YaRN."""
    rope = config.rope()
    kind = rope.text("rope_type", "default")
    return kind in KINDS and (kind != "yarn" or any(f"{name}_factor" in rope for name in SETS))


def factor_rules(config: HfConfig) -> Iterator[Rule]:
    """Both sets of factors, where positions are scaled so. Raises GGUFError for those that do not fit heads."""
    if not is_long(config):
        return
    rope, pairs = config.rope(), rotated_keys(config)["rope.dimension_count"].value // 2
    for name in SETS:
        values = rope.items(f"{name}_factor")
        if len(values) != pairs or any(isinstance(x, bool) or not isinstance(x, int | float) for x in values):
            raise GGUFError(f"config.json: {name}_factor has {len(values)} entries; it must have {pairs} numbers")
        yield from made(f"rope_factors_{name}.weight", Numbers(np.array(values, np.float32)))


def _magnitude(factor: float, trained: int) -> float:
    """What turned pairs are multiplied by where config.json does not say; `factor` is how often the trained context
    stands in the one there is."""
    return math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 < trained else 1.0


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Raises GGUFError for positions that are scaled otherwise."""
    rope, trained = config.rope(), trained_length(config)
    keys = {"rope.freq_base": f32(rope.number("rope_theta", 10000.0)), _TRAINED: u32(trained)}
    if is_long(config):
        factor = rope.number("factor", config.count("max_position_embeddings") / trained)
        keys[_ATTENTION] = f32(rope.number("attention_factor", _magnitude(factor, trained)))
    elif (kind := rope.text("rope_type", "default")) != "default":
        raise GGUFError(f"config.json: rope_type is {shown(kind)}, which this architecture does not run with")
    return keys


def _scaling(file: Written) -> Mapping[str, Any]:
    """What `rope_config` says, with factors where the file has them."""
    said = dict(rope_config(file))
    names = [f"rope_factors_{name}.weight" for name in SETS]
    if all(name in file.tensors for name in names):
        said["rope_scaling"] = {"rope_type": "longrope"} | {
            f"{name}_factor": [shortest(x) for x in file.tensors[tensor].to_numpy()]
            for tensor, name in zip(names, SETS, strict=True)
        }
    if _TRAINED in file.keys:
        said["original_max_position_embeddings"] = file.keys[_TRAINED]
    return said


def _config(file: Written) -> Mapping[str, Any]:
    said, context = dict(_scaling(file)), file.keys["context_length"]
    trained = file.keys.get(_TRAINED) or context
    usual = _magnitude(context / trained, trained)
    there = file.keys.get(_ATTENTION, usual)
    if "rope_scaling" in said and not math.isclose(there, usual, rel_tol=1e-6):
        said["rope_scaling"] = {**said["rope_scaling"], "attention_factor": shortest(there)}
    return said


LONG_ROPE = Derived(_keys, _config)
