"""GLM 4 of 2025 (0414): norms before and after attention and feed-forward, gate and up of one matrix, half of each head
turned, neighbours together.

Facts: src/models/glm4.cpp and conversion/glm.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, HfConfig, Present, Rule, one, rotated
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, leave_out_nextn, model
from .plan import Plan
from .rules import PLAIN_ROPE, activation, attention_rules, end_rules, norm_rules
from .source import TensorTable

NORMS = (
    ("attn_norm", "input_layernorm"), ("post_attention_norm", "post_self_attn_layernorm"),
    ("ffn_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_mlp_layernorm"),
)  # fmt: skip


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    leave_out_nextn(keys, c, table)
    rope = read_rope(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output("out", add=False)
        yield from at.added("post_attention_norm")
        yield at.norm("ffn_norm")
        yield from at.feed_forward(y="out", add=False)
        yield from at.added("post_ffw_norm")

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, NORMS)
        yield from attention_rules(i)
        yield one(f"blk.{i}.ffn_up.weight", f"model.layers.{i}.mlp.gate_up_proj.weight")
        yield one(f"blk.{i}.ffn_down.weight", f"model.layers.{i}.mlp.down_proj.weight")


checkpoint = Checkpoint(
    classes=("Glm4ForCausalLM", "Glm4Model"),
    model_type="glm4",
    items=(
        *SIZES, RMS, PLAIN_ROPE, rotated(0.5), Present("attention_bias", "blk.0.attn_q.bias"), activation("silu"),
    ),
    rules=_rules,
    defaults={
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-7,
    },
)  # fmt: skip
