"""Joins the parts that `attention` left for a single token and writes its output row; several tokens need nothing.

Work units are query heads. Constants: value_length, group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .attention import CHUNK, joiner, part_bytes
from .spec import struct

ARGS = struct("step", "parts", "y", "n_kv", "window", "max_chunks")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    value_length, group = p["value_length"], p["group"]
    size = part_bytes(value_length, group, v.L)
    join, finish = joiner(v, value_length, group)

    def attention_join(args, ith, nth):
        if v.load_i64(args.step) != 1:
            return
        high = v.load_i64(args.step + 8) + 1
        window = args.window
        first = max(0, high - window) // CHUNK if window > 0 else 0
        last = (high - 1) // CHUNK
        heads = args.n_kv * group
        for head in range(heads * ith // nth, heads * (ith + 1) // nth):
            kv = head // group
            g = head - kv * group
            into = args.parts + (kv * args.max_chunks + first) * size
            for chunk in range(1, last - first + 1):
                join(into, into + chunk * size, g)
            finish(into, args.y + head * value_length * 4, g)

    return attention_join
