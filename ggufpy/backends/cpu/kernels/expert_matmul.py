"""Products of the experts that rows chose: y[row, part] = weight[e] · x[row, part] + bias[e], or the sum of the parts.

    x               [row][part] of n_blocks × 32 columns, f32 or 8-bit rows (`common.quantiser`), complete in each part;
                    rows x_stride, parts x_part_stride bytes apart (0: all experts of a row share x)
    y               [row][part][n_panels × lanes] f32, rows y_stride, parts y_part_stride bytes apart (0: one sum)
    weights         [n_experts][n_panels][n_blocks] blocks of a panel (`layout`), experts expert_bytes apart
    bias            [n_experts][n_panels × lanes] f32, experts bias_stride bytes apart, or 0
    shares          [row][chosen] f32, rows shares_stride bytes apart, or 0
    starts, pairs   the rows that chose each expert, and as which of their chosen, as `route` lists them
    step            i64: rows of y, also those that only fill up

Rows in groups of up to MANY share a reading of an expert's weights, and all groups take a panel before the next is
read. The order over k is the same whatever the number of rows, threads or streams.

Without `shares`, threads take about as many (group, panel) each, in order of expert, panel: where 7 rows chose expert 0
and 1 chose expert 1, they have 2 and 1 groups, and with 10 panels two threads take 15 each of 30. With `shares`, y is
the sum of the parts times these, or y += where it `adds`, in order of the experts' numbers: then every thread has the
same panels of all experts, so that a sum is one thread's.

Constants: bits, group, offset, has_min (an integer panel) or dtype (a float panel).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct
from ggufpy.quants.base import IntPanel

from . import matmul_float, matmul_int
from .layout import BLOCK, block_bytes
from .matrix import MANY
from .route import PAIR

ARGS = struct(
    "step_ptr", "starts_ptr", "pairs_ptr", "n_experts", "weights_ptr", "expert_bytes", "x_ptr", "x_stride",
    "x_part_stride", "y_ptr", "y_stride", "y_part_stride", "shares_ptr", "shares_stride", "bias_ptr", "bias_stride",
    "n_panels", "n_blocks", "adds", "multiplier:f4",
)  # fmt: skip


def _products(v: Any, p: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[[int], int], int]:
    """(make, streams_of, bytes of a block): make(streams, tokens, ahead) returns an `accumulate` (matrix.py)."""
    if "dtype" in p:
        dtype = p["dtype"]
        return (
            lambda *of: matmul_float.accumulator(v, dtype, *of),
            lambda tokens: matmul_float.streams_of(v, tokens),
            BLOCK * matmul_float.vector_bytes(v, dtype),
        )
    panel = IntPanel(p["bits"], p["group"], p["offset"], bool(p["has_min"]))
    return (
        lambda *of: matmul_int.accumulator(v, panel, *of),
        lambda tokens: matmul_int.streams_of(v, tokens),
        block_bytes(panel, v.L),
    )


def _storer(v: Any, streams: int) -> Any:
    """store(args, total, n, tokens, pair, panel, step, bias) stores a pair's sums total[n], total[n + tokens], …"""
    row_bytes = v.L * 4

    @v.njit
    def store(args, total, n, tokens, pair, panel, step, bias):
        row, part = v.load_i32(pair), v.load_i32(pair + 4)
        y = args.y_ptr + row * args.y_stride + part * args.y_part_stride + panel * row_bytes
        for j in range(streams):
            out = y + j * step * row_bytes
            value = total[n + j * tokens] * v.splat_f(args.multiplier)
            if bias != 0:
                value = value + v.load_f(bias + (panel + j * step) * row_bytes)
            if args.shares_ptr != 0:
                share = v.load_f32(args.shares_ptr + row * args.shares_stride + 4 * part)
                value = v.fma(v.splat_f(share), value, v.load_f(out))
            v.store_f(out, value)

    return store


def _alone(v: Any, accumulate: Any, streams: int) -> Any:
    """alone(args, weights, stride, pair, panel, step, bias) multiplies a pair by `streams` panels, `step` apart."""
    store = _storer(v, streams)

    @v.njit
    def alone(args, weights, stride, pair, panel, step, bias):
        x = args.x_ptr + v.load_i32(pair) * args.x_stride + v.load_i32(pair + 4) * args.x_part_stride
        total = v.floats(streams)
        for n in range(streams):
            total[n] = v.splat_f(0.0)
        accumulate(weights + panel * stride, step * stride, args.n_blocks, x, 0, total)
        store(args, total, 0, 1, pair, panel, step, bias)

    return alone


def _together(v: Any, accumulate: Any, streams: int) -> Any:
    """together(args, weights, stride, pair, count, panel, step, bias) does so for up to MANY pairs; those that are
    missing are the last one again, and are not stored."""
    store, sums = _storer(v, streams), streams * MANY

    @v.njit
    def activations(args, pair):
        return args.x_ptr + v.load_i32(pair) * args.x_stride + v.load_i32(pair + 4) * args.x_part_stride

    @v.njit
    def together(args, weights, stride, pair, count, panel, step, bias):
        x, last = activations(args, pair), pair + PAIR * (count - 1)
        apart = v.distances(
            0,
            activations(args, min(pair + PAIR, last)) - x,
            activations(args, min(pair + 2 * PAIR, last)) - x,
            activations(args, min(pair + 3 * PAIR, last)) - x,
        )
        total = v.floats(sums)
        for n in range(sums):
            total[n] = v.splat_f(0.0)
        accumulate(weights + panel * stride, step * stride, args.n_blocks, x, apart, total)
        for t in range(MANY):
            if t < count:
                store(args, total, t, MANY, pair + PAIR * t, panel, step, bias)

    return together


def _expert(v: Any, p: Mapping[str, Any]) -> Any:
    """expert(args, e, pairs, count, first, last) multiplies all pairs of an expert by its panels first to last."""
    make, streams_of, size = _products(v, p)
    single, several = streams_of(1), streams_of(MANY)
    alone, alone_narrow = (_alone(v, make(s, 1, True), s) for s in (single, 1))
    leading, leading_narrow = (_together(v, make(s, MANY, True), s) for s in (several, 1))
    # The first group reads weights from memory, the next ones from the caches.
    following = _together(v, make(several, MANY, False), several) if several > 1 else leading

    @v.njit
    def one(args, weights, stride, pair, first, last, bias):
        rounds = (last - first) // single
        for panel in range(first, first + rounds):
            alone(args, weights, stride, pair, panel, rounds, bias)
        for panel in range(first + rounds * single, last):
            alone_narrow(args, weights, stride, pair, panel, 0, bias)

    @v.njit
    def many(args, weights, stride, pairs, count, first, last, bias):
        rounds = (last - first) // several
        for panel in range(first, first + rounds):
            leading(args, weights, stride, pairs, min(count, MANY), panel, rounds, bias)
            for t in range(MANY, count, MANY):
                following(args, weights, stride, pairs + PAIR * t, min(count - t, MANY), panel, rounds, bias)
        for panel in range(first + rounds * several, last):
            for t in range(0, count, MANY):
                leading_narrow(args, weights, stride, pairs + PAIR * t, min(count - t, MANY), panel, 0, bias)

    @v.njit
    def expert(args, e, pairs, count, first, last):
        weights, stride = args.weights_ptr + e * args.expert_bytes, args.n_blocks * size
        bias = args.bias_ptr + e * args.bias_stride if args.bias_ptr != 0 else 0
        if count == 1:
            one(args, weights, stride, pairs, first, last, bias)
        else:
            many(args, weights, stride, pairs, count, first, last, bias)

    return expert


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    expert = _expert(v, p)
    row_bytes = v.L * 4

    @v.njit
    def groups(starts, e):
        return (v.load_i64(starts + 8 * (e + 1)) - v.load_i64(starts + 8 * e) + MANY - 1) // MANY

    @v.njit
    def clear(args, first, last):
        for row in range(v.load_i64(args.step_ptr)):
            for panel in range(first, last):
                v.store_f(args.y_ptr + row * args.y_stride + panel * row_bytes, v.splat_f(0.0))

    def expert_matmul(args, ith, nth):
        starts, panels, experts = args.starts_ptr, args.n_panels, args.n_experts
        total = 0
        for e in range(experts):
            total += groups(starts, e)
        low, high = total * panels * ith // nth, total * panels * (ith + 1) // nth
        first, last = panels * ith // nth, panels * (ith + 1) // nth
        if args.shares_ptr != 0 and args.adds == 0:
            clear(args, first, last)
        before = 0  # groups × panels of the experts before
        for e in range(experts):
            begin = v.load_i64(starts + 8 * e)
            count, here = v.load_i64(starts + 8 * (e + 1)) - begin, groups(starts, e)
            if count > 0:
                if args.shares_ptr == 0:  # looked up each time: else the compiler makes two loops of this one
                    first = min(max((low - before + here - 1) // here, 0), panels)
                    last = min(max((high - before + here - 1) // here, 0), panels)
                expert(args, e, args.pairs_ptr + PAIR * begin, count, first, last)
                before += here * panels

    return expert_matmul
