"""LoRA adapters as PEFT saves them: adapter_config.json, and pairs of matrices in adapter_model.safetensors.

A layer's weight (out, in) changes by scale · B · A, A (rank, in) and B (out, rank); scale is lora_alpha / rank, or
lora_alpha / √rank with use_rslora. Those of embeddings, `lora_embedding_A` (rank, words) and `lora_embedding_B`
(width, rank), change a weight (words, width) by the transpose. Hu et al. 2021, https://arxiv.org/abs/2106.09685; facts
of the files: peft 0.21, `tuners/lora/layer.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from ggufpy.convert.names import canonical
from ggufpy.convert.reading import read_object
from ggufpy.convert.safetensors import Stored, open_safetensors
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows, Transposed
from ggufpy.format.values import shown
from ggufpy.support import checks
from ggufpy.support.records import dataclass

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_HALF = re.compile(r"^(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?$")
_FLOATS = ("F32", "F16", "BF16")
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")  # ways to begin that change the base model, too
_PLAIN_KEY = re.compile(r"^\^?[\w.]+$")
_ANCHOR = "model.|embed_tokens.weight"


@dataclass(frozen=True)
class Pair:
    """What one weight (out, in) changes by: scale · b · a, a (rank, in), b (out, rank); that of an `embedding`, too."""

    a: Rows
    b: Rows
    scale: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Peft:
    """An adapter: pairs by the names of the weights that they change, and weights that it has whole.

    `alpha` and `rslora` are the adapter's own settings, `turned` says that layers are (in, out) in the checkpoint,
    `bases` are weights of the model that it was trained on, which PEFT saves beside pairs of embeddings.
    """

    folder: Path
    base: str
    alpha: float
    rslora: bool
    turned: bool
    pairs: Mapping[str, Pair]
    whole: Mapping[str, Rows]
    invocation: tuple[int, ...] = ()
    bases: Mapping[str, Rows] = field(default_factory=dict)


def open_adapter(folder: Path) -> Peft:
    """The adapter in a folder. GGUFError for kinds that are not LoRA, or of LoRA that are more than pairs, and for
    tensors that do not fit each other."""
    if not (folder / CONFIG).is_file():
        raise GGUFError(f"{folder} has no {CONFIG}: give the folder of an adapter that PEFT saved")
    if not (folder / WEIGHTS).is_file():
        raise GGUFError(f"{folder} has no {WEIGHTS}: save the adapter as safetensors")
    said = read_object(folder / CONFIG)
    try:
        _refuse(said)
        alpha = checks.number(f"{CONFIG}: lora_alpha", said.get("lora_alpha", 8))
        halves, whole, bases = _sorted(open_safetensors(folder / WEIGHTS).tensors)
        pairs = {f"{name}.weight": _pair(name, some, said, alpha) for name, some in halves.items()}
        turned = checks.switch(f"{CONFIG}: fan_in_fan_out", said.get("fan_in_fan_out"))
        rslora = checks.switch(f"{CONFIG}: use_rslora", said.get("use_rslora"))
        pairs, whole, bases = canonical(pairs, _ANCHOR), canonical(whole, _ANCHOR), canonical(bases, _ANCHOR)
        base = said.get("base_model_name_or_path")
    except GGUFError as e:
        raise GGUFError(f"{folder}: {e}") from None
    if not pairs and not whole:
        raise GGUFError(f"{folder}: the adapter has no tensors")
    tokens = _invocation(said)
    return Peft(folder, base if isinstance(base, str) else "", alpha, rslora, turned, pairs, whole, tokens, bases)


def _refuse(said: Mapping[str, Any]) -> None:
    """GGUFError for settings whose adapters are more, or other, than pairs."""
    kind = said.get("peft_type")
    if not isinstance(kind, str) or kind.upper() != "LORA":
        raise GGUFError(f"{CONFIG}: peft_type is {checks.shown(kind)}; ggufpy knows LORA")
    if said.get("use_dora"):
        raise GGUFError(f"{CONFIG}: use_dora: DoRA changes the lengths of rows, which no pair can; merge it with PEFT")
    for name in ("use_qalora", "layer_replication", "target_parameters", "megatron_config", "trainable_token_indices"):
        if said.get(name):
            raise GGUFError(f"{CONFIG}: {name} is {checks.shown(said[name])}; ggufpy knows it not: merge with PEFT")
    start = said.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise GGUFError(f"{CONFIG}: init_lora_weights {checks.shown(start)} changes the base model; merge with PEFT")


def _invocation(said: Mapping[str, Any]) -> tuple[int, ...]:
    tokens = said.get("alora_invocation_tokens") or []
    if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < 1 << 31 for t in tokens):
        raise GGUFError(f"{CONFIG}: alora_invocation_tokens is {checks.shown(tokens)}; a list of tokens is wanted")
    return tuple(tokens)


Halves = dict[str, Stored]
Weights = dict[str, Rows]


def _sorted(tensors: Mapping[str, Stored]) -> tuple[dict[str, Halves], Weights, Weights]:
    """Tensors of each layer by "A", "B", "embedding_A" and "embedding_B", weights that are there whole, and those that
    pairs are added to."""
    halves: dict[str, Halves] = {}
    whole: Weights = {}
    bases: Weights = {}
    for name, stored in tensors.items():
        plain = name.removeprefix("base_model.model.")
        match = _HALF.match(plain)
        if match is not None:
            if stored.dtype not in _FLOATS or len(stored.shape) != 2 or 0 in stored.shape:
                raise GGUFError(f"tensor {shown(name)} is {stored.dtype} {list(stored.shape)}; a matrix is wanted")
            part = f"{match[2] or ''}{match[3]}"
            if halves.setdefault(match[1], {}).setdefault(part, stored) is not stored:
                raise GGUFError(f"tensor {shown(name)} is there twice")
        elif ".lora_" in plain or plain.endswith(".bias"):
            raise GGUFError(f"tensor {shown(name)} is no half of a pair, which ggufpy does not know; merge with PEFT")
        elif ".base_layer." in plain:
            bases[plain] = stored
        else:
            whole[plain] = stored
    return halves, whole, bases


def _pair(name: str, halves: Halves, said: Mapping[str, Any], alpha: float) -> Pair:
    embedding = any(part.startswith("embedding") for part in halves)
    wanted = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    for part in wanted:
        if part not in halves:
            raise GGUFError(f"tensor {shown(f'{name}.lora_{part}')} is missing; halves come together")
    a: Rows = halves[wanted[0]]
    b: Rows = halves[wanted[1]]
    if len(halves) > 2 or a.shape[0] != b.shape[1]:
        raise GGUFError(f"layer {shown(name)} has lora_A {list(a.shape)}, lora_B {list(b.shape)}, of no rank in common")
    own = checks.number(f"{CONFIG}: alpha_pattern", _matched(said.get("alpha_pattern"), name, alpha))
    rank = a.shape[0]
    scale = own / (math.sqrt(rank) if said.get("use_rslora") else rank)
    return Pair(Transposed(b), Transposed(a), scale, True) if embedding else Pair(a, b, scale)


def _matched(patterns: Any, name: str, default: Any) -> Any:
    """The value of the first pattern that is the end of a layer's name, whole words; "^" before it asks for all of it.

    Other regular expressions are refused: they come with the adapter, and may take for ever.
    """
    for key, value in checks.mapping(f"{CONFIG}: alpha_pattern", patterns or {}).items():
        if not isinstance(key, str) or not _PLAIN_KEY.match(key):
            raise GGUFError(f"{CONFIG}: alpha_pattern has {checks.shown(key)}; ggufpy knows names of layers there")
        plain = key.removeprefix("^")
        if name == plain or (plain == key and name.endswith(f".{key}")):
            return value
    return default
