"""A known-answer check: a model's own kernels, run on a model of a few random matrices against float64 in NumPy.

Whoever loads a model on a machine for the first time has its kernels tried, in a child process, because a wrong one may
take the process with it. What is tried is what will run: the same packing, tapes, threads and cache, the same kernels
(they do not depend on sizes), and every way of reading: prompts in bulk, and tokens by one, two and four.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.options import EngineOptions
from ggufpy.kernels.cache import library
from ggufpy.kernels.child import fault_in_child
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.plan import (
    Attend,
    Embed,
    Gate,
    Heads,
    MatMul,
    Norm,
    Op,
    Plan,
    Rope,
    Rotate,
    StoreKv,
    Weight,
)
from ggufpy.simd import isa

WIDTH, VOCABULARY, POSITIONS = 256, 96, 160  # a row of any block type; more than a page of positions
PROMPT = 141
SPREAD = 0.06  # of weights: sums of WIDTH products come out about as large as what goes in
STEPS = (1, 2, 4)  # tokens that share a reading of the weights
SMALL_SCALES = {"MXFP4": [("e", 119, 123)], "NVFP4": [("d", 0x10, 0x1A)]}  # bytes that stand for scales of about SPREAD
LARGEST_ERROR = 0.1  # over the spread of logits, root of the mean square; tests/test_trial.py has what is usual

@dataclass(frozen=True)
class Trial:
    """What decides which kernels run: the level, the geometry of heads, types of weights and of the cache, threads."""

    level: str
    queries: int
    shared: int
    key_length: int
    value_length: int
    types: tuple[str, ...]
    cache_types: tuple[str, str]
    threads: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor in memory, as the loader takes one of a file."""

    name: str
    type: str
    shape: tuple[int, ...]
    blocks: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    def little(self) -> NDArray[np.uint8]:
        return self.blocks

    def release(self) -> None:
        """There is nothing to give back."""

    def to_numpy(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = quants.get(self.type).decode(self.blocks)
        return values.reshape(self.shape)


@dataclass(frozen=True)
class _File:
    """What a `Model` reads."""

    tensors: Mapping[str, _Tensor]


def _matrix(name: str, type_name: str, rows: int, columns: int, rng: np.random.Generator) -> _Tensor:
    """Random blocks of any type: random bytes, scaled to weights of SPREAD; blocks that come out wild are zeros."""
    kind = quants.get(type_name)
    blocks = np.zeros((rows * columns // kind.weights,), kind.record)
    raw = blocks.view(np.uint8).reshape(len(blocks), -1)
    raw[:] = rng.integers(0, 256, raw.shape, np.uint8)
    for field, low, high in SMALL_SCALES.get(type_name, ()):
        blocks[field] = rng.integers(low, high, blocks[field].shape)
    floats = [field for field in kind.record.names or () if blocks[field].dtype.kind == "f"]
    for field in floats:  # a scale, a minimum (which is negative where it is added) or the weight itself
        span = (-8.0, -7.0) if field == "m" else (0.5, 1.0)
        signs = rng.choice([-1.0, 1.0], blocks[field].shape) if kind.weights == 1 else 1.0
        blocks[field] = SPREAD * rng.uniform(*span, blocks[field].shape) * signs
    if floats and kind.weights > 1:
        factor = SPREAD / kind.decode(raw).std()
        for field in floats:
            blocks[field] = (blocks[field] * factor).astype(blocks[field].dtype)
    values = kind.decode(raw).reshape(len(blocks), -1)
    raw[~np.all(np.isfinite(values) & (np.abs(values) < 6 * SPREAD), axis=1)] = 0
    return _Tensor(name, type_name, (rows, columns), raw.reshape(rows, -1))


class _Builder:
    """Collects the tensors and ops of the small model."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.tensors: dict[str, _Tensor] = {}
        self._rng = np.random.default_rng(7)

    def norm(self, x: str) -> Norm:
        name = f"norm.{len(self.tensors)}"
        values = self._rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
        self.tensors[name] = _Tensor(name, "F32", (WIDTH,), values.view(np.uint8)[None])
        return Norm(x, Weight(name, (WIDTH,)), "norm", 1e-5)

    def product(self, x: str, y: str, kind: str, shape: tuple[int, int], add: bool = False) -> MatMul:
        name = f"{y}.{len(self.tensors)}.weight"
        self.tensors[name] = _matrix(name, kind, *shape, self._rng)
        return MatMul(x, Weight(name, shape), y, None, add)

    def body(self) -> Iterator[Op]:
        """Attention, and a feed-forward part for each type."""
        t = self.trial
        attended = t.queries * t.value_length
        first = t.types[0]
        yield self.norm("x")
        yield self.product("norm", "q", first, (t.queries * t.key_length, WIDTH))
        yield self.product("norm", "k", first, (t.shared * t.key_length, WIDTH))
        yield self.product("norm", "v", first, (t.shared * t.value_length, WIDTH))
        heads, rope = Heads(t.queries, t.shared, t.key_length, t.value_length), Rope(t.key_length // 2 * 2, 10000.0)
        yield Rotate("q", t.queries, t.key_length, rope)
        yield Rotate("k", t.shared, t.key_length, rope)
        yield StoreKv(0, "k", "v", heads)
        yield Attend(0, "q", "attn", heads, t.key_length**-0.5)
        fits = [kind for kind in t.types if attended % quants.get(kind).weights == 0]
        yield self.product("attn", "x", fits[0] if fits else "F32", (WIDTH, attended), add=True)
        for kind in t.types:
            yield self.norm("x")
            yield self.product("norm", "gate", kind, (WIDTH, WIDTH))
            yield self.product("norm", "up", kind, (WIDTH, WIDTH))
            yield Gate("gate", "up", "ffn", WIDTH)
            yield self.product("ffn", "x", kind, (WIDTH, WIDTH), add=True)


def small_model(trial: Trial) -> tuple[Plan, _File]:
    """The plan and tensors of the model that is run."""
    made = _Builder(trial)
    t = trial
    body = tuple(made.body())
    head = (made.norm("x"), made.product("norm", "logits", t.types[0], (VOCABULARY, WIDTH)))
    rng = np.random.default_rng(11)
    embedding = rng.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    made.tensors["embedding"] = _Tensor("embedding", "F32", (VOCABULARY, WIDTH), embedding.view(np.uint8))
    weight = Weight("embedding", (VOCABULARY, WIDTH))
    plan = Plan(POSITIONS, VOCABULARY, Embed(weight, "x"), (body,), head)
    return plan, _File(made.tensors)


def error_of(trial: Trial) -> float:
    """Runs the trial in this process: the largest error over the spread of logits; infinity where not finite."""
    from ggufpy.backends.cpu.model import Model, load_kernels

    from .engine import Engine
    from .session import Session

    plan, file = small_model(trial)
    options = EngineOptions(
        n_threads=trial.threads, n_batch=64, cache_type_k=trial.cache_types[0], cache_type_v=trial.cache_types[1]
    )
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, PROMPT + sum(STEPS)).tolist()
    kernels = library(isa.named(trial.level))
    load_kernels(file, plan, options, kernels)
    with Session(Engine(Model(file, plan, options, kernels), 64)) as session:
        found, at = [session.eval_logits(tokens[:PROMPT])], PROMPT
        for count in STEPS:
            found.append(session.eval_logits(tokens[at : at + count]))
            at += count
    truth = Interpreter(plan, {name: tensor.to_numpy() for name, tensor in file.tensors.items()})
    exact, rows = truth.logits(tokens), np.concatenate(found)
    if not np.isfinite(rows).all():
        return float("inf")
    return float(np.sqrt(((rows - exact) ** 2).mean()) / exact.std())


def fault_of(trial: Trial) -> str:
    """Runs the trial in a child process: what is wrong, or an empty string."""
    return fault_in_child(__name__, asdict(trial))


def fault_here(trial: Mapping[str, Any]) -> str:
    """Runs a trial, as JSON has it, in this process: what is wrong, or an empty string."""
    error = error_of(Trial(**{**trial, "types": tuple(trial["types"]), "cache_types": tuple(trial["cache_types"])}))
    return "" if error <= LARGEST_ERROR else f"its logits are off by {error:.2g} of their spread"
