"""Joins the parts that `attention` left for single rows and writes their output; runs need nothing.

    spans, y, sinks   as in `attention`
    parts             [n_kv][page of the row] parts, each of `group` queries; those of pages before a window are unused

Work units are (single row, query head). Constants: value_length, group, and sinks as in `attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .attention import RECORD, RECORDS, joiner, part_bytes
from .kv_types import PAGE

ARGS = struct("spans_ptr", "y_ptr", "y_stride", "n_kv", "window", "sinks_ptr")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    value_length, group = p["value_length"], p["group"]
    size = part_bytes(value_length, group, v.L)
    join, finish = joiner(v, value_length, group, bool(p.get("sinks", 0)))

    def attention_join(args, ith, nth):
        heads, window = args.n_kv * group, args.window
        units = v.load_i64(args.spans_ptr) * heads
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            span = unit // heads
            head = unit - span * heads
            record = args.spans_ptr + RECORDS + 8 * RECORD * span
            position, parts = v.load_i64(record + 16), v.load_i64(record + 32)
            first = max(position + 1 - window, 0) // PAGE if window > 0 else 0
            pages = position // PAGE + 1
            kv = head // group
            g = head - kv * group
            into = parts + (kv * pages + first) * size
            for chunk in range(1, pages - first):
                join(into, into + chunk * size, g)
            y = args.y_ptr + v.load_i64(record) * args.y_stride + head * value_length * 4
            finish(into, g, y, args.sinks_ptr + 4 * head)

    return attention_join
