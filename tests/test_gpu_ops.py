"""Norms, gates and ops by element on a GPU: their kernels on the CPU, against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from gpu_rows import STRIDE, DeviceRows, buffers_of, exact, whole
from gpu_shim import ORDERS

from ggufpy.backends.gpu import select
from ggufpy.backends.gpu.norms import shape_of
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Add, AddScaled, Gate, Norm, Scale, SoftCap, View
from ggufpy.models.scaling import Clamp, PositionScale, ScaleByGate, ScaleByPosition

in_every_order = pytest.mark.parametrize("order", ORDERS)
WIDTHS = [1, 31, 33, 64, 100, 700]


def rows_of(seed: int, rows: int, width: int) -> Any:
    """Numbers of all sizes, each row of its own, one of zeros, and here and there a zero."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, width)) * 10.0 ** rng.uniform(-6, 4, (rows, 1))
    values[rng.random(values.shape) < 0.05] = 0.0
    values[rows // 2] = 0.0
    return values.astype(np.float32)


def vector(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check(
    ops: Sequence[Op], given: Mapping[str, Any], weights: Mapping[str, Any], order: str = "forward", more: int = 0,
    scales: Sequence[float] = (), atol: float = 0.0,
) -> None:  # fmt: skip
    """Runs ops on what buffers are given and compares all of them: their columns, zeros up to the block, and the rest
    as it was. Rows must have the same bits in whatever number they come."""
    found = ran(ops, given, weights, order, more, scales)
    for name, values in exact(ops, given, weights, scales).items():
        width = values.shape[1]
        np.testing.assert_allclose(found[name][:, :width], values, rtol=3e-6, atol=atol, err_msg=name)
        assert not found[name][:, width : whole(width)].any()
        assert np.isnan(found[name][:, whole(width) :]).all()
    few = ran(ops, {name: values[:2] for name, values in given.items()}, weights, order, more, scales)
    for name, values in few.items():
        np.testing.assert_array_equal(values, found[name][:2])


def ran(
    ops: Sequence[Op], given: Mapping[str, Any], weights: Mapping[str, Any], order: str = "forward", more: int = 0,
    scales: Sequence[float] = (),
) -> dict[str, Any]:  # fmt: skip
    """What all buffers hold after ops, which have so many blocks `more` than they need."""
    rows = len(next(iter(given.values())))
    with DeviceRows(rows, order) as device:
        widths = buffers_of(ops) | {name: values.shape[1] for name, values in given.items()}
        for name, width in widths.items():
            device.make(name, width, given.get(name), more)
        for weight in {weight for op in ops for weight in op.weights}:
            device.give(weight, weights[weight.name])
        table = np.zeros((max(len(scales), 1), STRIDE), np.float32)
        table[:, :rows] = np.asarray(scales or [0.0], np.float32)[:, None]
        device.say("scales", table)
        device.run(ops)
        return {name: device.rows_of(name) for name in widths}


@in_every_order
@pytest.mark.parametrize("kind", ["rms", "layer", "l2"])
@pytest.mark.parametrize("width", [*WIDTHS, 2049])
def test_norm(kind: Any, width: int, order: str) -> None:
    x = rows_of(width, 5, width)
    weight, bias = Weight("w", (width,)), Weight("b", (width,))
    weights = {"w": vector(1, width), "b": vector(2, width)}
    for given in ((weight, bias), (weight, None), (None, bias), (None, None)):
        op = Norm("x", given[0], "y", 1e-5, 1, kind, given[1], width)
        check([op], {"x": x}, weights, order, more=width % 3, atol=2e-6)


@pytest.mark.parametrize("kind", ["rms", "layer", "l2"])
@pytest.mark.parametrize(("groups", "part"), [(3, 32), (5, 18), (2, 7), (7, 64), (9, 20), (2, 513), (3, 602)])
@pytest.mark.parametrize("own", [False, True])
def test_norms_of_parts(kind: Any, groups: int, part: int, own: bool) -> None:
    shape = (groups, part) if own else (part,)
    weights = {"w": vector(1, *shape), "b": vector(2, *shape)}
    op = Norm("x", Weight("w", shape), "y", 1e-5, groups, kind, Weight("b", shape))
    check([op], {"x": rows_of(part, 4, groups * part)}, weights, "shuffled", more=1, atol=2e-6)


@in_every_order
@pytest.mark.parametrize(("groups", "part"), [(1, 100), (1, 3000), (4, 64), (6, 9)])
def test_a_norm_in_place(groups: int, part: int, order: str) -> None:
    op = Norm("x", Weight("w", (part,)), "x", 1e-6, groups)
    check([op], {"x": rows_of(part, 3, groups * part)}, {"w": vector(1, part)}, order)


def test_norms_of_next_to_nothing_and_of_much() -> None:
    x = np.stack([np.full(64, 1e-30), np.full(64, 1e-3), np.full(64, 1e18)]).astype(np.float32)
    for kind in ("rms", "layer", "l2"):
        check([Norm("x", None, "y", 1e-6, 1, kind, None, 64)], {"x": x}, {}, atol=1e-6)
    far = (1e4 + vector(3, 4, 640)).astype(np.float32)  # a mean far from 0 does not drown the variance
    check([Norm("x", None, "y", 1e-6, 1, "layer", None, 640)], {"x": far}, {}, atol=2e-3)


@pytest.mark.parametrize("columns", [4096, 8192, 16384])
def test_norms_of_wide_rows(columns: int) -> None:
    shape = shape_of(1, columns)
    assert shape.warps * shape.held * 128 >= columns
    op = Norm("x", Weight("w", (columns,)), "y", 1e-5)
    check([op], {"x": rows_of(1, 2, columns)}, {"w": vector(1, columns)}, atol=1e-6)


def test_a_norm_that_is_too_wide_is_refused() -> None:
    with pytest.raises(GGUFError, match="norms of 16416 columns; a GPU runs at most 16384: leave it on the CPU"):
        check([Norm("x", None, "y", 1e-5, length=16416)], {"x": rows_of(1, 2, 16416)}, {})


def test_a_norm_whose_weight_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b is \(3, 32\)"):
        check([Norm("x", Weight("w", (32,)), "y", 1e-5, 2, "rms", Weight("b", (3, 32)))],
              {"x": rows_of(1, 2, 64)}, {"w": vector(1, 32), "b": vector(2, 3, 32)})  # fmt: skip


@in_every_order
@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_erf", "relu", "relu2", "clamped"])
@pytest.mark.parametrize("width", [33, 700])
def test_gate(kind: Any, width: int, order: str) -> None:
    rng = np.random.default_rng(width)
    gate = (rng.normal(size=(4, width)) * np.array([[0.01], [1], [4], [30]])).astype(np.float32)
    gate[0, :5] = [0.0, -0.0, 1e-30, -1e-30, 6.9]
    gate[3, :4] = [1e15, -1e15, 100.0, -100.0]
    up = (rng.normal(size=(4, width)) * 5).astype(np.float32)
    given = {"gate": gate, "up": up}
    tiny = 1e-6 * 30  # where f(x) is next to 0 beside an x of that size
    check([Gate("gate", "up", "y", width, kind)], given, {}, order, more=1, atol=tiny)
    check([Gate("gate", None, "y", width, kind)], {"gate": gate}, {}, order, atol=tiny)
    for into in ("up", "gate"):
        check([Gate("gate", "up", into, width, kind)], given, {}, order, more=1, atol=tiny)


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_erf", "clamped"])
def test_gates_of_the_far_ends_are_finite(kind: Any) -> None:
    gate = np.float32([[3e38, -3e38, 1e20, -1e20, 90.0, -90.0, 0.0, -20.0]])
    op = Gate("gate", None, "y", 8, kind)
    found = ran([op], {"gate": gate}, {})["y"][0, :8]
    assert np.isfinite(found).all()
    most = [7.0, 7.0, 7.0] if kind == "clamped" else [3e38, 1e20, 90.0]
    np.testing.assert_allclose(found[[0, 2, 4]], most, rtol=1e-4)
    np.testing.assert_allclose(found[[1, 3, 5, 6]], 0.0, atol=1e-30)
    assert -1e-6 < found[7] <= 0.0


@in_every_order
@pytest.mark.parametrize("width", WIDTHS)
def test_ops_by_element(width: int, order: str) -> None:
    x, y = rows_of(1, 5, width), rows_of(2, 5, width)
    check([Add("x", "y", width)], {"x": x, "y": y}, {}, order, more=1, atol=1e-9)
    check([Scale("x", width, -0.37)], {"x": x}, {}, order, more=1)
    check([SoftCap("x", width, 30.0)], {"x": x}, {}, order, more=1)
    check([Clamp("x", width, 0.25, 2.0)], {"x": x}, {}, order, more=1)  # zeros behind x stay zeros


@in_every_order
@pytest.mark.parametrize("width", [5, 129])
def test_add_scaled(width: int, order: str) -> None:
    x, y = rows_of(1, 4, width), rows_of(2, 4, width)
    ops = [AddScaled("x", "y", width, 0, 0.5), AddScaled("x", "y", width, 2, -3.0)]
    check(ops, {"x": x, "y": y}, {}, order, 1, (0.25, 7.0, 2.0), atol=1e-2)


def test_rows_whose_adapter_counts_nothing_stay_as_they_are() -> None:
    x, y = np.full((4, 40), np.inf, np.float32), rows_of(2, 4, 40)
    scales = np.zeros((2, STRIDE), np.float32)
    scales[0] = 9.0
    scales[1, 2] = 1.0
    with DeviceRows(4) as device:
        device.make("x", 40, x)
        device.make("y", 40, y)
        device.say("scales", scales)
        device.run([AddScaled("x", "y", 40, 1)])
        found = device.rows_of("y")
    np.testing.assert_array_equal(found[[0, 1, 3], :40], y[[0, 1, 3]])
    assert np.isinf(found[2, :40]).all()
    assert not found[:, 40:].any()


@in_every_order
@pytest.mark.parametrize(("width", "columns"), [(40, 64), (700, 33), (3, 1000)])
def test_scale_by_gate(width: int, columns: int, order: str) -> None:
    given = {"x": vector(1, 4, columns), "y": rows_of(2, 4, width)}
    check(
        [ScaleByGate("x", Weight("w", (columns,)), "y", width)], given, {"w": vector(3, columns)}, order, 1, atol=1e-9
    )


def test_a_gate_of_a_row_that_shares_columns_with_it_is_refused() -> None:
    op = ScaleByGate("x", Weight("w", (32,)), "y", 32)
    with pytest.raises(ValueError, match="does not fit its buffers"):
        check([View("all", 0, 32, "x"), View("all", 0, 32, "y"), op], {"all": vector(1, 2, 64)}, {"w": vector(2, 32)})


@pytest.mark.parametrize("offset", [0, 1, -5])
def test_scale_by_position(offset: int) -> None:
    by, x = PositionScale(0.1, 16, offset), rows_of(1, 5, 70)
    positions = np.array([5, 15, 16, 1000, 131071], np.int32)
    with DeviceRows(5) as device:
        device.make("x", 70, x)
        device.say("positions", positions)
        device.run([ScaleByPosition("x", 70, by)])
        found = device.rows_of("x")
    wanted = x * by.factors(positions.astype(np.int64))[:, None]
    np.testing.assert_allclose(found[:, :70], wanted, rtol=1e-6)
    assert not found[:, 70:].any()


def test_rows_are_selected() -> None:
    x, sources = rows_of(1, 6, 70), np.array([4, 0, 4, 5], np.int32)
    with DeviceRows(6) as device:
        device.make("x", 70, x, more=2)
        device.make("y", 70, more=1)
        place = select.select(device.upload(sources), device.buffer("x"), device.buffer("y"), 70, 4)
        device.device.run([place])
        found = device.rows_of("y")
    np.testing.assert_array_equal(found[:4, :70], x[sources])
    assert not found[:4, 70:96].any()
    assert np.isnan(found[4:]).all()
    assert np.isnan(found[:, 96:]).all()
