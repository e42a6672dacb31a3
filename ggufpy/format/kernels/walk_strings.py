"""Walks an array of GGUF strings and records where each one is. One thread.

    buffer            (u64 length, bytes) …: n_strings of them from offset `start`, all before `end`
    starts, lengths   [n_strings] i64: the offset of each one's bytes, and how many they are
    result            i64: the offset after the last string, or -1-i where string i does not fit before `end`

`swaps` is 1 where lengths are of the other byte order. From offset 0, 02 00 00 00 00 00 00 00 'h' 'i' and a string of
nothing give starts 8 18, lengths 2 0, result 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("buffer_ptr", "start", "end", "n_strings", "swaps", "starts_ptr", "lengths_ptr", "result_ptr")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def walk(args, ith, nth):
        buffer, end, count, swap = args.buffer_ptr, args.end, args.n_strings, args.swaps
        starts, lengths = args.starts_ptr, args.lengths_ptr
        position = args.start
        for i in range(count):
            if end - position < 8:
                v.store_i64(args.result_ptr, -1 - i)
                return
            length = v.load_i64(buffer + position)
            if swap != 0:
                length = v.swap_i64(length)
            position += 8
            if length < 0 or length > end - position:
                v.store_i64(args.result_ptr, -1 - i)
                return
            v.store_i64(starts + 8 * i, position)
            v.store_i64(lengths + 8 * i, length)
            position += length
        v.store_i64(args.result_ptr, position)

    return walk
