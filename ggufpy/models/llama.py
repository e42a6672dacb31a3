"""The llama architecture: Llama 1 to 3, Mistral, SmolLM2, TinyLlama and the many that share their layers.

Names of metadata and tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from .base import SENSIBLE, Counts, Inventory, Keys
from .changes import PairHalves
from .checkpoint import (
    RMS,
    ROTATED,
    SIZES,
    VOCABULARY,
    WINDOW,
    Checkpoint,
    Derived,
    Field,
    HfConfig,
    Present,
    Rule,
    Written,
    llama3_factors,
    made,
    one,
)
from .op import Op
from .ops import Heads, Rope
from .parts import Experts, Layer, model, read_experts
from .plan import Plan
from .rules import (
    BANDED_ROPE,
    BEFORE,
    EXPERT_NAMES,
    EXPERTS,
    activation,
    attention_rules,
    end_rules,
    expert_rules,
    gated_rules,
    norm_rules,
)
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
    factors = {kind: _factors(name, rope.dimensions // 2, tensors) for kind, name in names.items()}
    long = (keys.n_ctx or config.context) > rope.original_context
    return rope if rope.factors else replace(rope, factors=factors["long" if long else "short"])


def read_mixture(keys: Keys, c: Config, tensors: Inventory) -> Experts | None:
    """Experts of a model that has such, as Mixtral: each has a feed-forward part of the model's whole width.

    Raises GGUFError for files that have a tensor for each expert.
    """
    if not keys.count("expert_count", 0, least=0):
        return None
    if "blk.0.ffn_gate.0.weight" in tensors:
        raise GGUFError("the file has a tensor for each expert, as no program reads any more: convert the model again")
    experts = read_experts(keys, c)
    return replace(experts, hidden=keys.count("expert_feed_forward_length", 0, least=0) or c.hidden)


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=bool(keys.count("expert_count", 0, least=0))), Inventory(tensors)
    rope, experts = read_rope(keys, c, table), read_mixture(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        """One block: attention and feed-forward, each added to the residual stream x."""
        yield at.norm("attn_norm")
        yield from at.attention(rope, window=c.window)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward() if experts is None else at.experts(experts)

    return model(c, table, layer)


MIXTRAL = ("w1", "w3", "w2")  # gate, up, down


def rules(config: HfConfig) -> Iterator[Rule]:
    """Tensors of a model whose layers are llama's, dense or with experts."""
    yield from end_rules()
    yield from made("rope_freqs.weight", llama3_factors(config))
    count = config.count(EXPERTS, 0, least=0)
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE)
        yield from attention_rules(i, PairHalves(config.heads), PairHalves(config.shared))
        if not count:
            yield from gated_rules(i)
            continue
        for hf, names in (("block_sparse_moe", MIXTRAL), ("mlp", EXPERT_NAMES)):
            yield one(f"blk.{i}.ffn_gate_inp.weight", f"model.layers.{i}.{hf}.gate.weight")
            yield from expert_rules(i, count, f"{hf}.experts", names)


def _class(file: Written) -> Mapping[str, Any]:
    """Of these classes, only Mixtral's has experts, and only Mistral's looks at a window besides."""
    if "expert_count" in file.keys:
        return {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    if "attention.sliding_window" in file.keys:
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return {}


LLAMA_ITEMS = (
    *SIZES,
    RMS,
    VOCABULARY,
    ROTATED,
    WINDOW,
    Present("attention_bias", "blk.0.attn_q.bias"),
    Present("mlp_bias", "blk.0.ffn_up.bias"),
    activation("silu", "swish"),
)

# What the configuration classes of transformers have where config.json says nothing.
KIND_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    },
    "mistral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
    "mixtral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
    },
}  # fmt: skip

checkpoint = Checkpoint(
    classes=(
        "LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "LlamaModel", "MixtralForCausalLM",
        "VLlama3ForCausalLM", "InternLM3ForCausalLM", "IQuestCoderForCausalLM",
    ),
    model_type="llama",
    items=(
        *LLAMA_ITEMS,
        BANDED_ROPE,
        Field("expert_count", EXPERTS, default=None, least=1),
        Field("expert_used_count", "num_experts_per_tok", default=None, least=1),
        Derived(back=_class),
    ),
    rules=rules,
    experts=EXPERTS,
    kind_defaults=KIND_DEFAULTS,
)  # fmt: skip
