"""Rotation on a device, through the shim: angles, heads turned alone, and what goes into the launch of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from gpu_kv_fakes import Parts, opened, plan_of, shape_of
from gpu_shim import ORDERS, ShimDevice

from ggufpy.backends.cpu.rope import RopeTable
from ggufpy.backends.gpu.kv import CacheMemory
from ggufpy.backends.gpu.ops.store_kv import stored_with
from ggufpy.backends.gpu.rotation import angle_works, distance_work
from ggufpy.models.op import Op
from ggufpy.models.ops import Heads, Rope, Rotate, StoreKv
from ggufpy.models.rope import frequencies, magnitude

SCALINGS = [
    Rope(64, 10_000.0),
    Rope(128, 1_000_000.0, factors=tuple(np.linspace(1, 40, 64).tolist()), attention_factor=1.19, scaling="longrope"),
    Rope(96, 10_000.0, scaling="linear", factor=4.0),
    Rope(128, 10_000.0, scaling="yarn", factor=16.0, original_context=4096),
    Rope(64, 150_000.0, scaling="yarn", factor=32.0, original_context=4096, truncated=False, log_multiplier=0.5),
    Rope(128, 500_000.0, scaling="llama3", factor=8.0, original_context=8192),
    Rope(20, 10_000.0, sections=(2, 3, 5)),
    Rope(2, 10_000.0),
]
POSITIONS = [0, 1, 2, 77, 4095, 131_071, 999_999, 1_000_000]


@pytest.fixture(params=["forward"])
def device(request: pytest.FixtureRequest) -> Iterator[ShimDevice]:
    with opened(request.param) as one:
        yield one


@pytest.fixture
def parts(device: ShimDevice) -> Parts:
    return Parts(device)


def angles_of(parts: Parts, rope: Rope, rows: int) -> np.ndarray:
    out = np.empty((rows, rope.dimensions // 2, 2), np.float32)
    parts.device.download(parts.turns[rope], out)
    return out


def turned(x: np.ndarray, rope: Rope, positions: Sequence[int]) -> np.ndarray:
    """Heads (rows, heads, length) turned, in float64."""
    n = rope.dimensions
    first, second = (slice(0, n // 2), slice(n // 2, n)) if rope.neox else (slice(0, n, 2), slice(1, n, 2))
    by = np.exp(1j * np.array(positions)[:, None, None] * frequencies(rope)) * magnitude(rope)
    y = x.astype(np.float64)
    made = (y[..., first] + 1j * y[..., second]) * by
    y[..., first], y[..., second] = made.real, made.imag
    return y


@pytest.mark.parametrize("rope", SCALINGS, ids=lambda rope: f"{rope.scaling}-{rope.dimensions}")
def test_angles_are_as_exact_as_the_cpus(parts: Parts, rope: Rope) -> None:
    parts.begin(POSITIONS, [], [rope])
    table = RopeTable(rope, len(POSITIONS))
    table.fill(np.array(POSITIONS), slice(None))
    # Two roundings to float32 of what differs by 1e-9: one unit of the last place, of what is at most the magnitude.
    assert np.abs(angles_of(parts, rope, len(POSITIONS)) - table.angles).max() <= 1.2e-7 * magnitude(rope)
    wanted = np.arctan2(*np.moveaxis(table.angles.astype(np.float64), -1, 0)[::-1])
    exact = np.array(POSITIONS)[:, None] * frequencies(rope)
    assert np.abs(np.exp(1j * wanted) - np.exp(1j * exact)).max() < 2e-7


def test_several_ropes_and_rows_that_are_few_of_many(parts: Parts) -> None:
    ropes = SCALINGS[:3]
    parts.begin(list(range(500, 600)), [], ropes)
    whole = [angles_of(parts, rope, 100) for rope in ropes]
    for rope in ropes:  # 7 rows again, with what was made of them before wiped out
        parts.device.upload(parts.turns[rope], np.full((7, rope.dimensions), 9, np.float32))
    works = angle_works(ropes, parts.step, 7, parts.turns.__getitem__)
    assert len(works) == 3
    parts.device.run(works)
    for rope, before in zip(ropes, whole, strict=True):
        np.testing.assert_array_equal(angles_of(parts, rope, 100), before)


def test_nothing_is_launched_for_a_rope_that_turns_nothing(parts: Parts) -> None:
    assert angle_works([Rope(0, 10_000.0)], parts.step, 4, lambda rope: 0) == []


def test_angles_of_a_distance_have_no_magnitude(parts: Parts) -> None:
    rope = SCALINGS[3]
    parts.turns[rope] = parts.device.allocate(4 * rope.dimensions, "angles").address
    parts.device.run([distance_work(rope, -300, parts.turns[rope])])
    table = RopeTable(rope, 1)
    table.turn(np.array([-300]), slice(None))
    assert np.abs(angles_of(parts, rope, 1) - table.angles).max() <= 1.2e-7


@pytest.mark.parametrize("device", ORDERS, indirect=True)
@pytest.mark.parametrize(
    ("heads", "length", "rope"),
    [
        (3, 64, Rope(64, 10_000.0)),
        (5, 80, Rope(80, 10_000.0, neox=True)),
        (2, 96, Rope(32, 10_000.0, neox=True)),
        (1, 20, Rope(6, 500.0)),
        (32, 128, Rope(128, 500_000.0, neox=True, scaling="yarn", factor=4.0, original_context=4096)),
        (2, 256, Rope(256, 10_000.0)),
        (3, 7, Rope(4, 10_000.0)),
    ],
)
def test_heads_turn(heads: int, length: int, rope: Rope, parts: Parts) -> None:
    rng = np.random.default_rng(length)
    positions = [0, 5, 1_000_000, 3]
    x = rng.standard_normal((4, heads, length), np.float32)
    parts.fill("x", x.reshape(4, -1))
    parts.begin(positions, [], [rope])
    assert parts.run([Rotate("x", heads, length, rope)], 3) == 1
    y = parts.take("x").reshape(x.shape)
    np.testing.assert_allclose(y[:3], turned(x, rope, positions)[:3], atol=2e-6, rtol=1e-6)
    np.testing.assert_array_equal(y[3], x[3])  # not of this step
    np.testing.assert_array_equal(y[..., rope.dimensions :], x[..., rope.dimensions :])


def test_a_row_has_the_same_bits_whatever_is_beside_it(parts: Parts) -> None:
    rope = SCALINGS[0]
    x = np.random.default_rng(0).standard_normal((9, 128), np.float32)
    found = []
    for rows in ([4], list(range(9))):
        parts.fill("x", x[rows])
        parts.begin([7 * row for row in rows], [], [rope])
        parts.run([Rotate("x", 2, 64, rope)], len(rows))
        found.append(parts.take("x")[rows.index(4)])
    np.testing.assert_array_equal(*found)


HEADS = Heads(6, 2, 64, 32)
ROPE = Rope(64, 10_000.0, neox=True)
STORE = StoreKv(0, "k", "v", HEADS)
Q, K = Rotate("q", 6, 64, ROPE), Rotate("k", 2, 64, ROPE)


@pytest.mark.parametrize(
    ("ops", "launches"),
    [
        ([STORE], 1),
        ([Q, K, STORE], 1),
        ([K, Q, STORE], 1),
        ([K, STORE], 1),
        ([Q, STORE], 2),  # what attends is turned, keys are not
        ([replace(Q, rope=replace(ROPE, base=500.0)), K, STORE], 2),
        ([replace(Q, heads=12, length=32, rope=Rope(32, 10.0)), K, STORE], 2),
        ([Q, replace(K, heads=4, length=32, rope=Rope(16, 10.0)), STORE], 3),
        ([K, K, STORE], 2),
    ],
)
def test_rotations_go_with_the_store_where_they_can(ops: list[Op], launches: int, device: ShimDevice) -> None:
    memory = CacheMemory(device, plan_of(ops), shape_of(256, 1, "f16", "f16"), 8)
    parts, rng = Parts(device, memory), np.random.default_rng(5)
    rows = {name: rng.standard_normal((3, n, length), np.float32) for name, n, length in
            (("q", 6, 64), ("k", 2, 64), ("v", 2, 32))}  # fmt: skip
    for name, values in rows.items():
        parts.fill(name, values.reshape(3, -1))
    positions = [126, 127, 128]
    parts.begin(positions, [[[1, 0]] * 3], [op.rope for op in ops if isinstance(op, Rotate)])
    assert parts.run(ops, 3) == launches
    for op in ops:
        if isinstance(op, Rotate):
            parts_of = rows[op.x].reshape(3, op.heads, op.length)
            rows[op.x] = turned(parts_of, op.rope, positions).reshape(rows[op.x].shape)
    for name, values in rows.items():
        np.testing.assert_allclose(parts.take(name).reshape(values.shape), values, atol=1e-5)
    stored = np.concatenate([memory.read_page(0, page)[at] for page, at in ((1, slice(126, 128)), (0, slice(0, 1)))])
    numbers = stored.view(np.float16).reshape(3, -1)
    np.testing.assert_allclose(numbers[:, :128], rows["k"].reshape(3, -1), atol=3e-3)
    np.testing.assert_array_equal(numbers[:, 128:], rows["v"].reshape(3, -1).astype(np.float16))


def test_what_does_not_lead_to_a_store_stands_alone() -> None:
    assert stored_with([Q, K]) is None
    assert stored_with([Q, K, Rotate("r", 2, 64, ROPE), STORE]) is None
    found = stored_with([Q, K, STORE, Q])
    assert found is not None
    assert found.count == 3
    assert found.queries == Q
