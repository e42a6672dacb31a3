"""What layers keep of a sequence: a module a kind of cache, each of which says what can be done with it.

In: a plan. Out: its layers by kind. Layers of one kind share a table of page numbers, whatever their heads: pages are
counted in positions, and how many bytes a page has is the device's business.
"""

from __future__ import annotations

from ggufpy.models.ops import Attend, Rotate, StoreKv
from ggufpy.models.plan import Plan

from .base import Cache
from .kv import FixedKv, Kv
from .window import WindowKv

__all__ = ["Cache", "FixedKv", "Kv", "WindowKv", "layers_by_cache"]


def layers_by_cache(plan: Plan, positions: int, step: int) -> dict[Cache, list[int]]:
    """The layers that keep something, by kind, for sequences of `positions` in steps of at most `step` tokens.

    A layer keeps what all who attend to it see: all, where a token sees what follows it. Where what a window takes is
    no less than all, all is kept.
    """
    windows: dict[int, set[int]] = {op.layer: set() for op in plan.body if isinstance(op, StoreKv)}
    for op in plan.body:
        if isinstance(op, Attend) and op.layer in windows:
            windows[op.layer].add(op.window if op.causal else 0)
    fixed = _fixed(plan)
    groups: dict[Cache, list[int]] = {}
    for layer, seen in windows.items():
        cache: Cache = WindowKv(max(seen)) if seen and min(seen) > 0 else Kv()
        if cache.most(positions, step) >= Kv().most(positions, step):
            cache = Kv()
        cache = FixedKv() if layer in fixed else cache
        groups.setdefault(cache, []).append(layer)
    return groups


def _fixed(plan: Plan) -> set[int]:
    """Layers whose keys are changed between being turned and being stored."""
    layers: set[int] = set()
    for ops in plan.layers:
        turned: dict[str, bool] = {}  # by name: whether turning was the last that happened to it
        for op in ops:
            if isinstance(op, StoreKv) and not turned.get(op.k, True):
                layers.add(op.layer)
            for name in op.writes:
                if isinstance(op, Rotate) or name in turned:
                    turned[name] = isinstance(op, Rotate)
    return layers
