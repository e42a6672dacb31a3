"""Tables of uneven levels, and what lane encoders that look for the nearest level, or one of three, are made of.

As in lanes.py: arrays are addresses of vectors, element i of all lanes at `x + 4 * L * i`, and each builder takes the
primitives `v` of a level and returns a function for kernels. The procedures are those of ggml-quants.c and ggml-impl.h.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ggufpy.quants.lanes import TINY, emphasis, extreme, inverse

# IQ4_NL and IQ4_XS, ascending.
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Values of a four-bit float (E2M1), doubled to be whole; index 8 is minus zero.
E2M1_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

IQ4_MIDDLES = tuple((low + high) / 2 for low, high in pairwise(IQ4_LEVELS))
E2M1_MIDDLES = tuple((low + high) / 2 for low, high in pairwise(E2M1_LEVELS[:8]))
HUGE = 1e12  # no 16-bit scale reaches this, and sums of squares of somewhat larger weights overflow
TRIES = 7  # levels to either side of the lowest one on which the search puts the extreme


def iq4_level(v: Any) -> Any:
    """level(x): the value of IQ4_LEVELS nearest to x, the larger of two as near."""

    @v.njit
    def level(x):
        nearest = v.splat_f(IQ4_LEVELS[0])
        for i in range(15):
            nearest = v.choose(v.ge(x, v.splat_f(IQ4_MIDDLES[i])), v.splat_f(IQ4_LEVELS[i + 1]), nearest)
        return nearest

    return level


def iq4_codes(v: Any) -> Any:
    """codes(x, factor, out): for each of 32 weights the index of the level nearest to x · factor."""
    size = 4 * v.L

    @v.njit
    def codes(x, factor, out):
        for i in range(32):
            one, code = v.load_f(x + size * i) * factor, v.splat_i(0)
            for k in range(15):
                code = code - v.ge(one, v.splat_f(IQ4_MIDDLES[k]))
            v.store_i(out + size * i, code)

    return codes


def iq4_weights(v: Any, count: int, weighted: bool) -> Any:
    """weights(w, x): into w what an error of each of a block's `count` weights costs.

    The square of the weight, or where there is an importance, that times sqrt(2 · mean square of the block + x²).
    """
    size = 4 * v.L
    emphasise = emphasis(v, count)

    @v.njit
    def weights(w, x):
        total = v.splat_f(0.0)
        for i in range(count):
            one = v.load_f(x + size * i)
            total = total + one * one
            if not weighted:
                v.store_f(w + size * i, one * one)
        if weighted:
            emphasise(w, x, total * v.splat_f(2 / count))

    return weights


def iq4_search(v: Any) -> Any:
    """search(x, w): of 16 scales for 32 weights, the one of least weighted square error once refitted; any sign.

    The first puts the extreme on 127, beyond the last level, the others on -127 - TRIES to -127 + TRIES. The scale is
    0 where no error costs anything and where nothing is larger than TINY, and infinite, to be refused, where something
    is larger than HUGE.
    """
    size = 4 * v.L
    extreme_of, level_of = extreme(v, 32), iq4_level(v)
    reach = -float(IQ4_LEVELS[0])

    @v.njit
    def search(x, w):
        top, zero = extreme_of(x), v.splat_f(0.0)
        scale, score = zero, zero
        for step in range(2 * TRIES + 2):
            factor = v.splat_f(step - 1 - TRIES - reach) / top
            if step == 0:
                factor = v.splat_f(1.0) / (top / v.splat_f(reach))
            dot, norm = zero, zero
            for i in range(32):
                one = v.load_f(x + size * i)
                level = level_of(one * factor)
                part = v.load_f(w + size * i) * level
                dot, norm = dot + part * one, norm + part * level
            better = v.gt(norm, zero)
            if step > 0:
                better = better & v.gt(dot * dot, score * norm)
            fitted = dot / norm
            scale = v.choose(better, fitted, scale)
            score = v.choose(better, fitted * dot, score)
        scale = v.choose(v.gt(v.abs(top), v.splat_f(HUGE)), v.splat_f(np.inf), scale)
        return v.choose(v.gt(v.splat_f(TINY), v.abs(top)), zero, scale)

    return search


def magnitude(v: Any, count: int) -> Any:
    """magnitude(x): the largest |x| among `count`."""
    size = 4 * v.L

    @v.njit
    def magnitude(x):
        top = v.splat_f(0.0)
        for i in range(count):
            top = v.max(v.abs(v.load_f(x + size * i)), top)
        return top

    return magnitude


def e2m1(v: Any) -> Any:
    """e2m1(x, scale): the index of the level times scale that is nearest to x, of two the one nearer to zero.

    0 for every x where the scale is 0. What is beyond the last level becomes the last one.
    """

    @v.njit
    def e2m1(x, scale):
        zero = v.splat_i(0)
        step = v.choose(v.gt(scale, v.splat_f(0.0)), scale, v.splat_f(np.inf))
        size, code = v.abs(x), zero
        for i in range(7):
            code = code - v.gt(size, v.splat_f(E2M1_MIDDLES[i]) * step)
        negative = v.gt(v.splat_f(0.0), x) & v.gt_i(code, zero)
        return code + v.choose_i(negative, v.splat_i(8), zero)

    return e2m1


def ternary(v: Any, count: int) -> Any:
    """ternary(x, codes): -1, 0 or 1 times the largest magnitude, whichever is nearest, as 0, 1 or 2; that magnitude.

    Half of the magnitude goes away from zero.
    """
    size = 4 * v.L
    magnitude_of, inverse_of = magnitude(v, count), inverse(v)

    @v.njit
    def ternary(x, codes):
        scale = magnitude_of(x)
        factor, half, one = inverse_of(scale), v.splat_f(0.5), v.splat_i(1)
        for i in range(count):
            share = v.load_f(x + size * i) * factor
            v.store_i(codes + size * i, one - v.ge(share, half) + v.ge(v.splat_f(-0.5), share))
        return scale

    return ternary
