"""Kernels that work row by row: norms, gate, add, quantise, select_rows, rotary positions with the cache's layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from engine import LEVELS, Room, padded, quantised, rotate, run, step, up
from kv_reference import key_pages, rounded, value_pages

from ggufpy.backends.cpu.kernels.kv_types import PAGE, KvType
from ggufpy.backends.cpu.kernels.layout import quantised_row_bytes
from ggufpy.jit.spec import kernel
from ggufpy.simd.isa import Level

at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)


def rows(count: int, columns: int, seed: int = 0) -> Any:
    return padded(np.random.default_rng(seed).standard_normal((count, columns)), up(columns, 32))


def codes(count: int, columns: int) -> Room:
    return Room(np.zeros((count, quantised_row_bytes(columns)), np.uint8))


def addressed(rooms: dict[str, Room]) -> dict[str, Room]:
    """Rooms by the names of the arguments that point to them."""
    return {f"{name}_ptr": room for name, room in rooms.items()}


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
                    kernel("norm"), level, nth, step_ptr=step(count), x_ptr=Room(x), weight_ptr=Room(weight), y_ptr=y,
                    q_ptr=q if wants_codes else 0, n_blocks=x.shape[1] // 32, n_columns=columns, x_stride=x.strides[0],
                    y_stride=x.strides[0], q_stride=q.array.strides[0], eps=eps,
                )  # fmt: skip
                np.testing.assert_allclose(y.array, exact, rtol=2e-6, atol=1e-30)
                np.testing.assert_array_equal(q.array, quantised(y.array)[0] if wants_codes else 0)
                seen.append(y.array)
            assert all(np.array_equal(y, seen[0]) for y in seen)


@at_every_level
def test_a_norm_in_place_is_the_same(level: Level) -> None:
    x, weight = rows(5, 96, 3), rows(1, 96, 4)
    found = []
    for nth, in_place in [(1, False), (1, True), (2, True), (3, True), (7, True)]:
        source, q = Room(x.copy()), codes(5, 96)
        y = source if in_place else Room(np.full_like(x, np.nan))
        run(
            kernel("norm"), level, nth, step_ptr=step(5), x_ptr=source, weight_ptr=Room(weight), y_ptr=y, q_ptr=q,
            n_blocks=3, n_columns=96, x_stride=x.strides[0], y_stride=x.strides[0], q_stride=q.array.strides[0],
            eps=1e-5,
        )  # fmt: skip
        found.append((y.array, q.array))
    for y, q in found[1:]:
        np.testing.assert_array_equal(y, found[0][0])
        np.testing.assert_array_equal(q, found[0][1])


@at_every_level
def test_a_norm_of_parts_of_rows(level: Level) -> None:
    for count, groups, length in [(1, 1, 1), (3, 2, 20), (2, 4, 64), (5, 3, 37)]:
        x = rows(count, groups * length, 5)
        weight, width = rows(1, length, 6)[:, :length].copy(), groups * length
        parts = x[:, :width].reshape(count, groups, length).astype(np.float64)
        exact = parts / np.sqrt((parts**2).mean(axis=2, keepdims=True) + 1e-3) * weight
        for nth, in_place in [(1, False), (3, False), (2, True)]:
            source = Room(x.copy())
            y = source if in_place else Room(np.full_like(x, 7))
            run(
                kernel("norm_groups"), level, nth, step_ptr=step(count), x_ptr=source, weight_ptr=Room(weight), y_ptr=y,
                n_groups=groups, n_columns=length, x_stride=x.strides[0], y_stride=x.strides[0], eps=1e-3, bias_ptr=0,
            )  # fmt: skip
            np.testing.assert_allclose(y.array[:, :width].reshape(exact.shape), exact, rtol=2e-6, atol=1e-7)
            np.testing.assert_array_equal(y.array[:, width:], (x if in_place else np.full_like(x, 7))[:, width:])


@at_every_level
def test_add(level: Level) -> None:
    x, y = rows(3, 96, 7), rows(3, 96, 8)
    for nth in (1, 2, 5):
        total = Room(y.copy())
        run(
            kernel("add"),
            level,
            nth,
            step_ptr=step(3),
            x_ptr=Room(x),
            y_ptr=total,
            n_blocks=3,
            x_stride=x.strides[0],
            y_stride=x.strides[0],
        )
        np.testing.assert_array_equal(total.array, x + y)


@at_every_level
def test_a_norm_of_zeros_is_zero(level: Level) -> None:
    x, q = np.zeros((2, 32), np.float32), codes(2, 32)
    y = Room(x + 1)
    run(
        kernel("norm"), level, step_ptr=step(2), x_ptr=Room(x), weight_ptr=Room(x[:1] + 1), y_ptr=y, q_ptr=q,
        n_blocks=1, n_columns=32, x_stride=128, y_stride=128, q_stride=q.array.strides[0], eps=1e-5,
    )  # fmt: skip
    assert not y.array.any()
    assert not q.array.any()


ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": lambda x: x / 2 * np.vectorize(math.erfc)(-x / math.sqrt(2)),
    "relu": lambda x: np.where(x > 0, x, 0),
    "relu2": lambda x: np.where(x > 0, x, 0) ** 2,
    "clamped": lambda x: np.minimum(x, 7) / (1 + np.exp(-1.702 * np.minimum(x, 7))),
}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kind", ACTIVATIONS)
@at_every_level
def test_gate(level: Level, kind: str, gated: bool) -> None:
    for count, columns in [(1, 20), (3, 96), (2, 544)]:
        gate, right = rows(count, columns, 1) * np.float32(8), rows(count, columns, 2) * np.float32(5)
        gate[0, :4] = [0.0, -200.0, 200.0, -87.5]
        exact = ACTIVATIONS[kind](gate.astype(np.float64))
        if gated:
            exact = exact * (np.clip(right, -7, 7).astype(np.float64) + 1 if kind == "clamped" else right)
        both = np.concatenate([right, gate, right], axis=1)  # the gate is a view, y may be one
        constants = {"kind": kind} if gated else {"kind": kind, "gated": 0}
        seen = []
        for nth, wants_codes in [(1, True), (1, False), (3, True)]:
            source, y = Room(both), Room(np.full_like(both[:, : 2 * gate.shape[1]], np.nan))
            q = codes(count, gate.shape[1])
            run(
                kernel("gate", **constants), level, nth, step_ptr=step(count),
                gate_ptr=source.address + gate.strides[0], up_ptr=Room(right) if gated else 0, y_ptr=y,
                q_ptr=q if wants_codes else 0, n_blocks=gate.shape[1] // 32, gate_stride=both.strides[0],
                up_stride=right.strides[0], y_stride=y.array.strides[0], q_stride=q.array.strides[0],
            )  # fmt: skip
            source.check()
            found, rest = np.hsplit(y.array, 2)
            assert np.isnan(rest).all()
            # Far below zero gelu is next to nothing, where float64 has lost it: it is compared in absolute terms.
            least = {"gelu": 5e-6, "gelu_erf": 2e-5}.get(kind, 1e-30)
            np.testing.assert_allclose(found, exact, rtol=3e-6, atol=least)
            np.testing.assert_array_equal(q.array, quantised(found)[0] if wants_codes else 0)
            seen.append(found)
        assert all(np.array_equal(y, seen[0]) for y in seen)


@at_every_level
def test_scale_and_soft_cap(level: Level) -> None:
    x = rows(3, 96, 7) * np.float32(40)
    x[0, :5] = [0.0, -0.0, 1e-4, 1e30, -1e30]
    wide = np.concatenate([x, x], axis=1)
    for nth in (1, 2, 5):
        scaled, capped = Room(wide), Room(wide)
        shared = {"step_ptr": step(3), "n_blocks": 3, "x_stride": wide.strides[0]}
        run(kernel("scale"), level, nth, x_ptr=scaled, factor=0.3, **shared)
        np.testing.assert_array_equal(scaled.array, np.concatenate([x * np.float32(0.3), x], axis=1))
        run(kernel("soft_cap"), level, nth, x_ptr=capped, cap=30.0, **shared)
        np.testing.assert_allclose(capped.array[:, :96], 30 * np.tanh(x.astype(np.float64) / 30), rtol=1e-6, atol=1e-5)
        np.testing.assert_array_equal(capped.array[:, 96:], x)


@at_every_level
def test_clear(level: Level) -> None:
    for nth in (1, 2, 5):
        x = Room(np.full((4, 64), 7, np.float32))
        run(kernel("clear"), level, nth, step_ptr=step(3), x_ptr=x, x_stride=256, first=20, last=32)
        exact = np.full((4, 64), 7, np.float32)
        exact[:3, 20:32] = 0
        np.testing.assert_array_equal(x.array, exact)


NORMS = [("layer", 1, 1), ("layer", 1, 0), ("layer", 0, 0), ("l2", 0, 0), ("rms", 0, 0), ("rms", 1, 1)]


@at_every_level
@pytest.mark.parametrize(("kind", "weighted", "biased"), NORMS)
def test_norms_of_other_kinds(level: Level, kind: str, weighted: int, biased: int) -> None:
    for count, groups, length in [(1, 1, 3), (3, 2, 20), (2, 1, 96), (5, 3, 37)]:
        x = rows(count, groups * length, 5) + np.float32(2)
        weight, bias = (rows(1, length, seed)[:, :length].copy() for seed in (6, 7))
        width = groups * length
        parts = x[:, :width].reshape(count, groups, length).astype(np.float64)
        if kind == "layer":
            parts = parts - parts.mean(axis=2, keepdims=True)
        size = np.sqrt((parts**2).mean(axis=2, keepdims=True) + 1e-3)
        if kind == "l2":
            size = np.maximum(np.sqrt((parts**2).sum(axis=2, keepdims=True)), 1e-3)
        exact = parts / size * (weight if weighted else 1) + (bias if biased else 0)
        for nth, in_place in [(1, False), (3, False), (2, True)]:
            source = Room(x)
            y = source if in_place else Room(np.full_like(x, 7))
            run(
                kernel("norm_groups", kind=kind, weighted=weighted, biased=biased), level, nth, step_ptr=step(count),
                x_ptr=source, weight_ptr=Room(weight) if weighted else 0, y_ptr=y, n_groups=groups, n_columns=length,
                x_stride=x.strides[0], y_stride=x.strides[0], eps=1e-3, bias_ptr=Room(bias) if biased else 0,
            )  # fmt: skip
            np.testing.assert_allclose(y.array[:, :width].reshape(exact.shape), exact, rtol=1e-5, atol=3e-6)
            np.testing.assert_array_equal(y.array[:, width:], (x if in_place else np.full_like(x, 7))[:, width:])


@at_every_level
def test_the_l2_norm_of_next_to_nothing_is_no_larger(level: Level) -> None:
    x = Room(np.full((1, 32), 1e-4, np.float32))
    run(
        kernel("norm_groups", kind="l2", weighted=0, biased=0), level, step_ptr=step(1), x_ptr=x, weight_ptr=0, y_ptr=x,
        n_groups=1, n_columns=32, x_stride=128, y_stride=128, eps=0.5, bias_ptr=0,
    )  # fmt: skip
    np.testing.assert_allclose(x.array, 2e-4, rtol=1e-6)


@at_every_level
def test_clamp_and_factors_of_rows(level: Level) -> None:
    x = rows(5, 96) * np.float32(3)
    factors = np.linspace(0.5, 2.0, 5).astype(np.float32)
    for nth in (1, 2, 5):
        y, z = Room(x.copy()), Room(x.copy())
        given = {"step_ptr": step(5), "n_blocks": 3, "x_stride": x.strides[0]}
        run(kernel("clamp"), level, nth, x_ptr=y, low=-0.5, high=2.0, **given)
        np.testing.assert_array_equal(y.array, np.clip(x, np.float32(-0.5), np.float32(2.0)))
        run(kernel("scale_rows"), level, nth, x_ptr=z, factors_ptr=Room(factors), **given)
        np.testing.assert_array_equal(z.array, x * factors[:, None])


@pytest.mark.parametrize("neox", [False, True])
@at_every_level
def test_heads_turn_in_place(level: Level, neox: bool) -> None:
    for count, heads, length, pairs in [(1, 1, 32, 16), (5, 3, 32, 10), (4, 2, 20, 3)]:
        x, positions = rows(count, heads * length), np.arange(count) + 7
        theta = 1000.0 ** -np.linspace(0, 1, pairs)
        angles = positions[:, None] * theta
        table = np.stack([np.cos(angles), np.sin(angles)], axis=2).astype(np.float32)
        parts = x[:, : heads * length].reshape(count, heads, length)
        exact = rotate(parts, positions, theta, neox=neox).reshape(count, -1)
        for nth in (1, 2, 5):
            y = Room(x.copy())
            run(
                kernel("rotate"), level, nth, step_ptr=step(count), x_ptr=y, x_stride=x.strides[0], n_heads=heads,
                n_columns=length, table_ptr=Room(table), n_rotated=2 * pairs, is_neox=int(neox),
            )  # fmt: skip
            np.testing.assert_allclose(y.array[:, : heads * length], exact, atol=2e-6)
            assert not y.array[:, heads * length :].any()


@at_every_level
def test_a_row_times_the_sigmoid_of_one_number(level: Level) -> None:
    for count, read, changed in [(1, 20, 96), (5, 72, 32), (3, 128, 64)]:
        x, y = rows(count, read, 1), rows(count, changed, 2)
        weight = padded(np.random.default_rng(3).standard_normal((1, read)), x.shape[1])
        exact = y / (1 + np.exp(-(x.astype(np.float64) @ weight[0])))[:, None]
        seen = []
        for nth in (1, 2, 7):
            found = Room(y.copy())
            run(
                kernel("scale_by_gate"), level, nth, step_ptr=step(count), x_ptr=Room(x), weight_ptr=Room(weight),
                y_ptr=found, n_x_blocks=x.shape[1] // 32, n_y_blocks=y.shape[1] // 32, x_stride=x.strides[0],
                y_stride=y.strides[0],
            )  # fmt: skip
            np.testing.assert_allclose(found.array, exact, rtol=1e-5, atol=1e-6)
            seen.append(found.array)
        assert all(np.array_equal(one, seen[0]) for one in seen)


@at_every_level
@pytest.mark.parametrize(("kind", "weighted", "biased"), [("rms", 1, 0), ("layer", 1, 0), ("layer", 1, 1)])
def test_norms_of_parts_with_weights_of_their_own(level: Level, kind: str, weighted: int, biased: int) -> None:
    for count, groups, length in [(1, 2, 3), (3, 2, 20), (2, 4, 64), (5, 3, 37)]:
        x, width = rows(count, groups * length, 5) + np.float32(2), groups * length
        weight, bias = (rows(groups, length, seed) for seed in (6, 7))
        parts = x[:, :width].reshape(count, groups, length).astype(np.float64)
        if kind == "layer":
            parts = parts - parts.mean(axis=2, keepdims=True)
        exact = parts / np.sqrt((parts**2).mean(axis=2, keepdims=True) + 1e-3) * weight[:, :length]
        exact += bias[:, :length] if biased else 0
        for nth in (1, 3):
            y = Room(np.full_like(x, 7))
            run(
                kernel("norm_groups", kind=kind, weighted=weighted, biased=biased, own=1), level, nth,
                step_ptr=step(count), x_ptr=Room(x), weight_ptr=Room(weight), y_ptr=y, n_groups=groups,
                n_columns=length, x_stride=x.strides[0], y_stride=x.strides[0], eps=1e-3,
                bias_ptr=Room(bias) if biased else 0,
            )  # fmt: skip
            np.testing.assert_allclose(y.array[:, :width].reshape(exact.shape), exact, rtol=1e-5, atol=3e-6)
            np.testing.assert_array_equal(y.array[:, width:], np.full_like(x, 7)[:, width:])


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
                kernel("quantise"), level, nth, step_ptr=step(count), x_ptr=Room(x), q_ptr=q, n_blocks=columns // 32,
                x_stride=x.strides[0], q_stride=q.array.strides[0],
            )  # fmt: skip
            np.testing.assert_array_equal(q.array, exact)


@at_every_level
def test_select_rows(level: Level) -> None:
    x = rows(9, 96)
    for wanted in ([8], [2, 0, 8], [5, 6, 7, 7], []):
        for nth in (1, 2, 5):
            y, sources = Room(np.zeros((4, 96), np.float32)), Room(np.array([*wanted, 99], np.int64))
            run(
                kernel("select_rows"), level, nth, step_ptr=step(len(wanted)), rows_ptr=sources, x_ptr=Room(x), y_ptr=y,
                row_bytes=x.strides[0],
            )  # fmt: skip
            np.testing.assert_array_equal(y.array[: len(wanted)], x[wanted])
            assert not y.array[len(wanted) :].any()


HEADS = [
    (20, 20, 20, False, "f16", "f16"), (64, 64, 64, False, "f16", "bf16"), (64, 64, 64, True, "q8_0", "q4_0"),
    (24, 12, 8, False, "bf16", "f16"), (24, 12, 8, True, "bf16", "f16"), (7, 5, 2, False, "f16", "f16"),
    (96, 32, 64, False, "q4_0", "q8_0"),
]  # fmt: skip
# Each type once for keys and once for values, of kernels that HEADS has compiled.
TYPES = [(64, 64, "f16", "bf16"), (24, 12, "bf16", "f16"), (64, 64, "q8_0", "q4_0"), (96, 32, "q4_0", "q8_0")]


@at_every_level
@pytest.mark.parametrize(("key", "value", "turned", "neox", "key_type", "value_type"), HEADS)
def test_rope_store_and_back(
    level: Level, key: int, value: int, turned: int, neox: bool, key_type: str, value_type: str
) -> None:
    """Rows of two sequences, and one that goes nowhere: what is stored, where, and what kv_read makes of it."""
    heads, shared, lanes = 6, 2, level.lanes
    constants = {"key_length": key, "value_length": value, "key_type": key_type, "value_type": value_type}
    rng = np.random.default_rng(5)
    for positions in ([0], [126, 127, 128, -1], [13, 14, 255, 3, 4]):
        count, where = len(positions), np.array(positions)
        widths = {"q": heads * key, "k": shared * key, "v": shared * value}
        plain = {n: rng.standard_normal((count, width)).astype(np.float32) for n, width in widths.items()}
        theta = 10000.0 ** (-2 * np.arange(turned // 2) / turned)
        angles = where[:, None] * theta
        table = Room(np.stack([np.cos(angles), np.sin(angles)], axis=2).astype(np.float32))
        tables = [Room(np.array(pages, np.int64)) for pages in ([3, 0], [1, 4])]
        whose = np.arange(count) % 2
        places = Room(np.array([[p, tables[w].address] for p, w in zip(positions, whose, strict=True)], np.int64))
        sizes = KvType(key_type).key_page(key, lanes), KvType(value_type).value_page(value, lanes)
        for nth in (1, 3):
            rooms = {n: Room(padded(x, up(x.shape[1], 32))) for n, x in plain.items()}
            strides = {f"{n}_stride": r.array.strides[0] for n, r in rooms.items()}
            empty = [  # what a page of zeros is: its codes need not be zero
                lay(np.zeros((PAGE, shared, n), np.float32), kind, lanes)[0]
                for lay, n, kind in ((key_pages, key, key_type), (value_pages, value, value_type))
            ]
            keys, values = (Room(np.tile(page, (5, 1, 1))) for page in empty)
            cache = {"keys_ptr": keys, "values_ptr": values, "key_head_bytes": sizes[0], "value_head_bytes": sizes[1]}
            run(
                kernel("rope_store", **constants), level, nth, step_ptr=step(count), places_ptr=places,
                **addressed(rooms), **strides, **cache, table_ptr=table, n_rotated=turned, is_neox=int(neox),
                n_head=heads, n_kv=shared, scale=0.125,
            )  # fmt: skip
            found = {n: rooms[n].array[:, : widths[n]].reshape(count, -1, value if n == "v" else key) for n in rooms}
            kept = where >= 0
            for n, scale in (("q", 0.125), ("k", 1.0)):
                exact = rotate(plain[n].reshape(found[n].shape), where, theta, neox=neox) * scale
                np.testing.assert_allclose(found[n][kept], exact[kept], atol=1e-6)
                np.testing.assert_array_equal(found[n][~kept], plain[n].reshape(found[n].shape)[~kept])
            wanted = [np.tile(page, (5, 1, 1)) for page in empty]
            for row in np.flatnonzero(kept):
                page, at = tables[whose[row]].array[positions[row] // PAGE], positions[row] % PAGE
                for room, n, lay, kind in ((0, "k", key_pages, key_type), (1, "v", value_pages, value_type)):
                    blank = np.zeros((PAGE, *found[n].shape[1:]), np.float32)
                    blank[at] = found[n][row]
                    wanted[room][page] ^= lay(blank, kind, lanes)[0] ^ empty[room]
            for room, full, kind in ((keys, wanted[0], key_type), (values, wanted[1], value_type)):
                wrong = (room.array != full).sum() / (kept.sum() * room.array.shape[1] * 32)
                assert wrong <= (0.02 if kind[0] == "q" else 0.0), f"{wrong:.3f} of the bytes"  # ties may go either way
            back = {n: Room(np.full_like(rooms[n].array, np.nan)) for n in "kv"}
            run(
                kernel("kv_read", **constants), level, nth, step_ptr=step(count), places_ptr=places, **addressed(back),
                **cache, k_stride=strides["k_stride"], v_stride=strides["v_stride"], n_kv=shared,
            )  # fmt: skip
            for n, kind in (("k", key_type), ("v", value_type)):
                rows_back = back[n].array[:, : widths[n]].reshape(found[n].shape)
                exact = rounded(found[n], kind)
                bits = {"f16": 1e-9, "bf16": 1e-9, "q8_0": 1 / 120, "q4_0": 1 / 7}[kind]
                top = np.abs(exact).max()
                np.testing.assert_allclose(rows_back[kept], exact[kept], rtol=0, atol=bits * top)
                assert np.isnan(rows_back[~kept]).all()


@at_every_level
@pytest.mark.parametrize(("key", "value", "key_type", "value_type"), TYPES)
def test_what_is_stored_is_finite(level: Level, key: int, value: int, key_type: str, value_type: str) -> None:
    constants = {"key_length": key, "value_length": value, "key_type": key_type, "value_type": value_type}
    bad = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, 0, 1], np.float32)
    rooms = {"k": Room(np.resize(bad, (1, up(key, 32)))), "v": Room(np.resize(bad, (1, up(value, 32))))}
    table = Room(np.zeros(1, np.int64))
    places = Room(np.array([[5, table.address]], np.int64))
    sizes = KvType(key_type).key_page(key, level.lanes), KvType(value_type).value_page(value, level.lanes)
    keys, values = (Room(np.zeros((1, 1, size), np.uint8)) for size in sizes)
    cache = {"keys_ptr": keys, "values_ptr": values, "key_head_bytes": sizes[0], "value_head_bytes": sizes[1]}
    strides = {f"{n}_stride": room.array.strides[0] for n, room in rooms.items()}
    run(
        kernel("rope_store", **constants), level, step_ptr=step(1), places_ptr=places, q_ptr=rooms["k"],
        **addressed(rooms), q_stride=128, **strides, **cache, table_ptr=table, n_rotated=0, is_neox=0, n_head=0, n_kv=1,
        scale=1.0,
    )  # fmt: skip
    back = {n: Room(np.full_like(room.array, np.nan)) for n, room in rooms.items()}
    run(
        kernel("kv_read", **constants), level, step_ptr=step(1), places_ptr=places, **addressed(back), **strides,
        **cache, n_kv=1,
    )  # fmt: skip
    assert np.isfinite(back["k"].array[:, :key]).all()
    assert np.isfinite(back["v"].array[:, :value]).all()
