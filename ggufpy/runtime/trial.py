"""A known-answer check: a model's own kernels, run on a model of a few random matrices against float64 in NumPy.

Whoever loads a model on a machine for the first time has its kernels tried, in a child process, because a wrong one may
take the process with it. What is tried is what will run: the model's own layers, one of each kind and of small matrices
(kernels do not depend on sizes), the same packing, tapes, threads and cache, and every way of reading: prompts in bulk,
and tokens by one, two and four.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.options import EngineOptions
from ggufpy.jit.cache import library
from ggufpy.jit.child import fault_in_child
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.plan import (
    Add,
    Attend,
    Embed,
    ExpertMatMul,
    Gate,
    Heads,
    MatMul,
    Norm,
    Op,
    Plan,
    Rope,
    Rotate,
    Route,
    StoreKv,
    Weight,
    kinds_of_layers,
)
from ggufpy.quants.base import IntPanel
from ggufpy.simd import isa

WIDTH, VOCABULARY, POSITIONS = 256, 96, 160  # a row of any block type; more than a page of positions
PROMPT = 141
EXPERTS, USED = 4, 2
SEEN = "seen"  # the buffer by which experts are chosen
EMBEDDING = "embedding"
SPREAD = 0.06  # of weights: sums of WIDTH products come out about as large as what goes in
STEPS = (1, 2, 4)  # tokens that share a reading of the weights
SMALL_SCALES = {"MXFP4": [("e", 119, 123)], "NVFP4": [("d", 0x10, 0x1A)]}  # bytes that stand for scales of about SPREAD
LARGEST_ERROR = 0.1  # over the spread of logits, root of the mean square; tests/test_trial.py has what is usual


@dataclass(frozen=True)
class Trial:
    """What is run: a plan of small matrices, their types by name (F32 where there is none), and how."""

    level: str
    plan: Plan
    types: Mapping[str, str]
    cache_types: tuple[str, str] = ("f16", "f16")
    threads: int = 2


def small(plan: Plan, types: Mapping[str, str]) -> tuple[Plan, dict[str, str]]:
    """A plan with one of each kind of a plan's layers, of small matrices of the same types; the heads are the same.

    Experts are chosen by the norms of embeddings, which are exact: so no rounding decides a choice.
    """
    layers: list[tuple[Op, ...]] = []
    kept: dict[str, str] = {}
    for ops in kinds_of_layers(plan.layers, lambda weight: types.get(weight.name)):
        shrinker = _Shrinker(len(layers), types)
        layers.append(shrinker.ops(ops))
        kept |= shrinker.types
    shrinker = _Shrinker(len(layers), types)
    head = shrinker.ops(plan.head)
    if any(isinstance(op, Route) for op in plan.body):
        layers[0] = (Norm("x", Weight(SEEN, (WIDTH,)), SEEN, 1e-5), *layers[0])
    embed = Embed(Weight(EMBEDDING, (VOCABULARY, WIDTH)), "x")
    return Plan(POSITIONS, VOCABULARY, embed, tuple(layers), head), kept | shrinker.types


class _Shrinker:
    """Makes the ops of a layer small: buffers are WIDTH wide but for those of heads and experts' parts, experts few, of
    which not all are chosen. Weights get names of their own."""

    def __init__(self, layer: int, types: Mapping[str, str]) -> None:
        self.types: dict[str, str] = {}
        self._layer, self._from = layer, types
        self._routers: set[str] = set()
        self._widths: dict[str, int] = {"logits": VOCABULARY}

    def ops(self, ops: Sequence[Op]) -> tuple[Op, ...]:
        for op in ops:
            if isinstance(op, StoreKv):
                heads = op.heads
                self._widths |= {op.k: heads.shared * heads.key_length, op.v: heads.shared * heads.value_length}
            if isinstance(op, Attend):
                self._widths |= {op.q: op.heads.queries * op.heads.key_length, **op.writes}
            if isinstance(op, Route):
                self._routers.add(op.x)
                self._widths |= {op.x: EXPERTS, op.chosen: min(op.count, USED), op.shares: min(op.count, USED)}
            if isinstance(op, ExpertMatMul):
                parts = [op.x] * op.own + [op.y] * (op.shares is None)
                self._widths |= dict.fromkeys(parts, min(op.count, USED) * WIDTH)
        return tuple(map(self._op, ops))

    def _width(self, buffer: str) -> int:
        return self._widths.get(buffer, WIDTH)

    def _weight(self, weight: Weight, *shape: int) -> Weight:
        name = f"{self._layer}.{len(self.types)}.weight"
        self.types[name] = self._from.get(weight.name, "F32")
        return Weight(name, shape)

    def _route(self, op: Route) -> Op:
        groups = min(op.groups, 2)
        return replace(
            op, experts=EXPERTS, count=min(op.count, USED), bias=op.bias and self._weight(op.bias, EXPERTS),
            groups=groups, groups_used=min(op.groups_used, groups - 1) if op.groups_used < op.groups else groups,
        )  # fmt: skip

    def _experts(self, op: ExpertMatMul) -> Op:
        count = min(op.count, USED)
        rows = self._width(op.y) // (count if op.shares is None else 1)
        columns = self._width(op.x) // (count if op.own else 1)
        weight, bias = self._weight(op.weight, EXPERTS, rows, columns), op.bias and self._weight(op.bias, EXPERTS, rows)
        return replace(op, weight=weight, bias=bias, count=count)

    def _op(self, op: Op) -> Op:
        if isinstance(op, MatMul):
            rows, columns = self._width(op.y), self._width(op.x)
            bias = op.bias and self._weight(op.bias, rows)
            x = SEEN if op.y in self._routers else op.x
            return replace(op, x=x, weight=self._weight(op.weight, rows, columns), bias=bias)
        if isinstance(op, Route):
            return self._route(op)
        if isinstance(op, ExpertMatMul):
            return self._experts(op)
        if isinstance(op, Norm):
            return replace(op, weight=self._weight(op.weight, self._width(op.x) // op.groups))
        if isinstance(op, Gate | Add):
            return replace(op, width=self._width(op.y))
        return replace(op, layer=self._layer) if isinstance(op, StoreKv | Attend) else op


def common(level: str, types: Sequence[str], heads: Heads) -> Trial:
    """A trial of a model as most are: attention, and a feed-forward part for each of the types."""
    turn, attended = Rope(heads.key_length // 2 * 2, 10000.0), heads.queries * heads.value_length
    named: dict[str, str] = {}

    def weight(kind: str, *shape: int) -> Weight:
        made = Weight(f"{len(named)}.weight", shape)
        named[made.name] = kind
        return made

    def product(x: str, y: str, kind: str, shape: tuple[int, int], add: bool = False) -> MatMul:
        return MatMul(x, weight(kind, *shape), y, None, add)

    first = types[0]
    body: list[Op] = [
        Norm("x", weight("F32", WIDTH), "norm", 1e-5),
        product("norm", "q", first, (heads.queries * heads.key_length, WIDTH)),
        product("norm", "k", first, (heads.shared * heads.key_length, WIDTH)),
        product("norm", "v", first, (heads.shared * heads.value_length, WIDTH)),
        Rotate("q", heads.queries, heads.key_length, turn),
        Rotate("k", heads.shared, heads.key_length, turn),
        StoreKv(0, "k", "v", heads),
        Attend(0, "q", "attn", heads, heads.key_length**-0.5),
    ]
    fits = [kind for kind in types if attended % quants.get(kind).weights == 0]
    body.append(product("attn", "x", fits[0] if fits else "F32", (WIDTH, attended), add=True))
    for kind in types:
        body += [
            Norm("x", weight("F32", WIDTH), "norm", 1e-5),
            product("norm", "gate", kind, (WIDTH, WIDTH)),
            product("norm", "up", kind, (WIDTH, WIDTH)),
            Gate("gate", "up", "ffn", WIDTH),
            product("ffn", "x", kind, (WIDTH, WIDTH), add=True),
        ]
    head = (Norm("x", weight("F32", WIDTH), "norm", 1e-5), product("norm", "logits", first, (VOCABULARY, WIDTH)))
    embed = Embed(Weight(EMBEDDING, (VOCABULARY, WIDTH)), "x")
    return Trial(level, Plan(POSITIONS, VOCABULARY, embed, (tuple(body),), head), named)


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
    middle = (2**kind.panel.bits - 1) / 2 if isinstance(kind.panel, IntPanel) else 0.0
    minima = {"m": (-0.8 * middle, -0.7 * middle), "dmin": (0.7 * middle, 0.8 * middle)}  # added, and taken away
    for field in floats:  # a scale, a minimum that brings the mean to zero, or the weight itself
        span = minima.get(field, (0.5, 1.0))
        signs = rng.choice([-1.0, 1.0], blocks[field].shape) if kind.weights == 1 else 1.0
        blocks[field] = SPREAD * rng.uniform(*span, blocks[field].shape) * signs
    if floats and kind.weights > 1:
        factor = SPREAD / kind.decode(raw).std()
        for field in floats:
            blocks[field] = (blocks[field] * factor).astype(blocks[field].dtype)
    values = kind.decode(raw).reshape(len(blocks), -1)
    raw[~np.all(np.isfinite(values) & (np.abs(values) < 6 * SPREAD), axis=1)] = 0
    return _Tensor(name, type_name, (rows, columns), raw.reshape(rows, -1))


def tensors_of(trial: Trial) -> _File:
    """Random weights for a trial's plan: matrices of their types, about SPREAD; vectors about 1; embeddings."""
    rng = np.random.default_rng(7)
    made = {}
    for name, weight in trial.plan.weights.items():
        if len(weight.shape) == 1:
            values = rng.uniform(0.5, 1.5, weight.shape).astype(np.float32)
            made[name] = _Tensor(name, "F32", weight.shape, values.view(np.uint8)[None])
        elif name == EMBEDDING:
            values = rng.standard_normal(weight.shape).astype(np.float32)
            made[name] = _Tensor(name, "F32", weight.shape, values.view(np.uint8))
        else:
            *outer, columns = weight.shape
            found = _matrix(name, trial.types.get(name, "F32"), math.prod(outer), columns, rng)
            made[name] = replace(found, shape=weight.shape, blocks=found.blocks.reshape(*outer, -1))
    return _File(made)


def error_of(trial: Trial) -> float:
    """Runs the trial in this process: the largest error over the spread of logits; infinity where not finite."""
    from ggufpy.backends.cpu.model import Model, load_kernels

    from .engine import Engine
    from .session import Session

    plan, file = trial.plan, tensors_of(trial)
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
    return fault_in_child(__name__, trial)


def fault_here(trial: Any) -> str:
    """Runs a trial in this process: what is wrong, or an empty string."""
    error = error_of(trial)
    return "" if error <= LARGEST_ERROR else f"its logits are off by {error:.2g} of their spread"
