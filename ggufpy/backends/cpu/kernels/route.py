"""Chooses each row's experts by their logits, and lists by expert the rows that chose it.

    x                [row][n_experts] f32, rows x_stride bytes apart
    bias             [n_experts] f32, in whole blocks of 32, or 0
    chosen, shares   [row][n_chosen] f32, rows y_stride bytes apart: experts' numbers, best first, and by what their
                     outputs are multiplied
    scores           [row][n_experts, in whole blocks of 32] f32, scratch, rows scores_stride bytes apart
    step             i64: number of rows, also those that only fill up
    exact            i64: real rows from 0
    bulk             i64, i64: the first of the other real rows, and how many
    pairs            (i32 row, i32 place among the row's chosen) …, by expert, then by row
    starts           [n_experts + 2] i64: those of expert e are pairs starts[e] to starts[e + 1]; the last is spare
    tally            i64 experts that had rows, added up call by call; i64 calls
    next             i64: threads that are through with their rows

With 4 experts, 2 chosen and real rows 0 and 1 that chose 2 0 and 2 3:

    pairs    (0, 1) (0, 0) (1, 0) (1, 1)
    starts   0 1 1 3 4 4

Numbers are always those of experts, whatever x is. Rows are shared out; the thread that is last through makes the
lists. Constant: kind; `models/ops.py` (Route) has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct(
    "step_ptr", "exact_ptr", "bulk_ptr", "x_ptr", "bias_ptr", "chosen_ptr", "shares_ptr", "x_stride", "y_stride",
    "n_experts", "n_chosen", "n_groups", "n_groups_used", "renormalises", "scale:f4", "scores_ptr", "scores_stride",
    "starts_ptr", "pairs_ptr", "tally_ptr", "next_ptr",
)  # fmt: skip

PAIR = 8  # bytes
MOST_GROUPS = 64  # as many as an int64 has bits
LOWEST, NOTHING = -1e38, -math.inf  # the least score of an expert, and that of one that cannot be chosen
LEAST_SUM = 2.0**-14


def _probability(v: Any, kind: str) -> Any:
    """probability(x, top, inverse) makes logits probabilities, lane by lane; inverse is 1 / Σ e^(x - top)."""

    @v.njit
    def softmax(x, top, inverse):
        return v.exp(x - v.splat_f(top)) * v.splat_f(inverse)

    @v.njit
    def sigmoid(x, top, inverse):
        return v.splat_f(1.0) / (v.splat_f(1.0) + v.exp(v.splat_f(0.0) - x))

    @v.njit
    def itself(x, top, inverse):
        return x

    return {"softmax": softmax, "sigmoid": sigmoid, "softmax_of_chosen": itself}[kind]


def _chooser(v: Any) -> tuple[Any, Any]:
    """best(scores, experts) finds the first expert of the largest score; leave(scores, size, groups, used) leaves only
    experts of the best groups to be chosen."""

    @v.njit
    def best(scores, experts):
        top = v.splat_f(NOTHING)
        for i in range(0, experts, v.L):
            top = v.max(v.load_f(scores + 4 * i), top)
        value = v.largest(top)
        for i in range(0, experts, v.L):
            if v.any(v.eq(v.load_f(scores + 4 * i), v.splat_f(value))) != 0:
                for k in range(v.L):
                    if v.load_f32(scores + 4 * (i + k)) == value:
                        return i + k
        return 0

    @v.njit
    def two_best(scores, size):
        first, second = v.load_f32(scores), LOWEST
        for i in range(1, size):
            value = v.load_f32(scores + 4 * i)
            if value > first:
                first, second = value, first
            elif value > second:
                second = value
        return first + second if size > 1 else first

    @v.njit
    def leave(scores, size, groups, used):
        taken = 0
        for _ in range(used):
            chosen, top = -1, 0.0
            for g in range(groups):
                if (taken >> g) & 1 == 0:
                    value = two_best(scores + 4 * g * size, size)
                    if chosen < 0 or value > top:
                        chosen, top = g, value
            taken = taken | (1 << chosen)
        for g in range(groups):
            if (taken >> g) & 1 == 0:
                for i in range(g * size, (g + 1) * size):
                    v.store_f32(scores + 4 * i, NOTHING)

    return best, leave


def _lister(v: Any) -> Any:
    """make_lists(args): fills in pairs, starts and tally from what real rows have chosen."""

    @v.njit
    def row_of(args, i):
        exact = v.load_i64(args.exact_ptr)
        return i if i < exact else v.load_i64(args.bulk_ptr) + i - exact

    @v.njit
    def make_lists(args):
        starts, pairs, experts, count = args.starts_ptr, args.pairs_ptr, args.n_experts, args.n_chosen
        rows = v.load_i64(args.exact_ptr) + v.load_i64(args.bulk_ptr + 8)
        for e in range(experts + 2):
            v.store_i64(starts + 8 * e, 0)
        for i in range(rows):  # how many chose expert e, two places behind it
            for k in range(count):
                at = starts + 8 * (int(v.load_f32(args.chosen_ptr + row_of(args, i) * args.y_stride + 4 * k)) + 2)
                v.store_i64(at, v.load_i64(at) + 1)
        active = 0
        for e in range(experts):  # where expert e begins, one place behind it
            if v.load_i64(starts + 8 * (e + 2)) != 0:
                active += 1
            v.store_i64(starts + 8 * (e + 2), v.load_i64(starts + 8 * (e + 2)) + v.load_i64(starts + 8 * (e + 1)))
        for i in range(rows):  # this moves on to where it ends, which is where the next begins
            row = row_of(args, i)
            for k in range(count):
                at = starts + 8 * (int(v.load_f32(args.chosen_ptr + row * args.y_stride + 4 * k)) + 1)
                pair = v.load_i64(at)
                v.store_i64(at, pair + 1)
                v.store_i32(pairs + PAIR * pair, row)
                v.store_i32(pairs + PAIR * pair + 4, k)
        v.store_i64(args.tally_ptr, v.load_i64(args.tally_ptr) + active)
        v.store_i64(args.tally_ptr + 8, v.load_i64(args.tally_ptr + 8) + 1)

    return make_lists


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    kind = p["kind"]
    probability = _probability(v, kind)
    best, leave = _chooser(v)
    make_lists = _lister(v)
    softmax, of_chosen = kind == "softmax", kind == "softmax_of_chosen"

    @v.njit
    def there(experts, i):  # lanes that are experts, of a vector from expert i on
        return v.gt_i(v.splat_i(experts - i), v.iota())

    @v.njit
    def range_of(x, experts):  # the largest logit, and one over the sum of e^(x - largest)
        largest = v.splat_f(LOWEST)
        for i in range(0, experts, v.L):
            largest = v.max(v.choose(there(experts, i), v.load_f(x + 4 * i), v.splat_f(LOWEST)), largest)
        top, total = v.largest(largest), v.splat_f(0.0)
        for i in range(0, experts, v.L):
            power = v.exp(v.load_f(x + 4 * i) - v.splat_f(top))
            total = total + v.choose(there(experts, i), power, v.splat_f(0.0))
        return top, 1.0 / v.sum(total)

    @v.njit
    def score(args, x, scores, top, inverse):
        experts, bias = args.n_experts, args.bias_ptr
        plain = bias == 0 and args.n_groups == 1  # the order is that of the logits, which are exact
        for i in range(0, experts, v.L):
            value = v.load_f(x + 4 * i)
            if not plain:
                value = probability(value, top, inverse)
            if bias != 0:
                value = value + v.load_f(bias + 4 * i)
            value = v.max(value, v.splat_f(LOWEST))  # this too, where it is no number
            v.store_f(scores + 4 * i, v.choose(there(experts, i), value, v.splat_f(NOTHING)))
        if args.n_groups > 1:
            leave(scores, experts // args.n_groups, args.n_groups, args.n_groups_used)

    @v.njit
    def finish(args, shares):
        count = args.n_chosen
        if of_chosen:
            top = v.load_f32(shares)
            for k in range(1, count):
                top = max(top, v.load_f32(shares + 4 * k))
            for k in range(count):
                v.store_f32(shares + 4 * k, v.first(v.exp(v.splat_f(v.load_f32(shares + 4 * k) - top))))
        total = 0.0
        for k in range(count):
            total += v.load_f32(shares + 4 * k)
        divisor = total if of_chosen else 1.0
        if args.renormalises != 0:
            divisor = divisor * max(total / divisor, LEAST_SUM)
        for k in range(count):
            v.store_f32(shares + 4 * k, v.load_f32(shares + 4 * k) / divisor * args.scale)

    def route(args, ith, nth):
        rows = v.load_i64(args.step_ptr)
        for row in range(rows * ith // nth, rows * (ith + 1) // nth):
            x, scores = args.x_ptr + row * args.x_stride, args.scores_ptr + row * args.scores_stride
            chosen, shares = args.chosen_ptr + row * args.y_stride, args.shares_ptr + row * args.y_stride
            top, inverse = range_of(x, args.n_experts) if softmax else (0.0, 1.0)
            score(args, x, scores, top, inverse)
            for k in range(args.n_chosen):
                e = best(scores, args.n_experts)
                v.store_f32(scores + 4 * e, NOTHING)
                v.store_f32(chosen + 4 * k, e)
                v.store_f32(shares + 4 * k, v.first(probability(v.splat_f(v.load_f32(x + 4 * e)), top, inverse)))
            finish(args, shares)
        if v.atomic_add(args.next_ptr, 1) == nth - 1:
            make_lists(args)

    return route
