"""Rotates queries and keys in place of position, and stores keys and values in the f16 cache of one layer.

q rows are n_head × key_length floats, k and v rows n_kv × key_length and n_kv × value_length. Queries are multiplied by
`scale` (1/sqrt(key_length)) once here instead of every score later. `table` holds (cos, sin) pairs for each token of
the step, `rotated` / 2 of them; pair i is dimensions (2i, 2i+1), or (i, i + rotated/2) where `neox` is set.

Cache layout of one head: keys in tiles of `lanes` positions, [position / lanes][dimension][position % lanes]; values as
[position][dimension], rows padded to whole vectors. Work units are (token, head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .spec import struct

ARGS = struct(
    "step", "q", "k", "v", "q_stride", "k_stride", "v_stride", "table", "rotated", "neox", "n_head", "n_kv",
    "key_length", "value_length", "keys", "values", "key_head_bytes", "value_head_bytes", "scale:f4",
)  # fmt: skip


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    @v.njit
    def rotate(row, table, rotated, neox):
        half = rotated // 2
        for i in range(half):
            c, s = v.load_f32(table + 8 * i), v.load_f32(table + 8 * i + 4)
            first = row + (4 * i if neox != 0 else 8 * i)
            second = first + (4 * half if neox != 0 else 4)
            a, b = v.load_f32(first), v.load_f32(second)
            v.store_f32(first, a * c - b * s)
            v.store_f32(second, a * s + b * c)

    def rope_store(args, ith, nth):
        n_head, n_kv = args.n_head, args.n_kv
        key_length, value_length = args.key_length, args.value_length
        table0, rotated, neox, scale = args.table, args.rotated, args.neox, args.scale
        q0, k0, v0 = args.q, args.k, args.v
        q_stride, k_stride, v_stride = args.q_stride, args.k_stride, args.v_stride
        keys, values = args.keys, args.values
        key_head_bytes, value_head_bytes = args.key_head_bytes, args.value_head_bytes
        value_row = (value_length + v.L - 1) // v.L * v.L * 2
        position0 = v.load_i64(args.step + 8)
        heads = n_head + 2 * n_kv
        units = v.load_i64(args.step) * heads
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // heads
            head = unit - token * heads
            position = position0 + token
            table = table0 + token * rotated * 4
            if head < n_head:
                row = q0 + token * q_stride + head * key_length * 4
                rotate(row, table, rotated, neox)
                for i in range(key_length):
                    v.store_f32(row + 4 * i, v.load_f32(row + 4 * i) * scale)
            elif head < n_head + n_kv:
                head -= n_head
                row = k0 + token * k_stride + head * key_length * 4
                rotate(row, table, rotated, neox)
                tile = keys + head * key_head_bytes + position // v.L * key_length * v.L * 2 + position % v.L * 2
                for i in range(key_length):
                    v.store_u16(tile + i * v.L * 2, v.half_bits(v.load_f32(row + 4 * i)))
            else:
                head -= n_head + n_kv
                row = v0 + token * v_stride + head * value_length * 4
                out = values + head * value_head_bytes + position * value_row
                for i in range(0, value_length, v.L):
                    v.store_f16(out + 2 * i, v.load_f(row + 4 * i))

    return rope_store
