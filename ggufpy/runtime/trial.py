"""A known-answer check: a model's own kernels, run on a model of a few random matrices against float64 in NumPy.

Whoever loads a model on a machine for the first time has its kernels tried, in a child process, because a wrong one may
take the process with it. What is tried is what will run: the model's own layers, one of each kind and of small matrices
(kernels do not depend on sizes), the same packing, tapes, threads and cache, and every way of reading: prompts in bulk,
and tokens by one, two and four.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Loaded
from ggufpy.format import ArraySource, Blocks
from ggufpy.jit.cache import library
from ggufpy.jit.child import fault_in_child
from ggufpy.models.interpreter import Doubles, Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import (
    Add,
    AddScaled,
    Attend,
    Embed,
    ExpertMatMul,
    Gate,
    Heads,
    MatMul,
    Norm,
    Rope,
    Rotate,
    Route,
    Scale,
    SoftCap,
    StoreKv,
    View,
)
from ggufpy.models.plan import Plan, kinds_of_layers
from ggufpy.models.recurrent import Conv, Scan
from ggufpy.models.scaling import Clamp, ScaleByGate, ScaleByPosition
from ggufpy.quants.base import IntPanel
from ggufpy.simd import isa
from ggufpy.support.records import dataclass

WIDTH, VOCABULARY, POSITIONS = 256, 96, 160  # a row of any block type; more than a page of positions
PROMPT = 141
BATCH = 64  # tokens of the prompt a step
EXPERTS, USED = 4, 2
SEEN = "seen"  # the buffer by which experts are chosen
EMBEDDING = "embedding"
SPREAD = 0.06  # of weights: sums of WIDTH products come out about as large as what goes in
STEPS = (1, 2, 4)  # tokens that share a reading of the weights
SMALL_SCALES = {"MXFP4": [("e", 119, 123)], "NVFP4": [("d", 0x10, 0x1A)]}  # bytes that stand for scales of about SPREAD
LARGEST_ERROR = 0.1  # over the spread of logits, root of the mean square; tests/test_trial.py has what is usual
LARGEST_OF_4_BITS = 0.25  # with a cache of 4 bits, whose codes flip where 8-bit activations differ a little


@dataclass(frozen=True)
class Trial:
    """What is run: a plan of small matrices, their types by name (F32 where there is none), and how.

    A text is read in `pieces` of so many tokens, at most `batch` a step; all of them fit POSITIONS.
    """

    level: str
    plan: Plan
    types: Mapping[str, str]
    cache_types: tuple[str, str] = ("f16", "f16")
    threads: int = 2
    pieces: tuple[int, ...] = (PROMPT, *STEPS)
    batch: int = BATCH


def small(plan: Plan, types: Mapping[str, str]) -> tuple[Plan, dict[str, str]]:
    """A plan with one of each kind of a plan's layers, of small matrices of the same types; the heads are the same.

    Experts are chosen by the norms of embeddings, which are exact: so no rounding decides a choice.
    """
    layers: list[tuple[Op, ...]] = []
    kept: dict[str, str] = {}
    stored: dict[Heads, int] = {}  # the latest layer here that has keys of its own, by geometry
    for ops in kinds_of_layers(plan.layers, lambda weight: types.get(weight.name)):
        shrinker = _Shrinker(len(layers), types, stored)
        made, known = shrinker.ops(ops), kept | shrinker.types
        if not _is_among(made, layers, known):  # another was of other sizes alone
            layers.append(made)
            kept, stored = known, shrinker.stored
    shrinker = _Shrinker(len(layers), types, stored)
    head = shrinker.ops(plan.head)
    if any(isinstance(op, Route) for op in plan.body):
        layers[0] = (Norm("x", Weight(SEEN, (WIDTH,)), SEEN, 1e-5), *layers[0])
    embed = Embed(Weight(EMBEDDING, (VOCABULARY, WIDTH)), "x")
    return Plan(POSITIONS, VOCABULARY, embed, tuple(layers), head), kept | shrinker.types


def _is_among(layer: tuple[Op, ...], layers: Sequence[tuple[Op, ...]], types: Mapping[str, str]) -> bool:
    """Whether one of these layers is of the same kind."""
    return len(kinds_of_layers([*layers, layer], lambda weight: types[weight.name])) == len(layers)


class _Shrinker:
    """Makes the ops of a layer small: buffers are WIDTH wide but for those of heads, of experts' parts, and those that
    views take apart; experts are few, of which not all are chosen.

    Weights get names of their own. Attention is to what has been stored last, before this in layers `stored`, by
    geometry.
    """

    def __init__(self, layer: int, types: Mapping[str, str], stored: Mapping[Heads, int]) -> None:
        self.types: dict[str, str] = {}
        self._layer, self._from, self.stored = layer, types, dict(stored)
        self._routers: set[str] = set()
        self._widths: dict[str, int] = {"logits": VOCABULARY}
        self._like: dict[str, str] = {}  # what is as wide as another
        self._views: dict[str, dict[int, str]] = {}  # by buffer: what begins where

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
            if isinstance(op, Scan):
                heads, each = op.heads, op.heads.queries
                self._widths |= dict.fromkeys((op.q, op.k), heads.shared * heads.key_length)
                self._widths |= {op.v: each * heads.value_length, **op.writes, op.step: each, op.rate or op.step: each}
        self._like |= {op.x: op.y for op in ops if isinstance(op, AddScaled)}
        made = []
        for at, op in enumerate(ops):
            self._views |= {name: _views_of(name, ops[at + 1 :]) for name in op.writes if name not in op.reads}
            made.append(self._op(op))
        return tuple(made)

    def _width(self, buffer: str) -> int:
        """Views stand side by side in their buffer."""
        if buffer in self._like:
            return self._width(self._like[buffer])
        if views := self._views.get(buffer):
            return sum(map(self._width, views.values()))
        return self._widths.get(buffer, WIDTH)

    def _view(self, op: View) -> View:
        views = self._views[op.x]
        return replace(op, at=sum(self._width(views[at]) for at in views if at < op.at), width=self._width(op.y))

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

    def _scaling(self, op: Scale | SoftCap | Clamp | ScaleByGate | ScaleByPosition) -> Op:
        """What is far from being felt by a text of a few words and small numbers is brought near."""
        if isinstance(op, ScaleByGate):
            return replace(op, weight=self._weight(op.weight, self._width(op.x)), width=self._width(op.y))
        width = self._width(op.x)
        if isinstance(op, Clamp):
            return replace(op, width=width, low=max(op.low, -1.0), high=min(op.high, 1.0))
        if isinstance(op, ScaleByPosition):
            return replace(op, width=width, by=replace(op.by, length=min(op.by.length, 16)))
        return replace(op, width=width)

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
            part = self._width(op.x) // op.groups
            weight, bias = (given and self._weight(given, *given.shape[:-1], part) for given in (op.weight, op.bias))
            return replace(op, weight=weight, bias=bias, length=part)
        if isinstance(op, Gate | Add):
            return replace(op, width=self._width(op.y))
        if isinstance(op, AddScaled):
            return replace(op, width=self._width(op.y), factor=1.0)
        if isinstance(op, Scale | SoftCap | Clamp | ScaleByGate | ScaleByPosition):
            return self._scaling(op)
        if isinstance(op, Attend):
            sinks = op.sinks and self._weight(op.sinks, op.heads.queries)
            return replace(op, layer=self.stored[_geometry(op.heads)], sinks=sinks)
        if isinstance(op, StoreKv):
            self.stored[_geometry(op.heads)] = self._layer
            return replace(op, layer=self._layer)
        if isinstance(op, Conv):
            bias = op.bias and self._weight(op.bias, self._width(op.y))
            weight = self._weight(op.weight, self._width(op.y), op.weight.shape[1])
            return replace(op, layer=self._layer, weight=weight, bias=bias)
        if isinstance(op, Scan):
            bias, skip = (given and self._weight(given, *given.shape) for given in (op.bias, op.skip))
            decay = self._weight(op.decay, *op.decay.shape)
            return replace(op, layer=self._layer, decay=decay, bias=bias, skip=skip)
        return self._view(op) if isinstance(op, View) else op


def _geometry(heads: Heads) -> Heads:
    """What a cache depends on."""
    return replace(heads, queries=0)


def _views_of(buffer: str, behind: Sequence[Op]) -> dict[int, str]:
    """The views that the ops behind a write have of a buffer, by where they begin, until it is written anew."""
    views: dict[int, str] = {}
    for op in behind:
        if isinstance(op, View) and op.x == buffer:
            views[op.at] = op.y
        elif buffer in op.writes and buffer not in op.reads:
            break
    return views


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


def _matrix(type_name: str, rows: int, columns: int, rng: np.random.Generator) -> Blocks:
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
    return Blocks(raw.reshape(rows, -1), type_name)


def source_of(trial: Trial) -> ArraySource:
    """Random weights for a trial's plan: matrices of their types, about SPREAD; vectors about 1; embeddings."""
    rng = np.random.default_rng(7)
    made: dict[str, NDArray[np.float32] | Blocks] = {}
    norms = {weight.name for op in trial.plan.ops if isinstance(op, Norm) for weight in op.weights}
    for name, weight in trial.plan.weights.items():
        if len(weight.shape) == 1 or name in norms:
            made[name] = rng.uniform(0.5, 1.5, weight.shape).astype(np.float32)
        elif name == EMBEDDING:
            made[name] = rng.standard_normal(weight.shape).astype(np.float32)
        else:
            *outer, columns = weight.shape
            matrix = _matrix(trial.types.get(name, "F32"), math.prod(outer), columns, rng)
            made[name] = Blocks(matrix.data.reshape(*outer, -1), matrix.type)
    return ArraySource({}, made)


def _rounded(kept: tuple[Doubles, Doubles], types: tuple[str, str]) -> tuple[Doubles, Doubles]:
    """Keys and values (tokens, heads, length) as caches of few bits keep them; what 16 bits lose is not felt here.

    Their rounding is no fault of kernels, and where norms come after attention it would look like one.
    """
    both = zip(kept, types, strict=True)
    keys, values = (_in_blocks(part, kind) if kind in ("q8_0", "q4_0") else part for part, kind in both)
    return keys, values


def _in_blocks(x: Doubles, kind: str) -> Doubles:
    """Numbers as ggml rounds them to Q8_0 or Q4_0: for each 32, a scale of the largest, in f16, and whole numbers."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    top = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scale = np.abs(top) / 127 if kind == "q8_0" else top / -8
    codes = blocks / np.where(scale, scale, 1.0)
    codes = np.rint(codes) if kind == "q8_0" else np.clip(np.floor(codes + 8.5), 0, 15) - 8
    return (codes * scale.astype(np.float16)).reshape(x.shape)


def error_of(trial: Trial) -> float:
    """Runs the trial in this process, on the CPU: see `error_on`."""
    from ggufpy.backends.cpu.model import Model, load_kernels

    def loaded(source: ArraySource, options: EngineOptions) -> Loaded:
        kernels = library(isa.named(trial.level))
        load_kernels(source, trial.plan, options, kernels)
        return Model(source, trial.plan, options, kernels)

    return error_on(trial, loaded)


def error_on(trial: Trial, loaded: Callable[[ArraySource, EngineOptions], Loaded]) -> float:
    """Runs the trial with the plan as a backend has loaded it: the error over the spread of logits, or of hidden states
    where the model makes no logits; infinity where not finite."""
    from .engine import Engine

    plan, source = trial.plan, source_of(trial)
    whole, hidden = plan.whole_texts, not plan.makes_logits
    options = EngineOptions(
        n_threads=trial.threads, n_batch=trial.batch, cache_type_k=trial.cache_types[0],
        cache_type_v=trial.cache_types[1],
    )  # fmt: skip
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, sum(trial.pieces)).tolist()
    ends = list(accumulate(trial.pieces))
    pieces = [tokens[start:end] for start, end in zip((0, *ends), ends, strict=False)]
    scales = [0.5] * plan.adapters
    logits: list[NDArray[np.float32]] = []
    with Engine(loaded(source, options), options.n_batch) as engine:
        sequence = engine.sequence(scales)
        for piece in pieces:
            if whole:
                sequence.truncate(0)
            logits.append(engine.read(sequence, piece, "all", hidden=hidden))
    weights = {name: tensor.to_numpy() for name, tensor in source.tensors.items()}
    truth = Interpreter(plan, weights, keep=lambda *kept: _rounded(kept, trial.cache_types))
    computed = truth.hidden if hidden else truth.logits
    exact = np.concatenate([computed(piece, scales) for piece in (pieces if whole else [tokens])])
    rows = np.concatenate(logits)
    if not np.isfinite(rows).all():
        return float("inf")
    return float(np.sqrt(((rows - exact) ** 2).mean()) / exact.std())


def fault_of(trial: Trial) -> str:
    """Runs the trial in a child process: what is wrong, or an empty string."""
    return fault_in_child(__name__, trial)


def fault_here(trial: Any) -> str:
    """Runs a trial in this process: what is wrong, or an empty string."""
    return fault_in(trial, error_of(trial))


def fault_in(trial: Trial, error: float) -> str:
    """What is wrong with an error, or an empty string."""
    limit = LARGEST_OF_4_BITS if "q4_0" in trial.cache_types else LARGEST_ERROR
    return "" if error <= limit else f"its logits are off by {error:.2g} of their spread"
