"""IQ1_S: ternary lattice of 2,048 points with a shift; 8 groups of 32 with a 3-bit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted, spread
from ggufpy.quants.grids import iq1, put_scale, scale_levels, weigh
from ggufpy.quants.neighbours import LARGEST, MINUS, PLUS, ranks, ternary_points

# Bytes from the start of a group's work, after the ranks of its weights: what `_split` reads and uses, and their order.
SUMS, NORMS, SCORES, ORDER = 128, 320, 512, 768
LEAST = 1e-12  # groups with nothing larger are written as zeros


class IQ1_S(BlockType):
    """Ternary lattice of 2,048 points with a shift; 8 groups of 32 with a 3-bit scale."""

    name = "IQ1_S"
    id = 19
    weights = 256
    nbytes = 50
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 32, "low eight bits of the point of each 8 weights"),
        Field(
            "qh",
            "u16",
            8,
            "group g: bits 3k to 3k+2, upper bits of point k; bits 12-14, ls; bit 15, the shift is negative",
        ),
    )
    formula = "d * (2 ls + 1) * (grid ± 1/8)"
    panel = IntPanel(5, 32, 16)
    encoder = "blocks"
    needs_importance = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        qh = compact(rec["qh"]).view("<u2")
        index = compact(rec["qs"]) | shifted(qh, (0, 3, 6, 9), 7) << np.uint16(8)
        shift = np.where(qh & np.uint16(0x8000), spread(7), spread(9))  # 16 - 8 * 1, then one eighth down or up
        codes = np.take(iq1(), index).reshape(*qh.shape, 4) + shift[..., None]
        step = (np.uint16(2) * (qh >> np.uint16(12) & np.uint16(7)) + np.uint16(1)).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.125)
        return Fields(codes.view(np.uint8), scale)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(neighbours.IQ1)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq1_s_impl."""
        weights, search, half = weigh(v, 2, weighted), _search(v), put_scale(v, 1.125)
        levels, zero, top = scale_levels(v, 8, 8), np.float32(0), np.float32(15)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, shifts, places, work = work, work + 64, work + 128, work + 192
            weights(x, w)
            numbers, largest = v.load_i64(tables), zero
            for g in range(8):
                scale, minus = search(x + 128 * g, w + 128 * g, work, places, tables)
                high = 0
                for k in range(4):
                    point = v.load_i32(numbers + 4 * v.load_i32(places + 4 * k))
                    v.store_u8(out + 2 + 4 * g + k, 0 + point)
                    high |= (point >> 8) << (3 * k)
                v.store_u16(out + 34 + 2 * g, high)
                v.store_i32(shifts + 4 * g, 0x8000 if minus != 0 else 0)
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            half(out, largest / top, work)
            levels(scales, largest / top)
            if largest > zero:
                for g in range(8):
                    upper = v.load_i32(shifts + 4 * g) | (v.load_i32(scales + 4 * g) << 12)
                    v.store_u16(out + 34 + 2 * g, v.load_u16(out + 34 + 2 * g) | upper)

        return encode


def _scores(v: Any) -> Any:
    """scores(work, low, high, first, at): for a first cut, and second ones in lanes from `high` on, sums of w q x
    and of w q q, which are also stored at `at` and 64 bytes on; digit d stands for first + d.
    """

    @v.njit
    def thirds(sums, low, high):
        start, middle, end = v.splat_f(v.load_f32(sums + 4 * low)), v.load_f(sums + 4 * high), v.load_f32(sums + 128)
        return start, middle - start, v.splat_f(end) - middle

    @v.njit
    def scores(work, low, high, first, at):
        a, b, c = v.splat_f(first), v.splat_f(first + 1.0), v.splat_f(first + 2.0)
        x0, x1, x2 = thirds(work + SUMS, low, high)
        dot = x0 * a + x1 * b + x2 * c
        w0, w1, w2 = thirds(work + NORMS, low, high)
        norm = w0 * a * a + w1 * b * b + w2 * c * c
        v.store_f(at, dot)
        v.store_f(at + 64, norm)
        return dot, norm

    return scores


def _split(v: Any) -> Any:
    """split(work, scale): where to cut 32 weights in order into digits 0, 1 and 2, and with which shift.

    In: at work + SUMS the sums of w x of the first 0 to 32, at NORMS those of w. Out: the scale, which may be negative,
    both cuts (-1 where nothing fits) and 15 where the shift is down, else 0.
    """
    scores, zero, lowest = _scores(v), np.float32(0), np.float32(-LARGEST)

    @v.njit
    def promising(dot, norm, best):
        return v.gt(norm, v.splat_f(0.0)) & v.gt(dot * dot, v.splat_f(best) * norm)

    @v.njit
    def split(work, scale):
        best, first, second, minus = lowest, -1, -1, 0
        for low in range(33):
            for high in range(low, 33, v.L):
                dot, norm = scores(work, low, high, PLUS, work + SCORES)
                hope = promising(dot, norm, best)
                dot, norm = scores(work, low, high, MINUS, work + SCORES + 128)
                hope = (hope | promising(dot, norm, best)) & v.gt_i(v.splat_i(33 - high), v.iota())
                if v.any(hope) != 0:
                    for turn in range(2 * min(33 - high, v.L)):
                        at = work + SCORES + 128 * (turn & 1) + 4 * (turn >> 1)
                        one, many = v.load_f32(at), v.load_f32(at + 64)
                        if many > zero and one * one > best * many:
                            scale, first, second, minus = one / many, low, high + (turn >> 1), 15 * (turn & 1)
                            best = scale * one
        return scale, first, second, minus

    return split


def _search(v: Any) -> Any:
    """search(x, w, work, places, tables): scale and places of a group, and 15 where its shift is down, else 0."""
    order, split, points = ranks(v, 32), _split(v), ternary_points(v, 4)
    zero, least = np.float32(0), np.float32(LEAST)

    @v.njit
    def add_up(x, w, work):
        for i in range(32):
            v.store_i32(work + ORDER + 4 * v.load_i32(work + 4 * i), i)
        dot, norm = zero, zero
        for j in range(33):
            v.store_f32(work + SUMS + 4 * j, dot)
            v.store_f32(work + NORMS + 4 * j, norm)
            if j < 32:
                i = v.load_i32(work + ORDER + 4 * j)
                dot = dot + v.load_f32(w + 4 * i) * v.load_f32(x + 4 * i)
                norm = norm + v.load_f32(w + 4 * i)

    @v.njit
    def search(x, w, work, places, tables):
        peaks = v.abs(v.load_f(x))
        for i in range(v.L, 32, v.L):
            peaks = v.max(peaks, v.abs(v.load_f(x + 4 * i)))
        peak, scale, low, high, minus = v.largest(peaks), zero, -1, -1, 0
        if peak >= least:
            order(x, work)
            add_up(x, w, work)
            scale, low, high, minus = split(work, peak)
        if low < 0:
            for k in range(4):
                v.store_i32(places + 4 * k, 0)
            return zero, 0
        return points(x, w, work, places, low, high, scale, minus, tables)

    return search


BLOCK = IQ1_S()
