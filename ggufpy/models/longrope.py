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
from ggufpy.format.values import Typed

from .checkpoint import Derived, HfConfig, Rule, Written, f32, made, rope_config, rotated_keys, shortest, u32

KINDS = ("long", "short")
_TRAINED = "rope.scaling.original_context_length"
_ATTENTION = "rope.scaling.attn_factor"


def trained_length(config: HfConfig) -> int:
    """The context that a model was trained with first."""
    return config.rope().count("original_max_position_embeddings", config.count("max_position_embeddings"))


def is_long(config: HfConfig) -> bool:
    """Whether config.json has factors."""
    return any(f"{kind}_factor" in config.rope() for kind in KINDS)


def factor_rules(config: HfConfig) -> Iterator[Rule]:
    """Both sets of factors, where config.json has them. Raises GGUFError for those that do not fit heads."""
    if not is_long(config):
        return
    rope, pairs = config.rope(), rotated_keys(config)["rope.dimension_count"].value // 2
    for kind in KINDS:
        values = rope.items(f"{kind}_factor")
        if len(values) != pairs or any(isinstance(x, bool) or not isinstance(x, int | float) for x in values):
            raise GGUFError(f"config.json: {kind}_factor has {len(values)} entries; it must have {pairs} numbers")
        yield from made(f"rope_factors_{kind}.weight", Numbers(np.array(values, np.float32)))


def _magnitude(context: int, trained: int) -> float:
    """What turned pairs are multiplied by, where config.json does not say."""
    return math.sqrt(1 + math.log(context / trained) / math.log(trained)) if context > trained > 1 else 1.0


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    rope, trained = config.rope(), trained_length(config)
    keys = {_TRAINED: u32(trained)}
    if is_long(config):
        usual = _magnitude(config.count("max_position_embeddings"), trained)
        keys[_ATTENTION] = f32(rope.number("attention_factor", usual))
    return keys


def _scaling(file: Written) -> Mapping[str, Any]:
    """What `rope_config` says, with factors where the file has them."""
    said = dict(rope_config(file))
    names = [f"rope_factors_{kind}.weight" for kind in KINDS]
    if all(name in file.tensors for name in names):
        said["rope_scaling"] = {"rope_type": "longrope"} | {
            f"{kind}_factor": [shortest(x) for x in file.tensors[name].to_numpy()]
            for kind, name in zip(KINDS, names, strict=True)
        }
    if _TRAINED in file.keys:
        said["original_max_position_embeddings"] = file.keys[_TRAINED]
    return said


def _config(file: Written) -> Mapping[str, Any]:
    said = dict(_scaling(file))
    usual = _magnitude(file.keys["context_length"], file.keys.get(_TRAINED, file.keys["context_length"]))
    there = file.keys.get(_ATTENTION, usual)
    if not math.isclose(there, usual, rel_tol=1e-6):
        said["rope_scaling"] = {**said.get("rope_scaling", {}), "attention_factor": shortest(there)}
    return said


LONG_ROPE = Derived(_keys, _config)
