"""Reads keys and values of positions back into rows of floats: the inverse of what `rope_store` stores.

    k, v   [row][n_kv][key_length or value_length] f32, rows k_stride and v_stride bytes apart

Constants, keys, values and places are those of `rope_store`. Rows whose position is -1 are left as they are. Work units
are (row, head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .kv_types import PAGE, KvType, key_steps, position_reader, value_steps
from .rope_store import key_place, value_place

ARGS = struct(
    "step_ptr", "places_ptr", "k_ptr", "v_ptr", "k_stride", "v_stride", "n_kv", "keys_ptr", "values_ptr",
    "key_head_bytes", "value_head_bytes",
)  # fmt: skip


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    key_length, value_length = p["key_length"], p["value_length"]
    key_type, value_type = KvType(p["key_type"]), KvType(p["value_type"])
    key_at, value_at = key_place(v, key_type, key_length), value_place(v, value_type, value_length)
    read_key = position_reader(v, key_type, key_length, key_steps(key_type, v.L))
    read_value = position_reader(v, value_type, value_length, value_steps(value_type))

    def kv_read(args, ith, nth):
        n_kv, places = args.n_kv, args.places_ptr
        units = v.load_i64(args.step_ptr) * n_kv
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // n_kv
            head = unit - token * n_kv
            position, pages = v.load_i64(places + 16 * token), v.load_i64(places + 16 * token + 8)
            if position < 0:
                continue
            page = v.load_i64(pages + position // PAGE * 8) * n_kv + head
            codes, scales = key_at(args.keys_ptr + page * args.key_head_bytes, position)
            read_key(codes, scales, args.k_ptr + token * args.k_stride + head * key_length * 4)
            codes, scales = value_at(args.values_ptr + page * args.value_head_bytes, position)
            read_value(codes, scales, args.v_ptr + token * args.v_stride + head * value_length * 4)

    return kv_read
