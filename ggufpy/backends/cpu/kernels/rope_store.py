"""Rotates queries and keys in place of position, and stores keys and values in the pages of one layer's cache.

q rows are n_head × key_length floats, k and v rows n_kv × key_length and n_kv × value_length. Queries are multiplied by
`scale` (1/sqrt(key_length)) once here instead of every score later. `table` holds (cos, sin) pairs for each row of
the step, `rotated` / 2 of them; pair i is dimensions (2i, 2i+1), or (i, i + rotated/2) where `neox` is set.

Constants: key_length, value_length, key_type, value_type. `places` says where rows go: for each its position (-1:
nowhere) and the address of its sequence's page table. Pages are as `kv_types` says. Work units are (row, head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .kv_types import PAGE, KvType, key_steps, value_steps, writer

ARGS = struct(
    "step", "places", "q", "k", "v", "q_stride", "k_stride", "v_stride", "table", "rotated", "neox", "n_head", "n_kv",
    "keys", "values", "key_head_bytes", "value_head_bytes", "scale:f4",
)  # fmt: skip


def key_place(v: Any, kind: KvType, length: int) -> Any:
    """place(head, position): (address of the first code, of the first scale) in a head's page of keys."""
    L, tile_bytes = v.L, kind.tile_bytes(length, v.L)
    code, scales = (1, kind.block_bytes(L) - 2 * L) if kind.scaled else (2, 0)

    @v.njit
    def place(head, position):
        tile = head + position % PAGE // L * tile_bytes
        lane = position % L
        return tile + code * lane, tile + scales + 2 * lane

    return place


def value_place(v: Any, kind: KvType, length: int) -> Any:
    """The same for values."""
    row_bytes, codes = kind.row_bytes(length, v.L), length * kind.bits // 8

    @v.njit
    def place(head, position):
        row = head + position % PAGE * row_bytes
        return row, row + codes

    return place


def rotator(v: Any) -> Any:
    """rotate(row, table, rotated, neox): turns a head by (cos, sin) pairs, in place."""

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

    return rotate


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    key_length, value_length = p["key_length"], p["value_length"]
    key_type, value_type = KvType(p["key_type"]), KvType(p["value_type"])
    key_at, value_at = key_place(v, key_type, key_length), value_place(v, value_type, value_length)
    write_key = writer(v, key_type, key_length, key_steps(key_type, v.L))
    write_value = writer(v, value_type, value_length, value_steps(value_type))

    rotate = rotator(v)

    def rope_store(args, ith, nth):
        n_head, n_kv, places = args.n_head, args.n_kv, args.places
        table0, rotated, neox, scale = args.table, args.rotated, args.neox, args.scale
        heads = n_head + 2 * n_kv
        units = v.load_i64(args.step) * heads
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // heads
            head = unit - token * heads
            position, pages = v.load_i64(places + 16 * token), v.load_i64(places + 16 * token + 8)
            if position < 0:
                continue
            table = table0 + token * rotated * 4
            page = v.load_i64(pages + position // PAGE * 8) * n_kv
            if head < n_head:
                row = args.q + token * args.q_stride + head * key_length * 4
                rotate(row, table, rotated, neox)
                for i in range(key_length):
                    v.store_f32(row + 4 * i, v.load_f32(row + 4 * i) * scale)
            elif head < n_head + n_kv:
                head -= n_head
                row = args.k + token * args.k_stride + head * key_length * 4
                rotate(row, table, rotated, neox)
                codes, scales = key_at(args.keys + (page + head) * args.key_head_bytes, position)
                write_key(row, codes, scales)
            else:
                head -= n_head + n_kv
                codes, scales = value_at(args.values + (page + head) * args.value_head_bytes, position)
                write_value(args.v + token * args.v_stride + head * value_length * 4, codes, scales)

    return rope_store
