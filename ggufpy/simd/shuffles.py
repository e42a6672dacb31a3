"""Lanes that change places: LLVM IR for vectors of any length, with no loads or stores."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .lowering import I16, I32, vector


def _shuffled(b: Any, x: Any, y: Any, places: list[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(vector(I32, len(places)), places))


def transposed(b: Any, rows: list[Any]) -> list[Any]:
    """n vectors, n a power of two → each n × n lanes transposed: ever larger blocks are swapped across the diagonal."""
    lanes, step = rows[0].type.count, 1
    while step < len(rows):
        for i in range(len(rows)):
            if i & step:
                continue
            x, y = rows[i], rows[i + step]
            rows[i] = _shuffled(b, x, y, [k if not k & step else lanes + k - step for k in range(lanes)])
            rows[i + step] = _shuffled(b, x, y, [k + step if not k & step else lanes + k for k in range(lanes)])
        step *= 2
    return rows


def joined(b: Any, parts: list[Any]) -> Any:
    """Vectors one after the other as one; their number is a power of two."""
    while len(parts) > 1:
        places = list(range(2 * parts[0].type.count))
        parts = [_shuffled(b, parts[i], parts[i + 1], places) for i in range(0, len(parts), 2)]
    return parts[0]


def evens_first(b: Any, words: Any) -> Any:
    """The lower halves of all i32 lanes, then the upper ones."""
    count = 2 * words.type.count
    halves = b.bitcast(words, vector(I16, count))
    turned = _shuffled(b, halves, halves, [*range(0, count, 2), *range(1, count, 2)])
    return b.bitcast(turned, words.type)
