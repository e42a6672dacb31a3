"""Any plan in NumPy and float64, one text from its beginning: the truth that a backend's answers are compared with.

In: a plan and the values of its weights by name. Out: logits of every token of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import Add, AddScaled, Attend, Embed, Gate, MatMul, Norm, Op, Plan, Rope, Rotate, StoreKv, Tap
from .rope import frequencies, magnitude
from .taps import Hook, TapRows

Doubles = NDArray[np.float64]


class Interpreter:
    """Runs a plan. `weights` are decoded tensors in their own shapes; `hooks` are given what the taps of a name see."""

    def __init__(
        self, plan: Plan, weights: Mapping[str, NDArray[Any]], hooks: Mapping[str, Hook] = MappingProxyType({})
    ) -> None:
        self._plan, self._hooks = plan, hooks
        self._weights = {name: np.asarray(weights[name], np.float64) for name in plan.weights}

    def logits(self, tokens: Sequence[int], scales: Sequence[float] = ()) -> Doubles:
        """(tokens, vocabulary). `scales` are those of adapters, 0 where there is none."""
        return self.rows(tokens, scales)["logits"]

    def rows(self, tokens: Sequence[int], scales: Sequence[float] = ()) -> dict[str, Doubles]:
        """Every buffer, (tokens, width), as the plan leaves it."""
        run = _Run(self._weights, np.asarray(tokens, np.int64), dict(enumerate(scales)))
        for op in self._plan.ops:
            if not isinstance(op, Tap):
                run.step(op)
            elif op.name in self._hooks:
                run.show(op, self._hooks[op.name])
        return run.buffers


class _Run:
    """Buffers and caches of one text."""

    def __init__(
        self, weights: Mapping[str, Doubles], tokens: NDArray[np.int64], scales: Mapping[int, float]
    ) -> None:
        self._weights, self._tokens, self._scales = weights, tokens, scales
        self.buffers: dict[str, Doubles] = {}
        self._stored: dict[int, tuple[Doubles, Doubles]] = {}

    def step(self, op: Op) -> None:
        _STEPS[type(op)](self, op)

    def show(self, op: Tap, hook: Hook) -> None:
        values, count = self.buffers[op.x].copy(), len(self._tokens)
        changed = hook(values, TapRows(np.zeros(count, np.int64), np.arange(count), self._tokens))
        self.buffers[op.x] = values if changed is None else np.asarray(changed, np.float64)

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

    def add_scaled(self, op: AddScaled) -> None:
        if scale := self._scales.get(op.adapter, 0.0):
            self.buffers[op.y] = self.buffers[op.y] + op.factor * scale * self.buffers[op.x]

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

    def _split(self, rows: Doubles, parts: int) -> Doubles:
        """(tokens, width) as (tokens, parts, width / parts)."""
        return rows.reshape(len(self._tokens), parts, -1)


def _pairs(rope: Rope) -> tuple[slice, slice]:
    """The dimensions of a head that are turned together, the first and the second of each pair."""
    n = rope.dimensions
    return (slice(0, n // 2), slice(n // 2, n)) if rope.neox else (slice(0, n, 2), slice(1, n, 2))


_STEPS: dict[type[Op], Callable[[_Run, Any], None]] = {
    Embed: _Run.embed, Norm: _Run.norm, MatMul: _Run.matmul, Add: _Run.add, Rotate: _Run.rotate, StoreKv: _Run.store,
    Attend: _Run.attend, Gate: _Run.gate, AddScaled: _Run.add_scaled,
}  # fmt: skip
