"""Routing in NumPy, row by row and expert by expert."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.models.ops import Route

KINDS = ("softmax", "sigmoid", "softmax_of_chosen")


def a_route(experts: int, count: int, **more: Any) -> Route:
    return Route("logits", experts, "chosen", "shares", count, **more)


def routed(x: Any, op: Route, bias: Any = None) -> tuple[Any, Any]:
    """(chosen, shares) in float64, row by row and expert by expert."""
    rows = []
    for logits in np.asarray(x, np.float64):
        p = logits
        if op.kind == "softmax":
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        elif op.kind == "sigmoid":
            p = 1 / (1 + np.exp(-logits))
        scores = list(p if bias is None else p + bias)
        size = op.experts // op.groups
        of_groups = [sum(sorted(scores[g * size : (g + 1) * size])[-2:]) for g in range(op.groups)]
        groups = sorted(range(op.groups), key=lambda g: (-of_groups[g], g))[: op.groups_used]
        allowed = [e for e in range(op.experts) if e // size in groups]
        chosen = sorted(allowed, key=lambda e: (-scores[e], e))[: op.count]
        shares = p[chosen]
        if op.kind == "softmax_of_chosen":
            shares = np.exp(shares) / np.exp(shares).sum()
        if op.renormalised:
            shares = shares / max(shares.sum(), 2.0**-14)
        rows.append((chosen, shares * op.scale))
    return tuple(np.array(part) for part in zip(*rows, strict=True))
