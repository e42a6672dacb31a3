"""Attention on a GPU: its kernels through the shim against float64 over what the cache holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gpu_attention import LEFT, SINKS, Row, Texts, attend, prepared
from gpu_shim import ORDERS, ShimDevice
from numpy.typing import NDArray

from ggufpy.backends.gpu.activations import eight_bits, quantised
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.ops.attend import REGISTERS, SLICE, examples, lower, split, splits
from ggufpy.models.op import Weight
from ggufpy.models.ops import Attend, Heads, MatMul

ALL: dict[str, tuple[Heads, tuple[str, str], dict[str, Any]]] = {
    "two to one": (Heads(4, 2, 64, 64), ("f16", "f16"), {}),
    "five to one": (Heads(5, 1, 128, 128), ("q8_0", "f16"), {}),
    "nine to one": (Heads(9, 1, 32, 32), ("q4_0", "q8_0"), {"softcap": 2.0}),
    "keys longer": (Heads(3, 3, 192, 128), ("bf16", "q8_0"), {"sinks": SINKS}),
    "of 80": (Heads(7, 1, 80, 80), ("f16", "bf16"), {"softcap": 20.0}),
    "of 96": (Heads(2, 1, 96, 96), ("q4_0", "q4_0"), {"window": 100}),
    "of 256": (Heads(2, 1, 256, 256), ("q8_0", "q4_0"), {"softcap": 5.0, "window": 33}),
    "of 512": (Heads(3, 1, 512, 512), ("f16", "q4_0"), {}),
    "of 264 and 300": (Heads(1, 1, 264, 300), ("bf16", "f16"), {"window": 70, "sinks": SINKS}),
    "longer than tiles": (Heads(2, 1, 520, 528), ("f16", "f16"), {}),
    "of 20 and 12": (Heads(2, 2, 20, 12), ("f16", "bf16"), {"sinks": SINKS, "window": 40}),
    "whole text": (Heads(2, 2, 32, 32), ("f16", "f16"), {"causal": False}),
    "around": (Heads(2, 1, 32, 32), ("q4_0", "f16"), {"causal": False, "window": 61, "sinks": SINKS}),
}
EXACT, BULK = 2e-5, 4e-3  # how far values of about 1 may be from the truth


@pytest.fixture
def device() -> Iterator[ShimDevice]:
    with closing(ShimDevice()) as made:
        yield made


def made(name: str) -> tuple[Texts, Attend]:
    heads, kinds, options = ALL[name]
    return Texts(heads, kinds, (300, 129, 40)), Attend(3, "q", "y", heads, heads.key_length**-0.5, **options)


def queries(heads: Heads, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random q of rows, and sinks."""
    rng = np.random.default_rng(1)
    q = rng.standard_normal((count, heads.queries * heads.key_length)).astype(np.float32)
    return q, rng.standard_normal(heads.queries).astype(np.float32) + 2


def check(device: ShimDevice, texts: Texts, op: Attend, few: list[Row], many: list[Row]) -> None:
    """Rows get what they must, zeros up to a whole block, and nothing behind that."""
    q, sinks = queries(op.heads, len(few) + len(many))
    y = attend(device, texts, op, few, many, q, sinks)
    width = op.writes["y"]
    padded = -(-width // 32) * 32
    for i, row in enumerate([*few, *many]):
        right = texts.expected(op, row, q[i], sinks)
        np.testing.assert_allclose(y[i, :width], right, rtol=0, atol=EXACT if i < len(few) else BULK)
    assert not y[:, width:padded].any()
    assert (y[:, padded:] == LEFT).all()


@pytest.mark.parametrize("name", ALL)
def test_exact_rows(device: ShimDevice, name: str) -> None:
    places = ((0, 299), (1, 0), (0, 127), (1, 128), (2, 31), (2, 32))
    check(device, *made(name), [Row(*place) for place in places], [])


@pytest.mark.parametrize("name", ALL)
def test_bulk_rows(device: ShimDevice, name: str) -> None:
    """Tiles that are full, that are not, and that are a row."""
    many = [*(Row(0, p) for p in range(220, 291)), *(Row(1, p) for p in range(3)), Row(2, 39)]
    check(device, *made(name), [], many)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["five to one", "of 20 and 12", "around"])
def test_exact_and_bulk_rows_in_one_step(name: str, order: str) -> None:
    few, many = [Row(0, 200), Row(2, 5), Row(1, 128)], [Row(0, p) for p in range(64, 130)]
    with closing(ShimDevice(order=order, level="sm_75")) as device:
        check(device, *made(name), few, many)


@pytest.mark.parametrize("options", [{}, {"window": 1000}])
def test_long_texts(device: ShimDevice, options: dict[str, Any]) -> None:
    heads = Heads(2, 1, 32, 32)
    texts = Texts(heads, ("q8_0", "f16"), (4100, 2500))
    op = Attend(3, "q", "y", heads, 0.2, **options)
    check(device, texts, op, [Row(0, 4099), Row(1, 2303)], [Row(0, p) for p in range(3000, 3020)])


@pytest.mark.parametrize("name", ["two to one", "keys longer", "of 256", "around"])
def test_the_bits_of_an_exact_row_are_its_own(name: str) -> None:
    """Whatever the other rows are and how many, and in whatever order a device takes blocks and threads."""
    texts, op = made(name)
    few = [Row(0, 299), Row(1, 77), Row(2, 39), Row(0, 150), Row(1, 128)]
    q, sinks = queries(op.heads, len(few))
    rows = {}
    for order in ORDERS:
        with closing(ShimDevice(order=order, seed=3)) as device:
            rows[order] = attend(device, texts, op, few, [], q, sinks)
    assert all(np.array_equal(y, rows["forward"]) for y in rows.values())
    with closing(ShimDevice()) as device:
        for i, row in enumerate(few):
            alone = attend(device, texts, op, [row], [], q[i : i + 1], sinks)
            np.testing.assert_array_equal(alone[0], rows["forward"][i])
        with_bulk = attend(device, texts, op, few[:2], few[3:4], q[[0, 1, 3]], sinks)
    np.testing.assert_array_equal(with_bulk[:2], rows["forward"][:2])


def test_a_prompt_of_exact_rows_has_the_bits_of_single_ones(device: ShimDevice) -> None:
    texts, op = made("two to one")
    rows = [Row(0, p) for p in range(120, 137)]
    q, sinks = queries(op.heads, len(rows))
    together = attend(device, texts, op, rows, [], q, sinks)
    alone = [attend(device, texts, op, [row], [], q[i : i + 1], sinks)[0] for i, row in enumerate(rows)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "many"), [("two to one", 0), ("keys longer", 5), ("five to one", 0), ("of 20 and 12", 0)]
)
def test_exact_rows_in_8_bits(name: str, many: int, order: str) -> None:
    """Where a matrix of codes reads them next they are made here, and are what they would be by themselves."""
    texts, op = made(name)
    few, bulk = [Row(0, 299), Row(1, 77), Row(0, -1)], [Row(2, p) for p in range(many)]
    with closing(ShimDevice(order=order)) as device:
        parts, to, _ = prepared(device, texts, op, few, bulk, *queries(op.heads, len(few) + many))
        width = op.writes["y"]
        product = MatMul("y", Weight("codes", (64, width)), "z")
        parts.give_matrix(product.weight, "Q4_0")
        device.run(list(lower(to, [op, product])[1]))
        whole = op.heads.value_length % 32 == 0
        assert to.made("q8:y") == whole
        assert not to.made("q8 of all:y") or not many
        if not whole:
            return
        stride = eight_bits(to, "y").stride
        found = parts.bytes_of("q8:y")[: len(few) * stride]
        device.run(list(quantised(Lowering(parts, {"y": width}, to.shape), "y")))
        np.testing.assert_array_equal(found, parts.bytes_of("q8:y")[: len(few) * stride])
        assert found[:width].any()
        assert not found[2 * stride :].any()


@pytest.mark.parametrize("name", ["two to one", "of 20 and 12"])
def test_rows_that_only_fill_up_get_zeros(device: ShimDevice, name: str) -> None:
    texts, op = made(name)
    q, sinks = queries(op.heads, 3)
    y = attend(device, texts, op, [Row(0, -1), Row(2, 7), Row(0, -1)], [], q, sinks)
    width = op.writes["y"]
    assert not y[[0, 2], :width].any()
    np.testing.assert_allclose(y[1, :width], texts.expected(op, Row(2, 7), q[1], sinks), atol=EXACT)


@pytest.mark.parametrize("size", [1e6, 1e-6])
def test_queries_of_any_size(device: ShimDevice, size: float) -> None:
    """f16 would have neither 10^6 nor, but for a bit or two, 10^-6."""
    texts, op = made("two to one")
    op = replace(op, scale=op.scale / size)
    few, many = [Row(0, 180)], [Row(0, p) for p in range(100, 110)]
    q, sinks = queries(op.heads, len(few) + len(many))
    q *= np.float32(size)
    y = attend(device, texts, op, few, many, q, sinks)
    for i, row in enumerate([*few, *many]):
        right = texts.expected(op, row, q[i], sinks)
        np.testing.assert_allclose(y[i, : len(right)], right, atol=EXACT if i < len(few) else BULK)


@pytest.mark.parametrize("size", [30.0, -300.0])
def test_scores_of_any_size(device: ShimDevice, size: float) -> None:
    """One position is nearly all of softmax then, and no power overflows: the largest is 1."""
    texts, op = made("five to one")
    op = replace(op, scale=size)
    few, many = [Row(0, 180)], [Row(0, p) for p in range(170, 175)]
    q, sinks = queries(op.heads, len(few) + len(many))
    q = (np.round(q * 4) / 4).astype(np.float32)  # f16 has these as they are
    y = attend(device, texts, op, few, many, q, sinks)
    for i, row in enumerate([*few, *many]):
        right = texts.expected(op, row, q[i], sinks)
        np.testing.assert_allclose(y[i, : len(right)], right, atol=2e-3 if i < len(few) else 0.05)


@pytest.mark.parametrize("where", ["few", "many"])
def test_numbers_beyond_those_of_f16(device: ShimDevice, where: str) -> None:
    """A key of bf16 that f16 has not, which is all of softmax; its value is what f16 has at most in bulk."""
    heads = Heads(2, 1, 64, 64)
    texts, op = Texts(heads, ("bf16", "bf16"), (70,)), Attend(3, "q", "y", heads, 0.125)
    number = texts.numbers[0][0]
    for kept in texts.memory:
        kept[number].view("<u2").reshape(-1, 64)[33] = 0x48F4  # about 500,000
    q, sinks = queries(heads, 1)
    y = attend(device, texts, op, *(([Row(0, 60)], []) if where == "few" else ([], [Row(0, 60)])), abs(q), sinks)
    np.testing.assert_allclose(y[0, :128], 499712 if where == "few" else 65504, rtol=1e-3)


def test_as_many_rows_as_there_is_room_for_attend_at_once(device: ShimDevice) -> None:
    texts, op = made("of 20 and 12")
    rows = [Row(0, p) for p in range(SLICE + 3)]
    check(device, texts, op, rows, [])


def test_blocks_of_a_group_of_heads_fit_registers() -> None:
    """What blocks of exact rows are made of; examples are of all kinds."""
    for heads in (Heads(32, 8, 128, 128), Heads(71, 1, 64, 64), Heads(4, 4, 1024, 1024), Heads(16, 1, 576, 512)):
        cut = split(heads)
        assert cut.heads * cut.chunks >= heads.group > cut.heads * (cut.chunks - 1)
        held = sum(8 * -(-length // (8 * cut.lanes)) for length in (heads.key_length, heads.value_length))
        assert cut.heads * held <= REGISTERS
    assert {spec.name for spec in examples()} == {"attend", "attend_join", "attend_tiles"}


@pytest.mark.parametrize(("shared", "window", "parts"), [(32, 0, 9), (8, 0, 33), (1, 0, 128), (8, 128, 6), (99, 0, 4)])
def test_positions_are_split_by_the_device_and_the_window_alone(shared: int, window: int, parts: int) -> None:
    assert splits(Heads(shared, shared, 128, 128), window, 132) == parts
