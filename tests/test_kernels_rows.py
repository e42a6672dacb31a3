"""Kernels that work row by row: norm, swiglu, quantise, select_rows, and rotary positions with the cache's layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine import LEVELS, Room, half, padded, quantised, rotate, run, step, up

from ggufpy.kernels.layout import quantised_row_bytes
from ggufpy.kernels.spec import kernel
from ggufpy.simd.isa import Level

at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)


def rows(count: int, columns: int, seed: int = 0) -> Any:
    return padded(np.random.default_rng(seed).standard_normal((count, columns)), up(columns, 32))


def codes(count: int, columns: int) -> Room:
    return Room(np.zeros((count, quantised_row_bytes(columns)), np.uint8))


@at_every_level
def test_norm(level: Level) -> None:
    for count, columns in [(1, 1), (3, 20), (1, 96), (5, 576)]:
        x = rows(count, columns) * np.float32(3)
        weight = padded(np.linspace(0.5, 2, columns), x.shape[1])
        for eps in (1e-5, 0.5):
            exact = x / np.sqrt((x.astype(np.float64) ** 2).sum(1, keepdims=True) / columns + eps) * weight
            seen = []
            for nth, wants_codes in [(1, True), (1, False), (2, True), (3, True), (7, False)]:
                y, q = Room(np.full_like(x, np.nan)), codes(count, x.shape[1])
                run(
                    kernel("norm"), level, nth, step=step(count), x=Room(x), weight=Room(weight), y=y,
                    q=q if wants_codes else 0, blocks=x.shape[1] // 32, columns=columns, x_stride=x.strides[0],
                    y_stride=x.strides[0], q_stride=q.array.strides[0], eps=eps,
                )  # fmt: skip
                np.testing.assert_allclose(y.array, exact, rtol=2e-6, atol=1e-30)
                np.testing.assert_array_equal(q.array, quantised(y.array)[0] if wants_codes else 0)
                seen.append(y.array)
            assert all(np.array_equal(y, seen[0]) for y in seen)


@at_every_level
def test_a_norm_of_zeros_is_zero(level: Level) -> None:
    x, q = np.zeros((2, 32), np.float32), codes(2, 32)
    y = Room(x + 1)
    run(
        kernel("norm"), level, step=step(2), x=Room(x), weight=Room(x[:1] + 1), y=y, q=q, blocks=1, columns=32,
        x_stride=128, y_stride=128, q_stride=q.array.strides[0], eps=1e-5,
    )  # fmt: skip
    assert not y.array.any()
    assert not q.array.any()


@at_every_level
def test_swiglu(level: Level) -> None:
    for count, columns in [(1, 20), (3, 96), (2, 544)]:
        gate, right = rows(count, columns, 1) * np.float32(8), rows(count, columns, 2)
        gate[0, :4] = [0.0, -200.0, 200.0, -87.5]
        exact = gate / (1 + np.exp(-gate.astype(np.float64))) * right
        seen = []
        for nth, wants_codes in [(1, True), (1, False), (3, True)]:
            y, q = Room(np.full_like(gate, np.nan)), codes(count, gate.shape[1])
            run(
                kernel("swiglu"), level, nth, step=step(count), gate=Room(gate), up=Room(right), y=y,
                q=q if wants_codes else 0, blocks=gate.shape[1] // 32, stride=gate.strides[0],
                q_stride=q.array.strides[0],
            )  # fmt: skip
            np.testing.assert_allclose(y.array, exact, rtol=2e-6, atol=1e-30)
            np.testing.assert_array_equal(q.array, quantised(y.array)[0] if wants_codes else 0)
            seen.append(y.array)
        assert all(np.array_equal(y, seen[0]) for y in seen)


@at_every_level
def test_quantise(level: Level) -> None:
    rng = np.random.default_rng(4)
    for count, columns in [(1, 32), (3, 96), (4, 576)]:
        x = (rng.standard_normal((count, columns)) * 10.0 ** rng.integers(-12, 12, (count, 1))).astype(np.float32)
        x[0, :16] = 0.0
        x[0, 16:32] = np.float32(1e-35) * x[0, 16:32]  # too small to invert: codes are zero
        x[-1, :8] = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, -127.0]  # ties
        x[-1, 8:16] = 0.0
        exact, values = quantised(x)
        largest = np.repeat(np.abs(x).reshape(count, -1, 16).max(axis=2), 16, axis=1)
        assert (np.abs(values - x) <= np.where(largest > 1e-30, largest / 253, largest)).all()
        for nth in (1, 2, 5):
            q = codes(count, columns)
            run(
                kernel("quantise"), level, nth, step=step(count), x=Room(x), q=q, blocks=columns // 32,
                x_stride=x.strides[0], q_stride=q.array.strides[0],
            )  # fmt: skip
            np.testing.assert_array_equal(q.array, exact)


@at_every_level
def test_select_rows(level: Level) -> None:
    x = rows(9, 96)
    for count, first in [(1, 8), (3, 0), (4, 5), (0, 0)]:
        for nth in (1, 2, 5):
            y = Room(np.zeros((4, 96), np.float32))
            run(kernel("select_rows"), level, nth, step=step(count, first), x=Room(x), y=y, stride=x.strides[0])
            np.testing.assert_array_equal(y.array[:count], x[first : first + count])
            assert not y.array[count:].any()


def keys_of(memory: Any, lanes: int, length: int) -> Any:
    """Keys of heads as the cache holds them, [head][tile][dimension][lane] → (positions, heads, length)."""
    tiles = memory.reshape(memory.shape[0], -1, length, lanes)
    return tiles.transpose(1, 3, 0, 2).reshape(-1, memory.shape[0], length)


@at_every_level
@pytest.mark.parametrize(
    ("key", "value", "turned", "neox"),
    [
        (20, 20, 20, False), (64, 64, 64, False), (64, 64, 64, True), (24, 12, 8, False), (24, 12, 8, True),
        (7, 5, 2, False),
    ],
)  # fmt: skip
def test_rope_store(level: Level, key: int, value: int, turned: int, neox: bool) -> None:
    heads, shared, room, lanes = 6, 2, 256, level.lanes
    rng = np.random.default_rng(5)
    for count, position in [(1, 0), (3, 126), (5, 13), (1, 255)]:
        widths = heads * key, shared * key, shared * value
        q, k, v = (rng.standard_normal((count, n)).astype(np.float32) for n in widths)
        theta = 10000.0 ** (-2 * np.arange(turned // 2) / turned)
        where = position + np.arange(count)
        angles = where[:, None] * theta
        table = np.stack([np.cos(angles), np.sin(angles)], axis=2).astype(np.float32)
        exact_q = rotate(q.reshape(count, heads, key), where, theta, neox=neox) * 0.125
        exact_k = rotate(k.reshape(count, shared, key), where, theta, neox=neox)
        wide = up(value, lanes)
        for nth in (1, 3):
            rooms = {"q": Room(padded(q, up(heads * key, 32))), "k": Room(padded(k, up(shared * key, 32)))}
            rooms["v"] = Room(padded(v, up(shared * value, 32)))
            keys = Room(np.zeros((shared, room * key), np.float16))
            values = Room(np.zeros((shared, room, wide), np.float16))
            run(
                kernel("rope_store"), level, nth, step=step(count, position), **rooms,
                **{f"{n}_stride": r.array.strides[0] for n, r in rooms.items()}, table=Room(table), rotated=turned,
                neox=int(neox), n_head=heads, n_kv=shared, key_length=key, value_length=value, keys=keys,
                values=values, key_head_bytes=keys.array.strides[0], value_head_bytes=values.array.strides[0],
                scale=0.125,
            )  # fmt: skip
            found_q = rooms["q"].array[:, : heads * key].reshape(count, heads, key)
            np.testing.assert_allclose(found_q, exact_q, atol=1e-6)
            stored = keys_of(keys.array, lanes, key)
            np.testing.assert_allclose(stored[where], exact_k, rtol=2**-10, atol=1e-4)
            found_v = values.array[:, where, :value].transpose(1, 0, 2)
            np.testing.assert_array_equal(found_v, half(v).reshape(count, shared, value))
            stored[where] = 0
            assert not stored.any(), "keys stored at other positions"
            values.array[:, where] = 0
            assert not values.array.any(), "values stored at other positions"
