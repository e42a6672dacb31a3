"""Granite with experts, and with one that all tokens share: layers as Granite's.

A token's shares are the softmax of what it chose, which is the whole softmax divided by what the chosen have of it.
Facts: src/models/granite-moe.cpp and conversion/granite.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import granite
from .base import Keys
from .changes import PairHalves, Split, SplitEach
from .checkpoint import Checkpoint, Derived, Field, HfConfig, Rule, Written, one
from .granite import DEFAULTS, GRANITE_ITEMS
from .llama import MIXTRAL
from .plan import Plan
from .rules import BEFORE, EXPERT_ITEMS, EXPERTS, attention_rules, end_rules, expert_rules, experts_of, norm_rules
from .source import TensorTable


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    return granite.plan(keys, tensors)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    shared = config.count("shared_intermediate_size", 0, least=0)
    for i in range(config.layers):
        at, hf = f"blk.{i}.ffn_", f"model.layers.{i}."
        yield from norm_rules(i, BEFORE)
        yield from attention_rules(i, PairHalves(config.heads), PairHalves(config.shared))
        yield one(f"{at}gate_inp.weight", f"{hf}block_sparse_moe.router.layer.weight")
        both = (f"{at}gate_exps.weight", f"{at}up_exps.weight")
        yield Rule(both, (f"{hf}block_sparse_moe.input_linear.weight",), SplitEach())
        yield one(f"{at}down_exps.weight", f"{hf}block_sparse_moe.output_linear.weight")
        yield from expert_rules(i, experts_of(config), "block_sparse_moe.experts", MIXTRAL)  # as mlx-lm has them
        if shared:
            both = (f"{at}gate_shexp.weight", f"{at}up_shexp.weight")
            yield Rule(both, (f"{hf}shared_mlp.input_linear.weight",), Split((shared, shared)))
            yield one(f"{at}down_shexp.weight", f"{hf}shared_mlp.output_linear.weight")


def _class(file: Written) -> Mapping[str, Any]:
    if "expert_shared_feed_forward_length" not in file.keys:
        return {}
    return {"architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}


checkpoint = Checkpoint(
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    model_type="granitemoe",
    items=(
        *GRANITE_ITEMS,
        *EXPERT_ITEMS,
        Field("expert_shared_feed_forward_length", "shared_intermediate_size", default=None, least=1),
        Derived(back=_class),
    ),
    rules=_rules,
    experts=EXPERTS,
    defaults=DEFAULTS,
)
