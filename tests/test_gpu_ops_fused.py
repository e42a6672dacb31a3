"""Ops that are one launch on a GPU where they touch: the same bits as one after the other, in floats and 8-bit rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from gpu_rows import DeviceRows, buffers_of
from gpu_shim import ORDERS
from test_gpu_ops import check, rows_of, vector

from ggufpy.backends.gpu.device import Launch
from ggufpy.backends.gpu.step import StepShape
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Add, ExpertMatMul, Gate, MatMul, Norm, Scale, Tap, View

in_every_order = pytest.mark.parametrize("order", ORDERS)
OWN = ("norm_rows", "add_norm", "gate", "add", "quantise", "scale")  # kernels without those of products


def ran(
    ops: Sequence[Op], given: Mapping[str, Any], apart: bool, order: str = "forward", shape: StepShape | None = None
) -> tuple[list[str], dict[str, Any]]:
    """The kernels that are launched but for products', and what buffers and rooms for 8-bit rows hold afterwards.

    Matrices are Q8_0, or F16 where their name says so.
    """
    with DeviceRows(len(next(iter(given.values()))), order) as device:
        widths = buffers_of(ops) | {name: values.shape[1] for name, values in given.items()}
        for name, width in widths.items():
            device.make(name, width, given.get(name), 1)
        for weight in {weight for op in ops for weight in op.weights}:
            if weight.name.startswith("matrix"):
                device.give_matrix(weight, "F16" if "f16" in weight.name else "Q8_0")
            else:
                device.give(weight, vector(len(weight.name), *weight.shape))
        works = device.works(ops, shape, apart)
        own = [work for work in works if isinstance(work, Launch) and work.spec.name in OWN]
        device.device.run(own)
        codes = {"q8:" + name: device.bytes_of("q8:" + name) for name in widths}
        return [work.spec.name for work in own], {**{name: device.rows_of(name) for name in widths}, **codes}


def check_same(ops: Sequence[Op], given: Mapping[str, Any], *names: str, order: str = "forward") -> None:
    """Together these kernels run, and all is as if each op stood alone."""
    together, found = ran(ops, given, False, order)
    _, wanted = ran(ops, given, True, order)
    assert together == list(names)
    for name, values in wanted.items():
        if values is None:
            assert found[name] is None
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def matmul(x: str, columns: int, name: str = "matrix") -> MatMul:
    return MatMul(x, Weight(name, (32, columns)), "z")


def norm(x: str, y: str, width: int, kind: Any = "rms", bias: bool = False) -> Norm:
    return Norm(x, Weight("w" * len(x + y), (width,)), y, 1e-5, 1, kind, Weight("bias", (width,)) if bias else None)


@in_every_order
@pytest.mark.parametrize("kind", ["rms", "layer", "l2"])
@pytest.mark.parametrize("width", [32, 96, 544, 2080])
def test_a_norm_makes_8_bit_rows(kind: Any, width: int, order: str) -> None:
    x = rows_of(width, 3, width)
    x[0] *= 1e-34  # next to nothing: a norm without a weight to speak of, and codes of zeros
    check_same([norm("x", "y", width, kind, True), matmul("y", width)], {"x": x}, "norm_rows", order=order)
    check_same([norm("x", "x", width, kind), Tap("t", "no", 1), matmul("x", width)], {"x": x, "no": x}, "norm_rows")


@in_every_order
@pytest.mark.parametrize("width", [32, 704, 1120])
def test_a_gate_makes_8_bit_rows(width: int, order: str) -> None:
    given = {"x": rows_of(1, 3, width), "r": rows_of(2, 3, width)}
    check_same([Gate("x", "r", "y", width), matmul("y", width)], given, "gate", order=order)
    check_same([Gate("x", None, "x", width, "relu2"), matmul("x", width), matmul("x", width)], given, "gate")


def test_8_bit_rows_are_made_for_who_reads_them_alone() -> None:
    given = {"x": rows_of(1, 3, 64), "r": rows_of(2, 3, 64)}
    first = norm("x", "y", 64)
    for ops in ([first], [first, matmul("y", 64, "matrix.f16")], [first, Gate("y", "r", "y", 64)]):
        _, found = ran(ops, given, False)
        assert found["q8:y"] is None
    changed = [first, Scale("y", 64, 2.0), matmul("y", 64)]  # they would be out of date
    check_same(changed, given, "norm_rows", "scale", "quantise")
    parts = [Norm("x", Weight("w", (32,)), "y", 1e-5, 2), matmul("y", 64)]
    check_same(parts, given, "norm_rows", "quantise")
    anew = [first, View("r", 0, 64, "y"), matmul("y", 64)]  # y is something else then
    check_same(anew, given, "norm_rows", "quantise")


def test_8_bit_rows_of_exact_rows_alone_are_made() -> None:
    x = rows_of(1, 9, 64)
    names, found = ran([norm("x", "y", 64), matmul("y", 64)], {"x": x}, False, shape=StepShape(2, 4, 5, 1))
    _, few = ran([norm("x", "y", 64), matmul("y", 64)], {"x": x[:2]}, False)
    assert names == ["norm_rows"]
    stride = 2 * (32 + 16)
    np.testing.assert_array_equal(found["q8:y"][: 2 * stride], few["q8:y"][: 2 * stride])
    assert found["q8:y"][: 2 * stride].any()
    assert not found["q8:y"][2 * stride :].any()
    assert np.isfinite(found["y"][:, :64]).all()  # rows in bulk have their floats


def test_8_bit_rows_of_all_rows_are_made_for_experts() -> None:
    chosen = np.array([[0, 2], [1, 0], [2, 1], [0, 1]], np.float32)
    given = {"x": rows_of(1, 4, 64), "r": rows_of(2, 4, 64), "chosen": chosen, "shares": chosen}
    experts = Weight("matrix of experts", (3, 32, 64))
    ops = [norm("x", "y", 64), matmul("y", 64, "matrix.f16"), ExpertMatMul("y", "chosen", experts, "parts", 2),
           Gate("parts", None, "parts", 64), ExpertMatMul("parts", "chosen", Weight("matrix 2", (3, 32, 32)), "z", 2,
                                                          own=True, shares="shares")]  # fmt: skip
    for shape in (None, StepShape(1, 1, 3, 1), StepShape(0, 0, 4, 1)):
        names, found = ran(ops[:1] + ops[2:], given, False, shape=shape)
        _, wanted = ran(ops[:1] + ops[2:], given, True)
        assert names == ["norm_rows", "gate"]
        np.testing.assert_array_equal(found["q8:y"], wanted["q8:y"])
        assert found["q8:y"][3 * 96 : 4 * 96].any()
    check_same(ops, given, "norm_rows", "gate")


def residual(before: str, behind: str, width: int, y: str = "y") -> list[Op]:
    """r, through a norm of a kind or none, added to x, and the norm of that, or none."""
    ops: list[Op] = [norm("r", "r", width, before, before == "layer")] if before else []
    ops.append(Add("r", "x", width))
    return [*ops, norm("x", y, width, behind, behind == "layer")] if behind else ops


@in_every_order
@pytest.mark.parametrize("width", [32, 100, 512, 545, 2304])
@pytest.mark.parametrize(("before", "behind"), [("rms", "rms"), ("", "layer"), ("layer", ""), ("l2", "layer")])
def test_additions_with_norms(before: str, behind: str, width: int, order: str) -> None:
    given = {"x": rows_of(1, 3, width), "r": rows_of(2, 3, width)}
    ops = residual(before, behind, width)
    check_same(ops, given, "add_norm", order=order)
    if behind:
        check_same(residual(before, behind, width, "x"), given, "add_norm")  # in place
    if behind and width % 32 == 0:
        check_same([*ops, matmul("y", width)], given, "add_norm")
        check_same([*residual(before, behind, width, "x"), matmul("x", width)], given, "add_norm")


@in_every_order
def test_additions_with_norms_are_what_the_interpreter_says(order: str) -> None:
    given = {"x": vector(1, 4, 700), "r": vector(2, 4, 700)}
    weights = {"ww": vector(3, 700), "w": vector(4, 700), "bias": vector(5, 700)}
    check(residual("rms", "layer", 700), given, weights, order, more=1, atol=3e-6)


def test_additions_with_norms_of_views() -> None:
    views = [View("all", 32, 64, "r"), View("all", 96, 45, "s")]
    given = {"all": rows_of(1, 3, 141), "x": rows_of(2, 3, 64), "y": rows_of(3, 3, 45)}
    check_same([*views, *residual("rms", "rms", 64, "q")], given, "add_norm")
    last = [*views, norm("s", "s", 45), Add("s", "y", 45), norm("y", "y", 45), Add("y", "s", 45), norm("s", "q", 45)]
    check_same(last, given, "add_norm", "add_norm")


def test_additions_that_are_not_one_with_norms() -> None:
    given = {"x": rows_of(1, 3, 64), "r": rows_of(2, 3, 64)}
    check_same([Add("r", "x", 64), Norm("x", Weight("w", (32,)), "y", 1e-5, 2)], given, "add", "norm_rows")
    check_same(
        [Add("r", "x", 64), norm("x", "r", 64)], given, "add", "norm_rows"
    )  # it takes the place of what is added
    check_same([Add("r", "x", 64), Tap("t", "x", 64), norm("x", "y", 64)], given, "add", "norm_rows")
    check_same([norm("r", "y", 64), Add("r", "x", 64)], given, "norm_rows", "add")
    check_same([norm("r", "r", 64), Add("x", "r", 64)], given, "norm_rows", "add")
    same = [View("x", 0, 64, "r"), Add("r", "x", 64), norm("x", "y", 64)]
    check_same(same, given, "add", "norm_rows")
    wide = {"x": rows_of(1, 2, 6176), "r": rows_of(2, 2, 6176)}
    check_same(residual("rms", "rms", 6176), wide, "norm_rows", "add", "norm_rows")
