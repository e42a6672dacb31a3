"""Which type llama-quantize gives a tensor: its names sorted into kinds, and one small decision for each kind.

In: names and shapes of a model's tensors in llama-quantize's order, what its metadata say of it, and the file type.
Out: a type's name. Source of every rule here: llama.cpp's src/llama-quant.cpp (`tensor_get_category`,
`tensor_allows_quantization`, `tensor_type_fallback`, `llama_tensor_get_type_impl`, `tensor_requires_imatrix`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from enum import Enum
from types import MappingProxyType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.values import shown
from ggufpy.quantizer.types import FileType
from ggufpy.support.records import dataclass

Shape = tuple[int, ...]


class Kind(Enum):
    """What a tensor is for, as far as the rules tell tensors apart."""

    OUTPUT = "output"
    EMBEDDING = "token_embd"
    QKV = "attn_qkv"
    KV_B = "attn_kv_b"
    VALUE = "attn_v"
    KEY = "attn_k"
    QUERY = "attn_q"
    ATTENTION_OUTPUT = "attn_output"
    UP = "ffn_up"
    GATE = "ffn_gate"
    DOWN = "ffn_down"
    OTHER = ""


VALUES = (Kind.VALUE, Kind.QKV, Kind.KV_B)  # those that hold the values of attention
_EXACT = MappingProxyType({
    "output.weight": Kind.OUTPUT,
    "token_embd.weight": Kind.EMBEDDING,
    "per_layer_token_embd.weight": Kind.EMBEDDING,
})  # fmt: skip
# The first part that a name contains decides.
_PARTS = (
    *((f"{kind.value}.weight", kind) for kind in
      (Kind.QKV, Kind.KV_B, Kind.VALUE, Kind.KEY, Kind.QUERY, Kind.ATTENTION_OUTPUT)),
    *((kind.value, kind) for kind in (Kind.UP, Kind.GATE, Kind.DOWN)),
)  # fmt: skip

# Names, and parts of names, of tensors that keep their type: small ones that matter, and tables.
_KEPT = ("position_embd.weight", "token_types.weight")
_KEPT_PARTS = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight",
    *(f"time_mix_{what}.weight" for what in (
        "first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2",
        "lerp_fused")),
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip

# What takes the place of a type whose blocks do not divide a row; all others, and rows that these do not divide: F16.
_FALLBACK: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
})  # fmt: skip

_NEEDS_IMPORTANCE = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
_LOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")  # file types with a rule book of their own
_TWO = ("IQ2_S", "IQ2_M")
_ONE = ("IQ1_S", "IQ1_M")
_FOUR_CODES = ("IQ4_NL", "IQ4_XS")
# File types whose attn_output gets Q5_K where there are 8 experts.
_EIGHT_OUTPUT = (
    "Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS",
)  # fmt: skip
# Architectures that llama.cpp takes for a 70B by their layers (llama-model.cpp and src/models).
_LARGE_LAYERS = MappingProxyType({"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68})
_LAYER = re.compile(r"blk\.([0-9]{1,9})\.")


@dataclass(frozen=True)
class Model:
    """What the rules ask of a model: its architecture, layers, heads of the first layer, and experts (0: none)."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0

    @property
    def shared(self) -> int:
        """Query heads to a key head, rounded down."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def large(self) -> bool:
        """Whether it is one of llama.cpp's 70B models."""
        if self.architecture == "llama" and self.heads == self.kv_heads:
            return False
        return _LARGE_LAYERS.get(self.architecture) == self.layers


def model_of(metadata: Mapping[str, Any]) -> Model:
    """What a file's metadata say. GGUFError where a key has another type than it must."""
    architecture = metadata.get("general.architecture", "")

    def number(key: str, default: int) -> int:
        name = f"{architecture}.{key}"
        value = metadata.get(name, default)
        if isinstance(value, list):  # a number for each layer: the first one's counts
            value = value[0] if value else default
        if isinstance(value, bool) or not isinstance(value, int):
            raise GGUFError(f"metadata {shown(name)} is {value!r}, not a whole number: correct it (ggufpy edit)")
        return value

    heads = number("attention.head_count", 0)
    return Model(
        str(architecture),
        number("block_count", 0),
        heads,
        number("attention.head_count_kv", heads),
        number("expert_count", 0),
    )


def in_layer(name: str) -> bool:
    """Whether a tensor is a layer's."""
    return _LAYER.match(name) is not None


def order_of(name: str) -> tuple[int, bytes]:
    """The sort key of llama-quantize's order: what belongs to no layer, then layer by layer, each by name."""
    match = _LAYER.match(name)
    return (int(match[1]) if match else -1, name.encode("utf-8", "surrogateescape"))


def kind_of(name: str) -> Kind:
    """What a tensor of this name is for."""
    if name in _EXACT:
        return _EXACT[name]
    return next((kind for part, kind in _PARTS if part in name), Kind.OTHER)


def may_change(name: str, shape: Shape) -> bool:
    """Whether a tensor is a matrix of weights, which a file type says the type of; others keep theirs."""
    matrix = any(n > 1 for n in shape[:-1])  # as ggml counts dimensions: trailing ones of size 1 are none
    return matrix and name.endswith("weight") and name not in _KEPT and not any(part in name for part in _KEPT_PARTS)


def divides(type_name: str, columns: int) -> bool:
    """Whether rows of `columns` weights are whole blocks of a type."""
    return columns % blocktypes.by_name(type_name).weights == 0


def fitting(type_name: str, columns: int) -> str:
    """The type itself, or what takes its place where its blocks do not divide rows of `columns` weights.

    llama-quantize gives up on a type that has no replacement (Q4_0 and others of 32 weights); here it is F16.
    """
    if divides(type_name, columns):
        return type_name
    other = _FALLBACK.get(type_name, "F16")
    return other if divides(other, columns) else "F16"


def needs_importance(name: str, type_name: str, target: FileType) -> bool:
    """Whether llama-quantize refuses to write this tensor without an importance."""
    if kind_of(name) in (Kind.OUTPUT, Kind.EMBEDDING):
        return False
    return type_name in _NEEDS_IMPORTANCE or (type_name == "Q2_K" and target.name == "Q2_K_S")


@dataclass
class Mix:
    """Chooses types tensor by tensor, in `order_of`; some rules count the tensors of a kind that came before.

    `importance`: whether there is an importance matrix; `output_type` is that of the output where the user said one.
    """

    target: FileType
    model: Model
    names: Iterable[str]
    importance: bool = False
    output_type: str | None = None
    tied: bool = field(init=False)
    values: int = field(init=False)
    seen: Counter[Kind] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        kinds = Counter(kind_of(name) for name in self.names)
        self.tied = not kinds[Kind.OUTPUT]
        self.values = sum(kinds[kind] for kind in VALUES)

    def choose(self, name: str, shape: Shape) -> str:
        """The type by the rules, before any fallback. GGUFError for a name whose layer cannot be."""
        kind = kind_of(name)
        if kind is Kind.OUTPUT or (self.tied and kind is Kind.EMBEDDING):
            return self.output_type or _output(self, shape)
        if self.target.name == "MXFP4_MOE":
            return _experts_only(self, kind, shape)
        if kind is Kind.EMBEDDING:
            return _EMBEDDINGS.get(self.target.name, self.target.default)
        rule = (_LOW_RULES if self.target.name in _LOW else _RULES).get(Kind.VALUE if kind in VALUES else kind)
        chosen = rule(self, name) if rule else None
        self.seen[Kind.VALUE if kind in VALUES else kind] += 1
        return chosen or self.target.default

    def layer(self, name: str, kind: Kind) -> int:
        """The layer that a rule goes by: the tensors of its kind so far, or with experts the number in its name."""
        if self.model.experts <= 1:
            return self.seen[kind]
        match = _LAYER.match(name)
        if match is None or int(match[1]) >= self.model.layers:
            raise GGUFError(
                f"tensor {shown(name)}: its layer is not one of block_count's {self.model.layers}: correct its name"
            )
        return int(match[1])

    @property
    def eight(self) -> bool:
        """Whether the model has eight experts, as Mixtral has."""
        return self.model.experts == 8


def _more_bits(i: int, n: int) -> bool:
    """The layers that an _M file gives more bits: both ends and every third."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _output(mix: Mix, shape: Shape) -> str:
    target = mix.target
    if target.name == "MXFP4_MOE" or mix.model.architecture == "falcon" or not divides(target.default, shape[-1]):
        return "Q8_0"
    if target.name in (*_LOW, "IQ3_XXS"):
        return "Q5_K"
    return "Q8_0" if target.default == "Q8_0" else "Q6_K"


def _experts_only(mix: Mix, kind: Kind, shape: Shape) -> str:
    """MXFP4 for the experts, Q8_0 for all else; bailingmoe3 has other 3-D matrices than experts."""
    experts = len(shape) > 2 and shape[-3] > 1
    if mix.model.architecture == "bailingmoe3":
        experts = experts and kind in (Kind.UP, Kind.GATE, Kind.DOWN)
    return "MXFP4" if experts else "Q8_0"


_EMBEDDINGS = MappingProxyType({
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), "Q4_K"),
})  # fmt: skip


def _low_value(mix: Mix, name: str) -> str:
    if mix.model.shared >= 4 or mix.model.experts >= 4:
        return "Q4_K"
    return "IQ3_S" if mix.target.name in _TWO else "Q2_K"


def _low_key(mix: Mix, name: str) -> str | None:
    return "Q4_K" if mix.eight else None


def _low_down(mix: Mix, name: str) -> str | None:
    if mix.seen[Kind.DOWN] >= mix.model.layers // 8:
        return None
    return "IQ3_S" if mix.target.name in _TWO else "Q2_K"


def _low_attention_output(mix: Mix, name: str) -> str | None:
    if mix.eight:
        return "Q5_K"
    if mix.target.name in _ONE:
        return "IQ2_XXS"
    return "IQ3_S" if mix.target.name in _TWO else None


def _value(mix: Mix, name: str) -> str:
    """attn_v: small where heads share it, and sensitive."""
    chosen = _value_by_file(mix) or mix.target.default
    if mix.model.large and chosen in ("Q3_K", "Q4_K"):
        chosen = "Q5_K"
    return "Q8_0" if mix.eight else chosen


def _value_by_file(mix: Mix) -> str | None:
    target, many, i = mix.target.name, mix.model.shared >= 4, mix.seen[Kind.VALUE]
    if target in ("Q3_K_L", "IQ3_M"):
        return "Q5_K" if target == "Q3_K_L" else "Q4_K"
    if target == "Q3_K_M":
        return "Q5_K" if i < 2 else "Q4_K"
    if target == "Q4_K_S":
        return "Q5_K" if i < 4 else None
    if target in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if _more_bits(i, mix.values) else None
    if many:
        return "Q5_K" if target in _FOUR_CODES else "Q4_K" if target in _MANY_VALUES else None
    if target == "IQ3_XXS":
        return None if mix.importance else "IQ3_S"
    return "Q3_K" if target == "Q2_K" else None


_MANY_VALUES = ("Q2_K", "Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S")  # Q4_K where four heads or more share their values


def _key(mix: Mix, name: str) -> str | None:
    return "Q8_0" if mix.eight else _query(mix, name)


def _query(mix: Mix, name: str) -> str | None:
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(mix.target.name)


def _down(mix: Mix, name: str) -> str | None:
    """ffn_down: more bits for some layers, the first ones above all."""
    i, n = mix.layer(name, Kind.DOWN), mix.model.layers
    target, falcon = mix.target.name, mix.model.architecture == "falcon"
    first, more = i < n // 8, _more_bits(i, n)
    if falcon and target in _FALCON_DOWN:
        return _falcon_down(target, i, n)
    if target in ("Q2_K", "Q3_K_L"):
        return "Q3_K" if target == "Q2_K" else "Q5_K"
    if target == "Q3_K_M":
        return "Q5_K" if i < n // 16 else "Q4_K"
    if target in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if more else None
    if target == "IQ3_XXS" and not mix.importance:
        return "Q4_K" if first else "Q3_K"
    if target == "IQ3_M" and mix.eight and more:
        return "Q4_K"
    return _first_down(mix) if first else None


def _first_down(mix: Mix) -> str | None:
    """ffn_down of the first eighth of the layers."""
    target = mix.target.name
    if target in ("Q2_K_S", "IQ3_M"):
        return "Q4_K"
    if target == "Q4_K_S" or (target in _FOUR_CODES and not mix.importance):
        return "Q5_K"
    return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}.get(target) if mix.importance else None


_FALCON_DOWN = ("Q3_K_M", "Q3_K_L", "Q4_K_M", "Q4_K_S")


def _falcon_down(target: str, i: int, n: int) -> str | None:
    if target == "Q3_K_M":
        return "Q5_K" if i < n // 16 else "Q4_K" if _more_bits(i, n) else None
    if target == "Q4_K_M":
        return "Q6_K" if i < n // 16 else "Q5_K" if _more_bits(i, n) else None
    return "Q4_K"


def _attention_output(mix: Mix, name: str) -> str | None:
    target = mix.target.name
    if mix.model.architecture == "falcon":
        return "Q4_K" if target == "Q3_K_L" else None
    if mix.eight:
        return "Q5_K" if target in _EIGHT_OUTPUT else None
    return {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(target)


def _gate(mix: Mix, name: str) -> str | None:
    return _middle(mix, mix.layer(name, Kind.GATE))


def _up(mix: Mix, name: str) -> str | None:
    return _middle(mix, mix.layer(name, Kind.UP))


def _middle(mix: Mix, i: int) -> str | None:
    """IQ3_XS saves on ffn_gate and ffn_up of all but the first and the last eighth of the layers."""
    n = mix.model.layers
    return "IQ3_XXS" if mix.target.name == "IQ3_XS" and n // 8 <= i < 7 * n // 8 else None


Rule = Callable[[Mix, str], str | None]
_LOW_RULES: Mapping[Kind, Rule] = MappingProxyType({
    Kind.VALUE: _low_value, Kind.KEY: _low_key, Kind.DOWN: _low_down, Kind.ATTENTION_OUTPUT: _low_attention_output,
})  # fmt: skip
_RULES: Mapping[Kind, Rule] = MappingProxyType({
    Kind.VALUE: _value, Kind.KEY: _key, Kind.QUERY: _query, Kind.DOWN: _down, Kind.ATTENTION_OUTPUT: _attention_output,
    Kind.GATE: _gate, Kind.UP: _up,
})  # fmt: skip
