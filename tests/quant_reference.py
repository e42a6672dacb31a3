"""The encoders again in plain NumPy, all blocks at once: what compiled ones are compared with.

Everything here is transposed: x is (count, m), a group of weights a column, so that each step runs over all groups and
sums add the weights of a group in file order, as ggml's loops do. The procedures are ggml-quants.c's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.quants.base import Bytes, Floats, Records

F = np.float32
TINY = F(1e-15)  # blocks with nothing larger are written as zeros by the weighted search


@dataclass(frozen=True)
class Rounded:
    """(count, m) codes, (m,) scales and minima (zero where the type has none)."""

    codes: Bytes
    scale: Floats
    minimum: Floats


def columns(x: Floats, count: int = 32) -> Floats:
    """(rows, n) → (count, rows * n / count)."""
    return np.ascontiguousarray(x.reshape(-1, count).T)


def emphasis(x: Floats, importance: Floats) -> Floats:
    """(32, m) importance * sqrt(mean square of the row + x²), for x (rows, n), importance (rows or 1, n)."""
    with np.errstate(over="ignore"):  # of weights whose scale will be refused
        square = x * x
        # Added in file order, not pairwise: on ties the last bit decides.
        mean = np.add.accumulate(square, axis=-1)[:, -1:] / F(x.shape[1])
        weight = importance * np.sqrt(mean + square)
    return columns(weight)


def total(terms: Floats) -> Floats:
    """(count, m) → (m,) column sums in file order, which NumPy's `sum` does not always keep to."""
    out: Floats = np.add.accumulate(terms)[-1]
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


@dataclass(frozen=True)
class Scan:
    """What an affine search tries: (levels + first + step * i) / range for i below `tries`; squares or magnitudes."""

    first: float = -0.9
    step: float = 0.05
    tries: int = 37
    absolute: bool = False


def affine_search(x: Floats, weight: Floats, levels: int, scan: Scan = Scan()) -> Rounded:
    """As `affine` with a minimum of at most 0; the best by weighted error, each refitted."""
    low = lowest(x)
    low[low > 0] = 0
    high = x.max(axis=0)
    sum_w = total(weight)
    sum_x = total(weight * x)
    flat = high <= low
    with np.errstate(all="ignore"):
        used = F(levels) / (high - low)  # with `origin`, what the codes kept so far were made with
        scale, minimum, origin = F(1) / used, low.copy(), low.copy()
        error = _error(x, weight, _levels(x, used, low, levels), scale, minimum, scan.absolute)
        for i in range(scan.tries):
            candidate = (F(scan.first) + F(scan.step) * F(i) + F(levels)) / (high - minimum)
            codes = _levels(x, candidate, minimum, levels)
            fitted, shift, solvable = _line(x, weight, codes, sum_w, sum_x)
            new_error = _error(x, weight, codes, fitted, shift, scan.absolute)
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
    np.rint(np.nan_to_num(codes, copy=False), out=codes)  # 0 / 0 where all weights are the minimum
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


def _error(x: Floats, weight: Floats, codes: Floats, scale: Floats, minimum: Floats, absolute: bool) -> Floats:
    miss = codes * scale
    miss += minimum
    miss -= x
    np.abs(miss, out=miss) if absolute else np.multiply(miss, miss, out=miss)
    miss *= weight
    return total(miss)


def put_nibbles(records: Records, codes: Bytes) -> None:
    """(32, m) codes → the low four bits into `qs`: weight j below weight j + 16."""
    records["qs"] = ((codes[:16] & np.uint8(15)) | (codes[16:] << np.uint8(4))).T


def put_fifth_bits(records: Records, codes: Bytes) -> None:
    """(32, m) codes → bit 4 of weight j into bit j of `qh`."""
    records["qh"] = np.packbits(codes >> np.uint8(4), axis=0, bitorder="little").T.copy().view("<u4")[:, 0]


def encode(name: str, x: Floats, importance: Floats | None = None) -> Bytes:
    """(rows, n) → (rows, bytes a row), with importance (1 or rows, n); types that ENCODERS names."""
    block = quants.get(name)
    with np.errstate(over="ignore"):
        records: Records = ENCODERS[name](np.zeros(x.size // block.weights, block.record), x, importance)
    return records.view(np.uint8).reshape(len(x), -1)


def _symmetric_32(half: int) -> Callable[..., Records]:
    def encode(rec: Records, x: Floats, importance: Floats | None) -> Records:
        block = columns(x)
        if importance is None:
            rounded = symmetric(block, half)
        else:
            rounded = symmetric_search(block, emphasis(x, importance), half)
        rec["d"] = rounded.scale
        put_nibbles(rec, rounded.codes)
        if half == 16:
            put_fifth_bits(rec, rounded.codes)
        return rec

    return encode


def _affine_32(levels: int) -> Callable[..., Records]:
    def encode(rec: Records, x: Floats, importance: Floats | None) -> Records:
        block = columns(x)
        rounded = affine(block, levels) if importance is None else affine_search(block, emphasis(x, importance), levels)
        rec["d"], rec["m"] = rounded.scale, rounded.minimum
        put_nibbles(rec, rounded.codes)
        if levels == 31:
            put_fifth_bits(rec, rounded.codes)
        return rec

    return encode


def _q8_0(rec: Records, x: Floats, importance: Floats | None) -> Records:
    block = x.reshape(-1, 32)
    scale = np.abs(np.maximum(block.max(axis=1), -block.min(axis=1))) / F(127)
    codes = block * inverse(scale)[:, None]
    # The largest float below one half: adding a half itself would round 0.49999997 up.
    codes += np.copysign(np.nextafter(F(0.5), F(0)), codes)
    rec["d"] = scale
    rec["qs"] = codes.astype(np.int8)  # truncates
    return rec


# -- blocks of 256 ------------------------------------------------------------------------------------------


def block_emphasis(x: Floats, importance: Floats, factor: float) -> Floats:
    """(m, 256) importance * sqrt(factor * mean square of the block + x²)."""
    block = x.reshape(-1, 256)
    square = block * block
    mean = F(factor) * np.add.accumulate(square, axis=1)[:, -1:] / F(256)
    weight = np.broadcast_to(importance, x.shape).reshape(-1, 256)
    emphasised: Floats = weight * np.sqrt(mean + square)
    return emphasised


def recode(x: Floats, scale: Floats, offset: Floats, kept: Bytes, low: int, high: int) -> Bytes:
    """(count, m) codes of (x + offset) / scale from `low` to `high`, less `low`; `kept` where the scale is 0."""
    with np.errstate(all="ignore"):
        codes = np.clip(np.rint((x + offset) / scale), low, high) - low
    return np.where(scale == 0, kept, np.nan_to_num(codes)).astype(np.uint8)


def positive_search(x: Floats, weight: Floats, top: int) -> tuple[Floats, Floats]:
    """(count, m) numbers that are not negative → codes 0 to `top` and the (m,) scale, ggml's make_qp_quants."""
    high = np.maximum(x.max(axis=0), 0)
    with np.errstate(all="ignore"):

        def codes_of(used: Floats) -> Floats:
            return np.clip(np.rint(np.nan_to_num(used * x, nan=0)), 0, top)

        def error_of(used: Floats) -> Floats:
            miss = x - F(1) / used * codes_of(used)
            return total(weight * miss * miss)

        used = F(top) / high
        error = error_of(used)
        for step in (*range(-4, 0), *range(1, 5)):
            candidate = (F(0.1) * F(step) + F(top)) / high
            new_error = error_of(candidate)
            used, error = np.where(new_error < error, candidate, used), np.minimum(new_error, error)
        used[high < TINY] = 0
        codes = codes_of(used)
        dot, norm = total(weight * x * codes), total(weight * codes * codes)
        for _ in range(5):
            for i in range(len(x)):
                dot, norm = change(x[i], weight[i], codes[i], (dot, norm), (0, top))
        return codes, np.where(norm > 0, dot / norm, F(0))


def change(
    x: Floats, weight: Floats, code: Floats, sums: tuple[Floats, Floats], bounds: tuple[int, int]
) -> tuple[Floats, Floats]:
    """One weight of each group gets, in `code`, the code that fits the others' scale, if that lowers the error."""
    dot, norm = sums
    rest, rest_norm = dot - weight * x * code, norm - weight * code * code
    fresh = np.clip(np.rint(np.nan_to_num(x * rest_norm / rest)), *bounds)
    new_dot, new_norm = rest + weight * x * fresh, rest_norm + weight * fresh * fresh
    better = (rest > 0) & (new_norm > 0) & (fresh != code) & (new_dot * new_dot * norm > dot * dot * new_norm)
    if bounds[0] == 0:
        better &= rest_norm > 0
    np.copyto(code, fresh, where=better)
    return np.where(better, new_dot, dot), np.where(better, new_norm, norm)


def top_scale(x: Floats, weight: Floats, top: int) -> tuple[Floats, Floats]:
    """As `positive_search` without a search."""
    high = np.maximum(x.max(axis=0), 0)
    with np.errstate(all="ignore"):
        factor = np.where(high > 0, F(top) / high, F(0))
    return np.clip(np.rint(factor * x), 0, top), high / F(top)


@dataclass(frozen=True)
class Groups:
    """See ggufpy.quants.kscales.Groups."""

    count: int
    levels: int
    top: int
    scan: Scan
    spread: bool
    square: float


AFFINE = {
    "Q2_K": Groups(16, 3, 15, Scan(-0.5, 0.1, 16, absolute=True), spread=False, square=1),
    "Q4_K": Groups(32, 15, 63, Scan(-1, 0.1, 21), spread=True, square=2),
    "Q5_K": Groups(32, 31, 63, Scan(-0.5, 0.1, 16), spread=True, square=2),
}


def _affine_groups(name: str) -> Callable[..., Records]:
    shape = AFFINE[name]

    def encode(rec: Records, x: Floats, importance: Floats | None) -> Records:
        group, m, scan = columns(x, shape.count), len(rec), shape.scan
        if importance is None:
            weight = np.abs(group)
            if shape.spread:
                weight = np.sqrt(total(group * group) / F(shape.count)) + weight
        else:
            weight, scan = columns(block_emphasis(x, importance, shape.square), shape.count), Scan()
        found = affine_search(group, weight, shape.levels, scan)
        quantise = top_scale if importance is None else positive_search
        sums = total(weight).reshape(m, -1).T
        sc, d = quantise(found.scale.reshape(m, -1).T, sums, shape.top)
        mn, dmin = quantise(-found.minimum.reshape(m, -1).T, sums, shape.top)
        rec["d"], rec["dmin"] = d, dmin
        step = (rec["d"].astype(F) * sc).T.reshape(-1)
        offset = (rec["dmin"].astype(F) * mn).T.reshape(-1)
        codes = recode(group, step, offset, found.codes, 0, shape.levels)
        put_affine(name, rec, sc.T.astype(np.uint8), mn.T.astype(np.uint8), codes.T.reshape(m, 256))
        return rec

    return encode


def put_affine(name: str, rec: Records, sc: Bytes, mn: Bytes, codes: Bytes) -> None:
    """(m, groups) codes of scales and minima, (m, 256) codes → their fields."""
    if name == "Q2_K":
        rec["scales"] = sc | mn << 4
        rec["qs"] = bit_pairs(codes)
        return
    first, second = sc[:, :4] | sc[:, 4:] >> 4 << 6, mn[:, :4] | mn[:, 4:] >> 4 << 6
    rec["scales"] = np.concatenate([first, second, sc[:, 4:] & 15 | mn[:, 4:] << 4], axis=1)
    runs = codes.reshape(-1, 4, 2, 32)
    rec["qs"] = (runs[:, :, 0] & 15 | runs[:, :, 1] << 4).reshape(-1, 128)
    if name == "Q5_K":
        rec["qh"] = np.packbits(codes.reshape(-1, 8, 32) >> 4, axis=1, bitorder="little")[:, 0]


def bit_pairs(codes: Bytes) -> Bytes:
    """(m, 256) → (m, 64): two bits of code 128 r + 32 i + l at bits 2 i of byte 32 r + l."""
    planes = codes.reshape(-1, 2, 4, 32) & 3
    packed: Bytes = np.bitwise_or.reduce(planes << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=2)
    return packed.reshape(-1, 64)


def _q6_k(rec: Records, x: Floats, importance: Floats | None) -> Records:
    group, m = columns(x, 16), len(rec)
    weight = group * group if importance is None else columns(np.broadcast_to(importance, x.shape), 16)
    found = symmetric_search(group, weight, 32)
    scales = found.scale.reshape(m, 16).T
    top = extremes(np.ascontiguousarray(scales))
    dead = np.abs(top) < TINY
    with np.errstate(all="ignore"):
        factor = np.where(dead, F(0), F(-128) / top)
        rec["d"] = np.where(dead, F(0), F(1) / factor)
    sc = np.clip(np.rint(factor * scales), -128, 127)
    rec["scales"] = sc.T
    step = (rec["d"].astype(F) * sc).T.reshape(-1)
    codes = recode(group, step, np.zeros_like(step), found.codes, -32, 31).T.reshape(m, 256)
    codes[dead] = 0
    runs = codes.reshape(-1, 2, 2, 64)
    rec["ql"] = (runs[:, :, 0] & 15 | runs[:, :, 1] << 4).reshape(-1, 128)
    rec["qh"] = bit_pairs(codes >> 4)
    return rec


def _q3_k(rec: Records, x: Floats, importance: Floats | None) -> Records:
    group, m = columns(x, 16), len(rec)
    if importance is None:
        found = changed_codes(group)
        scales = np.ascontiguousarray(found.scale.reshape(m, 16).T)
        top = extremes(scales)
        with np.errstate(all="ignore"):
            factor = np.where(top == 0, F(0), F(-32) / top)
            sc = np.where(top == 0, 0, np.clip(np.rint(factor * scales), -32, 31) + 32).astype(np.uint8)
            rec["d"] = np.where(top == 0, F(0), F(1) / factor)
    else:
        weight = columns(block_emphasis(x, importance, 2), 16)
        found = symmetric_search(group, weight, 4)
        sums = total(weight).reshape(m, 16).T
        outer = symmetric_search(np.ascontiguousarray(found.scale.reshape(m, 16).T), np.ascontiguousarray(sums), 32)
        sc, rec["d"] = outer.codes, outer.scale
    step = (rec["d"].astype(F) * (sc.astype(F) - 32)).T.reshape(-1)
    codes = recode(group, step, np.zeros_like(step), found.codes, -4, 3).T.reshape(m, 256)
    low = sc[:8] & 15 | sc[8:] << 4
    high = np.bitwise_or.reduce(sc.reshape(4, 4, m) >> 4 << np.arange(0, 8, 2, dtype=np.uint8)[:, None, None], axis=0)
    rec["scales"] = np.concatenate([low, high]).T
    rec["hmask"] = np.packbits(codes.reshape(-1, 8, 32) >> 2, axis=1, bitorder="little")[:, 0]
    rec["qs"] = bit_pairs(codes)
    return rec


def changed_codes(x: Floats) -> Rounded:
    """ggml's make_q3_quants: codes 0 to 7 around 4, changed one by one where that lowers the error."""
    top, weight = extremes(x), x * x
    dead = np.abs(top) < TINY
    with np.errstate(all="ignore"):
        codes = np.clip(np.rint(x * np.where(dead, F(0), F(-4) / top)), -4, 3)
        dot, norm = total(weight * x * codes), total(weight * codes * codes)
        for _ in range(5):
            for i in range(len(x)):
                dot, norm = change(x[i], weight[i], codes[i], (dot, norm), (-4, 3))
        scale = np.where((norm > 0) & ~dead, dot / norm, F(0))
    codes += 4
    codes[:, dead] = 0
    return Rounded(codes.astype(np.uint8), scale, np.zeros_like(scale))


ENCODERS: dict[str, Callable[..., Records]] = {
    "Q4_0": _symmetric_32(8),
    "Q4_1": _affine_32(15),
    "Q5_0": _symmetric_32(16),
    "Q5_1": _affine_32(31),
    "Q8_0": _q8_0,
    **{name: _affine_groups(name) for name in AFFINE},
    "Q3_K": _q3_k,
    "Q6_K": _q6_k,
}
