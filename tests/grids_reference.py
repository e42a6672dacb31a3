"""Encoders of IQ3_S, IQ2_S and IQ1_S in plain NumPy, a block at a time, written from the definitions of the types.

Arithmetic is float32, sums run in file order: the bytes are those that compiled code must give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufpy.quants import grids

F = np.float32


def lattice(words: Any, width: int) -> Any:
    """(points, width): digits 0, 1, 2 ... in place of magnitudes."""
    values = words.view(np.uint8).reshape(-1, width).astype(int)
    known = sorted(set(values.ravel().tolist()))
    return np.array([[known.index(value) for value in row] for row in values.tolist()])


def near(points: Any, place: Any, classes: int) -> Any:
    """Numbers of the points in the `classes` smallest distances from a place, nearest first, equals in order."""
    distance = ((points - place) ** 2).sum(axis=1)
    wanted = sorted(set(distance.tolist()))[:classes]
    return np.array([i for least in wanted for i in np.flatnonzero(distance == least)])


def total(terms: Any) -> Any:
    """The sum of float32 terms one after another."""
    return np.add.accumulate(np.asarray(terms, F))[-1]


@dataclass(frozen=True)
class Group:
    """How a type with magnitudes searches a group of weights."""

    points: Any
    classes: int
    levels: int
    step: float
    every: bool  # whether all points are found again if one was off the lattice


def point_at(g: Group, x: Any, w: Any, scale: Any, inverse: Any) -> tuple[int, bool]:
    """The number of the point for a few weights, and whether rounding alone found it."""
    digits = np.clip(np.rint(F(0.5) * (inverse * x - F(1))), 0, g.levels - 1).astype(int)
    exact = np.flatnonzero((g.points == digits).all(axis=1))
    if exact.size:
        return int(exact[0]), True
    candidates = near(g.points, digits, g.classes)
    best, chosen = None, -1
    for number in candidates:
        miss = scale * (2 * g.points[number] + 1).astype(F) - x
        error = total(np.sqrt(w) * miss * miss)
        if best is None or error < best:
            best, chosen = error, int(number)
    return chosen, False


def search(g: Group, x: Any, w: Any) -> tuple[Any, list[int]]:
    """The scale and the points of one group of magnitudes."""
    width = g.points.shape[1]
    parts = [slice(i, i + width) for i in range(0, len(x), width)]
    top, peak = F(2 * g.levels - 1), x.max()
    if peak < F(1e-45 if g.every else 1e-8):
        return F(0), [0] * len(parts)

    def sums(numbers: list[int]) -> tuple[Any, Any]:
        q = np.concatenate([2 * g.points[number] + 1 for number in numbers]).astype(F)
        return total(w * x * q), total(w * q * q)

    best, scale, found = F(0), peak / top, [(0, not g.every)] * len(parts)
    for turn in range(-9, 10):
        inverse = (top + F(turn) * F(g.step)) / peak
        tried = [point_at(g, x[part], w[part], F(1) / inverse, inverse) for part in parts]
        dot, norm = sums([number for number, _ in tried])
        if norm > 0 and dot * dot > best * norm:
            scale = dot / norm
            best, found = scale * dot, tried
    if scale > 0 and not all(exact for _, exact in found):
        again = [
            point_at(g, x[part], w[part], scale, F(1) / scale) if g.every or not exact else (number, exact)
            for part, (number, exact) in zip(parts, found, strict=True)
        ]
        found = again
        dot, norm = sums([number for number, _ in found])
        scale = dot / norm if norm > 0 else scale
    assert scale >= 0
    return scale, [number for number, _ in found]


def errors(x: Any, importance: Any, factor: float, plain: Any) -> Any:
    """The weight of each error in a block."""
    variance = F(factor) * total(x * x) / F(256)
    return plain(variance) if importance is None else importance * np.sqrt(variance + x * x)


def levels(scales: Any, step: Any, highest: int) -> Any:
    if step == 0:
        return np.zeros(len(scales), int)
    return np.clip(np.rint(F(0.5) * (F(1) / step * scales - F(1))), 0, highest).astype(int)


def nibbles(values: Any) -> Any:
    return (values[0::2] | values[1::2] << 4).astype(np.uint8)


def half(scale: Any) -> Any:
    return np.array([scale]).astype("<f2").view(np.uint8)


def iq3_s(x: Any, importance: Any) -> Any:
    """The 110 bytes of a block."""
    g = Group(lattice(grids.iq3_s(), 4), 3, 8, 0.2, True)
    w = errors(x, importance, 2, lambda variance: x * x)
    groups = [search(g, np.abs(x[i : i + 32]), w[i : i + 32]) for i in range(0, 256, 32)]
    scales = np.array([scale for scale, _ in groups], F)
    points = np.array([number for _, numbers in groups for number in numbers])
    d = scales.max() / F(31)
    high = np.packbits((points >> 8).astype(bool), bitorder="little")
    signs = np.packbits(x < 0, bitorder="little")
    parts = [half(d * F(1.033)), points & 255, high, signs, nibbles(levels(scales, d, 15))]
    return np.concatenate(parts).astype(np.uint8)


def iq2_s(x: Any, importance: Any) -> Any:
    """The 82 bytes of a block."""
    g = Group(lattice(grids.iq2_s(), 8), 1, 3, 0.1, False)
    w = errors(x, importance, 2, lambda variance: F(0.25) * variance + x * x)
    groups = [search(g, np.abs(x[i : i + 16]), w[i : i + 16]) for i in range(0, 256, 16)]
    scales = np.array([scale for scale, _ in groups], F)
    points = np.array([number for _, numbers in groups for number in numbers])
    d = scales.max() / F(31)
    high = ((points >> 8).reshape(8, 4) << (0, 2, 4, 6)).sum(axis=1)
    dead = np.repeat([np.abs(x[i : i + 16]).max() < F(1e-8) for i in range(0, 256, 16)], 16)
    signs = np.packbits((x < 0) & ~dead, bitorder="little")
    parts = [half(d * F(0.9875)), points & 255, signs, high, nibbles(levels(scales, d, 15))]
    return np.concatenate(parts).astype(np.uint8)


def best_split(x: Any, w: Any) -> tuple[Any, Any, int]:
    """Digits 0, 1, 2 of 32 weights by the best of all cuts in their order; the scale, and 1 or -1 for the shift."""
    order = np.argsort(x, kind="stable")
    sum_x = np.concatenate([[F(0)], np.add.accumulate((w * x)[order])]).astype(F)
    sum_w = np.concatenate([[F(0)], np.add.accumulate(w[order])]).astype(F)
    best, chosen = -np.finfo(F).max, None
    for low in range(33):
        for high in range(low, 33):
            for shift in (1, -1):
                a, b, c = (F(digit - 1) + F(shift) * F(0.125) for digit in range(3))
                dot = sum_x[low] * a + (sum_x[high] - sum_x[low]) * b + (sum_x[32] - sum_x[high]) * c
                norm = sum_w[low] * a * a + (sum_w[high] - sum_w[low]) * b * b + (sum_w[32] - sum_w[high]) * c * c
                if norm > 0 and dot * dot > best * norm:
                    best, chosen = dot / norm * dot, (low, high, shift, dot / norm)
    assert chosen is not None
    low, high, shift, scale = chosen
    digits = np.empty(32, int)
    digits[order] = np.repeat([0, 1, 2], [low, high - low, 32 - high])
    return (digits, scale, shift) if scale >= 0 else (2 - digits, -scale, -shift)


def iq1_s_group(x: Any, w: Any, points: Any) -> tuple[Any, int, list[int]]:
    """The scale, the shift and the points of 32 weights."""
    if np.abs(x).max() < F(1e-12):
        return F(0), 1, [0] * 4
    digits, scale, shift = best_split(x, w)
    numbers, moved = [], False
    for i in range(0, 32, 8):
        part = slice(i, i + 8)
        exact = np.flatnonzero((points == digits[part]).all(axis=1))
        if exact.size:
            numbers.append(int(exact[0]))
            continue
        moved = True
        candidates = near(points, digits[part], 3)
        q = (points[candidates] - 1).astype(F) + F(shift) * F(0.125)
        miss = scale * q - x[part]
        cost = np.add.accumulate(w[part] * miss * miss, axis=1)[:, -1]
        numbers.append(int(candidates[cost.argmin()]))
    if moved:
        q = np.concatenate([points[number] - 1 for number in numbers]).astype(F) + F(shift) * F(0.125)
        dot, norm = total(w * q * x), total(w * q * q)
        scale = dot / norm if dot > 0 and norm > 0 else scale
    return scale, shift, numbers


def iq1_s(x: Any, importance: Any) -> Any:
    """The 50 bytes of a block."""
    points = lattice(grids.iq1(), 8)
    w = errors(x, importance, 2, None)
    groups = [iq1_s_group(x[i : i + 32], w[i : i + 32], points) for i in range(0, 256, 32)]
    scales = np.array([scale for scale, _, _ in groups], F)
    numbers = np.array([part for _, _, part in groups])
    d = scales.max() / F(15)
    words = ((numbers >> 8) << (0, 3, 6, 9)).sum(axis=1) | levels(scales, d, 7) << 12
    words |= np.array([0x8000 if shift < 0 and d > 0 else 0 for _, shift, _ in groups])
    low = (numbers & 255).astype(np.uint8).ravel()
    return np.concatenate([half(d * F(1.125)), low, words.astype("<u2").view(np.uint8)])
