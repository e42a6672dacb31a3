"""Points of a lattice near a place that is not on it, and the encoders' search over scales that uses them.

A place is a number: the digits of its weights, `bits` each, the first one lowest. A kernel gets two int32 tables: at a
place, the map holds the number of the point there, or -1 - n, where entry n of the lists holds how many points are
near and then their places, nearest first, equals in the lattice's order; the last vector of 16 is filled up.

In: the lattices of `grids`. The procedures are ggml-quants.c's (iq2xs_init_impl, iq3xs_init_impl,
*_find_best_neighbour, quantize_row_iq*), with its order of additions: candidates run in lanes, whose sums do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import grids
from ggufpy.quants.grids import nearest_level

Ints = NDArray[np.int32]
FULL = 16  # lists are filled up to a multiple of the widest vector
TRIES = 32  # candidates that the scratch of a search has room for
LARGEST = float(np.finfo(np.float32).max)
PLUS, MINUS = -0.875, -1.125  # what digit 0 of IQ1 stands for with the shift up and down


@dataclass(frozen=True)
class Lattice:
    """`digits` weights a point, digits of `bits` below `levels`; lists hold the `classes` smallest distances."""

    words: Callable[[], NDArray[Any]]  # of `grids`: a byte a weight
    digits: int
    bits: int
    levels: int
    classes: int


IQ1 = Lattice(grids.iq1, 8, 2, 3, 3)
IQ2_XXS = Lattice(grids.iq2_xxs, 8, 2, 3, 2)
IQ2_XS = Lattice(grids.iq2_xs, 8, 2, 3, 2)
IQ2_S = Lattice(grids.iq2_s, 8, 2, 3, 1)
IQ3_XXS = Lattice(grids.iq3_xxs, 4, 3, 8, 2)
IQ3_S = Lattice(grids.iq3_s, 4, 3, 8, 3)


@cache
def tables(lattice: Lattice) -> tuple[Ints, Ints]:
    """The map and the lists."""
    magnitudes = lattice.words().view(np.uint8).reshape(-1, lattice.digits)
    points = np.searchsorted(np.unique(magnitudes), magnitudes)
    shifts = lattice.bits * np.arange(lattice.digits)
    places = (points << shifts).sum(axis=1)
    every = np.indices((lattice.levels,) * lattice.digits).reshape(lattice.digits, -1).T
    numbers = np.full(1 << lattice.bits * lattice.digits, -1, np.int32)
    numbers[places] = np.arange(len(places))
    at = (every << shifts).sum(axis=1)
    off = every[numbers[at] < 0]
    row, near = _near(off, points, lattice.classes)
    counts = np.bincount(row, minlength=len(off))
    room = 1 + -(-counts // FULL) * FULL
    starts = np.cumsum(room) - room
    first = np.cumsum(counts) - counts
    lists = np.repeat(places[near[first]], room).astype(np.int32)  # spare room repeats the nearest
    lists[starts] = counts
    lists[np.repeat(starts + 1 - first, counts) + np.arange(len(near))] = places[near]
    numbers[(off << shifts).sum(axis=1)] = -1 - starts
    return numbers, lists


def _near(off: NDArray[Any], points: NDArray[Any], classes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """(rows of `off`, rows of `points`) of every pair within the `classes` smallest distances of its row of `off`."""
    a, b = off.astype(np.float32), points.astype(np.float32)
    distance = ((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * (a @ b.T)).astype(np.uint8)  # exact
    limit = distance.min(axis=1, keepdims=True)
    for _ in range(classes - 1):
        limit = np.where(distance > limit, distance, 255).min(axis=1, keepdims=True)
    row, near = np.nonzero(distance <= limit)
    order = np.argsort(row * 256 + distance[row, near], kind="stable")
    return row, near[order]


def nearest_point(v: Any, lattice: Lattice, step: float) -> Any:
    """nearest_point(points, x, w, scale, first): of the places in the list at `points`, the one with the least weighted
    square error from x at the scale, the first of equals; digit d stands for first + step · d.
    """
    L, digits, bits = v.L, lattice.digits, lattice.bits
    mask = (1 << bits) - 1

    @v.njit
    def nearest_point(points, x, w, scale, first):
        count, points = v.load_i32(points), points + 4
        zero, least, place = v.splat_f(0.0), v.splat_f(LARGEST), v.iota()
        for at in range(0, count, L):
            code, error = v.load_i(points + 4 * at), zero
            for i in range(digits):
                level = v.to_f((code >> (bits * i)) & v.splat_i(mask)) * v.splat_f(step) + v.splat_f(first)
                miss = v.splat_f(scale) * level - v.splat_f(v.load_f32(x + 4 * i))
                error = error + v.splat_f(v.load_f32(w + 4 * i)) * miss * miss
            closer = v.gt(least, error)
            least = v.choose(closer, error, least)
            place = v.choose_i(closer, v.iota() + v.splat_i(at), place)
        smallest = zero - v.splat_f(v.largest(zero - least))
        earliest = v.largest(v.choose(v.eq(least, smallest), zero - v.to_f(place), v.splat_f(-1e9)))
        return v.load_i32(points - 4 * int(earliest))

    return nearest_point


@dataclass(frozen=True)
class Search:
    """How a type looks for the scale of a group of `weights`: 2 · reach + 1 candidates, `step` apart at the top level.

    Afterwards the points are found once more at the scale that was fitted: "off", those that were off the lattice;
    "any", all of them if any was; "all".
    """

    lattice: Lattice
    weights: int
    reach: int
    step: float
    again: Literal["off", "any", "all"]


# Bytes from the start of a search's work: for each candidate its scale, sum of w x q and sum of w q q; for each point
# and candidate the place and its number in the map; square roots of weights, digits, and for each point the place
# chosen and whether it was off the lattice.
DOTS, NORMS, PLACES, NUMBERS = 4 * TRIES, 8 * TRIES, 12 * TRIES, 44 * TRIES
ROOTS, LEVELS, CHOSEN, ASTRAY = 76 * TRIES, 76 * TRIES + 128, 76 * TRIES + 256, 76 * TRIES + 288


def _candidates(v: Any, s: Search, level: Any, point: Any) -> Any:
    """candidates(x, work, peak, numbers, lists): scales and points of every candidate, into the work of a search."""
    digits, bits, tries, points = s.lattice.digits, s.lattice.bits, 2 * s.reach + 1, s.weights // s.lattice.digits
    top, reach, step, first = 2 * s.lattice.levels - 1, s.reach, s.step, np.float32(1)

    @v.njit
    def candidates(x, work, peak, numbers, lists):
        for t in range(0, tries, v.L):
            turn = v.to_f(v.iota() + v.splat_i(t - reach)) * v.splat_f(step)
            inverse = (v.splat_f(top) + turn) / v.splat_f(peak)
            v.store_f(work + 4 * t, v.splat_f(1.0) / inverse)
            for k in range(points):
                place = v.splat_i(0)
                for i in range(digits):
                    one = v.splat_f(v.load_f32(x + 4 * (digits * k + i)))
                    place = place | (level(inverse * one) << (bits * i))
                v.store_i(work + PLACES + 4 * (TRIES * k + t), place)
                v.store_i(work + NUMBERS + 4 * (TRIES * k + t), v.gather_i(numbers, place))
        for k in range(points):
            at = 4 * digits * k
            for t in range(tries):
                number = v.load_i32(work + NUMBERS + 4 * (TRIES * k + t))
                if number < 0:
                    scale = v.load_f32(work + 4 * t)
                    place = point(lists - 4 * (number + 1), x + at, work + ROOTS + at, scale, first)
                    v.store_i32(work + PLACES + 4 * (TRIES * k + t), place)

    return candidates


def _best(v: Any, s: Search) -> Any:
    """best(x, w, work): the candidate whose scale, fitted to its points, leaves the least error, or -1."""
    digits, bits, tries, points = s.lattice.digits, s.lattice.bits, 2 * s.reach + 1, s.weights // s.lattice.digits
    mask, zero = (1 << bits) - 1, np.float32(0)

    @v.njit
    def best(x, w, work):
        for t in range(0, tries, v.L):
            dot, norm = v.splat_f(0.0), v.splat_f(0.0)
            for k in range(points):
                place = v.load_i(work + PLACES + 4 * (TRIES * k + t))
                for i in range(digits):
                    at = 4 * (digits * k + i)
                    q = v.to_f(((place >> (bits * i)) & v.splat_i(mask)) * v.splat_i(2) + v.splat_i(1))
                    weight = v.load_f32(w + at)
                    dot = dot + v.splat_f(weight * v.load_f32(x + at)) * q
                    norm = norm + v.splat_f(weight) * q * q
            v.store_f(work + DOTS + 4 * t, dot)
            v.store_f(work + NORMS + 4 * t, norm)
        which, score = -1, zero
        for t in range(tries):
            dot, norm = v.load_f32(work + DOTS + 4 * t), v.load_f32(work + NORMS + 4 * t)
            if norm > zero and dot * dot > score * norm:
                which, score = t, dot / norm * dot
        return which

    return best


def _choose(v: Any, s: Search) -> Any:
    """choose(work, t): takes the places of candidate t, or for -1 of digits 0; whether any was off the lattice."""
    points, unknown = s.weights // s.lattice.digits, int(s.again == "any")

    @v.njit
    def choose(work, t):
        astray = 0
        for k in range(points):
            place, off = 0, unknown
            if t >= 0:
                place += v.load_i32(work + PLACES + 4 * (TRIES * k + t))
                off = 1 if v.load_i32(work + NUMBERS + 4 * (TRIES * k + t)) < 0 else 0
            v.store_i32(work + CHOSEN + 4 * k, place)
            v.store_i32(work + ASTRAY + 4 * k, off)
            astray |= off
        return astray

    return choose


def _find_again(v: Any, s: Search, level: Any, point: Any) -> Any:
    """find_again(x, work, scale, numbers, lists): the points at one scale, all or those that were astray."""
    digits, bits, points, every = s.lattice.digits, s.lattice.bits, s.weights // s.lattice.digits, s.again != "off"
    one = np.float32(1)

    @v.njit
    def find_again(x, work, scale, numbers, lists):
        inverse = v.splat_f(one / scale)
        for i in range(0, digits * points, v.L):
            v.store_i(work + LEVELS + 4 * i, level(inverse * v.load_f(x + 4 * i)))
        for k in range(points):
            if every or v.load_i32(work + ASTRAY + 4 * k) != 0:
                at, place = 4 * digits * k, 0
                for i in range(digits):
                    place |= v.load_i32(work + LEVELS + at + 4 * i) << (bits * i)
                number = v.load_i32(numbers + 4 * place)
                if number < 0:
                    place = 0 + point(lists - 4 * (number + 1), x + at, work + ROOTS + at, scale, one)
                v.store_i32(work + CHOSEN + 4 * k, place)

    return find_again


def _fit(v: Any, s: Search) -> Any:
    """fit(x, w, work, scale): the scale with the least weighted square error for the chosen places."""
    digits, bits, points = s.lattice.digits, s.lattice.bits, s.weights // s.lattice.digits
    mask, zero = (1 << bits) - 1, np.float32(0)

    @v.njit
    def fit(x, w, work, scale):
        dot, norm = zero, zero
        for k in range(points):
            place = 0 + v.load_i32(work + CHOSEN + 4 * k)
            for i in range(digits):
                at, q = 4 * (digits * k + i), np.float32(2 * ((place >> (bits * i)) & mask) + 1)
                weight = v.load_f32(w + at)
                dot = dot + weight * v.load_f32(x + at) * q
                norm = norm + weight * q * q
        return dot / norm if norm > zero else scale

    return fit


def scale_search(v: Any, s: Search) -> Any:
    """search(x, w, work, peak, scale, numbers, lists): the best scale found for a group and, at work + CHOSEN, the i32
    places of its points.

    `peak` is what the highest level stands for at the middle candidate, `scale` the one to stay with if none will do.
    The result may be negative: then all signs are to be turned.
    """
    parts = nearest_level(v, s.lattice.levels), nearest_point(v, s.lattice, 2.0)
    candidates, best, choose = _candidates(v, s, *parts), _best(v, s), _choose(v, s)
    find_again, fit = _find_again(v, s, *parts), _fit(v, s)
    weights, always, zero = s.weights, s.again == "all", np.float32(0)

    @v.njit
    def search(x, w, work, peak, scale, numbers, lists):
        for i in range(0, weights, v.L):
            v.store_f(work + ROOTS + 4 * i, v.sqrt_f(v.load_f(w + 4 * i)))
        candidates(x, work, peak, numbers, lists)
        which = best(x, w, work)
        if which >= 0:
            scale = v.load_f32(work + DOTS + 4 * which) / v.load_f32(work + NORMS + 4 * which)
        astray = choose(work, which)
        if (astray != 0 or always) and scale > zero:
            find_again(x, work, scale, numbers, lists)
            scale = fit(x, w, work, scale)
        return scale

    return search


def peak_search(v: Any, s: Search, least: float, turned: int) -> Any:
    """search(x, w, signs, work, tables): `scale_search` from the largest magnitude; the scale, never negative.

    Where that is below `least`, scale, places and signs are zero. `turned` is the sign bits to turn where need be.
    """
    find, top, weights = scale_search(v, s), np.float32(2 * s.lattice.levels - 1), s.weights
    points, eights, zero, limit = s.weights // s.lattice.digits, s.weights // 8, np.float32(0), np.float32(least)

    @v.njit
    def search(x, w, signs, work, tables):
        peaks = v.load_f(x)
        for i in range(v.L, weights, v.L):
            peaks = v.max(peaks, v.load_f(x + 4 * i))
        peak, scale = v.largest(peaks), zero
        if peak < limit:
            for k in range(points):
                v.store_i32(work + CHOSEN + 4 * k, 0)
            for k in range(eights):
                v.store_i32(signs + 4 * k, 0)
            return zero
        scale = find(x, w, work, peak, peak / top, v.load_i64(tables), v.load_i64(tables + 8))
        if scale < zero:
            scale = -scale
            for k in range(eights):
                v.store_i32(signs + 4 * k, v.load_i32(signs + 4 * k) ^ turned)
        return scale

    return search


def ranks(v: Any, count: int) -> Any:
    """ranks(x, out): the i32 place of each of `count` numbers in their order, equals as they come."""

    @v.njit
    def ranks(x, out):
        for i in range(0, count, v.L):
            mine, at, rank = v.load_f(x + 4 * i), v.iota() + v.splat_i(i), v.splat_i(0)
            for j in range(count):
                other = v.splat_f(v.load_f32(x + 4 * j))
                rank = rank - (v.gt(mine, other) | (v.eq(mine, other) & v.gt_i(at, v.splat_i(j))))
            v.store_i(out + 4 * i, rank)

    return ranks


def ternary_points(v: Any, eights: int) -> Any:
    """points(x, w, work, places, low, high, scale, minus, tables): the points of a group that was cut in three.

    In: at work the i32 ranks of its weights, of which those below `low` are digit 0 and those from `high` on digit 2,
    the other way about where the scale is negative; bit k of `minus`: the shift of eight k is down. Out: the i32
    places; the scale, never negative and fitted again if a point had to move; `minus`, turned where the scale was.
    """
    point, zero, every = nearest_point(v, IQ1, 1.0), np.float32(0), (1 << eights) - 1
    plus, down = np.float32(PLUS), np.float32(MINUS)

    @v.njit
    def split(work, k, low, high, turned):
        place = 0
        for i in range(8):
            rank = v.load_i32(work + 4 * (8 * k + i))
            digit = (1 if rank >= low else 0) + (1 if rank >= high else 0)
            place |= (2 - digit if turned else digit) << (2 * i)
        return place

    @v.njit
    def fit(x, w, places, minus, scale):
        dot, norm = zero, zero
        for k in range(eights):
            place, first = 0 + v.load_i32(places + 4 * k), down if minus >> k & 1 else plus
            for i in range(8):
                q = np.float32(place >> (2 * i) & 3) + first
                weight = v.load_f32(w + 4 * (8 * k + i))
                dot = dot + weight * q * v.load_f32(x + 4 * (8 * k + i))
                norm = norm + weight * q * q
        return dot / norm if dot > zero and norm > zero else scale

    @v.njit
    def points(x, w, work, places, low, high, scale, minus, tables):
        turned, astray = scale < zero, False
        if turned:
            scale, minus = -scale, minus ^ every
        for k in range(eights):
            place = split(work, k, low, high, turned)
            number = v.load_i32(v.load_i64(tables) + 4 * place)
            if number < 0:
                first, astray = down if minus >> k & 1 else plus, True
                near = v.load_i64(tables + 8) - 4 * (number + 1)
                place = 0 + point(near, x + 32 * k, w + 32 * k, scale, first)
            v.store_i32(places + 4 * k, place)
        if astray:
            scale = fit(x, w, places, minus, scale)
        return scale, minus

    return points
