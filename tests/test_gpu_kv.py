"""The key/value cache on a device, through the shim: storing, pages in the portable form, and how positions move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from gpu_kv_fakes import Parts, opened, pages_for, plan_of, shape_of
from gpu_shim import ORDERS, ShimDevice
from kv_reference import key_pages, value_pages

from ggufpy import quants
from ggufpy.backends.cpu import kv as cpu_kv
from ggufpy.backends.cpu.kernels.kv_types import PAGE, KvType
from ggufpy.backends.cpu.portable import HeadPages
from ggufpy.backends.gpu.kv import CacheMemory, estimate
from ggufpy.backends.gpu.ops.store_kv import Shift, shift_works
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Attend, Heads, MatMul, Rope, Rotate, StoreKv

LANES = 8  # of the CPU whose pages are compared
KINDS = [
    ("f16", "f16", Heads(6, 3, 80, 80)),
    ("bf16", "f16", Heads(4, 2, 7, 20)),
    ("f16", "bf16", Heads(4, 4, 96, 256)),
    ("q8_0", "q4_0", Heads(4, 2, 96, 128)),
    ("q4_0", "q8_0", Heads(2, 1, 256, 32)),
    ("q8_0", "f16", Heads(8, 5, 64, 64)),
]
ALL_KINDS = pytest.mark.parametrize(("keys", "values", "heads"), KINDS)


@pytest.fixture(params=["forward"])
def device(request: pytest.FixtureRequest) -> Iterator[ShimDevice]:
    with opened(request.param) as one:
        yield one


def layer_of(layer: int, heads: Heads, window: int = 0, rope: Rope | None = None) -> list[Op]:
    turns = [] if rope is None else [
        Rotate("q", heads.queries, heads.key_length, rope), Rotate("k", heads.shared, heads.key_length, rope),
    ]  # fmt: skip
    return [*turns, StoreKv(layer, "k", "v", heads), Attend(layer, "q", "y", heads, 1.0, window)]


def portable(k: Any, v: Any, keys: str, values: str, heads: Heads) -> Any:
    """What the CPU makes of keys and values (positions, heads, length): (positions, bytes of a row)."""
    form = HeadPages(heads, KvType(keys), KvType(values), LANES)
    pages = list(zip(key_pages(k, keys, LANES), value_pages(v, values, LANES), strict=True))
    rows = np.empty((len(pages) * PAGE, form.row_bytes), np.uint8)
    for i, page in enumerate(pages):
        form.read(*page, rows[i * PAGE : (i + 1) * PAGE])
    return rows[: len(k)]


def numbers(rng: np.random.Generator, rows: int, heads: int, length: int) -> Any:
    """Of several sizes, with ties of rounding and of the largest in some rows, and zeros in one."""
    x = rng.standard_normal((rows, heads, length), np.float32) * np.exp2(rng.integers(-8, 6, (rows, heads, 1)))
    x[0] = 0.0
    x[1] = rng.integers(-253, 254, (heads, length)) / 2  # with 127 a q8_0 has a scale of 1
    x[1, :, 0] = 127.0
    x[2] = rng.choice([-8.0, 8.0, 2.5, -0.5, 0.0], (heads, length))
    return x.astype(np.float32)


def whole(memory: CacheMemory, group: int) -> Any:
    """All pages of a group, (pages, PAGE, bytes)."""
    return np.stack([memory.read_page(group, page) for page in range(memory.groups[group].pages)])


def put(parts: Parts, k: Any, v: Any) -> None:
    for name, x in (("k", k), ("v", v)):
        parts.fill(name, x.reshape(len(x), -1))


@ALL_KINDS
@pytest.mark.parametrize("device", ORDERS, indirect=True)
def test_rows_of_several_sequences_go_to_their_pages(device: ShimDevice, keys: str, values: str, heads: Heads) -> None:
    rng = np.random.default_rng(heads.key_length)
    layers = [layer_of(0, heads), layer_of(1, heads, 64), layer_of(2, heads)]
    memory = CacheMemory(device, plan_of(*layers), shape_of(1024, 2, keys, values), 32)
    assert [memory.cache(i).group for i in range(3)] == [0, 1, 0]
    parts = Parts(device, memory)
    positions = [*range(120, 137), 0, 1, 255, 256, -1]
    sequences = [0] * 17 + [1] * 4 + [0]
    tables = [rng.permutation(group.pages)[:6].reshape(2, 3).tolist() for group in memory.groups]
    expected = [whole(memory, group) for group in (0, 1)]
    assert not any(pages.any() for pages in expected)
    parts.begin(positions, [[its[sequence] for sequence in sequences] for its in tables], [])
    for i, layer in enumerate(layers):
        k, v = (numbers(rng, len(positions), heads.shared, n) for n in (heads.key_length, heads.value_length))
        put(parts, k, v)
        assert parts.run(layer[:1], len(positions)) == 1
        group, at = memory.cache(i).group, {0: 0, 1: 0, 2: 1}[i]
        rows = portable(k, v, keys, values, heads)
        for row, (position, sequence) in enumerate(zip(positions, sequences, strict=True)):
            if position >= 0:
                page = tables[group][sequence][position // PAGE]
                expected[group][page, position % PAGE].reshape(-1, rows.shape[1])[at] = rows[row]
        np.testing.assert_array_equal(parts.take("k"), k.reshape(len(k), -1))
    for group in (0, 1):
        np.testing.assert_array_equal(whole(memory, group), expected[group])


@ALL_KINDS
def test_a_page_saved_on_the_cpu_is_read_here_and_the_other_way(
    device: ShimDevice, keys: str, values: str, heads: Heads
) -> None:
    rng = np.random.default_rng(3)
    layers = [layer_of(0, heads), layer_of(1, heads)]
    plan, shape = plan_of(*layers), shape_of(256, 1, keys, values)
    memory = CacheMemory(device, plan, shape, 32)
    there = cpu_kv.CacheMemory(plan, shape, 32, LANES, 1)
    assert (memory.form(0), memory.row_bytes(0)) == (there.form(0), there.row_bytes(0))
    assert memory.groups == there.groups
    parts, made = Parts(device, memory), []
    parts.begin(range(PAGE), [[[1, 0]] * PAGE], [])
    for layer in layers:
        k, v = (numbers(rng, PAGE, heads.shared, n) for n in (heads.key_length, heads.value_length))
        put(parts, k, v)
        parts.run(layer[:1], PAGE)
        made.append(portable(k, v, keys, values, heads))
    rows = np.concatenate(made, axis=1)
    np.testing.assert_array_equal(memory.read_page(0, 1), rows)
    there.write_page(0, 0, memory.read_page(0, 1))
    memory.write_page(0, 0, there.read_page(0, 0))
    for i in (0, 1):
        one = memory.cache(i)
        for start, size in ((one.keys, one.key_page), (one.values, one.value_page)):
            pages = np.empty((2, size), np.uint8)
            device.download(start, pages)
            assert pages.any()
            np.testing.assert_array_equal(pages[0], pages[1])  # by write_page as by the kernel


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_what_is_stored_is_finite(device: ShimDevice, kind: str) -> None:
    heads = Heads(1, 1, 32, 32)
    layer = layer_of(0, heads)
    memory = CacheMemory(device, plan_of(layer), shape_of(128, 1, kind, kind), 32)
    parts = Parts(device, memory)
    x = np.zeros((6, 1, 32), np.float32)
    x[:, 0, 3] = [np.inf, -np.inf, np.nan, 3.4e38, 1e-44, -7e5]
    x[:5, 0, 9] = -1e-40
    put(parts, x, x)
    parts.begin(range(6), [[[0]] * 6], [])
    parts.run(layer[:1], 6)
    rows = memory.read_page(0, 0)
    memory.write_page(0, 0, rows)  # which refuses what is not finite
    stored = decoded(rows[:6], kind, heads)[0][:, 0]
    least = {"f16": 65504.0, "bf16": 3.3e38}.get(kind, 6.5e4 * {"q8_0": 127, "q4_0": 7}.get(kind, 0))
    assert stored[0, 3] >= least
    assert stored[1, 3] <= -least
    assert stored[3, 3] >= least
    assert stored[5, 3] <= -6.5e4
    assert (np.abs(stored[4]) < 1e-6).all()


def test_numbers_that_are_not_finite_are_refused_and_change_nothing(device: ShimDevice) -> None:
    heads = Heads(2, 2, 32, 64)
    memory = CacheMemory(device, plan_of(layer_of(0, heads), layer_of(1, heads)), shape_of(128, 1, "q8_0", "f16"), 32)
    rows = np.ones((PAGE, memory.row_bytes(0)), np.uint8)
    memory.write_page(0, 0, rows)
    for at in (32, rows.shape[1] - 2):  # a scale of the first layer's keys, a value of the second's
        bad = 2 * rows
        bad[77, at : at + 2] = (0x00, 0x7C)
        with pytest.raises(GGUFError, match="not finite"):
            memory.write_page(0, 0, bad)
        np.testing.assert_array_equal(memory.read_page(0, 0), rows)


def test_a_page_is_copied_in_every_layer_of_its_group(device: ShimDevice) -> None:
    heads, rng = Heads(2, 2, 32, 64), np.random.default_rng(1)
    layers = [layer_of(0, heads), layer_of(1, heads, 64), layer_of(2, Heads(2, 1, 64, 32))]
    memory = CacheMemory(device, plan_of(*layers), shape_of(1000, 1, "q4_0", "bf16"), 32)
    pages = [rng.integers(0, 100, (PAGE, memory.row_bytes(group)), np.uint8) for group in (0, 1)]
    for group in (0, 1):
        memory.write_page(group, 2, pages[group])
    memory.copy(0, 2, 0)
    np.testing.assert_array_equal(memory.read_page(0, 0), pages[0])
    np.testing.assert_array_equal(memory.read_page(0, 2), pages[0])
    assert not memory.read_page(1, 0).any()
    assert not memory.read_page(0, 1).any()


@ALL_KINDS
def test_the_estimate_is_what_is_taken(device: ShimDevice, keys: str, values: str, heads: Heads) -> None:
    plan, shape = plan_of(layer_of(0, heads), layer_of(1, heads, 64)), shape_of(1000, 3, keys, values)
    memory = CacheMemory(device, plan, shape, 100)
    rows = sum(memory.row_bytes(i) * group.pages * PAGE for i, group in enumerate(memory.groups))
    assert rows == estimate(plan, shape, 100) == memory.nbytes == device.facts.memory - device.free()


def test_heads_that_a_type_cannot_hold_are_refused(device: ShimDevice) -> None:
    with pytest.raises(GGUFError, match="q8_0 cache wants keys of a multiple of 32"):
        CacheMemory(device, plan_of(layer_of(0, Heads(2, 2, 80, 64))), shape_of(128, 1, "q8_0", "f16"), 32)


def test_layers_that_keep_nothing_take_nothing(device: ShimDevice) -> None:
    plan = plan_of([Rotate("q", 1, 32, Rope(32, 1e4))])
    memory = CacheMemory(device, plan, shape_of(128, 1, "f16", "f16"), 32)
    assert (memory.groups, memory.nbytes, estimate(plan, shape_of(128, 1, "f16", "f16"), 32)) == ((), 0, 0)


def decoded(rows: Any, kind: str, heads: Heads) -> tuple[Any, Any]:
    """Keys of one layer's rows (positions, heads, length), and by how much rounding may have changed each.

    Of q8_0 that is half a step, and 127 times what the scale's own rounding makes; of q4_0 a step: 8 becomes 7.
    """
    size = heads.key_length * KvType(kind).bits // 8 + (heads.key_length // 32 * 2 if KvType(kind).scaled else 0)
    keyed = rows[:, : heads.shared * size]
    if not KvType(kind).scaled:
        bits = np.ascontiguousarray(keyed).view("<u2")
        x = bits.view("<f2").astype(np.float64) if kind == "f16" else (bits.astype("<u4") << 16).view("<f4")
        x = x.astype(np.float64).reshape(len(rows), heads.shared, -1)
        return x, np.abs(x) * (2.0**-11 if kind == "f16" else 2.0**-8) + 1e-7
    blocks = keyed.reshape(len(rows), -1, 32 * KvType(kind).bits // 8 + 2)
    ggml = np.ascontiguousarray(np.concatenate([blocks[..., -2:], blocks[..., :-2]], axis=2))
    x = quants.dequantize(ggml.reshape(len(rows), -1), {"q8_0": "Q8_0", "q4_0": "Q4_0"}[kind]).astype(np.float64)
    scales = np.abs(ggml[..., :2].copy().view("<f2").astype(np.float64)).repeat(32, axis=2)
    shape = (len(rows), heads.shared, heads.key_length)
    return x.reshape(shape), scales.reshape(shape) * (0.57 if kind == "q8_0" else 1.01)


def back(x: Any, rope: Rope | None, drop: int) -> Any:
    """Keys turned back by `drop`, without the magnitude that they have had."""
    if rope is None:
        return x
    n, y = rope.dimensions, x.copy()
    first, second = (slice(0, n // 2), slice(n // 2, n)) if rope.neox else (slice(0, n, 2), slice(1, n, 2))
    made = (x[..., first] + 1j * x[..., second]) * np.exp(-1j * drop * rope.base ** (-np.arange(n // 2) * 2 / n))
    y[..., first], y[..., second] = made.real, made.imag
    return y


ROPES = [Rope(32, 10_000.0, neox=True), Rope(64, 500.0, attention_factor=1.25), None]


@pytest.mark.parametrize("rope", ROPES, ids=["neox", "pairs", "none"])
@pytest.mark.parametrize(
    ("keys", "values", "heads"),
    [
        ("f16", "q8_0", Heads(4, 2, 64, 96)),
        ("bf16", "f16", Heads(2, 1, 70, 20)),
        ("q8_0", "q4_0", Heads(4, 2, 96, 32)),
        ("q4_0", "bf16", Heads(2, 1, 64, 7)),
    ],
)
@pytest.mark.parametrize(("device", "keep", "drop"), [("shuffled", 10, 1), ("backward", 0, 200)], indirect=["device"])
def test_positions_move_down(
    device: ShimDevice, keep: int, drop: int, keys: str, values: str, heads: Heads, rope: Rope | None
) -> None:
    n, rng = 300, np.random.default_rng(drop)
    made = MatMul("x", Weight("attn_k", (heads.shared * heads.key_length, 8)), "k")  # keys that nothing has turned yet
    layers = [layer_of(0, heads, rope=rope), layer_of(1, heads, 40), layer_of(2, heads)]
    plan = plan_of(*[[made, *layer] for layer in layers])
    memory = CacheMemory(device, plan, shape_of(1024, 1, keys, values), 32)
    parts, table = Parts(device, memory), pages_for(n, rng, 4)
    parts.begin(range(n), [[table] * n, [[0] * 4] * n], [] if rope is None else [rope])
    k, v = (rng.standard_normal((n, heads.shared, size), np.float32) for size in (heads.key_length, heads.value_length))
    parts.fill("q", np.zeros((n, heads.queries * heads.key_length), np.float32))
    put(parts, k, v)
    parts.run([op for op in plan.body if isinstance(op, Rotate) or (isinstance(op, StoreKv) and op.layer == 0)], n)
    memory.write_page(1, 0, np.full((PAGE, memory.row_bytes(1)), 5, np.uint8))

    before, other = rows_of(memory, table, n), whole(memory, 1)
    place = parts.put(np.array(table, np.int32))
    works = shift_works(parts, plan.body, Shift(0, place, place, range(keep + drop, n), drop))
    assert len(works) == 2 + (rope is not None)
    device.run(works)
    after = rows_of(memory, table, n - drop)

    size = before.shape[1] // 2  # of layer 0; layer 2 has nothing but zeros
    np.testing.assert_array_equal(after[:keep], before[:keep])
    assert not after[:, size:].any()
    values_at = HeadPages(heads, KvType(keys), KvType(values), 1).key_bytes
    moved, origin = after[keep:, :size], before[keep + drop :, :size]
    np.testing.assert_array_equal(moved[:, values_at:], origin[:, values_at:])
    old, _ = decoded(origin, keys, heads)
    new, step = decoded(moved, keys, heads)
    assert (np.abs(new - back(old, rope, drop)) <= step).all()
    np.testing.assert_array_equal(whole(memory, 1), other)


def rows_of(memory: CacheMemory, table: Sequence[int], n: int) -> Any:
    """The first positions of a sequence in group 0."""
    return np.concatenate([memory.read_page(0, page) for page in table])[:n]


@pytest.mark.parametrize("drop", [128, 150, 256])
def test_pages_of_a_window_go_down_and_what_is_in_them_by_the_rest(device: ShimDevice, drop: int) -> None:
    heads, rope, n, rng = Heads(2, 2, 64, 64), ROPES[0], 500, np.random.default_rng(9)
    assert rope is not None
    layer = layer_of(0, heads, rope=rope)
    memory = CacheMemory(device, plan_of(layer), shape_of(512, 2, "f16", "f16"), 32)
    source = [5, 1, 7, 0]
    target = source[drop // PAGE :]
    k, v = (rng.standard_normal((n, 2, 64), np.float32) for _ in "kv")
    parts = Parts(device, memory)
    parts.fill("q", np.zeros((n, 128), np.float32))
    put(parts, k, v)
    parts.begin(range(n), [[source] * n], [rope])
    parts.run(layer[:3], n)
    low = max(drop, 130)  # before it everything is forgotten
    shift = Shift(0, parts.put(np.array(source, np.int32)), parts.put(np.array(target, np.int32)), range(low, n), drop)
    device.run(shift_works(parts, layer, shift))
    moved = rows_of(memory, target, n - drop)[low - drop :]

    again = CacheMemory(device, plan_of(layer), shape_of(512, 2, "f16", "f16"), 32)  # what the moved would be anew
    parts = Parts(device, again)
    parts.fill("q", np.zeros((n - low, 128), np.float32))
    put(parts, k[low:], v[low:])
    parts.begin(range(low - drop, n - drop), [[[0, 1, 2, 3]] * (n - low)], [rope])
    parts.run(layer[:3], n - low)
    wanted = rows_of(again, [0, 1, 2, 3], n - drop)[low - drop :]
    np.testing.assert_allclose(moved.view(np.float16), wanted.view(np.float16), atol=4e-3)
    np.testing.assert_array_equal(moved[:, 256:], wanted[:, 256:])
