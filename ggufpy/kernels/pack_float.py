"""Interleaves rows of 2- or 4-byte numbers into float panels: for each column one number of each row of the panel.

Constant: size (bytes a number). `rows` × `columns` numbers in; columns are padded to whole blocks of 32 by the output,
which must be zero. Work units are panels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .spec import struct

ARGS = struct("source", "rows", "columns", "blocks", "out")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    size, L = p["size"], v.L

    def pack(args, ith, nth):
        source, rows, columns, out = args.source, args.rows, args.columns, args.out
        stride = args.blocks * 32 * L * size
        panels = (rows + L - 1) // L
        for panel in range(panels * ith // nth, panels * (ith + 1) // nth):
            for r in range(min(L, rows - panel * L)):
                row = source + (panel * L + r) * columns * size
                to = out + panel * stride + r * size
                for k in range(columns):
                    if size == 4:
                        v.store_i32(to + k * L * 4, v.load_i32(row + 4 * k))
                    else:
                        v.store_u16(to + k * L * 2, v.load_u16(row + 2 * k))

    return pack
