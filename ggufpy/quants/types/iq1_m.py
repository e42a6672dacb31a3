"""IQ1_M: ternary lattice of 2,048 points, a shift for each 8 weights; 16 groups of 16 with a 3-bit scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted, spread
from ggufpy.quants.grids import iq1, put_scale, scale_levels, weigh
from ggufpy.quants.neighbours import LARGEST, MINUS, PLUS, ranks, ternary_points

# Bytes from the start of a group's work, after the ranks of its weights: their order; of each half and every cut the
# sums of w x and of w; of each shift and half the scores of a vector of splits.
ORDER, SUMS, NORMS, HALF, SCORES = 64, 128, 512, 192, 896
LEAST = 1e-7  # groups with nothing larger are written as zeros


class IQ1_M(BlockType):
    """Ternary lattice of 2,048 points, a shift for each 8 weights; 16 groups of 16 with a 3-bit scale."""

    name = "IQ1_M"
    id = 29
    weights = 256
    nbytes = 56
    layout = (
        Field("qs", "u8", 32, "low eight bits of the point of each 8 weights"),
        Field(
            "qh",
            "u8",
            16,
            "a nibble for each 8 weights, low first: three upper bits of the point, then the sign of the shift",
        ),
        Field(
            "scales",
            "u16",
            4,
            "word i: bits 3k to 3k+2, ls of group 4 i + k; bits 12-15, nibble i of the f16 scale d",
        ),
    )
    formula = "d * (2 ls + 1) * (grid ± 1/8)"
    panel = IntPanel(6, 16, 32)
    encoder = "blocks"
    needs_importance = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        high = shifted(compact(rec["qh"]), (0, 4), 15)
        index = compact(rec["qs"]) | (high & np.uint8(7)).astype(np.uint16) << np.uint16(8)
        shift = np.where(high & np.uint8(8), spread(23), spread(25))  # 32 - 8 * 1, then one eighth down or up
        codes = np.take(iq1(), index) + shift
        packed = compact(rec["scales"]).view("<u2")
        nibbles = (packed >> np.uint16(12)) << np.array([0, 4, 8, 12], dtype=np.uint16)
        d = np.bitwise_or.reduce(nibbles, axis=-1).view(np.float16).astype(np.float32)
        step = (np.uint16(2) * shifted(packed, (0, 3, 6, 9), 7) + np.uint16(1)).astype(np.float32)
        scale = d[..., None] * step * np.float32(0.125)
        return Fields(codes.view(np.uint8), scale)

    def faults(self, records: Records) -> Iterator[tuple[Field, NDArray[np.bool_]]]:
        """The f16 scale is in pieces: its exponent in the last two."""
        words = records["scales"]
        scale = (words[:, 3] & np.uint16(0xF000)) | ((words[:, 2] >> np.uint16(4)) & np.uint16(0x0F00))
        yield Field("scales", "f16", 1, "scale"), (scale & np.uint16(0x7C00)) == np.uint16(0x7C00)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(neighbours.IQ1)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq1_m_impl."""
        weights, search, fit, half = weigh(v, 2, weighted), _search(v), _fit(v), put_scale(v, 1.1125)
        levels, zero, top = scale_levels(v, 16, 8), np.float32(0), np.float32(15)

        @v.njit
        def put_points(out, g, places, minus, numbers):
            """`minus` is for qh only where the block has a scale: ggml leaves it out of blocks of zeros."""
            high = ((minus & 1) << 3) | ((minus & 2) << 6)
            for k in range(2):
                point = v.load_i32(numbers + 4 * v.load_i32(places + 4 * k))
                v.store_u8(out + 2 * g + k, 0 + point)
                high |= (point >> 8) << (4 * k)
            v.store_u8(out + 32 + g, high)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, shifts, places, work = work, work + 64, work + 128, work + 256
            weights(x, w)
            largest = zero
            for g in range(16):
                scale, minus = search(x + 64 * g, w + 64 * g, work, places + 8 * g, tables)
                v.store_i32(shifts + 4 * g, minus)
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            levels(scales, largest / top)
            scale = zero
            if largest != zero:
                scale = fit(x, w, scales, shifts, places, largest / top)
            half(work, scale, work + 64)
            for g in range(16):
                minus = v.load_i32(shifts + 4 * g) if largest != zero else 0
                put_points(out, g, places + 8 * g, minus, v.load_i64(tables))
            for i in range(4):
                word = (v.load_u16(work) >> (4 * i) & 15) << 12
                for k in range(4):
                    word |= v.load_i32(scales + 4 * (4 * i + k)) << (3 * k)
                v.store_u16(out + 48 + 2 * i, word)

        return encode


def _fit(v: Any) -> Any:
    """fit(x, w, levels, shifts, places, scale): the scale that fits a block best, given the levels of its groups."""
    plus, down, zero = np.float32(PLUS), np.float32(MINUS), np.float32(0)

    @v.njit
    def fit(x, w, levels, shifts, places, scale):
        dot, norm = zero, zero
        for k in range(32):
            minus, place = v.load_i32(shifts + 4 * (k >> 1)) >> (k & 1) & 1, 0 + v.load_i32(places + 4 * k)
            step = np.float32(2 * v.load_i32(levels + 4 * (k >> 1)) + 1)
            for i in range(8):
                q = (np.float32(place >> (2 * i) & 3) + (down if minus != 0 else plus)) * step
                weight = v.load_f32(w + 32 * k + 4 * i)
                dot = dot + weight * q * v.load_f32(x + 32 * k + 4 * i)
                norm = norm + weight * q * q
        return dot / norm if norm > zero else scale

    return fit


def _scores(v: Any) -> Any:
    """scores(work, low, high): for a first cut, and second ones in lanes from `high` on, sums of w q x and of w q q.

    They go to rows of 64 bytes from work + SCORES on: the eight of a half, then the first shift, then the sum of w q x.
    """
    # Of a digit's values squared, as steps from each to the next: exact in float32.
    plus, minus = [first + np.arange(3) for first in (PLUS, MINUS)]
    plus_top, plus_low, plus_high = plus[2], plus[0] ** 2 - plus[1] ** 2, plus[1] ** 2 - plus[2] ** 2
    minus_top, minus_low, minus_high = minus[2], minus[0] ** 2 - minus[1] ** 2, minus[1] ** 2 - minus[2] ** 2

    @v.njit
    def score(sums, norms, low, high, at, top, cut_low, cut_high):
        all_x, all_w = v.splat_f(v.load_f32(sums + 64)), v.splat_f(v.load_f32(norms + 64))
        cut = v.splat_f(v.load_f32(sums + 4 * low)) + v.load_f(sums + 4 * high)
        t = v.splat_f(top)
        dot = all_x * t - cut
        norm = all_w * t * t + v.splat_f(v.load_f32(norms + 4 * low)) * v.splat_f(cut_low)
        norm = norm + v.load_f(norms + 4 * high) * v.splat_f(cut_high)
        v.store_f(at, dot)
        v.store_f(at + 64, norm)
        return dot, norm

    @v.njit
    def scores(work, low, high):
        for h in range(2):
            at, sums, norms = work + SCORES + 256 * h, work + SUMS + HALF * h, work + NORMS + HALF * h
            score(sums, norms, low, high, at, plus_top, plus_low, plus_high)
            score(sums, norms, low, high, at + 128, minus_top, minus_low, minus_high)

    return scores


def _split(v: Any) -> Any:
    """split(work, scale): where to cut 16 weights in order into digits 0, 1 and 2, and with which shifts of the halves.

    In: the sums at work + SUMS and NORMS, 17 of each half. Out: the scale, which may be negative, both cuts (-1 where
    nothing fits) and a bit for each half whose shift is down.
    """
    scores, zero, lowest = _scores(v), np.float32(0), np.float32(-LARGEST)

    @v.njit
    def hopeful(work, best, count):
        """Whether any of `count` splits may beat the best."""
        hope = v.splat_i(0)
        for a in range(2):
            for b in range(2):
                at, other = work + SCORES + 128 * a, work + SCORES + 256 + 128 * b
                dot, norm = v.load_f(at) + v.load_f(other), v.load_f(at + 64) + v.load_f(other + 64)
                hope = hope | (v.gt(norm, v.splat_f(0.0)) & v.gt(dot * dot, v.splat_f(best) * norm))
        return v.any(hope & v.gt_i(v.splat_i(count), v.iota())) != 0

    @v.njit
    def split(work, scale):
        best, first, second, minus = lowest, -1, -1, 0
        for low in range(17):
            for high in range(low, 17, v.L):
                scores(work, low, high)
                if hopeful(work, best, 17 - high):
                    for turn in range(4 * min(17 - high, v.L)):
                        a, b, t = turn >> 1 & 1, turn & 1, 4 * (turn >> 2)
                        at, other = work + SCORES + 128 * a + t, work + SCORES + 256 + 128 * b + t
                        one = v.load_f32(at) + v.load_f32(other)
                        many = v.load_f32(at + 64) + v.load_f32(other + 64)
                        if many > zero and one * one > best * many:
                            scale, first, second, minus = one / many, low, high + (turn >> 2), a | (b << 1)
                            best = scale * one
        return scale, first, second, minus

    return split


def _search(v: Any) -> Any:
    """search(x, w, work, places, tables): scale and places of a group, and a bit for each half whose shift is down."""
    order, split, points = ranks(v, 16), _split(v), ternary_points(v, 2)
    zero, least = np.float32(0), np.float32(LEAST)

    @v.njit
    def add_up(x, w, work):
        for i in range(16):
            v.store_i32(work + ORDER + 4 * v.load_i32(work + 4 * i), i)
        for h in range(2):
            dot, norm = zero, zero
            for j in range(17):
                v.store_f32(work + SUMS + HALF * h + 4 * j, dot)
                v.store_f32(work + NORMS + HALF * h + 4 * j, norm)
                if j < 16:
                    i = v.load_i32(work + ORDER + 4 * j)
                    if i >> 3 == h:
                        dot = dot + v.load_f32(w + 4 * i) * v.load_f32(x + 4 * i)
                        norm = norm + v.load_f32(w + 4 * i)

    @v.njit
    def search(x, w, work, places, tables):
        peaks = v.abs(v.load_f(x))
        for i in range(v.L, 16, v.L):
            peaks = v.max(peaks, v.abs(v.load_f(x + 4 * i)))
        peak, scale, low, high, minus = v.largest(peaks), zero, -1, -1, 0
        if peak >= least:
            order(x, work)
            add_up(x, w, work)
            scale, low, high, minus = split(work, peak)
        if low < 0:
            for k in range(2):
                v.store_i32(places + 4 * k, 0)
            return zero, 0
        return points(x, w, work, places, low, high, scale, minus, tables)

    return search


BLOCK = IQ1_M()
