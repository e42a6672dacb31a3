"""gpt-oss: experts with biases, sinks in attention, and a window on every other layer.

Facts: src/models/openai-moe.cpp and conversion/gpt_oss.py of llama.cpp, and the reference code of OpenAI, whose ramp of
YaRN goes between fractions of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Chain, SplitEach, Transpose
from .checkpoint import RMS, SIZES, Checkpoint, Derived, Field, HfConfig, Rule, Written, linear, one, stacked
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, model, read_experts
from .plan import Plan
from .rules import EXPERT_ITEMS, EXPERTS, PLAIN_ROPE, Windows, attention_rules, by_period, end_rules, norm_rules
from .source import TensorTable

NAME = "gpt-oss"
PERIOD = 2  # of layers, the last of which sees everything
NORMS = (("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"))
TRUNCATED = "rope.scaling.yarn_truncate"


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True), Inventory(tensors)
    experts = read_experts(keys, c, "softmax_of_chosen", renormalised=False)
    rope = replace(read_rope(keys, c, table), neox=True, truncated=keys.flag(TRUNCATED, False))
    near = keys.flags("attention.sliding_window_pattern", c.layers, PERIOD)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.qkv()
        yield from at.rotate(rope)
        yield from at.attend(c.window if near[at.i] else 0, sinks=True)
        yield at.output()
        yield at.norm("post_attention_norm")
        yield from at.experts(experts, "clamped")

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"model.layers.{i}."
        yield from norm_rules(i, NORMS)
        yield from attention_rules(i)
        yield one(f"{at}attn_sinks.weight", f"{hf}self_attn.sinks")
        yield from linear(f"{at}ffn_gate_inp", f"{hf}mlp.router")
        both, split = (f"{at}ffn_gate_exps", f"{at}ffn_up_exps"), SplitEach(interleaved=True)
        weights, hf = tuple(f"{name}.weight" for name in both), f"{hf}mlp.experts."
        yield Rule(weights, (f"{hf}gate_up_proj",), Chain((Transpose(), split)))
        yield Rule(weights, (f"{hf}gate_up_proj.weight",), split)  # as blocks of 4 bits have them: (experts, out, in)
        yield Rule(tuple(f"{name}.bias" for name in both), (f"{hf}gate_up_proj_bias",), split)
        yield one(f"{at}ffn_down_exps.weight", f"{hf}down_proj", Transpose())
        yield one(f"{at}ffn_down_exps.weight", f"{hf}down_proj.weight")
        yield one(f"{at}ffn_down_exps.bias", f"{hf}down_proj_bias")
        for name in ("gate", "up", "down"):  # single experts, gate and up apart, as other libraries have them
            for end in ("weight", "bias"):
                yield stacked(f"{at}ffn_{name}_exps.{end}", f"{hf}{{}}.{name}_proj.{end}", config.count(EXPERTS))


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Whether YaRN's ramp is between whole pairs. Raises GGUFError for what no file can say."""
    if config.number("swiglu_alpha", 1.702) != 1.702 or config.number("swiglu_limit", 7.0) != 7.0:
        raise GGUFError("config.json: gpt-oss runs with swiglu_alpha 1.702 and swiglu_limit 7 alone")
    rope = config.rope()
    truncated = rope.text("rope_type", "default") == "yarn" and rope.flag("truncate", True)
    return {TRUNCATED: Typed("bool", True)} if truncated else {}


def _config(file: Written) -> Mapping[str, Any]:
    """What YaRN's ramp is between. Without a word of positions transformers would take gpt-oss's own scaling."""
    scaling = PLAIN_ROPE.config(file).get("rope_scaling")
    if scaling is None:
        return {"rope_scaling": {"rope_type": "default"}}
    return {"rope_scaling": {**scaling, "truncate": file.keys.get(TRUNCATED, False)}}


# What the configuration class of transformers has where config.json says nothing.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "sliding_window": 128, "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}  # fmt: skip

checkpoint = Checkpoint(
    classes=("GptOssForCausalLM",),
    model_type="gpt_oss",
    items=(
        *SIZES, RMS, PLAIN_ROPE, Windows(by_period(PERIOD), PERIOD),
        *EXPERT_ITEMS,
        Field("expert_feed_forward_length", "intermediate_size", least=1),
        Derived(_keys, _config),
    ),
    rules=_rules,
    experts=EXPERTS,
    defaults=DEFAULTS,
)  # fmt: skip
