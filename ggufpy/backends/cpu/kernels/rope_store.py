"""Rotates queries and keys in place of position, and stores keys and values in the pages of one layer's cache.

    q              [row][n_head][key_length] f32, rows q_stride bytes apart
    k, v           [row][n_kv][key_length or value_length] f32, rows k_stride and v_stride bytes apart
    table          [row][n_rotated / 2] (f32 cos, f32 sin)
    places         [row] (i64 position, i64 page table): the position is -1 where a row goes nowhere
    keys, values   [page][n_kv] pages of a head, key_head_bytes and value_head_bytes each, as `kv_types` draws them
    step           i64: number of rows

A row at position 300 is stored as position 44 of page table[2]. Pair i of a head is dimensions (2i, 2i + 1), or
(i, i + n_rotated / 2) where it `is_neox`. Queries are multiplied by `scale` (1/sqrt(key_length)) once here instead of
every score later.

Work units are (row, head), heads being those of q, then of k, then of v. Constants: key_length, value_length, key_type,
value_type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .kv_types import PAGE, KvType, key_steps, value_steps, writer

ARGS = struct(
    "step_ptr", "places_ptr", "q_ptr", "k_ptr", "v_ptr", "q_stride", "k_stride", "v_stride", "table_ptr", "n_rotated",
    "is_neox", "n_head", "n_kv", "keys_ptr", "values_ptr", "key_head_bytes", "value_head_bytes", "scale:f4",
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
    """place(head, position): the same in a head's page of values."""
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
        n_head, n_kv, places = args.n_head, args.n_kv, args.places_ptr
        table0, rotated, neox, scale = args.table_ptr, args.n_rotated, args.is_neox, args.scale
        heads = n_head + 2 * n_kv
        units = v.load_i64(args.step_ptr) * heads
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // heads
            head = unit - token * heads
            position, pages = v.load_i64(places + 16 * token), v.load_i64(places + 16 * token + 8)
            if position < 0:
                continue
            table = table0 + token * rotated * 4
            page = v.load_i64(pages + position // PAGE * 8) * n_kv
            if head < n_head:
                row = args.q_ptr + token * args.q_stride + head * key_length * 4
                rotate(row, table, rotated, neox)
                for i in range(key_length):
                    v.store_f32(row + 4 * i, v.load_f32(row + 4 * i) * scale)
            elif head < n_head + n_kv:
                head -= n_head
                row = args.k_ptr + token * args.k_stride + head * key_length * 4
                rotate(row, table, rotated, neox)
                codes, scales = key_at(args.keys_ptr + (page + head) * args.key_head_bytes, position)
                write_key(row, codes, scales)
            else:
                head -= n_head + n_kv
                codes, scales = value_at(args.values_ptr + (page + head) * args.value_head_bytes, position)
                write_value(args.v_ptr + token * args.v_stride + head * value_length * 4, codes, scales)

    return rope_store
