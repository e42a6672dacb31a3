"""Any plan in NumPy and float64, one text from its beginning: the truth that a backend's answers are compared with.

In: a plan and the values of its weights by name. Out: logits of every token of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import (
    Add,
    Attend,
    Embed,
    ExpertMatMul,
    Gate,
    MatMul,
    Norm,
    Op,
    Plan,
    Rope,
    Rotate,
    Route,
    StoreKv,
)
from .rope import frequencies, magnitude

Doubles = NDArray[np.float64]


class Interpreter:
    """Runs a plan. `weights` are decoded tensors in their own shapes."""

    def __init__(self, plan: Plan, weights: Mapping[str, NDArray[Any]]) -> None:
        self._plan = plan
        self._weights = {name: np.asarray(weights[name], np.float64) for name in plan.weights}

    def logits(self, tokens: Sequence[int]) -> Doubles:
        """(tokens, vocabulary)."""
        return self.rows(tokens)["logits"]

    def rows(self, tokens: Sequence[int]) -> dict[str, Doubles]:
        """Every buffer, (tokens, width), as the plan leaves it."""
        run = _Run(self._weights, np.asarray(tokens, np.int64))
        for op in self._plan.ops:
            run.step(op)
        return run.buffers


class _Run:
    """Buffers and caches of one text."""

    def __init__(self, weights: Mapping[str, Doubles], tokens: NDArray[np.int64]) -> None:
        self._weights, self._tokens = weights, tokens
        self.buffers: dict[str, Doubles] = {}
        self._stored: dict[int, tuple[Doubles, Doubles]] = {}

    def step(self, op: Op) -> None:
        _STEPS[type(op)](self, op)

    def embed(self, op: Embed) -> None:
        self.buffers[op.y] = self._weights[op.weight.name][self._tokens] * op.scale

    def norm(self, op: Norm) -> None:
        x = self._split(self.buffers[op.x], op.groups)
        y = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + op.eps) * self._weights[op.weight.name]
        self.buffers[op.y] = y.reshape(len(y), -1)

    def matmul(self, op: MatMul) -> None:
        y = self.buffers[op.x] @ self._weights[op.weight.name].T
        if op.bias is not None:
            y = y + self._weights[op.bias.name]
        self.buffers[op.y] = self.buffers[op.y] + y if op.add else y

    def add(self, op: Add) -> None:
        self.buffers[op.y] = self.buffers[op.y] + self.buffers[op.x]

    def rotate(self, op: Rotate) -> None:
        x = self._split(self.buffers[op.x], op.heads).copy()
        first, second = _pairs(op.rope)
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * frequencies(op.rope)) * magnitude(op.rope)
        turned = (x[..., first] + 1j * x[..., second]) * turn
        x[..., first], x[..., second] = turned.real, turned.imag
        self.buffers[op.x] = x.reshape(len(x), -1)

    def store(self, op: StoreKv) -> None:
        self._stored[op.layer] = (
            self._split(self.buffers[op.k], op.heads.shared),
            self._split(self.buffers[op.v], op.heads.shared),
        )

    def attend(self, op: Attend) -> None:
        keys, values = (part.repeat(op.heads.group, axis=1) for part in self._stored[op.layer])
        scores = np.einsum("nhd,mhd->hnm", self._split(self.buffers[op.q], op.heads.queries), keys) * op.scale
        behind = np.arange(len(keys))[:, None] - np.arange(len(keys))
        seen = (behind >= 0) & ((behind < op.window) if op.window else True)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        self.buffers[op.y] = np.einsum("hnm,mhd->nhd", weights, values).reshape(len(keys), -1)

    def gate(self, op: Gate) -> None:
        x = self.buffers[op.gate]
        if op.kind == "silu":
            y = x / (1 + np.exp(-x))
        else:
            y = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        self.buffers[op.y] = y * self.buffers[op.up]

    def route(self, op: Route) -> None:
        x = self.buffers[op.x]
        if op.kind == "softmax":
            p = np.exp(x - x.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
        else:
            p = 1 / (1 + np.exp(-x)) if op.kind == "sigmoid" else x
        scores = p if op.bias is None else p + self._weights[op.bias.name]
        if op.groups > 1:
            parts = self._split(scores, op.groups)
            best = _largest(np.sort(parts, axis=2)[..., -2:].sum(axis=2), op.groups_used)
            within = np.zeros(parts.shape[:2], bool)
            np.put_along_axis(within, best, True, axis=1)
            scores = np.where(within[..., None], parts, -np.inf).reshape(scores.shape)
        chosen = _largest(scores, op.count)
        shares = np.take_along_axis(p, chosen, axis=1)
        if op.kind == "softmax_of_chosen":
            shares = np.exp(shares - shares.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
        if op.renormalised:
            shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 2.0**-14)
        self.buffers[op.chosen], self.buffers[op.shares] = chosen.astype(np.float64), shares * op.scale

    def experts(self, op: ExpertMatMul) -> None:
        chosen, weight = self.buffers[op.chosen].astype(np.int64), self._weights[op.weight.name]
        x = self._split(self.buffers[op.x], op.count if op.own else 1)
        y = np.zeros((*chosen.shape, weight.shape[1]))
        for expert in np.unique(chosen):
            token, part = np.nonzero(chosen == expert)
            y[token, part] = x[token, part if op.own else 0] @ weight[expert].T
        if op.bias is not None:
            y = y + self._weights[op.bias.name][chosen]
        if op.shares is None:
            self.buffers[op.y] = y.reshape(len(y), -1)
            return
        total = (y * self.buffers[op.shares][..., None]).sum(axis=1)
        self.buffers[op.y] = self.buffers[op.y] + total if op.add else total

    def _split(self, rows: Doubles, parts: int) -> Doubles:
        """(tokens, width) as (tokens, parts, width / parts)."""
        return rows.reshape(len(self._tokens), parts, -1)


def _largest(scores: Doubles, count: int) -> NDArray[np.int64]:
    """The places of each row's largest, best first, of equal ones the earlier."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _pairs(rope: Rope) -> tuple[slice, slice]:
    """The dimensions of a head that are turned together, the first and the second of each pair."""
    n = rope.dimensions
    return (slice(0, n // 2), slice(n // 2, n)) if rope.neox else (slice(0, n, 2), slice(1, n, 2))


_STEPS: dict[type[Op], Callable[[_Run, Any], None]] = {
    Embed: _Run.embed, Norm: _Run.norm, MatMul: _Run.matmul, Add: _Run.add, Rotate: _Run.rotate, StoreKv: _Run.store,
    Attend: _Run.attend, Gate: _Run.gate, Route: _Run.route, ExpertMatMul: _Run.experts,
}  # fmt: skip
