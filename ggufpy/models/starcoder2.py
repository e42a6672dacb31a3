"""StarCoder 2: layer norms and biases everywhere, halves of a head turned together, a feed-forward part without a gate.

Facts: src/models/starcoder2.cpp and conversion/starcoder.py of llama.cpp. Layers may have a window, which it does not
run.
"""

from __future__ import annotations

from collections.abc import Iterator

from .base import Inventory, Keys
from .checkpoint import SIZES, WINDOW, Checkpoint, Field, HfConfig, Present, Rule, linear
from .llama import read_config
from .op import Op
from .parts import LAYER_EPS, Ends, Layer, model
from .plan import Plan
from .qwen2 import read_halves
from .rules import BEFORE, PLAIN_ROPE, activation, attention_rules
from .source import TensorTable


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    rope = read_halves(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope, window=c.window)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.plain_feed_forward("gelu")

    return model(c, table, layer, Ends(kind="layer"))


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from linear("token_embd", "model.embed_tokens")
    yield from linear("output_norm", "model.norm")
    yield from linear("output", "lm_head", optional=True)
    for i in range(config.layers):
        for name, hf in BEFORE:
            yield from linear(f"blk.{i}.{name}", f"model.layers.{i}.{hf}")
        yield from attention_rules(i)
        yield from linear(f"blk.{i}.ffn_up", f"model.layers.{i}.mlp.c_fc")
        yield from linear(f"blk.{i}.ffn_down", f"model.layers.{i}.mlp.c_proj")


checkpoint = Checkpoint(
    classes=("Starcoder2ForCausalLM", "Starcoder2Model"),
    model_type="starcoder2",
    items=(
        *SIZES,
        Field("attention.layer_norm_epsilon", "norm_epsilon", "number", default=1e-5),
        PLAIN_ROPE,
        WINDOW,
        Present("use_bias", "blk.0.attn_q.bias"),
        activation("gelu_pytorch_tanh", "gelu_new"),
    ),
    rules=_rules,
    defaults={"max_position_embeddings": 4096, "tie_word_embeddings": True},
)
