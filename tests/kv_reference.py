"""Pages of the key/value cache in NumPy, as ggufpy/backends/cpu/kernels/kv_types.py describes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from engine import Room, up

from ggufpy import quants
from ggufpy.backends.cpu.kernels.kv_types import PAGE, KvType

GGML = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}


def rounded(x: Any, kind: str) -> Any:
    """What a cache of this type makes of x (…, length): float64."""
    blocks = quants.quantize(np.ascontiguousarray(x, np.float32), GGML[kind])
    return quants.dequantize(blocks, GGML[kind]).astype(np.float64)


def _codes(x: Any, kind: str) -> tuple[Any, Any]:
    """(codes, scales) as bytes (positions, shared, blocks, bytes) of x (positions, shared, length)."""
    blocks = quants.quantize(np.ascontiguousarray(x, np.float32), GGML[kind])
    size = 2 + (32 if kind == "q8_0" else 16)
    parts = blocks.reshape(*x.shape[:2], -1, size)
    return parts[..., 2:], parts[..., :2]


def _whole_pages(x: Any, fill: int) -> Any:
    """Bytes (positions, …) made up to whole pages with what no kernel may use."""
    room = np.full((up(len(x), PAGE), *x.shape[1:]), fill, np.uint8)
    room[: len(x)] = x
    return room


def key_pages(k: Any, kind: str, lanes: int) -> Any:
    """(pages, shared, bytes) of k (positions, shared, length). Unused positions are not numbers."""
    shared, length = k.shape[1:]
    if kind in ("f16", "bf16"):
        plain = quants.quantize(np.ascontiguousarray(k, np.float32), GGML[kind]).reshape(len(k), shared, length, 2)
        tiles = _whole_pages(plain, 0xFF).reshape(-1, lanes, shared, length, 2)
        laid = tiles.transpose(2, 0, 3, 1, 4)  # (shared, tile, dimension, lane, byte)
    else:
        codes, scales = (_whole_pages(part, 0xFF) for part in _codes(k, kind))
        tiled = [part.reshape(-1, lanes, *part.shape[1:]) for part in (codes, scales)]
        codes, scales = tiled[0].transpose(2, 0, 3, 4, 1), tiled[1].transpose(2, 0, 3, 1, 4)
        flat = [part.reshape(*part.shape[:3], -1) for part in (codes, scales)]
        laid = np.concatenate(flat, axis=3)
    pages = laid.reshape(shared, up(len(k), PAGE) // PAGE, -1).swapaxes(0, 1)
    assert pages.shape[2] == KvType(kind).key_page(length, lanes)
    return np.ascontiguousarray(pages)


def value_pages(x: Any, kind: str, lanes: int) -> Any:
    """(pages, shared, bytes) of values (positions, shared, length)."""
    shared, length = x.shape[1:]
    if kind in ("f16", "bf16"):
        wide = np.zeros((len(x), shared, up(length, lanes)), np.float32)
        wide[..., :length] = x
        rows = quants.quantize(wide, GGML[kind]).reshape(len(x), shared, -1)
    else:
        codes, scales = (part.reshape(len(x), shared, -1) for part in _codes(x, kind))
        rows = np.concatenate([codes, scales], axis=2)
    laid = _whole_pages(rows, 0xFF).reshape(-1, PAGE, shared, rows.shape[2]).swapaxes(1, 2)
    pages = laid.reshape(laid.shape[0], shared, -1)
    assert pages.shape[2] == KvType(kind).value_page(length, lanes)
    return np.ascontiguousarray(pages)


class Pages:
    """Pages of one sequence in mixed order among others that hold nothing of use."""

    def __init__(self, k: Any, v: Any, key_type: str, value_type: str, lanes: int) -> None:
        keys, values = key_pages(k, key_type, lanes), value_pages(v, value_type, lanes)
        count = len(keys)
        order = np.random.default_rng(count).permutation(count + 2)[:count]
        self.table = Room(order.astype(np.int64))
        spread = [np.full((count + 2, *part.shape[1:]), 0xFF, np.uint8) for part in (keys, values)]
        for room, part in zip(spread, (keys, values), strict=True):
            room[order] = part
        self.keys, self.values = map(Room, spread)
        self.order = order
