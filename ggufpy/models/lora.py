"""LoRA adapters: pairs of small matrices that change what matrices of a model give, read from GGUF files.

y = W x + s · (alpha / rank) · B (A x), with A (rank, columns) and B (rows, rank); s is chosen by sequence. Where a file
says no alpha, or 0, there is no alpha / rank either. In: a source of weights whose `general.type` is "adapter". Out: an
`Adapter` for `rewrite.with_lora`, and a `LoraSource`, which has the weights of the plan that comes of it.
Hu et al. 2021, https://arxiv.org/abs/2106.09685. Facts of the files: src/llama-adapter.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format.arrays import in_memory
from ggufpy.format.metadata import Metadata
from ggufpy.format.values import shown
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from .ops import MatMul
from .plan import Plan
from .source import SourceTensor, TensorTable, WeightSource

ENDS = (".lora_a", ".lora_b")
EMBEDDING = "token_embd.weight"  # its A has a row a token, and no product reads it
ALPHA_MAX = 1e6


@dataclass(frozen=True)
class Pair:
    """What is added to one matrix: a (rank, columns) and b (rows, rank)."""

    a: SourceTensor
    b: SourceTensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """One adapter: `pairs` by the name of the matrix that they change. `name` is for errors."""

    name: str
    architecture: str
    alpha: float
    pairs: Mapping[str, Pair]

    def factor(self, weight: str) -> float:
        """alpha / rank, or 1 where there is no alpha."""
        return self.alpha / self.pairs[weight].rank if self.alpha else 1.0


def read(source: WeightSource, name: str = "the adapter") -> Adapter:
    """The adapter of a file, which stays open as long as this one is used.

    Raises GGUFError for what is no adapter, kinds of adapters that do not run, halves that do not fit each other, and
    values that are no finite numbers.
    """
    values = source.metadata
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if values.get(key) != wanted:
            raise GGUFError(f"{name} is no LoRA adapter: its {key} is {checks.shown(values.get(key))}, not '{wanted}'")
    if "adapter.alora.invocation_tokens" in values:
        raise GGUFError(f"{name} is an activated LoRA, which counts from some tokens on; ggufpy does not run such yet")
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise GGUFError(f"{name} has no general.architecture: it does not say what models it is for")
    alpha = checks.number(f"{name}: adapter.lora.alpha", values.get("adapter.lora.alpha", 0.0))
    if not 0 <= alpha <= ALPHA_MAX:
        raise GGUFError(f"{name}: adapter.lora.alpha is {alpha:g}; it must be from 0 to {ALPHA_MAX:g}")
    pairs = {weight: _pair(source.tensors, weight, name) for weight in _weights(source.tensors, name)}
    if not pairs:
        raise GGUFError(f"{name} has no tensors")
    return Adapter(name, architecture, alpha, pairs)


def _weights(tensors: TensorTable, name: str) -> list[str]:
    """The matrices that tensors are for. Raises GGUFError for a tensor that is no half of a pair."""
    for tensor in tensors:
        if not tensor.endswith(ENDS):
            raise GGUFError(f"{name}: tensor {shown(tensor)} is neither lora_a nor lora_b; such do not run yet")
    return list(dict.fromkeys(tensor.rpartition(".")[0] for tensor in tensors))


def _pair(tensors: TensorTable, weight: str, name: str) -> Pair:
    for end in ENDS:
        if weight + end not in tensors:
            raise GGUFError(f"{name}: tensor {shown(weight + end)} is missing; lora_a and lora_b come together")
    a, b = (tensors[weight + end] for end in ENDS)
    if weight == EMBEDDING:
        raise GGUFError(f"{name} changes the embeddings ({weight}), which ggufpy does not run yet")
    if len(a.shape) == 3 or len(b.shape) == 3:
        raise GGUFError(f"{name} changes the experts of {shown(weight)}, which ggufpy does not run yet")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise GGUFError(f"{name}: {shown(weight)} has lora_a {a.shape} and lora_b {b.shape}, of no rank in common")
    for tensor in (a, b):
        if quants.get(tensor.type).whole:
            raise GGUFError(f"{name}: tensor {shown(tensor.name)} is {tensor.type}, whole numbers; weights are due")
        if not np.isfinite(tensor.to_numpy()).all():
            raise GGUFError(f"{name}: tensor {shown(tensor.name)} has a value that is not finite")
    return Pair(a, b)


def tensor_name(adapter: int, weight: str, half: str) -> str:
    """What half "a" or "b" of a pair of the adapter of this number is called in a plan."""
    return f"{weight}.lora_{half}.{adapter}"


class LoraSource:
    """The weights of a model's `plan`, and those of adapters under the names that `with_lora` gives them.

    Where all matrices of the plan are F32, and so multiplied exactly, those of adapters become F32 too: else what is
    read in bulk would differ from the model without adapters. Raises GGUFError for an adapter of another architecture.
    """

    def __init__(self, base: WeightSource, plan: Plan, adapters: Sequence[Adapter]) -> None:
        architecture = base.metadata.get("general.architecture")
        for adapter in adapters:
            if adapter.architecture != architecture:
                ours = checks.shown(architecture)
                raise GGUFError(f"{adapter.name} is for models of {shown(adapter.architecture)}; this one is {ours}")
        self.metadata: Metadata = base.metadata
        exact = all(base.tensors[op.weight.name].type == "F32" for op in plan.ops if isinstance(op, MatMul))
        added = {
            tensor_name(i, weight, half): tensor
            for i, adapter in enumerate(adapters)
            for weight, pair in adapter.pairs.items()
            for half, tensor in (("a", pair.a), ("b", pair.b))
        }
        if exact:
            added = {name: in_memory(name, _floats(tensor)) for name, tensor in added.items()}
        self.tensors: TensorTable = {**base.tensors, **added}


def _floats(tensor: SourceTensor) -> NDArray[np.float32]:
    return np.asarray(tensor.to_numpy(), np.float32)
