"""The llama architecture: Llama 1 to 3, Mistral, SmolLM2, TinyLlama and the many that share their layers.

Names of metadata and tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown

from .base import SENSIBLE, Counts, Inventory, Keys, vocabulary_of
from .changes import PairHalves
from .checkpoint import (
    RMS,
    ROPE,
    ROTATED,
    SIZES,
    VOCABULARY,
    WINDOW,
    Checkpoint,
    Derived,
    HfConfig,
    Present,
    Rule,
    Written,
    linear,
    llama3_factors,
    made,
    one,
)
from .op import Op
from .ops import Attend, Embed, Gate, Heads, MatMul, Norm, Rope, Rotate, StoreKv
from .plan import Plan
from .source import TensorTable


@dataclass(frozen=True)
class Config:
    """Sizes of the model, from `llama.*` metadata. Those that may differ between layers are `Counts`."""

    layers: int
    context: int
    width: int
    hiddens: Counts
    queries: Counts
    shared: Counts
    key_length: int
    value_length: int
    eps: float
    window: int

    @property
    def hidden(self) -> int:
        """The width of every layer's feed-forward part. Raises GGUFError if layers differ."""
        return self.hiddens.same

    @property
    def heads(self) -> Heads:
        """The geometry of every layer's attention. Raises GGUFError if layers differ."""
        return Heads(self.queries.same, self.shared.same, self.key_length, self.value_length)

    def heads_of(self, layer: int) -> Heads:
        return Heads(self.queries[layer], self.shared[layer], self.key_length, self.value_length)


def read_config(keys: Keys, experts: bool = False, eps: str = "attention.layer_norm_rms_epsilon") -> Config:
    """Raises GGUFError for a value that is missing, out of range or inconsistent.

    A mixture of `experts` need not have a feed-forward length: `hidden` is 0 then. Layers that predict further tokens
    (nextn), the last ones of a file, are not counted. `eps` is the key of what norms add.
    """
    nextn, width = keys.count("nextn_predict_layers", 0, least=0), keys.count("embedding_length")
    layers = keys.count("block_count", least=nextn + 1) - nextn
    queries = keys.counts("attention.head_count", layers)
    shared = keys.counts("attention.head_count_kv", layers, queries)
    several = max(len(queries.values), len(shared.values))  # 1 where layers are alike
    for count, few in {(queries[i], shared[i]) for i in range(several)}:
        if count % few:
            raise GGUFError(f"{count} attention heads cannot share {few} key/value heads")
    if not experts and keys.count("expert_count", 0, least=0):
        raise GGUFError("the model is a mixture of experts, which ggufpy does not run yet")
    key_length = keys.count("attention.key_length", max(width // queries[0], 1))
    value_length = keys.count("attention.value_length", max(width // queries[0], 1))
    group = max(queries[i] // shared[i] for i in range(several))
    if max(key_length, value_length) > 1024 or group > 64:
        raise GGUFError(
            f"attention heads of {key_length} and {value_length}, {group} to one key: larger than ggufpy runs"
        )
    return Config(
        layers=layers,
        context=keys.count("context_length"),
        width=width,
        hiddens=keys.counts("feed_forward_length", layers, 0 if experts else None, 0 if experts else 1),
        queries=queries,
        shared=shared,
        key_length=key_length,
        value_length=value_length,
        eps=keys.number(eps, within=(1e-13, 1.0)),
        window=keys.count("attention.sliding_window", 0, least=0),
    )


def read_scaling(keys: Keys) -> tuple[str, float]:
    """How positions are scaled, and by what: linear where the file does not say, by 1 where it says 0 or nothing.

    `rope.scale_linear` is the older name of the factor. Defaults: llama.cpp, src/llama-model.cpp.
    """
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn", "llama3", "longrope"):
        raise GGUFError(f"rope.scaling.type is {shown(kind)}; ggufpy knows none, linear, yarn, llama3 and longrope")
    older = keys.number("rope.scale_linear", 0.0, or_zero=True)
    return kind, keys.number("rope.scaling.factor", older, or_zero=True) or 1.0


def read_rope(keys: Keys, config: Config, tensors: Inventory) -> Rope:
    """Rotary positions from metadata and `rope_freqs.weight`."""
    rotated = keys.count("rope.dimension_count", config.key_length)
    if rotated % 2 or rotated > config.key_length:
        raise GGUFError(f"rope.dimension_count is {rotated}; it must be even and at most {config.key_length}")
    factors = _factors("rope_freqs.weight", rotated // 2, tensors) if "rope_freqs.weight" in tensors else ()
    scaling, factor = read_scaling(keys)
    return Rope(
        dimensions=rotated,
        base=keys.number("rope.freq_base", 10000.0, (1.5, 1e12)),
        factors=factors,
        scaling=scaling,
        factor=factor,
        original_context=keys.count("rope.scaling.original_context_length", 0, least=0) or config.context,
        attention_factor=keys.number("rope.scaling.attn_factor", 1.0),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        low_frequency=keys.number("rope.scaling.low_freq_factor", 1.0),
        high_frequency=keys.number("rope.scaling.high_freq_factor", 4.0),
        log_multiplier=keys.number("rope.scaling.yarn_log_multiplier", 0.0, or_zero=True),
    )


def _factors(name: str, pairs: int, tensors: Inventory) -> tuple[float, ...]:
    """What a tensor divides the frequencies of pairs by. Raises GGUFError for numbers of no use."""
    values = np.asarray(tensors.values(name, pairs), np.float64)
    if not np.all((values >= SENSIBLE[0]) & (values <= SENSIBLE[1])):
        raise GGUFError("{} has a factor that is not from {:g} to {:g}".format(name, *SENSIBLE))
    return tuple(values.tolist())


def read_long_rope(keys: Keys, config: Config, tensors: Inventory) -> Rope:
    """As `read_rope`, with LongRoPE's factors where the file has them.

    There are two sets, for contexts up to the one that the model was trained with first and for longer ones; the
    context that the plan is made for decides. Facts: get_rope_factors in src/llama-model.cpp of llama.cpp.
    """
    rope = read_rope(keys, config, tensors)
    names = {kind: f"rope_factors_{kind}.weight" for kind in ("long", "short")}
    if not any(name in tensors for name in names.values()):
        return rope
    found = {kind: _factors(name, rope.dimensions // 2, tensors) for kind, name in names.items()}
    long = (keys.n_ctx or config.context) > rope.original_context
    return rope if rope.factors else replace(rope, factors=found["long" if long else "short"])


def _layer(i: int, c: Config, rope: Rope, tensors: Inventory) -> tuple[Op, ...]:
    """One block: attention and feed-forward, each added to the residual stream x."""
    h, hidden, at = c.heads_of(i), c.hiddens[i], f"blk.{i}."
    q_rows, k_rows, v_rows = h.queries * h.key_length, h.shared * h.key_length, h.shared * h.value_length

    def project(x: str, name: str, y: str, rows: int, columns: int, add: bool = False) -> MatMul:
        weight = tensors.weight(f"{at}{name}.weight", rows, columns)
        return MatMul(x, weight, y, tensors.optional(f"{at}{name}.bias", rows), add)

    return (
        Norm("x", tensors.weight(f"{at}attn_norm.weight", c.width), "norm", c.eps),
        project("norm", "attn_q", "q", q_rows, c.width),
        project("norm", "attn_k", "k", k_rows, c.width),
        project("norm", "attn_v", "v", v_rows, c.width),
        Rotate("q", h.queries, h.key_length, rope),
        Rotate("k", h.shared, h.key_length, rope),
        StoreKv(i, "k", "v", h),
        Attend(i, "q", "attn", h, 1.0 / h.key_length**0.5, c.window),
        project("attn", "attn_output", "x", c.width, h.queries * h.value_length, add=True),
        Norm("x", tensors.weight(f"{at}ffn_norm.weight", c.width), "norm", c.eps),
        project("norm", "ffn_gate", "gate", hidden, c.width),
        project("norm", "ffn_up", "up", hidden, c.width),
        Gate("gate", "up", "ffn", hidden),
        project("ffn", "ffn_down", "x", c.width, hidden, add=True),
    )


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    vocabulary = vocabulary_of(tensors)
    embedding = table.weight("token_embd.weight", vocabulary, c.width)
    rope = read_rope(keys, c, table)
    layers = tuple(_layer(i, c, rope, table) for i in range(c.layers))
    output = table.optional("output.weight", vocabulary, c.width) or embedding
    head = (
        Norm("x", table.weight("output_norm.weight", c.width), "norm", c.eps),
        MatMul("norm", output, "logits", table.optional("output.bias", vocabulary)),
    )
    table.finish()
    return Plan(c.context, vocabulary, Embed(embedding, "x"), layers, head)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield one("token_embd.weight", "model.embed_tokens.weight")
    yield one("output_norm.weight", "model.norm.weight")
    yield from linear("output", "lm_head", optional=True)
    yield from made("rope_freqs.weight", llama3_factors(config))
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"model.layers.{i}."
        yield one(f"{at}attn_norm.weight", f"{hf}input_layernorm.weight")
        yield from linear(f"{at}attn_q", f"{hf}self_attn.q_proj", PairHalves(config.heads))
        yield from linear(f"{at}attn_k", f"{hf}self_attn.k_proj", PairHalves(config.shared))
        yield from linear(f"{at}attn_v", f"{hf}self_attn.v_proj")
        yield from linear(f"{at}attn_output", f"{hf}self_attn.o_proj")
        yield one(f"{at}ffn_norm.weight", f"{hf}post_attention_layernorm.weight")
        yield from linear(f"{at}ffn_gate", f"{hf}mlp.gate_proj")
        yield from linear(f"{at}ffn_up", f"{hf}mlp.up_proj")
        yield from linear(f"{at}ffn_down", f"{hf}mlp.down_proj")


def _class_with_window(file: Written) -> Mapping[str, Any]:
    """Of these classes, only Mistral's look at a window."""
    if "attention.sliding_window" not in file.keys:
        return {}
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


checkpoint = Checkpoint(
    classes=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "LlamaModel"),
    model_type="llama",
    items=(
        *SIZES,
        RMS,
        VOCABULARY,
        ROPE,
        ROTATED,
        WINDOW,
        Present("attention_bias", "blk.0.attn_q.bias"),
        Present("mlp_bias", "blk.0.ffn_up.bias"),
        Derived(back=_class_with_window),
    ),
    rules=_rules,
)
