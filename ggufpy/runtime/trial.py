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
from ggufpy.kernels.child import fault_in_child
from ggufpy.plan import Attend, Heads, MatMul, Norm, Op, Plan, Rope, SwiGlu, Weight
from ggufpy.simd import isa

from .options import EngineOptions
from .rope import RopeTable

WIDTH, VOCABULARY, POSITIONS = 256, 96, 160  # a row of any block type; more than a page of positions
PROMPT = 141
SPREAD = 0.06  # of weights: sums of WIDTH products come out about as large as what goes in
STEPS = (1, 2, 4)  # tokens that share a reading of the weights
SMALL_SCALES = {"MXFP4": [("e", 119, 123)], "NVFP4": [("d", 0x10, 0x1A)]}  # bytes that stand for scales of about SPREAD
LARGEST_ERROR = 0.1  # over the spread of logits, root of the mean square; tests/test_trial.py has what is usual

Doubles = NDArray[np.float64]


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
        yield Attend(0, "q", "k", "v", "attn")
        fits = [kind for kind in t.types if attended % quants.get(kind).weights == 0]
        yield self.product("attn", "x", fits[0] if fits else "F32", (WIDTH, attended), add=True)
        for kind in t.types:
            yield self.norm("x")
            yield self.product("norm", "gate", kind, (WIDTH, WIDTH))
            yield self.product("norm", "up", kind, (WIDTH, WIDTH))
            yield SwiGlu("gate", "up", "ffn")
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
    widths = {
        "x": WIDTH, "norm": WIDTH, "gate": WIDTH, "up": WIDTH, "ffn": WIDTH, "q": t.queries * t.key_length,
        "k": t.shared * t.key_length, "v": t.shared * t.value_length, "attn": t.queries * t.value_length,
        "logits": VOCABULARY,
    }  # fmt: skip
    heads = Heads(t.queries, t.shared, t.key_length, t.value_length, t.key_length**-0.5)
    rope = Rope(t.key_length // 2 * 2, 10000.0)
    weight = Weight("embedding", (VOCABULARY, WIDTH))
    plan = Plan(POSITIONS, VOCABULARY, weight, 1, heads, rope, widths, body, head)
    return plan, _File(made.tensors)


class Reference:
    """A plan's logits in float64, for one text from its beginning."""

    def __init__(self, plan: Plan, file: _File) -> None:
        self._plan, self._tensors = plan, {n: t.to_numpy().astype(np.float64) for n, t in file.tensors.items()}

    def logits(self, tokens: list[int]) -> Doubles:
        rows: dict[str, Doubles] = {"x": self._tensors[self._plan.embedding.name][tokens]}
        for op in (*self._plan.body, *self._plan.head):
            self._run(op, rows)
        return rows["logits"]

    def _run(self, op: Op, rows: dict[str, Doubles]) -> None:
        if isinstance(op, Norm):
            x = rows[op.x]
            rows[op.y] = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + op.eps) * self._tensors[op.weight.name]
        elif isinstance(op, MatMul):
            y = rows[op.x] @ self._tensors[op.weight.name].T
            rows[op.y] = rows[op.y] + y if op.add else y
        elif isinstance(op, SwiGlu):
            gate = rows[op.gate]
            rows[op.y] = gate / (1 + np.exp(-gate)) * rows[op.up]
        else:
            rows[op.y] = self._attend(*(rows[name] for name in (op.q, op.k, op.v)))

    def _attend(self, q: Doubles, k: Doubles, v: Doubles) -> Doubles:
        h, n = self._plan.heads, len(q)
        keys = self._rotated(k.reshape(n, h.shared, h.key_length)).repeat(h.group, axis=1)
        values = v.reshape(n, h.shared, h.value_length).repeat(h.group, axis=1)
        scores = np.einsum("nhd,mhd->hnm", self._rotated(q.reshape(n, h.queries, h.key_length)), keys) * h.scale
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        out: Doubles = np.einsum("hnm,mhd->nhd", weights, values).reshape(n, -1)
        return out

    def _rotated(self, x: Doubles) -> Doubles:
        rope = self._plan.rope
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * RopeTable(rope).frequency)
        pairs = (x[..., 0 : rope.dimensions : 2] + 1j * x[..., 1 : rope.dimensions : 2]) * turn
        out: Doubles = x.copy()
        out[..., 0 : rope.dimensions : 2], out[..., 1 : rope.dimensions : 2] = pairs.real, pairs.imag
        return out


def error_of(trial: Trial) -> float:
    """Runs the trial in this process: the largest error over the spread of logits; infinity where not finite."""
    from .engine import Engine
    from .model import Model
    from .session import Session

    plan, file = small_model(trial)
    options = EngineOptions(
        n_threads=trial.threads, n_batch=64, cache_type_k=trial.cache_types[0], cache_type_v=trial.cache_types[1]
    )
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, PROMPT + sum(STEPS)).tolist()
    with Session(Engine(Model(file, plan, options, isa.named(trial.level)), 64)) as session:
        found, at = [session.eval_logits(tokens[:PROMPT])], PROMPT
        for count in STEPS:
            found.append(session.eval_logits(tokens[at : at + count]))
            at += count
    exact, rows = Reference(plan, file).logits(tokens), np.concatenate(found)
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
