"""How an architecture's checkpoints look: classes, what config.json says, and names of tensors, both ways.

A module of an architecture that converts has `checkpoint`, a `Checkpoint`. Its `items` are metadata from config.json
and back, its `rules` tensors of a GGUF file from those of a checkpoint and back. Names are those of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.rows import Numbers, Rows
from ggufpy.format.values import Typed
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from .changes import SAME, Change, Stack
from .hf_config import MOST, REQUIRED, first_name
from .hf_config import HfConfig as HfConfig  # architectures have it from here


@dataclass(frozen=True)
class Written:
    """What a GGUF file says: `keys` below its architecture's prefix, and its tensors."""

    keys: Mapping[str, Any]
    tensors: Mapping[str, Rows]


class Item(Protocol):
    """Something that config.json and metadata both say; `keys` are below the architecture's prefix."""

    def keys(self, config: HfConfig) -> Mapping[str, Typed]:
        """For the GGUF file."""

    def config(self, file: Written) -> Mapping[str, Any]:
        """For config.json."""


Kind = Literal["count", "number", "flag", "text"]
_TYPES = {"count": "uint32", "number": "float32", "flag": "bool", "text": "string"}


@dataclass(frozen=True)
class Field:
    """One value under a name in each. Where config.json has none: `default`, nothing where that is None, an error
    where it is REQUIRED."""

    key: str
    names: str
    kind: Kind = "count"
    default: Any = REQUIRED
    least: int = 0

    def keys(self, config: HfConfig) -> Mapping[str, Typed]:
        if self.default is None and self.names not in config:
            return {}
        value: Any
        if self.kind == "count":
            value = config.count(self.names, self.default, self.least)
        elif self.kind == "number":
            value = config.number(self.names, self.default)
        elif self.kind == "flag":
            value = config.flag(self.names, self.default)
        else:
            value = config.text(self.names, self.default)
        return {self.key: Typed(_TYPES[self.kind], value)}

    def config(self, file: Written) -> Mapping[str, Any]:
        if self.key not in file.keys:
            return {}
        value = file.keys[self.key]
        return {first_name(self.names): shortest(value) if self.kind == "number" else value}


def shortest(value: float) -> float:
    """The shortest decimal number that a float32 stands for: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(value)))


def _nothing(given: Any) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Derived:
    """What functions make of config.json, and of the metadata."""

    make: Callable[[HfConfig], Mapping[str, Typed]] = _nothing
    back: Callable[[Written], Mapping[str, Any]] = _nothing

    def keys(self, config: HfConfig) -> Mapping[str, Typed]:
        return self.make(config)

    def config(self, file: Written) -> Mapping[str, Any]:
        return self.back(file)


@dataclass(frozen=True)
class Present:
    """A flag of config.json that says whether there are tensors, as biases; one of them is `tensor`."""

    name: str
    tensor: str

    def keys(self, config: HfConfig) -> Mapping[str, Typed]:
        return {}

    def config(self, file: Written) -> Mapping[str, Any]:
        return {self.name: self.tensor in file.tensors}


def u32(value: int) -> Typed:
    return Typed("uint32", value)


def f32(value: float) -> Typed:
    return Typed("float32", value)


def _head_keys(config: HfConfig) -> Mapping[str, Typed]:
    if "head_dim" not in config:
        return {}
    length = u32(config.head_length)
    return {"attention.key_length": length, "attention.value_length": length}


def _head_config(file: Written) -> Mapping[str, Any]:
    return {"head_dim": file.keys["attention.key_length"]} if "attention.key_length" in file.keys else {}


BARE_SIZES: tuple[Item, ...] = (
    Field("block_count", "num_hidden_layers|n_layer|n_layers|num_layers", least=1),
    Field("context_length", "max_position_embeddings|n_positions|n_ctx|max_sequence_length|model_max_length", least=1),
    Field("embedding_length", "hidden_size|n_embd|d_model|dim", least=1),
    Field("feed_forward_length", "intermediate_size|n_inner|ffn_hidden_size", default=None),
    Field("attention.head_count", "num_attention_heads|n_head|n_heads", least=1),
    Field("attention.head_count_kv", "num_key_value_heads|n_kv_heads", default=None, least=1),
)
SIZES: tuple[Item, ...] = (*BARE_SIZES, Derived(_head_keys, _head_config))
RMS = Field("attention.layer_norm_rms_epsilon", "rms_norm_eps|norm_eps", "number")
VOCABULARY = Field("vocab_size", "vocab_size", default=None)
WINDOW = Field("attention.sliding_window", "sliding_window", default=None)


# -- rotary positions ------------------------------------------------------------------------------------------

_YARN = (
    ("rope.scaling.yarn_ext_factor", "extrapolation_factor"),
    ("rope.scaling.yarn_attn_factor", "attention_factor|attn_factor"),
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
)


def rope_keys(config: HfConfig) -> Mapping[str, Typed]:
    """rope.freq_base, and how positions are scaled: linear and yarn. Others have items or tensors of their own.

    Raises GGUFError for a scaling that nothing here knows.
    """
    rope = config.rope()
    keys = {"rope.freq_base": f32(rope.number("rope_theta", 10000.0))}
    kind = rope.text("rope_type", "default")
    if kind in ("linear", "yarn"):
        keys["rope.scaling.type"] = Typed("string", kind)
        keys["rope.scaling.factor"] = f32(rope.number("factor"))
    elif kind not in ("default", "llama3", "longrope", "su", "dynamic", "proportional", "none"):
        raise GGUFError(f"config.json: rope_type is {checks.shown(kind)}, which ggufpy does not know")
    if kind == "yarn":
        trained = rope.count("original_max_position_embeddings", config.count("max_position_embeddings"))
        keys["rope.scaling.original_context_length"] = u32(trained)
        keys |= {key: f32(rope.number(names)) for key, names in _YARN if names in rope}
    return keys


def rope_config(file: Written) -> Mapping[str, Any]:
    """The inverse of `rope_keys`, in the names of transformers 4, which 5 reads too.

    A file without a base has that of llama.cpp, and classes have others where config.json says nothing.
    """
    keys = file.keys
    said: dict[str, Any] = {"rope_theta": shortest(keys.get("rope.freq_base", 10000.0))}
    kind = keys.get("rope.scaling.type")
    if kind in ("linear", "yarn"):
        scaling: dict[str, Any] = {"rope_type": kind, "factor": shortest(keys["rope.scaling.factor"])}
        if kind == "yarn":
            scaling["original_max_position_embeddings"] = keys["rope.scaling.original_context_length"]
            scaling |= {first_name(names): shortest(keys[key]) for key, names in _YARN if key in keys}
        said["rope_scaling"] = scaling
    elif "rope_freqs.weight" in file.tensors:
        said["rope_scaling"] = _llama3_config(file)
    return said


def rotated_keys(config: HfConfig, otherwise: float = 1.0) -> Mapping[str, Typed]:
    """rope.dimension_count: how many dimensions of a head are turned; `otherwise` is their part where none is said."""
    part = config.rope().number("partial_rotary_factor", otherwise)
    return {"rope.dimension_count": u32(int(config.head_length * part))}


def rotated_config(file: Written, otherwise: float = 1.0) -> Mapping[str, Any]:
    """partial_rotary_factor, where it is not as where nothing is said."""
    keys = file.keys
    head = keys.get("attention.key_length", keys["embedding_length"] // keys["attention.head_count"])
    part = keys.get("rope.dimension_count", head) / head
    return {} if part == otherwise else {"partial_rotary_factor": part}


def rotated(otherwise: float) -> Derived:
    """As ROTATED, for classes whose heads are turned in part where config.json does not say."""
    return Derived(partial(rotated_keys, otherwise=otherwise), partial(rotated_config, otherwise=otherwise))


ROTATED = Derived(rotated_keys, rotated_config)


def llama3_factors(config: HfConfig) -> Rows | None:
    """What divides the frequency of each pair for the scaling of Llama 3.1, (pairs,); None for other scalings."""
    rope = config.rope()
    if rope.text("rope_type", "default") != "llama3":
        return None
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    factor, trained = rope.number("factor", 8.0), rope.number("original_max_position_embeddings", 8192)
    base = rope.number("rope_theta", 10000.0)
    if not (high > low > 0 and factor > 0 and base > 1 and trained > 0):
        raise GGUFError("config.json: the factors of the llama3 scaling of positions do not fit together")
    return Numbers(_bands(_turns(config.head_length, base) * trained, factor, low, high).astype(np.float32))


def _turns(length: int, base: float) -> NDArray[np.float64]:
    """How often each pair of a head turns round within a position, (pairs,)."""
    turns: NDArray[np.float64] = base ** (-np.arange(0, length, 2) / length) / (2 * np.pi)
    return turns


def _bands(turns: NDArray[np.float64], factor: float, low: float, high: float) -> NDArray[np.float64]:
    """Divisors of frequencies by turns within the trained context: `factor` for few, 1 for many, blended between
    (Meta's reference code of Llama 3.1)."""
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divisors: NDArray[np.float64] = 1 / ((1 - kept) / factor + kept)
    return divisors


def _llama3_config(file: Written) -> Mapping[str, Any]:
    """The scaling that `rope_freqs.weight` was made by, with 1 as its low factor. Raises GGUFError where none fits.

    Blended divisors are linear in turns: kept = (trained · turns - 1) / (high - 1).
    """
    divisors = file.tensors["rope_freqs.weight"].to_numpy().astype(np.float64)
    turns = _turns(2 * len(divisors), file.keys.get("rope.freq_base", 10000.0))
    factor = shortest(divisors.max())
    kept = (1 / divisors - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones(len(divisors))
    blended = (kept > 1e-3) & (kept < 1 - 1e-3)
    guesses: list[tuple[float, int]] = [(4.0, 1 << n) for n in range(13, 24)] + [(4.0, 1 << n) for n in range(13)]
    if blended.sum() >= 2:
        slope, offset = np.polyfit(turns[blended], kept[blended], 1)
        guesses = [(round(1 - 1 / offset, 4), round(-slope / offset))]
    elif blended.any():
        guesses = [(4.0, round(float((3 * kept[blended][0] + 1) / turns[blended][0])))]
    for high, trained in guesses:
        if high > 1 and np.allclose(_bands(turns * trained, factor, 1.0, high), divisors, rtol=1e-4):
            break
    else:
        raise GGUFError("rope_freqs.weight is not of a scaling that config.json can say")
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": high,
            "original_max_position_embeddings": trained}  # fmt: skip


# -- tensors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """Tensors `gguf` of a file and `hf` of a checkpoint, and what happens between them.

    Of several rules for the same tensors of a file, the first whose tensors are all there counts; an `optional` one
    may have none. A rule without tensors of a checkpoint has `made` instead, what is reckoned from config.json.
    """

    gguf: tuple[str, ...]
    hf: tuple[str, ...]
    change: Change = SAME
    optional: bool = False
    made: Rows | None = None


def one(gguf: str, hf: str, change: Change = SAME, optional: bool = False) -> Rule:
    """A rule of one tensor each."""
    return Rule((gguf,), (hf,), change, optional)


def linear(gguf: str, hf: str, change: Change = SAME, optional: bool = False) -> Iterator[Rule]:
    """The weight of a linear layer, and its bias if it has one. Names are without their endings."""
    yield one(f"{gguf}.weight", f"{hf}.weight", change, optional)
    yield one(f"{gguf}.bias", f"{hf}.bias", change, optional=True)


def made(gguf: str, rows: Rows | None) -> Iterator[Rule]:
    """A tensor that no checkpoint has; nothing where there is none to be."""
    if rows is not None:
        yield Rule((gguf,), (), made=rows)


def _any(config: HfConfig) -> bool:
    return True


HALVES = ("text_config", "llm_config")
SIZE_NAMES = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
})  # fmt: skip


def _kind(config: HfConfig) -> str:
    """model_type, or the class where there is none."""
    names = config.values.get("architectures") or [""]
    said = config.values.get("model_type") or (names[0] if isinstance(names, list) else "")
    return str(said).removesuffix("ForCausalLM").lower()


@dataclass(frozen=True)
class Checkpoint:
    """An architecture's checkpoints.

    `classes`: what config.json's "architectures" may be; `claims` decides where several share a class. `anchor` is a
    tensor that every checkpoint has, "|" after what all names of rules but those of heads begin with. `ignored` are
    patterns of tensors that say nothing. `experts` are the names of how many experts config.json says there are.
    `defaults` are what the classes take for what config.json leaves out, `kind_defaults` those that differ by its
    model_type. Sizes among them hold for text halves alone, whose configs are saved without what is usual: a model
    of its own says how large it is.
    """

    classes: tuple[str, ...]
    model_type: str
    items: tuple[Item, ...]
    rules: Callable[[HfConfig], Iterator[Rule]]
    anchor: str = "model.|embed_tokens.weight"
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$", r"attention\.(masked_)?bias$", r"position_ids$")
    claims: Callable[[HfConfig], bool] = _any
    experts: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    kind_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kinds(self) -> set[str]:
        """What config.json may have as model_type."""
        return {self.model_type, *(name.removesuffix("ForCausalLM").lower() for name in self.classes)}

    def completed(self, config: HfConfig) -> HfConfig:
        """`config` with what it leaves out."""
        given = {**self.defaults, **self.kind_defaults.get(_kind(config), {})}
        if not any(isinstance(config.values.get(half), Mapping) for half in HALVES):
            given = {name: value for name, value in given.items() if name not in SIZE_NAMES}
        return HfConfig({**given, **config.values})


def metadata(checkpoint: Checkpoint, architecture: str, config: HfConfig) -> dict[str, Typed]:
    """Everything under the architecture's prefix. Raises GGUFError for what config.json lacks or has wrong."""
    keys: dict[str, Typed] = {}
    for item in checkpoint.items:
        keys |= item.keys(config)
    return {f"{architecture}.{key}": value for key, value in keys.items()}


class _Said(dict[str, Any]):
    """Metadata by their keys. GGUFError for one that is not there."""

    def __missing__(self, key: str) -> Any:
        raise GGUFError(f"the metadata has no {key}, without which there is no config.json")


def config_of(
    checkpoint: Checkpoint, architecture: str, values: Mapping[str, Any], tensors: Mapping[str, Rows]
) -> dict[str, Any]:
    """config.json, but for what the vocabulary says, from a file's metadata and tensors.

    Raises GGUFError for metadata that are missing, or that no config.json can say.
    """
    prefix = f"{architecture}."
    keys = _Said({key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)})
    file = Written(keys, tensors)
    config: dict[str, Any] = {"architectures": [checkpoint.classes[0]], "model_type": checkpoint.model_type}
    for item in checkpoint.items:
        try:
            config |= item.config(file)
        except GGUFError:
            raise
        except (TypeError, ValueError, IndexError) as e:  # a value of another kind than llama.cpp writes
            why = " ".join(str(e).split())
            raise GGUFError(f"metadata under {prefix} cannot be said in a config.json: {why}") from e
    return config


def stacked(gguf: str, hf: str, count: int) -> Rule:
    """Matrices of `count` experts as one tensor; `hf` has "{}" for an expert's number."""
    if count > MOST:
        raise GGUFError(f"config.json says that there are {count} experts, more than any model has")
    return Rule((gguf,), tuple(hf.format(i) for i in range(count)), Stack())
