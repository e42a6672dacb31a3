"""Any plan in NumPy and float64, one text from its beginning: the truth that a backend's answers are compared with.

In: a plan and the values of its weights by name. Out: logits of every token of a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .elsewhere import Awaited, Elsewhere, plan_of
from .op import Op, Weight
from .ops import (
    Add,
    AddScaled,
    Attend,
    Embed,
    ExpertMatMul,
    Gate,
    MatMul,
    Norm,
    Rope,
    Rotate,
    Route,
    Scale,
    SoftCap,
    StoreKv,
    Tap,
    View,
)
from .plan import Plan
from .recurrent import Conv, Scan
from .rope import frequencies, magnitude
from .scaling import Clamp, ScaleByGate, ScaleByPosition
from .taps import Hook, TapRows
from .views import Views

Doubles = NDArray[np.float64]
Keep = Callable[[Doubles, Doubles], tuple[Doubles, Doubles]]


def as_it_is(keys: Doubles, values: Doubles) -> tuple[Doubles, Doubles]:
    """What a cache that rounds nothing keeps."""
    return keys, values


class Interpreter:
    """Runs a plan. `weights` are decoded tensors in their own shapes; `hooks` are given what the taps of a name see.

    `keep` is what a cache makes of the keys and values (tokens, heads, length) that it is given.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, NDArray[Any]],
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        keep: Keep = as_it_is,
    ) -> None:
        self._plan, self._hooks, self._keep = plan, hooks, keep
        names = {**plan.weights, **plan_of(plan).weights}
        self._weights = {name: np.asarray(weights[name], np.float64) for name in names}

    def logits(self, tokens: Sequence[int], scales: Sequence[float] = ()) -> Doubles:
        """(tokens, vocabulary). `scales` are those of adapters, 0 where there is none."""
        return self.rows(tokens, scales)["logits"]

    def hidden(self, tokens: Sequence[int], scales: Sequence[float] = ()) -> Doubles:
        """(tokens, width): the final hidden state (`Plan.hidden`)."""
        ops, buffer, _ = self._plan.hidden
        return self._rows((self._plan.embed, *self._plan.body, *ops), tokens, scales)[buffer]

    def rows(self, tokens: Sequence[int], scales: Sequence[float] = ()) -> dict[str, Doubles]:
        """Every buffer, (tokens, width), as the plan leaves it."""
        return self._rows(self._plan.ops, tokens, scales)

    def _rows(self, ops: Sequence[Op], tokens: Sequence[int], scales: Sequence[float]) -> dict[str, Doubles]:
        run = _Run(self._weights, np.asarray(tokens, np.int64), dict(enumerate(scales)), self._keep)
        for op in ops:
            if not isinstance(op, Tap):
                run.step(op)
            elif op.name in self._hooks:
                run.show(op, self._hooks[op.name])
        return run.buffers


class _Run:
    """Buffers and caches of one text. What is written to a view is written to the buffer that it is in."""

    def __init__(
        self,
        weights: Mapping[str, Doubles],
        tokens: NDArray[np.int64],
        scales: Mapping[int, float],
        keep: Keep = as_it_is,
    ) -> None:
        self._weights, self._tokens, self._scales, self._keep = weights, tokens, scales, keep
        self.buffers: dict[str, Doubles] = {}
        self._views, self._widths = Views(), dict[str, int]()
        self._stored: dict[int, tuple[Doubles, Doubles]] = {}
        self._left: Doubles | None = None  # by what was run elsewhere

    def step(self, op: Op) -> None:
        self._views.follow(op)
        self._widths.update(op.writes)
        if not isinstance(op, View):
            _STEPS[type(op)](self, op)

    def _read(self, name: str) -> Doubles:
        buffer, at = self._views.place(name)
        return self.buffers[buffer][:, at : at + self._widths[name]]

    def _write(self, name: str, values: Doubles) -> None:
        buffer, at = self._views.place(name)
        if buffer == name:
            self.buffers[name] = values
        else:
            self.buffers[buffer][:, at : at + self._widths[name]] = values

    def _weight(self, weight: Weight | None, otherwise: float = 0.0) -> Doubles | float:
        return otherwise if weight is None else self._weights[weight.name]

    def show(self, op: Tap, hook: Hook) -> None:
        count = len(self._tokens)
        if op.attention is not None:
            values = self._probabilities(op.attention).swapaxes(0, 1).copy()
        else:
            values = self._split(self._read(op.x), op.heads) if op.heads else self._read(op.x)
            values = values.copy()
        changed = hook(values, TapRows(np.zeros(count, np.int64), np.arange(count), self._tokens, op.name))
        values = values if changed is None else np.asarray(changed, np.float64)
        if op.attention is not None:
            self._weigh(op.attention, values.swapaxes(0, 1))
        else:
            self._write(op.x, _joined(values))

    def embed(self, op: Embed) -> None:
        rows = self._weights[op.weight.name][self._tokens] * op.scale
        if op.positions is not None:
            rows = rows + self._weights[op.positions.name][: len(rows)]
        if op.constant is not None:
            rows = rows + self._weights[op.constant.name][0]
        self._write(op.y, rows)

    def norm(self, op: Norm) -> None:
        x = self._split(self._read(op.x), op.groups)
        if op.kind == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        if op.kind == "l2":
            size = np.maximum(np.sqrt((x**2).sum(axis=-1, keepdims=True)), op.eps)
        else:
            size = np.sqrt((x**2).mean(axis=-1, keepdims=True) + op.eps)
        self._write(op.y, _joined(x / size * self._weight(op.weight, 1.0) + self._weight(op.bias)))

    def matmul(self, op: MatMul) -> None:
        y = self._read(op.x) @ self._weights[op.weight.name].T + self._weight(op.bias)
        self._write(op.y, self._read(op.y) + y if op.add else y)

    def add(self, op: Add) -> None:
        self._write(op.y, self._read(op.y) + self._read(op.x))

    def scale(self, op: Scale) -> None:
        self._write(op.x, self._read(op.x) * op.factor)

    def soft_cap(self, op: SoftCap) -> None:
        self._write(op.x, op.cap * np.tanh(self._read(op.x) / op.cap))

    def scale_by_gate(self, op: ScaleByGate) -> None:
        gate = _sigmoid(self._read(op.x) @ self._weights[op.weight.name].reshape(-1))
        self._write(op.y, self._read(op.y) * gate[:, None])

    def scale_by_position(self, op: ScaleByPosition) -> None:
        self._write(op.x, self._read(op.x) * op.by.factors(np.arange(len(self._tokens)))[:, None])

    def clamp(self, op: Clamp) -> None:
        self._write(op.x, np.clip(self._read(op.x), op.low, op.high))

    def add_scaled(self, op: AddScaled) -> None:
        if scale := self._scales.get(op.adapter, 0.0):
            self._write(op.y, self._read(op.y) + op.factor * scale * self._read(op.x))

    def rotate(self, op: Rotate) -> None:
        x = self._split(self._read(op.x), op.heads).copy()
        first, second = _pairs(op.rope)
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * frequencies(op.rope)) * magnitude(op.rope)
        turned = (x[..., first] + 1j * x[..., second]) * turn
        x[..., first], x[..., second] = turned.real, turned.imag
        self._write(op.x, _joined(x))

    def store(self, op: StoreKv) -> None:
        keys, values = (self._split(self._read(name), op.heads.shared).copy() for name in (op.k, op.v))
        self._stored[op.layer] = self._keep(keys, values)

    def attend(self, op: Attend) -> None:
        self._weigh(op, self._probabilities(op))

    def _weigh(self, op: Attend, weights: Doubles) -> None:
        """Sums of values by `weights` (heads, tokens, positions)."""
        values = self._stored[op.layer][1].repeat(op.heads.group, axis=1)
        self._write(op.y, _joined(np.einsum("hnm,mhd->nhd", weights, values)))

    def _probabilities(self, op: Attend) -> Doubles:
        """(heads, tokens, positions), without those of sinks."""
        keys = self._stored[op.layer][0].repeat(op.heads.group, axis=1)
        scores = np.einsum("nhd,mhd->hnm", self._split(self._read(op.q), op.heads.queries), keys) * op.scale
        if op.softcap:
            scores = op.softcap * np.tanh(scores / op.softcap)
        behind = np.arange(len(keys))[:, None] - np.arange(len(keys))
        if op.causal:
            scores = np.where((behind >= 0) & ((behind < op.window) if op.window else True), scores, -np.inf)
        elif op.window:
            scores = np.where(np.abs(behind) <= op.window // 2, scores, -np.inf)
        if op.sinks is not None:  # a position more, whose value is 0
            sinks = np.broadcast_to(self._weights[op.sinks.name][:, None, None], (*scores.shape[:2], 1))
            scores = np.concatenate([scores, sinks], axis=2)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        shown: Doubles = weights[..., : len(keys)]
        return shown

    def gate(self, op: Gate) -> None:
        y, up = _ACTIVATIONS[op.kind](self._read(op.gate)), None if op.up is None else self._read(op.up)
        if op.kind == "clamped" and up is not None:
            up = np.clip(up, -7.0, 7.0) + 1.0
        self._write(op.y, y if up is None else y * up)

    def conv(self, op: Conv) -> None:
        weight, rows = self._weights[op.weight.name], len(self._tokens)
        taps = weight.shape[1]
        x = np.concatenate([np.zeros((taps - 1, len(weight))), self._read(op.x)])
        y = sum((x[j : j + rows] * weight[:, j] for j in range(taps)), np.zeros((rows, len(weight))))
        self._write(op.y, y + self._weight(op.bias))

    def scan(self, op: Scan) -> None:
        h = op.heads
        q, k = (self._split(self._read(name), h.shared).repeat(h.group, axis=1) for name in (op.q, op.k))
        v = self._split(self._read(op.v), h.queries)
        time = np.logaddexp(0.0, self._read(op.step) + self._weight(op.bias))
        rate = time if op.rate is None else _sigmoid(self._read(op.rate))
        decay = self._weights[op.decay.name].reshape(h.queries, -1)
        state, y = np.zeros((h.queries, h.value_length, h.key_length)), np.empty_like(v)
        for t in range(len(y)):
            state = state * np.exp(decay * time[t][:, None])[:, None, :]
            new = v[t] - np.einsum("hvk,hk->hv", state, k[t]) if op.delta else v[t]
            state = state + (rate[t][:, None] * new)[..., None] * k[t][:, None, :]
            y[t] = np.einsum("hvk,hk->hv", state, q[t])
        if op.skip is not None:
            y += self._weights[op.skip.name].reshape(-1, 1) * v
        self._write(op.y, _joined(y))

    def elsewhere(self, op: Elsewhere) -> None:
        other = _Run(self._weights, self._tokens, self._scales, self._keep)
        other.buffers = {name: self._read(name).copy() for name in op.reads}
        other._widths.update(op.given.writes)
        for each in op.ops:
            other.step(each)
        self._left = other.buffers[op.y]

    def awaited(self, op: Awaited) -> None:
        if self._left is None:
            raise ValueError(f"nothing elsewhere leaves {op.y}")
        self._write(op.y, self._left)
        self._left = None

    def route(self, op: Route) -> None:
        x = self._read(op.x)
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
        self._write(op.chosen, chosen.astype(np.float64))
        self._write(op.shares, shares * op.scale)

    def experts(self, op: ExpertMatMul) -> None:
        chosen, weight = self._read(op.chosen).astype(np.int64), self._weights[op.weight.name]
        x = self._split(self._read(op.x), op.count if op.own else 1)
        y = np.zeros((*chosen.shape, weight.shape[1]))
        for expert in np.unique(chosen):
            token, part = np.nonzero(chosen == expert)
            y[token, part] = x[token, part if op.own else 0] @ weight[expert].T
        if op.bias is not None:
            y = y + self._weights[op.bias.name][chosen]
        if op.shares is None:
            self._write(op.y, _joined(y))
            return
        total = (y * self._read(op.shares)[..., None]).sum(axis=1)
        self._write(op.y, self._read(op.y) + total if op.add else total)

    def _split(self, rows: Doubles, parts: int) -> Doubles:
        """(tokens, width) as (tokens, parts, width / parts)."""
        return rows.reshape(len(self._tokens), parts, -1)


def _joined(parts: Doubles) -> Doubles:
    """The inverse of `_split`."""
    return parts.reshape(len(parts), -1)


def _sigmoid(x: Doubles) -> Doubles:
    half: Doubles = 0.5 + 0.5 * np.tanh(x / 2)
    return half


def _gelu_erf(x: Doubles) -> Doubles:
    y: Doubles = x / 2 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
    return y


def _clamped(x: Doubles) -> Doubles:
    x = np.minimum(x, 7.0)
    return x * _sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Doubles], Doubles]] = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": _gelu_erf,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.maximum(x, 0.0) ** 2,
    "clamped": _clamped,
}


def _largest(scores: Doubles, count: int) -> NDArray[np.int64]:
    """The places of each row's largest, best first, of equal ones the earlier."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _pairs(rope: Rope) -> tuple[slice, slice]:
    """The dimensions of a head that are turned together, the first and the second of each pair."""
    n = rope.dimensions
    return (slice(0, n // 2), slice(n // 2, n)) if rope.neox else (slice(0, n, 2), slice(1, n, 2))


_STEPS: dict[type[Op], Callable[[_Run, Any], None]] = {
    Embed: _Run.embed, Norm: _Run.norm, MatMul: _Run.matmul, Add: _Run.add, Scale: _Run.scale, SoftCap: _Run.soft_cap,
    Rotate: _Run.rotate, StoreKv: _Run.store, Attend: _Run.attend, Gate: _Run.gate, Conv: _Run.conv, Scan: _Run.scan,
    AddScaled: _Run.add_scaled, Route: _Run.route, ExpertMatMul: _Run.experts, ScaleByGate: _Run.scale_by_gate,
    ScaleByPosition: _Run.scale_by_position, Clamp: _Run.clamp, Elsewhere: _Run.elsewhere, Awaited: _Run.awaited,
}  # fmt: skip
