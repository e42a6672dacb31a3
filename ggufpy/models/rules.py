"""What checkpoints of many families have in common: rules of tensors, and items of windows, experts and positions.

Names on the side of the checkpoint are those of transformers' modelling code, `model.layers.3.self_attn.q_proj`; those
of the file are llama.cpp's (gguf-py/gguf/tensor_mapping.py), its metadata what conversion/base.py there writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from .base import POOLINGS
from .changes import SAME, Change, SplitEach
from .checkpoint import (
    Derived,
    Field,
    HfConfig,
    Item,
    Rule,
    Written,
    f32,
    linear,
    one,
    rope_config,
    rope_keys,
    shortest,
    stacked,
    u32,
)

PATTERN = "attention.sliding_window_pattern"
NEAR_BASE = "rope.freq_base_swa"
BEFORE = (("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"))  # norms of llama's layers


def end_rules(norm: Change = SAME) -> Iterator[Rule]:
    """Embedding, last norm and output matrix."""
    yield one("token_embd.weight", "model.embed_tokens.weight")
    yield one("output_norm.weight", "model.norm.weight", norm)
    yield from linear("output", "lm_head", optional=True)


def norm_rules(i: int, names: tuple[tuple[str, str], ...], change: Change = SAME) -> Iterator[Rule]:
    """Norms of layer i, by their names on both sides."""
    for name, hf in names:
        yield one(f"blk.{i}.{name}.weight", f"model.layers.{i}.{hf}.weight", change)


def attention_rules(i: int, q: Change = SAME, k: Change = SAME) -> Iterator[Rule]:
    """The four matrices of attention, with biases where there are; q and k say how rows of queries and keys change."""
    for name, hf, change in (("attn_q", "q_proj", q), ("attn_k", "k_proj", k), ("attn_v", "v_proj", SAME),
                             ("attn_output", "o_proj", SAME)):  # fmt: skip
        yield from linear(f"blk.{i}.{name}", f"model.layers.{i}.self_attn.{hf}", change)


def head_norm_rules(i: int, change: Change = SAME) -> Iterator[Rule]:
    """Norms of queries and keys."""
    names = (("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm"))
    yield from norm_rules(i, names, change)


def optional_head_norms(i: int) -> Iterator[Rule]:
    """Norms of queries and keys, which only some models of a family have."""
    for name in "qk":
        yield one(f"blk.{i}.attn_{name}_norm.weight", f"model.layers.{i}.self_attn.{name}_norm.weight", optional=True)


def gated_rules(i: int, hf: str = "mlp", end: str = "") -> Iterator[Rule]:
    """A gated feed-forward part; names of its tensors end with `end` in the file."""
    for name in ("gate", "up", "down"):
        yield from linear(f"blk.{i}.ffn_{name}{end}", f"model.layers.{i}.{hf}.{name}_proj")


EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj")


def expert_rules(
    i: int, count: int, hf: str = "mlp.experts", names: tuple[str, str, str] = EXPERT_NAMES
) -> Iterator[Rule]:
    """Experts, each with three matrices under `names`, or all in two tensors as transformers 5 holds them."""
    at = f"model.layers.{i}.{hf}"
    weights = [f"blk.{i}.ffn_{name}_exps.weight" for name in ("gate", "up", "down")]
    for weight, name in zip(weights, names, strict=True):
        yield stacked(weight, f"{at}.{{}}.{name}.weight", count)
    for end in ("", ".weight"):
        yield Rule((weights[0], weights[1]), (f"{at}.gate_up_proj{end}",), SplitEach())
        yield one(weights[2], f"{at}.down_proj{end}")


EXPERTS = "num_local_experts|num_experts|n_routed_experts"
QWEN_EXPERTS = "num_experts|num_local_experts"  # the first name is what an exported config.json has


def expert_items(names: str = EXPERTS) -> tuple[Item, ...]:
    """How many experts there are, and how many of them a token uses."""
    used = "num_experts_per_tok|num_experts_per_token|top_k_experts"
    return Field("expert_count", names, least=1), Field("expert_used_count", used, least=1)


EXPERT_ITEMS = expert_items()


def experts_of(config: HfConfig) -> int:
    """How many experts a layer has."""
    return config.count(EXPERTS)


def activation(*names: str) -> Item:
    """The function of feed-forward parts, which no file says: GGUFError where config.json has none of `names`."""

    def check(config: HfConfig) -> Mapping[str, Typed]:
        said = config.text("hidden_act|hidden_activation|activation_function", names[0])
        if said not in names:
            raise GGUFError(f"config.json: hidden_act is {checks.shown(said)}; this architecture has {names[0]} alone")
        return {}

    return Derived(check)


# -- windows ---------------------------------------------------------------------------------------------------

Near = Callable[[HfConfig], list[bool]]


def by_period(period: int) -> Near:
    """All layers but the last of every `period` have a window; config.json may give another period."""

    def near(config: HfConfig) -> list[bool]:
        every = config.count("sliding_window_pattern|_sliding_window_pattern", period)
        return [(i + 1) % every != 0 for i in range(config.layers)]

    return near


def by_letters(period: int) -> Near:
    """As `by_period`; or config.json says it in letters, "LLLG", of which L stands for a window."""

    def near(config: HfConfig) -> list[bool]:
        said = config.get("sliding_window_pattern")
        if isinstance(said, str) and said and set(said) <= {"L", "G"}:
            return [said[i % len(said)] == "L" for i in range(config.layers)]
        return by_period(period)(config)

    return near


@dataclass(frozen=True)
class Windows:
    """The window, and which layers have it.

    config.json has layer_types, or they follow from other things (`otherwise`). The file says which where llama.cpp
    would not take them for granted: all but the last of every `period` layers, none where that is 0. `said` is what
    config.json has besides. Of some families llama.cpp takes it that there is a window: they `always` say so. Of others
    files always have the pattern, `spelled` out.
    """

    otherwise: Near
    period: int = 0
    said: Mapping[str, Any] = field(default_factory=dict)
    always: bool = False
    spelled: bool = False

    def near(self, config: HfConfig) -> list[bool]:
        """Whether each layer has a window. Raises GGUFError for types of layers that are none of attention."""
        if "layer_types" not in config:
            return self.otherwise(config)
        types = config.items("layer_types")
        known = {"sliding_attention": True, "full_attention": False}
        if len(types) != config.layers or not all(isinstance(kind, str) and kind in known for kind in types):
            raise GGUFError(
                f"config.json: layer_types is {checks.shown(types)}; it must have full_attention or sliding_attention "
                f"for each of {config.layers} layers"
            )
        return [known[kind] for kind in types]

    def usual(self, layers: int) -> list[bool]:
        return [self.period > 0 and (i + 1) % self.period != 0 for i in range(layers)]

    def keys(self, config: HfConfig) -> Mapping[str, Typed]:
        near = self.near(config)
        window = config.count("sliding_window", 0, least=0)
        if not window or not any(near) or not config.flag("use_sliding_window", True):
            return {"attention.sliding_window": u32(0)} if self.always else {}
        keys = {"attention.sliding_window": u32(window)}
        if near == self.usual(config.layers) and not self.spelled:
            return keys
        return {**keys, PATTERN: Typed("array[bool]", near)}

    def config(self, file: Written) -> Mapping[str, Any]:
        layers = int(file.keys["block_count"])
        if not file.keys.get("attention.sliding_window"):
            return {"layer_types": ["full_attention"] * layers} if self.period else {}
        near = [bool(flag) for flag in file.keys.get(PATTERN, self.usual(layers))][:layers]
        types = ["sliding_attention" if flag else "full_attention" for flag in near]
        return {"sliding_window": int(file.keys["attention.sliding_window"]), "layer_types": types, **self.said}


def _windowless(file: Written) -> Mapping[str, Any]:
    return {"sliding_window": None, "layer_types": ["full_attention"] * int(file.keys["block_count"])}


# Before `Windows`, for classes that have windows where config.json does not say that they have none.
NO_WINDOW = Derived(back=_windowless)


def near_base(config: HfConfig) -> Mapping[str, Typed]:
    """The base of positions in layers with a window, where config.json has it by type of layer.

    Raises GGUFError where these are scaled: a file has the scaling of the others.
    """
    if not isinstance(config.mapping("rope_parameters|rope_scaling").get("sliding_attention"), Mapping):
        return {}
    rope = config.rope("sliding_attention")
    if rope.text("rope_type", "default") != "default":
        raise GGUFError("config.json: positions of layers with a window are scaled, which no file can say")
    return {NEAR_BASE: f32(rope.number("rope_theta", 10000.0))}


# -- embeddings -------------------------------------------------------------------------------------------------

# Ways to make one row of a text's that sentence-transformers and files both have, with their numbers in files.
_SENTENCE = {str(name): i for i, name in enumerate(POOLINGS) if name in ("mean", "cls", "last")}
# Of this package alone: that sentence-transformers makes embeddings 1 long, which to llama.cpp is for who asks to say.
_NORMALIZED = "pooling_normalized"


def _pooling(config: HfConfig) -> Mapping[str, Typed]:
    keys: dict[str, Typed] = {}
    if "sentence_pooling" in config:
        kind = config.text("sentence_pooling")
        if kind not in _SENTENCE:
            raise GGUFError(f"sentence_pooling is {checks.shown(kind)}; it must be one of {', '.join(_SENTENCE)}")
        keys["pooling_type"] = u32(_SENTENCE[kind])
    if config.flag("sentence_normalize"):
        keys[_NORMALIZED] = Typed("bool", True)
    return keys


def _pooling_config(file: Written) -> Mapping[str, Any]:
    pooling = file.keys.get("pooling_type", 0)
    if pooling not in range(len(POOLINGS)):
        raise GGUFError(f"pooling_type is {checks.shown(pooling)}, which stands for no pooling")
    kinds = [kind for kind, number in _SENTENCE.items() if number == pooling]
    said: dict[str, Any] = {"sentence_pooling": kinds[0]} if kinds else {}
    return {**said, "sentence_normalize": True} if file.keys.get(_NORMALIZED) is True else said


# What makes one row of a text's, where sentence-transformers' files stand beside config.json (`convert/sentence.py`).
POOLED = Derived(_pooling, _pooling_config)


# -- rotary positions ------------------------------------------------------------------------------------------


def yarn_growth(factor: float, by: float = 1.0) -> float:
    """What YaRN multiplies turned pairs by, as transformers has it (modeling_rope_utils.py)."""
    return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0


def _keys(config: HfConfig, further: tuple[str, ...] = ()) -> Mapping[str, Typed]:
    rope = config.rope()
    kind = rope.text("rope_type", "default")
    if kind not in ("default", "linear", "yarn", "dynamic", "none", *further):
        raise GGUFError(f"config.json: rope_type is {checks.shown(kind)}, which this architecture does not run with")
    keys = dict(rope_keys(config))
    if kind != "yarn":
        return keys
    factor = rope.number("factor")
    wanted = rope.number("attention_factor|attn_factor", 0.0)
    if not wanted and rope.number("mscale", 0.0) and rope.number("mscale_all_dim", 0.0):
        wanted = yarn_growth(factor, rope.number("mscale")) / yarn_growth(factor, rope.number("mscale_all_dim"))
    if wanted:
        keys["rope.scaling.attn_factor"] = Typed("float32", wanted / yarn_growth(factor))
    return keys


def _config(file: Written) -> Mapping[str, Any]:
    said = dict(rope_config(file))
    scaling = said.get("rope_scaling")
    if scaling is not None and "rope.scaling.attn_factor" in file.keys and "attention_factor" not in scaling:
        grown = float(file.keys["rope.scaling.attn_factor"]) * yarn_growth(scaling["factor"])
        said["rope_scaling"] = {**scaling, "attention_factor": shortest(grown)}
    return said


# Positions of families whose files have no factors of pairs: plain, linear and YaRN. llama.cpp's converter names
# attention_factor as a key that nothing reads; the one beside it says the same over what it multiplies by anyway.
PLAIN_ROPE = Derived(_keys, _config)
# Of those that have the factors of Llama 3.1 besides (`llama3_factors`).
BANDED_ROPE = Derived(partial(_keys, further=("llama3",)), _config)
