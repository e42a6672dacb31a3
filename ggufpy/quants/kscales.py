"""What the types of 256 weights share: two levels of scales and minima, and the search for both.

Encoders keep, as vectors from `work` on: 256 codes (i32), then GROUPS places each of the groups' scales, minima and
sums of importance (f32), and of the integers that scales and minima become (f32, whole).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufpy.quants.base import Bytes, Floats, Records
from ggufpy.quants.bits import compact
from ggufpy.quants.lanes import TINY, WEIGHED, Scan, affine_search, emphasis, nearest
from ggufpy.quants.words import Words, byte_field, half_field

GROUPS = 16  # at most
SCALES, MINIMA, SUMS, SCALE_CODES, MINIMUM_CODES, FREE = range(256, 256 + 6 * GROUPS, GROUPS)  # vectors of `work`


def scales_and_minima(rec: Records) -> tuple[Floats, Floats]:
    """(rows, blocks) records with d, dmin, scales → d * sc and -dmin * mn, both (rows, blocks, 8)."""
    first, second, last = np.split(compact(rec["scales"]), 3, axis=-1)
    sc = np.concatenate([first & np.uint8(63), _upper(first) | last & np.uint8(15)], axis=-1)
    mn = np.concatenate([second & np.uint8(63), _upper(second) | last >> np.uint8(4)], axis=-1)
    scale = rec["d"].astype(np.float32)[..., None] * sc.astype(np.float32)
    minimum = -rec["dmin"].astype(np.float32)[..., None] * mn.astype(np.float32)
    return scale, minimum


def _upper(packed: Bytes) -> Bytes:
    """The upper two bits of each byte, as bits 4 and 5."""
    upper: Bytes = (packed >> np.uint8(2)) & np.uint8(48)
    return upper


def scale_and_minimum(v: Any) -> Any:
    """codes(at, g): a group's sc and mn in all lanes, from the 12 bytes at `at`."""

    @v.njit
    def codes(at, g):
        last = v.load_u8(at + 8 + g % 4)
        sc, mn = v.load_u8(at + g % 4), v.load_u8(at + 4 + g % 4)
        if g < 4:
            sc, mn = sc & 63, mn & 63
        else:
            sc, mn = last & 15 | sc >> 6 << 4, last >> 4 | mn >> 6 << 4
        return v.to_f(v.splat_i(sc)), v.to_f(v.splat_i(mn))

    return codes


def lane_scales_and_minima(v: Any, words: Words) -> tuple[Any, Any]:
    """The functions scale and minimum (words.py) of d, dmin and 12 bytes of scales."""
    d, dmin, packed = half_field(v, words, "d"), half_field(v, words, "dmin"), byte_field(v, words.first("scales"))

    @v.njit
    def code(work, s, first, shift):
        """Six bits: those of byte `first` + s, or four bits of the last bytes and the upper two of the first."""
        one = packed(work, first + s % 4)
        if s < 4:
            return v.to_f(one & v.splat_i(63))
        low = (packed(work, 8 + s % 4) >> shift) & v.splat_i(15)
        return v.to_f(low | ((one >> 2) & v.splat_i(48)))

    @v.njit
    def scale(work, s, h):
        return d(work, s, h) * code(work, s, 0, 0)

    @v.njit
    def minimum(work, s, h):
        return v.splat_f(-1.0) * dmin(work, s, h) * code(work, s, 4, 4)

    return scale, minimum


@dataclass(frozen=True)
class Groups:
    """A type of 256 weights with scales and minima: `weights` of a group, `levels` of codes, `top` of scale codes.

    `scan` is what is tried where there is no importance. An error then counts |x|, or where `spread`, the group's root
    mean square more. With importance, `square` times the block's mean square is added to x² under the root.
    """

    weights: int
    levels: int
    top: int
    scan: Scan
    spread: bool
    square: float


def square_sum(v: Any, count: int) -> Any:
    """square_sum(x): Σ x², added in file order."""
    size = 4 * v.L

    @v.njit
    def square_sum(x):
        total = v.splat_f(0.0)
        for i in range(count):
            one = v.load_f(x + size * i)
            total = total + one * one
        return total

    return square_sum


def total(v: Any, count: int) -> Any:
    """total(w): the sum of `count` vectors in file order."""
    size = 4 * v.L

    @v.njit
    def total(w):
        added = v.load_f(w)
        for i in range(1, count):
            added = added + v.load_f(w + size * i)
        return added

    return total


def recode(v: Any, count: int, low: int, high: int) -> Any:
    """recode(x, scale, offset, codes): codes = (x + offset) / scale to nearest from `low` to `high`, less `low`.

    They are i32; where the scale is 0 they stay what they are.
    """
    size, whole = 4 * v.L, nearest(v, low, high)

    @v.njit
    def recode(x, scale, offset, codes):
        kept = v.eq(scale, v.splat_f(0.0))
        for i in range(count):
            code = v.round_i(whole((v.load_f(x + size * i) + offset) / scale)) - v.splat_i(low)
            v.store_i(codes + size * i, v.choose_i(kept, v.load_i(codes + size * i), code))

    return recode


def positive_search(v: Any, count: int, top: int) -> Any:
    """search(x, w, codes): a scale for numbers that are not negative, and their codes 0 to `top` as whole f32.

    The best of 9 scales by weighted square error, then codes changed one by one while that helps, the scale refitted.
    ggml's make_qp_quants.
    """
    size, whole = 4 * v.L, nearest(v, 0, top)
    turns = (0, *range(-4, 0), *range(1, 5))
    tries = tuple(float(np.float32(0.1) * np.float32(turn) + np.float32(top)) for turn in turns)
    improve = _improve(v, count, top)

    @v.njit
    def misses(x, w, inverse_scale):
        scale, error = v.splat_f(1.0) / inverse_scale, v.splat_f(0.0)
        for i in range(count):
            one = v.load_f(x + size * i)
            miss = one - scale * whole(inverse_scale * one)
            error = error + v.load_f(w + size * i) * miss * miss
        return error

    @v.njit
    def search(x, w, codes):
        zero = v.splat_f(0.0)
        high, dot, norm = zero, zero, zero
        for i in range(count):
            high = v.max(v.load_f(x + size * i), high)
        used = v.splat_f(tries[0]) / high
        error = misses(x, w, used)
        for step in range(1, 9):
            candidate = v.splat_f(tries[step]) / high
            new_error = misses(x, w, candidate)
            better = v.gt(error, new_error)
            used, error = v.choose(better, candidate, used), v.choose(better, new_error, error)
        used = v.choose(v.gt(v.splat_f(TINY), high), zero, used)  # of groups that are all but zero, so are the codes
        for i in range(count):
            one, weight = v.load_f(x + size * i), v.load_f(w + size * i)
            code = whole(used * one)
            v.store_f(codes + size * i, code)
            dot, norm = dot + weight * one * code, norm + weight * code * code
        return improve(x, w, codes, dot, norm)

    return search


def change(v: Any, low: int, high: int) -> Any:
    """change(one, weight, at, dot, norm): refits the code of one weight to the others', if that lowers the error.

    The code is the whole f32 at `at`, from `low` to `high`; `dot` is the group's Σ w · x · code, `norm` Σ w · code².
    Returns both as they then are, and a mask of what changed.
    """
    whole, positive = nearest(v, low, high), low == 0

    @v.njit
    def change(one, weight, at, dot, norm):
        zero, code = v.splat_f(0.0), v.load_f(at)
        rest, rest_norm = dot - weight * one * code, norm - weight * code * code
        fresh = whole(one * rest_norm / rest)
        new_dot, new_norm = rest + weight * one * fresh, rest_norm + weight * fresh * fresh
        better = v.gt(rest, zero) & v.gt(rest_norm if positive else new_norm, zero) & v.gt(v.abs(fresh - code), zero)
        better = better & v.gt(new_dot * new_dot * norm, dot * dot * new_norm)
        v.store_f(at, v.choose(better, fresh, code))
        return v.choose(better, new_dot, dot), v.choose(better, new_norm, norm), better

    return change


def _improve(v: Any, count: int, top: int) -> Any:
    """improve(x, w, codes, dot, norm): changes codes one by one while that lowers the error; the fitted scale."""
    size, one_code = 4 * v.L, change(v, 0, top)

    @v.njit
    def improve(x, w, codes, dot, norm):
        for _ in range(5):
            changed = v.splat_i(0)
            for i in range(count):
                one, weight = v.load_f(x + size * i), v.load_f(w + size * i)
                dot, norm, better = one_code(one, weight, codes + size * i, dot, norm)
                changed = changed | better
            if v.any(changed) == 0:
                break
        return v.choose(v.gt(norm, v.splat_f(0.0)), dot / norm, v.splat_f(0.0))

    return improve


def _top_scale(v: Any, count: int, top: int) -> Any:
    """scale(x, w, codes): as `positive_search` without a search: the largest becomes `top`, the rest are rounded."""
    size, whole = 4 * v.L, nearest(v, 0, top)

    @v.njit
    def scale(x, w, codes):
        zero = v.splat_f(0.0)
        high = zero
        for i in range(count):
            high = v.max(v.load_f(x + size * i), high)
        factor = v.choose(v.gt(high, zero), v.splat_f(top) / high, zero)
        for i in range(count):
            v.store_f(codes + size * i, whole(factor * v.load_f(x + size * i)))
        return high / v.splat_f(top)

    return scale


def _group_weights(v: Any, shape: Groups) -> Any:
    """weights(x, w): how much an error of each weight of a group counts without importance, into w."""
    size, count = 4 * v.L, shape.weights
    squares, spread = square_sum(v, count), shape.spread

    @v.njit
    def weights(x, w):
        base = v.splat_f(0.0)
        if spread:
            base = v.sqrt_f(squares(x) / v.splat_f(count))
        for i in range(count):
            v.store_f(w + size * i, base + v.abs(v.load_f(x + size * i)))

    return weights


def affine_groups(v: Any, weighted: bool, shape: Groups) -> Any:
    """groups(x, w, work): codes, and codes of scales and minima, as the module says; (scale, minimum) of the block.

    The scales and minima of the block are to be stored as f16, which the codes allow for. ggml's
    quantize_row_q2_K, q4_K and q5_K, _ref without importance and _impl with it.
    """
    size, count, number = 4 * v.L, shape.weights, 256 // shape.weights
    fit = affine_search(v, count, shape.levels, WEIGHED if weighted else shape.scan)
    squares, emphasise, weigh = square_sum(v, 256), emphasis(v, 256), _group_weights(v, shape)
    sums, again, square = total(v, count), recode(v, count, 0, shape.levels), shape.square
    quantise = (positive_search if weighted else _top_scale)(v, number, shape.top)

    @v.njit
    def fit_groups(x, w, work):
        if weighted:
            emphasise(w, x, v.splat_f(square) * squares(x) / v.splat_f(256.0))
        for g in range(number):
            at = size * count * g
            if weighted:
                v.store_f(work + size * (SUMS + g), sums(w + at))
            else:
                weigh(x + at, w + at)
            scale, minimum = fit(x + at, w + at, work + at)
            v.store_f(work + size * (SCALES + g), scale)
            v.store_f(work + size * (MINIMA + g), v.splat_f(0.0) - minimum)

    @v.njit
    def groups(x, w, work):
        fit_groups(x, w, work)
        scale = quantise(work + size * SCALES, work + size * SUMS, work + size * SCALE_CODES)
        minimum = quantise(work + size * MINIMA, work + size * SUMS, work + size * MINIMUM_CODES)
        kept, kept_minimum = v.half_f(v.half_i(scale)), v.half_f(v.half_i(minimum))
        for g in range(number):
            one = kept * v.load_f(work + size * (SCALE_CODES + g))
            low = kept_minimum * v.load_f(work + size * (MINIMUM_CODES + g))
            again(x + size * count * g, one, low, work + size * count * g)
        return scale, minimum

    return groups


def put_scales_and_minima(v: Any) -> Any:
    """put(out, k, work): the 6-bit codes of 8 scales and minima into bytes k to k + 11, as Q4_K and Q5_K have them."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put(out, k, work):
        for g in range(4):
            scale = v.round_i(v.load_f(work + size * (SCALE_CODES + g)))
            minimum = v.round_i(v.load_f(work + size * (MINIMUM_CODES + g)))
            later = v.round_i(v.load_f(work + size * (SCALE_CODES + g + 4)))
            later_minimum = v.round_i(v.load_f(work + size * (MINIMUM_CODES + g + 4)))
            v.store_i8(out + L * (k + g), scale | ((later >> 4) << 6))
            v.store_i8(out + L * (k + 4 + g), minimum | ((later_minimum >> 4) << 6))
            v.store_i8(out + L * (k + 8 + g), (later & v.splat_i(15)) | (later_minimum << 4))

    return put


def put_nibble_runs(v: Any) -> Any:
    """put(out, k, codes): the low four bits of 256 codes into bytes k to k + 127, in four runs as Q4_K has them."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put(out, k, codes):
        for run in range(4):
            for i in range(32):
                low = v.load_i(codes + size * (64 * run + i)) & v.splat_i(15)
                high = v.load_i(codes + size * (64 * run + 32 + i))
                v.store_i8(out + L * (k + 32 * run + i), low | (high << 4))

    return put


def put_pairs(v: Any) -> Any:
    """put(out, k, codes, shift): two bits of 256 codes, from bit `shift` on, into bytes k to k + 63, as in Q2_K."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put(out, k, codes, shift):
        for run in range(2):
            for i in range(32):
                byte = v.splat_i(0)
                for plane in range(4):
                    code = v.load_i(codes + size * (128 * run + 32 * plane + i))
                    byte = byte | (((code >> shift) & v.splat_i(3)) << (2 * plane))
                v.store_i8(out + L * (k + 32 * run + i), byte)

    return put


def put_bits(v: Any) -> Any:
    """put(out, k, codes, shift): bit `shift` of code 32 i + l into bit i of byte k + l, for 256 codes."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put(out, k, codes, shift):
        for i in range(32):
            byte = v.splat_i(0)
            for plane in range(8):
                code = v.load_i(codes + size * (32 * plane + i))
                byte = byte | (((code >> shift) & v.splat_i(1)) << plane)
            v.store_i8(out + L * (k + i), byte)

    return put
