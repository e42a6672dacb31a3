"""How far each row of logits is from stored log-probabilities: the sum over stored tokens of weight · (stored - ours).

    logits                 [n_rows][vocabulary] f32, rows logits_stride bytes apart
    stats                  [n_rows] 16 bytes: f32 largest, f32 log of the sum of e^(x - largest), the rest unused
    starts                 [n_rows + 1] i64: row i has stored tokens starts[i] to starts[i + 1]
    ids, values, weights   [all stored tokens] i32 column, f32 log-probability, f32
    out                    [n_rows] f32

Work units are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct(
    "n_rows", "logits_ptr", "logits_stride", "stats_ptr", "starts_ptr", "ids_ptr", "values_ptr", "weights_ptr",
    "out_ptr",
)  # fmt: skip


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def divergence(args, ith, nth):
        count, ids, values, weights = args.n_rows, args.ids_ptr, args.values_ptr, args.weights_ptr
        for i in range(count * ith // nth, count * (ith + 1) // nth):
            row = args.logits_ptr + i * args.logits_stride
            top, log_sum = v.load_f32(args.stats_ptr + 16 * i), v.load_f32(args.stats_ptr + 16 * i + 4)
            at, end = v.load_i64(args.starts_ptr + 8 * i), v.load_i64(args.starts_ptr + 8 * i + 8)
            tops, log_sums, total = v.splat_f(top), v.splat_f(log_sum), v.splat_f(0.0)
            while at + v.L <= end:
                ours = (v.gather_f(row, v.load_i(ids + 4 * at)) - tops) - log_sums
                total = v.fma(v.load_f(weights + 4 * at), v.load_f(values + 4 * at) - ours, total)
                at += v.L
            distance = v.sum(total)
            while at < end:
                ours = (v.load_f32(row + 4 * v.load_i32(ids + 4 * at)) - top) - log_sum
                distance += v.load_f32(weights + 4 * at) * (v.load_f32(values + 4 * at) - ours)
                at += 1
            v.store_f32(args.out_ptr + 4 * i, distance)

    return divergence
