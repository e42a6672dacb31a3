"""IQ2_XXS: lattice of 256 points and even signs; 8 groups of 32 with a 4-bit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, even_signs, shifted, signed_codes
from ggufpy.quants.grids import iq2_xxs, nearest_int, put_scale, scale_levels, split_signs, weigh
from ggufpy.quants.neighbours import CHOSEN, TRIES, Search, scale_search

SEARCH = Search(neighbours.IQ2_XXS, 32, 6, 0.1, "all")
TOP = 4  # the search starts from a scale for plain codes 0 to 4
MISSES = 4 * TRIES  # bytes from the start of `plain_scale`'s work, after the candidates' scales
CODES = 8 * TRIES


class IQ2_XXS(BlockType):
    """Lattice of 256 points and even signs; 8 groups of 32 with a 4-bit scale."""

    name = "IQ2_XXS"
    id = 16
    weights = 256
    nbytes = 66
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field(
            "qs",
            "u32",
            16,
            "two words a group: four bytes, the points of each 8 weights; then bits 7k to 7k+6, seven "
            "signs of each 8 weights (the eighth makes them even), and bits 28-31, ls",
        ),
    )
    formula = "d * (1/2 + ls) / 4 * ±grid"
    panel = IntPanel(8, 32, 128)
    encoder = "blocks"
    needs_importance = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        pairs = compact(rec["qs"]).reshape(*rec.shape, 8, 8)  # of bytes
        tail = pairs.view("<u4")[..., 1]
        signs = np.take(even_signs(), shifted(tail, (0, 7, 14, 21), 127))
        points = np.take(iq2_xxs(), pairs[..., :4].reshape(signs.shape))
        codes = signed_codes(points, signs, 128)
        step = np.float32(0.5) + (tail >> np.uint32(28)).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.25)
        return Fields(codes, scale)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(SEARCH.lattice)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq2_xxs_impl."""
        weights, signs_of, search = weigh(v, 1, weighted), split_signs(v, True), _search(v)
        half, levels, zero, top = put_scale(v, 1.0), scale_levels(v, 8, 16), np.float32(0), np.float32(31)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, signs, work = work, work + 64, work + 192
            weights(x, w)
            signs_of(x, w, signs)
            numbers, largest = v.load_i64(tables), zero
            for g in range(8):
                scale = search(x + 128 * g, w + 128 * g, signs + 16 * g, work, tables)
                for k in range(4):
                    v.store_u8(out + 2 + 8 * g + k, 0 + v.load_i32(numbers + 4 * v.load_i32(work + CHOSEN + 4 * k)))
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            half(out, largest / top, work)
            levels(scales, largest / top)
            for g in range(8):
                tail = v.load_i32(scales + 4 * g) << 28
                for k in range(4):
                    tail |= v.load_i32(signs + 16 * g + 4 * k) << (7 * k)
                v.store_u16(out + 6 + 8 * g, tail & 0xFFFF)
                v.store_u16(out + 8 + 8 * g, tail >> 16 & 0xFFFF)

        return encode


def _search(v: Any) -> Any:
    """search(x, w, signs, work, tables): as `peak_search`, but from the scale that suits codes off the lattice."""
    plain, find = _plain_scale(v), scale_search(v, SEARCH)
    zero, limit, three = np.float32(0), np.float32(1e-15), np.float32(3)

    @v.njit
    def clear(signs, work):
        for k in range(4):
            v.store_i32(work + CHOSEN + 4 * k, 0)
            v.store_i32(signs + 4 * k, 0)

    @v.njit
    def search(x, w, signs, work, tables):
        peaks = v.load_f(x)
        for i in range(v.L, 32, v.L):
            peaks = v.max(peaks, v.load_f(x + 4 * i))
        peak, scale = v.largest(peaks), zero
        if peak >= limit:
            scale = plain(x, w, work, peak)
        if not scale > zero:
            clear(signs, work)
            return zero
        scale = find(x, w, work, scale * three, scale, v.load_i64(tables), v.load_i64(tables + 8))
        if scale < zero:
            scale = -scale
            for k in range(4):
                v.store_i32(signs + 4 * k, v.load_i32(signs + 4 * k) ^ 127)
        return scale

    return search


def _first_guess(v: Any) -> Any:
    """guess(x, w, work, peak): the inverse scale of nine, a tenth of a code apart, that leaves the least error.

    The middle one goes first and, as in ggml, takes a negative weight for a code of 255 and so on.
    """
    nearest, top = nearest_int(v), TOP

    @v.njit
    def guess(x, w, work, peak):
        for t in range(0, 9, v.L):
            turn = v.iota() + v.splat_i(t - 4)
            inverse = (v.splat_f(0.1) * v.to_f(turn) + v.splat_f(top)) / v.splat_f(peak)
            scale, error = v.splat_f(1.0) / inverse, v.splat_f(0.0)
            wrap = v.choose_i(v.eq_i(turn, v.splat_i(0)), v.splat_i(255), v.splat_i(-1))
            for i in range(32):
                one, weight = v.splat_f(v.load_f32(x + 4 * i)), v.splat_f(v.load_f32(w + 4 * i))
                code = v.min_i(v.splat_i(top), nearest(inverse * one)) & wrap
                miss = one - scale * v.to_f(code)
                error = error + weight * miss * miss
            v.store_f(work + 4 * t, inverse)
            v.store_f(work + MISSES + 4 * t, error)
        best = 4
        for t in range(9):
            if v.load_f32(work + MISSES + 4 * t) < v.load_f32(work + MISSES + 4 * best):
                best = t
        return v.load_f32(work + 4 * best)

    return guess


def _plain_scale(v: Any) -> Any:
    """plain(x, w, work, peak): the scale of codes 0 to TOP, or 0: ggml's make_qp_quants, with its bytes for codes."""
    guess, nearest, top, zero = _first_guess(v), nearest_int(v), TOP, np.float32(0)

    @v.njit
    def nearest_one(x, work):
        v.store_i(work, nearest(v.splat_f(x)))
        return 0 + v.load_i32(work)

    @v.njit
    def improve(x, w, work, dot, norm):
        """One turn over the weights, each given the code that suits the others' scale; whether any changed."""
        changed = 0
        for i in range(32):
            one, code = v.load_f32(x + 4 * i), v.load_i32(work + CODES + 4 * i)
            weight, level = v.load_f32(w + 4 * i), np.float32(code)
            less_dot, less_norm = dot - weight * one * level, norm - weight * level * level
            if less_dot > zero and less_norm > zero:
                new = min(top, nearest_one(one * less_norm / less_dot, work))
                if new != code:
                    level = np.float32(new)
                    less_dot += weight * one * level
                    less_norm += weight * level * level
                    if less_dot * less_dot * norm > dot * dot * less_norm:
                        v.store_i32(work + CODES + 4 * i, np.int32(new & 255))
                        dot, norm, changed = less_dot, less_norm, 1
        return dot, norm, changed

    @v.njit
    def plain(x, w, work, peak):
        inverse = v.splat_f(guess(x, w, work, peak))
        for i in range(0, 32, v.L):
            code = v.min_i(v.splat_i(top), nearest(inverse * v.load_f(x + 4 * i)))
            v.store_i(work + CODES + 4 * i, code)
        dot, norm = zero, zero
        for i in range(32):
            one, code, weight = v.load_f32(x + 4 * i), v.load_i32(work + CODES + 4 * i), v.load_f32(w + 4 * i)
            level = np.float32(code)
            dot = dot + weight * one * level
            norm = norm + weight * level * level
            v.store_i32(work + CODES + 4 * i, np.int32(code & 255))
        for _ in range(5):
            dot, norm, changed = improve(x, w, work, dot, norm)
            if changed == 0:
                break
        return dot / norm if norm > zero else zero

    return plain


BLOCK = IQ2_XXS()
