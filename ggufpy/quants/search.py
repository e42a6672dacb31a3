"""Rounding 32 weights to codes with one scale, or a scale and a minimum, as ggml's quantisers do.

Everything here is transposed: x is (32, m), a block a column, so that each step runs over all blocks at once
and sums add the weights of a block in file order, as ggml's loops do. The procedures are ggml-quants.c's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import Bytes, Floats, Records

F = np.float32
TINY = F(1e-15)  # blocks with nothing larger are written as zeros by the weighted search


@dataclass(frozen=True)
class Rounded:
    """(32, m) codes, (m,) scales and minima (zero where the type has none)."""

    codes: Bytes
    scale: Floats
    minimum: Floats


def columns(x: Floats) -> Floats:
    """(rows, n) → (32, rows * n / 32)."""
    return np.ascontiguousarray(x.reshape(-1, 32).T)


def emphasis(x: Floats, importance: Floats) -> Floats:
    """(32, m) importance * sqrt(mean square of the row + x²), for x (rows, n), importance (rows or 1, n)."""
    with np.errstate(over="ignore"):  # of weights whose scale will be refused
        square = x * x
        # Added in file order, not pairwise: on ties the last bit decides.
        mean = np.add.accumulate(square, axis=-1)[:, -1:] / F(x.shape[1])
        weight = importance * np.sqrt(mean + square)
    return columns(weight)


def total(terms: Floats) -> Floats:
    """(32, m) → (m,) column sums in file order, which NumPy keeps to unless there is a single column."""
    out: Floats = terms.sum(axis=0) if terms.shape[1] > 1 else np.add.accumulate(terms)[-1]
    return out


def extremes(x: Floats) -> Floats:
    """(m,): the value of largest magnitude in each column, with its sign; the first of equals; never -0."""
    high, low = x.max(axis=0), x.min(axis=0)
    top = np.where(high > -low, high, low)
    tied = np.flatnonzero((high == -low) & (high > 0))
    top[tied] = _first(x[:, tied], np.abs(x[:, tied]).argmax(axis=0))
    signed: Floats = top + F(0)
    return signed


def lowest(x: Floats) -> Floats:
    """(m,) column minima; of zeros, the sign of the first, which is what a loop in file order keeps."""
    low: Floats = x.min(axis=0)
    zero = np.flatnonzero(low == 0)
    low[zero] = _first(x[:, zero], x[:, zero].argmin(axis=0))
    return low


def _first(x: Floats, row: NDArray[np.intp]) -> Floats:
    values: Floats = np.take_along_axis(x, row[None], axis=0)[0]
    return values


def inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where that is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        out: Floats = F(1) / scale
    out[~np.isfinite(out)] = 0
    return out


def symmetric(x: Floats, half: int) -> Rounded:
    """Codes 0 to 2 * half - 1 around `half`; the largest magnitude falls on code 0."""
    scale = extremes(x) / F(-half)
    codes = x * inverse(scale)
    codes += F(half + 0.5)
    np.clip(codes, 0, 2 * half - 1, out=codes)
    return Rounded(codes.astype(np.uint8), scale, np.zeros_like(scale))


def affine(x: Floats, levels: int) -> Rounded:
    """Codes 0 to `levels` from the smallest weight to the largest."""
    minimum = lowest(x)
    scale = (x.max(axis=0) - minimum) / F(levels)
    codes = x - minimum
    codes *= inverse(scale)
    codes += F(0.5)
    np.clip(codes, 0, levels, out=codes)
    return Rounded(codes.astype(np.uint8), scale, minimum)


def symmetric_search(x: Floats, weight: Floats, half: int) -> Rounded:
    """As `symmetric`, with the best of 19 scales by weighted square error, each refitted to its codes."""
    top = extremes(x)
    with np.errstate(all="ignore"):
        weighted = weight * x
        best_inverse = F(-half) / top
        scale, score = _fit(weighted, weight, _nearest(x, best_inverse, half))[2:]
        for step in (*range(-9, 0), *range(1, 10)):
            candidate = -(F(half) + F(0.1) * F(step)) / top
            dot, norm, fitted, gain = _fit(weighted, weight, _nearest(x, candidate, half))
            better = (norm > 0) & (dot * dot > score * norm)
            np.copyto(best_inverse, candidate, where=better)
            np.copyto(scale, fitted, where=better)
            np.copyto(score, gain, where=better)
        codes = _nearest(x, best_inverse, half) + F(half)
    dead = np.abs(top) < TINY
    codes[:, dead] = 0
    scale[dead] = 0
    return Rounded(codes.astype(np.uint8), scale, np.zeros_like(scale))


def _nearest(x: Floats, inverse_scale: Floats, half: int) -> Floats:
    codes = x * inverse_scale
    np.rint(codes, out=codes)
    return np.clip(codes, -half, half - 1, out=codes)


def _fit(weighted: Floats, weight: Floats, codes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """sum(w x l), sum(w l l), their ratio (the best scale for these codes), and the error that it saves."""
    dot = total(weighted * codes)
    terms = weight * codes
    terms *= codes
    norm = total(terms)
    scale = np.where(norm > 0, dot / norm, F(0))
    return dot, norm, scale, scale * dot


def affine_search(x: Floats, weight: Floats, levels: int) -> Rounded:
    """As `affine` with a minimum of at most 0; the best of 38 by weighted square error, each refitted."""
    low = lowest(x)
    low[low > 0] = 0
    high = x.max(axis=0)
    sum_w = total(weight)
    sum_x = total(weight * x)
    flat = high <= low
    with np.errstate(all="ignore"):
        used = F(levels) / (high - low)  # with `origin`, what the codes kept so far were made with
        scale, minimum, origin = F(1) / used, low.copy(), low.copy()
        error = _error(x, weight, _levels(x, used, low, levels), scale, minimum)
        for step in range(37):
            candidate = (F(-0.9) + F(0.05) * F(step) + F(levels)) / (high - minimum)
            codes = _levels(x, candidate, minimum, levels)
            fitted, shift, solvable = _line(x, weight, codes, sum_w, sum_x)
            new_error = _error(x, weight, codes, fitted, shift)
            better = solvable & (new_error < error)
            np.copyto(used, candidate, where=better)
            np.copyto(origin, minimum, where=better)
            np.copyto(error, new_error, where=better)
            np.copyto(scale, fitted, where=better)
            np.copyto(minimum, shift, where=better)  # the next candidates start from the refitted minimum
        codes = _levels(x, used, origin, levels)
    codes[:, flat] = 0
    scale[flat] = 0
    minimum[flat] = low[flat]
    return Rounded(codes.astype(np.uint8), scale, minimum)


def _levels(x: Floats, inverse_scale: Floats, minimum: Floats, levels: int) -> Floats:
    codes = x - minimum
    codes *= inverse_scale
    np.rint(codes, out=codes)
    return np.clip(codes, 0, levels, out=codes)


def _line(
    x: Floats, weight: Floats, codes: Floats, sum_w: Floats, sum_x: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Weighted least-squares line through (code, x): scale, minimum (at most 0), where there is one."""
    terms = weight * codes
    sum_l = total(terms)
    sum_ll = total(terms * codes)
    terms *= x
    sum_lx = total(terms)
    determinant = sum_w * sum_ll - sum_l * sum_l
    scale = ((sum_w * sum_lx - sum_x * sum_l) / determinant).astype(F, copy=False)
    minimum = ((sum_ll * sum_x - sum_l * sum_lx) / determinant).astype(F, copy=False)
    above = minimum > 0
    np.copyto(scale, sum_lx / sum_ll, where=above)
    minimum[above] = 0
    return scale, minimum, determinant > 0


def _error(x: Floats, weight: Floats, codes: Floats, scale: Floats, minimum: Floats) -> Floats:
    miss = codes * scale
    miss += minimum
    miss -= x
    miss *= miss
    miss *= weight
    return total(miss)


def put_nibbles(records: Records, codes: Bytes) -> None:
    """(32, m) codes → the low four bits into `qs`: weight j below weight j + 16."""
    records["qs"] = ((codes[:16] & np.uint8(15)) | (codes[16:] << np.uint8(4))).T


def put_fifth_bits(records: Records, codes: Bytes) -> None:
    """(32, m) codes → bit 4 of weight j into bit j of `qh`."""
    records["qh"] = np.packbits(codes >> np.uint8(4), axis=0, bitorder="little").T.copy().view("<u4")[:, 0]
