"""What lane encoders are made of: code for kernels in which every lane is a block of its own.

Arrays are addresses of vectors: element i of all lanes is the vector at `x + 4 * L * i`. Each builder takes the
primitives `v` of a level and returns a function for kernels. The procedures are ggml-quants.c's, with its order of
additions, so that the same codes come out; branches become selections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = 12582912.0  # 1.5 · 2²³: added to a small f32, it leaves no bit for a fraction
TURNS = (0, *range(-9, 0), *range(1, 10))  # tenths of a code by which a search moves its scale
TINY = 1e-15  # blocks with nothing larger are written as zeros by the weighted search


@dataclass(frozen=True)
class Scan:
    """Scales that an affine search tries: (levels + first + step · i) / range for i below `tries`.

    `absolute` makes it add up absolute errors instead of squares.
    """

    first: float
    step: float
    tries: int
    absolute: bool = False

    def numerators(self, levels: int) -> tuple[float, ...]:
        """levels + first + step · i in float32, in C's order."""
        first, step = np.float32(self.first), np.float32(self.step)
        return tuple(float(first + step * np.float32(i) + np.float32(levels)) for i in range(self.tries))


WEIGHED = Scan(-0.9, 0.05, 37)  # what ggml scans wherever there is an importance


def nearest(v: Any, low: float, high: float) -> Any:
    """nearest(y): the whole number nearest to y, ties to even, from `low` to `high`, as f32; `low` for NaN."""

    @v.njit
    def nearest(y):
        inside = v.min(v.max(y, v.splat_f(low)), v.splat_f(high))
        return (inside + v.splat_f(MAGIC)) - v.splat_f(MAGIC)

    return nearest


def extreme(v: Any, count: int) -> Any:
    """extreme(x): the value of largest magnitude among `count`, with its sign, the first of equals."""
    size = 4 * v.L

    @v.njit
    def extreme(x):
        top, largest = v.splat_f(0.0), v.splat_f(0.0)
        for i in range(count):
            one = v.load_f(x + size * i)
            larger = v.gt(v.abs(one), largest)
            largest = v.choose(larger, v.abs(one), largest)
            top = v.choose(larger, one, top)
        return top

    return extreme


def inverse(v: Any) -> Any:
    """inverse(scale): 1 / scale, and 0 where that is not finite."""

    @v.njit
    def inverse(scale):
        one = v.splat_f(1.0) / scale
        infinite = v.ge_i(v.as_i(v.abs(one)), v.splat_i(0x7F800000))
        return v.choose(infinite, v.splat_f(0.0), one)

    return inverse


def put_half(v: Any) -> Any:
    """put_half(out, k, scale): the f16 of `scale` into bytes k and k + 1 of the block."""
    L = v.L

    @v.njit
    def put_half(out, k, scale):
        bits = v.half_i(scale)
        v.store_i8(out + L * k, bits)
        v.store_i8(out + L * (k + 1), bits >> 8)

    return put_half


def emphasis(v: Any, count: int) -> Any:
    """emphasis(w, x, mean): w[i] *= sqrt(mean + x[i]²), ggml's weight of an error for types of 32 weights."""
    size = 4 * v.L

    @v.njit
    def emphasis(w, x, mean):
        for i in range(count):
            one = v.load_f(x + size * i)
            v.store_f(w + size * i, v.load_f(w + size * i) * v.sqrt_f(mean + one * one))

    return emphasis


def symmetric_search(v: Any, count: int, half: int) -> Any:
    """search(x, w, codes): the best of 19 scales by weighted square error, refitted; codes 0 to 2 · half - 1 as i32.

    ggml's make_qx_quants with weights given.
    """
    size = 4 * v.L
    extreme_of, whole = extreme(v, count), nearest(v, -half, half - 1)
    tries = tuple(float(np.float32(half) + np.float32(0.1) * np.float32(step)) for step in TURNS)

    @v.njit
    def search(x, w, codes):
        top = extreme_of(x)
        zero = v.splat_f(0.0)
        used, scale, score = zero, zero, zero
        for step in range(19):
            candidate = v.splat_f(-tries[step]) / top
            dot, norm = zero, zero
            for i in range(count):
                one, weight = v.load_f(x + size * i), v.load_f(w + size * i)
                code = whole(one * candidate)
                dot = dot + weight * one * code
                norm = norm + weight * code * code
            better = v.gt(norm, zero) & v.gt(dot * dot, score * norm)
            if step == 0:
                used = candidate
                better = v.gt(norm, zero)
            fitted = dot / norm
            used = v.choose(better, candidate, used)
            scale = v.choose(better, fitted, scale)
            score = v.choose(better, fitted * dot, score)
        dead = v.gt(v.splat_f(TINY), v.abs(top))
        for i in range(count):
            code = v.round_i(whole(v.load_f(x + size * i) * used)) + v.splat_i(half)
            v.store_i(codes + size * i, v.choose_i(dead, v.splat_i(0), code))
        return v.choose(dead, zero, scale)

    return search


def _line(v: Any, count: int, levels: int) -> Any:
    """line(x, w, codes, used, origin, sum_w, sum_x): what a candidate of an affine search comes to.

    Codes are (x - origin) · used to nearest, stored as f32. Returns the scale and minimum (at most 0) of the weighted
    least-squares line through (code, x), and a mask of where there is one.
    """
    size, whole = 4 * v.L, nearest(v, 0, levels)

    @v.njit
    def line(x, w, codes, used, origin, sum_w, sum_x):
        zero = v.splat_f(0.0)
        sum_l, sum_ll, sum_lx = zero, zero, zero
        for i in range(count):
            one, weight = v.load_f(x + size * i), v.load_f(w + size * i)
            code = whole(used * (one - origin))
            v.store_f(codes + size * i, code)
            term = weight * code
            sum_l = sum_l + term
            sum_ll = sum_ll + term * code
            sum_lx = sum_lx + term * one
        determinant = sum_w * sum_ll - sum_l * sum_l
        scale = (sum_w * sum_lx - sum_x * sum_l) / determinant
        minimum = (sum_ll * sum_x - sum_l * sum_lx) / determinant
        above = v.gt(minimum, zero)
        scale = v.choose(above, sum_lx / sum_ll, scale)
        return scale, v.choose(above, zero, minimum), v.gt(determinant, zero)

    return line


def _misses(v: Any, count: int, absolute: bool) -> Any:
    """misses(x, w, codes, scale, minimum): Σ w · (scale · code + minimum - x)², or of absolute values; codes f32."""
    size = 4 * v.L

    @v.njit
    def misses(x, w, codes, scale, minimum):
        total = v.splat_f(0.0)
        for i in range(count):
            miss = scale * v.load_f(codes + size * i) + minimum - v.load_f(x + size * i)
            miss = v.abs(miss) if absolute else miss * miss
            total = total + v.load_f(w + size * i) * miss
        return total

    return misses


def _ranges(v: Any, count: int) -> Any:
    """ranges(x, w): the least x or 0 if that is less, the largest, Σ w and Σ w · x."""
    size = 4 * v.L

    @v.njit
    def ranges(x, w):
        low = v.load_f(x)
        high, sum_w = low, v.load_f(w)
        sum_x = sum_w * low
        for i in range(1, count):
            one, weight = v.load_f(x + size * i), v.load_f(w + size * i)
            low, high = v.min(one, low), v.max(one, high)
            sum_w = sum_w + weight
            sum_x = sum_x + weight * one
        return v.min(v.splat_f(0.0), low), high, sum_w, sum_x

    return ranges


def affine_search(v: Any, count: int, levels: int, scan: Scan = WEIGHED) -> Any:
    """search(x, w, codes): (scale, minimum ≤ 0) of least weighted error among the scan's, refitted; codes as i32.

    ggml's make_qkx2_quants and make_qkx3_quants (with weights given): rmin is scan.first, rdelta scan.step, nstep
    scan.tries - 1 and use_mad scan.absolute.
    """
    size, numerators, tries = 4 * v.L, scan.numerators(levels), scan.tries
    whole, line = nearest(v, 0, levels), _line(v, count, levels)
    misses, ranges = _misses(v, count, scan.absolute), _ranges(v, count)

    @v.njit
    def search(x, w, codes):
        low, high, sum_w, sum_x = ranges(x, w)
        used, origin, minimum = v.splat_f(levels) / (high - low), low, low
        scale = v.splat_f(1.0) / used
        for i in range(count):
            v.store_f(codes + size * i, whole(used * (v.load_f(x + size * i) - low)))
        error = misses(x, w, codes, scale, low)
        for step in range(tries):
            candidate = v.splat_f(numerators[step]) / (high - minimum)
            fitted, shift, solvable = line(x, w, codes, candidate, minimum, sum_w, sum_x)
            new_error = misses(x, w, codes, fitted, shift)
            better = solvable & v.gt(error, new_error)
            used, origin = v.choose(better, candidate, used), v.choose(better, minimum, origin)
            error = v.choose(better, new_error, error)
            scale = v.choose(better, fitted, scale)
            minimum = v.choose(better, shift, minimum)  # the next candidates start from it
        flat = v.ge(low, high)
        used = v.choose(flat, v.splat_f(0.0), used)
        for i in range(count):
            code = whole(used * (v.load_f(x + size * i) - origin))
            v.store_i(codes + size * i, v.round_i(code))
        return v.choose(flat, v.splat_f(0.0), scale), v.choose(flat, low, minimum)

    return search


def symmetric(v: Any, count: int, half: int) -> Any:
    """symmetric(x, codes): codes 0 to 2 · half - 1 around `half` as i32, the largest magnitude on 0; the scale."""
    size = 4 * v.L
    extreme_of, inverse_of = extreme(v, count), inverse(v)

    @v.njit
    def symmetric(x, codes):
        scale = extreme_of(x) / v.splat_f(-half)
        factor, middle = inverse_of(scale), v.splat_f(half + 0.5)
        for i in range(count):
            code = v.trunc_i(v.max(v.load_f(x + size * i) * factor + middle, v.splat_f(0.0)))
            v.store_i(codes + size * i, v.min_i(code, v.splat_i(2 * half - 1)))
        return scale

    return symmetric


def affine(v: Any, count: int, levels: int) -> Any:
    """affine(x, codes): codes 0 to `levels` as i32 from the least weight to the largest; (scale, minimum)."""
    size, inverse_of = 4 * v.L, inverse(v)

    @v.njit
    def affine(x, codes):
        low = v.load_f(x)
        high = low
        for i in range(1, count):
            one = v.load_f(x + size * i)
            low, high = v.min(one, low), v.max(one, high)
        scale = (high - low) / v.splat_f(levels)
        factor = inverse_of(scale)
        for i in range(count):
            code = v.trunc_i((v.load_f(x + size * i) - low) * factor + v.splat_f(0.5))
            v.store_i(codes + size * i, v.min_i(code, v.splat_i(levels)))
        return scale, low

    return affine


def put_fifth_bits(v: Any) -> Any:
    """put_fifth_bits(out, k, codes): bit 4 of 32 codes into bytes k to k + 3, code j in bit j."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put_fifth_bits(out, k, codes):
        for byte in range(4):
            bits = v.splat_i(0)
            for j in range(8):
                code = v.load_i(codes + size * (8 * byte + j))
                bits = bits | (((code >> 4) & v.splat_i(1)) << j)
            v.store_i8(out + L * (k + byte), bits)

    return put_fifth_bits


def put_nibbles(v: Any) -> Any:
    """put_nibbles(out, k, codes): 32 codes into bytes k to k + 15, code j below code j + 16."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put_nibbles(out, k, codes):
        for j in range(16):
            low, high = v.load_i(codes + size * j), v.load_i(codes + size * (j + 16))
            v.store_i8(out + L * (k + j), (low & v.splat_i(15)) | (high << 4))

    return put_nibbles
