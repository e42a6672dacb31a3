"""Experts whose tensors are stacked, (experts, …): each is taken by itself, as the layer of a model without experts.

What comes of them is a tensor (experts, out, in), which rules take as `gate_up_proj.weight`: a checkpoint of floats may
have it the other way round, and calls it `gate_up_proj` then.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ggufpy.convert.safetensors import Part, Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Joined, Rows, Window
from ggufpy.format.values import shown

from ._fp4 import nv


def joined(count: int, make: Callable[[int], Rows]) -> Rows:
    """What `make` makes of each expert, (out, in), as (experts, out, in)."""
    parts = [make(i) for i in range(count)]
    return Joined(parts, (count, *parts[0].shape))


def of_expert(stored: Stored, count: int, i: int, rank: int | None = None) -> Stored:
    """What one of `count` experts has of a tensor: its part of the stack, or all of it where it is one number or has
    the `rank` of one expert's. GGUFError for a tensor that is neither."""
    if prod(stored.shape) == 1 or len(stored.shape) == rank:
        return stored
    if stored.shape[:1] != (count,):
        raise GGUFError(f"tensor {shown(stored.name)} has the shape {list(stored.shape)}, of {count} experts")
    return Part(stored, i)


def fused_nv(packed: Stored, scale: Stored, size: tuple[int, ...], factor: Stored, divides: bool = False) -> Rows:
    """As `nv`, of a matrix (out, in) with a factor for each of some runs of its rows, gate and up, or for all."""
    out, count = size[0], factor.shape[0] if factor.shape else 1
    if count < 2 or out % count:
        return nv(packed, scale, size, factor, divides)
    height = out // count
    each = [nv(packed, scale, size, Part(factor, i), divides) for i in range(count)]
    return Joined([Window(one, i * height, (height, size[1])) for i, one in enumerate(each)], size)
