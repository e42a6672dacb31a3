"""Products of matrices and few rows on a GPU: the kernels on the CPU, against float64 products of the same codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gpu_matrices import MatrixRows, Tensor, decoded
from gpu_shim import ORDERS
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.gpu.activations import eight_bits, quantised
from ggufpy.backends.gpu.device import Launch, Work
from ggufpy.backends.gpu.formats import format_of
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.ops.matmul import ROWS, Variant, examples, spec, variant_of
from ggufpy.backends.gpu.step import StepShape
from ggufpy.backends.gpu.weights import packed
from ggufpy.models.ops import Add, MatMul, View

NAMES = quants.names()
in_every_order = pytest.mark.parametrize("order", ORDERS)


def rows_of(rows: int, width: int, seed: int = 3) -> NDArray[np.float32]:
    """Rows of several sizes, with a block of zeros, one of numbers too small for a scale, and halves that differ."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, width)) * 10.0 ** random.uniform(-3, 3, (rows, 1))
    x[0, :32] = 0.0
    x[0, -16:] *= 1e-3
    x[-1, -32:] *= 1e-36
    return x.astype(np.float32)


def in_eight_bits(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Codes (rows, halves, 16) and scales (rows, halves) of the halves of rows' blocks, as activations.py says."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 32))).reshape(len(x), -1, 16)
    largest = np.abs(padded).max(axis=2)
    some = largest > 1e-30
    safe = np.where(some, largest, np.float32(1))
    codes = np.rint(padded * (np.float32(127) / safe)[..., None]) * some[..., None]
    return codes, np.where(some, largest / np.float32(127), np.float32(0))


def product(tensor: Tensor, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a kernel adds up, in float64, and the sum of its terms' sizes, which rounding is compared with."""
    form = format_of(quants.get(tensor.type))
    data, multiplier = packed(tensor)
    rows, columns = tensor.shape
    weights = decoded(form, data, multiplier, rows, columns)
    seen = x.astype(np.float64)
    if not form.dtype:
        codes, scales = in_eight_bits(x)
        seen = (codes.astype(np.float64) * scales[..., None]).reshape(len(x), -1)[:, :columns]
    size = np.abs(seen) @ np.abs(weights).T
    if not form.dtype and not form.minimum:
        size *= 1 + form.offset  # codes are taken less their offset at the end
    return seen @ weights.T, size


def close(found: NDArray[np.float32], wanted: NDArray[np.float64], size: NDArray[np.float64]) -> None:
    """Within a few roundings of a float32 sum."""
    np.testing.assert_array_less(np.abs(found - wanted), 4e-7 * size + 1e-30)


def ran(tensor: Tensor, x: NDArray[np.float32], order: str = "forward", processors: int = 1) -> NDArray[np.float32]:
    """What a product leaves in a buffer of its own width."""
    with MatrixRows(len(x), order, processors) as parts:
        parts.make("x", x)
        parts.make("y", np.full((len(x), tensor.shape[0]), np.nan, np.float32), more=1)
        parts.run([MatMul("x", parts.give(tensor, "w"), "y")])
        return parts.rows_of("y")


def kernels(works: Sequence[Work]) -> list[str]:
    """Names of what is launched."""
    return [work.spec.name for work in works if isinstance(work, Launch)]


@pytest.mark.parametrize("name", NAMES)
def test_every_type(name: str) -> None:
    tensor, x = Tensor(name, (7, 1280)), rows_of(3, 1280)
    found = ran(tensor, x)
    close(found[:, :7], *product(tensor, x))
    assert not found[:, 7:32].any()
    assert np.isnan(found[:, 32:]).all()


@in_every_order
@pytest.mark.parametrize(("name", "columns"), [("Q4_0", 32), ("Q5_1", 1056), ("Q2_K", 2304), ("F16", 45), ("F32", 700)])
def test_shapes_and_orders(name: str, columns: int, order: str) -> None:
    for rows in (1, 33, 70):
        tensor, x = Tensor(name, (rows, columns), seed=rows), rows_of(2, columns)
        close(ran(tensor, x, order)[:, :rows], *product(tensor, x))


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "Q2_K", "BF16"])
def test_bits_of_a_row_are_the_same_in_any_company(name: str) -> None:
    """Whatever number of rows share a reading of the weights, and more than can."""
    tensor, x = Tensor(name, (9, 2816)), rows_of(19, 2816)
    whole = ran(tensor, x)
    close(whole[:, :9], *product(tensor, x))
    for count in (1, 2, 3, 5, 8):
        np.testing.assert_array_equal(ran(tensor, x[:count]), whole[:count])
        np.testing.assert_array_equal(ran(tensor, x[-count:]), whole[-count:])


@in_every_order
@pytest.mark.parametrize("name", ["Q5_0"])
def test_bits_depend_on_no_sharing_out_of_rows(name: str, order: str) -> None:
    """Every number of rows a warp has, with columns split as widely as can be."""
    tensor, x = Tensor(name, (13, 4224)), rows_of(5, 4224)
    form = format_of(quants.get(name))
    for split in (1, 2, 4):
        found = []
        for rows in (1, 2, 4):
            with MatrixRows(5, order) as parts:
                parts.make("x", x)
                parts.make("y", np.full((5, 13), np.nan, np.float32))
                works = parts.works([MatMul("x", parts.give(tensor, "w"), "y")])
                launch = works[-1]
                assert isinstance(launch, Launch)
                code = spec(form, Variant(8, rows, split))
                assert code.args == launch.spec.args
                blocks = -(-32 // (rows * 4 // split))
                parts.device.run([*works[:-1], Launch(code, launch.arguments, (blocks, 1, 1), code.threads)])
                found.append(parts.rows_of("y"))
        close(found[0][:, :13], *product(tensor, x))
        assert all(np.array_equal(found[0], other) for other in found[1:])


def test_how_products_are_shared_out() -> None:
    assert variant_of(4096, 128, 1, 132) == Variant(1, 2, 1)
    assert variant_of(4096, 344, 7, 132) == Variant(8, 2, 1)
    assert variant_of(32000, 128, 8, 132) == Variant(8, 4, 1)
    assert variant_of(512, 128, 1, 132) == Variant(1, 1, 4)
    assert variant_of(576, 18, 4, 132) == Variant(4, 1, 1)
    for count in range(1, 9):  # the number of rows changes nothing of how columns are split
        assert variant_of(1024, 128, count, 108).split == 2
    assert all(rows * together <= 32 for together, rows in ROWS.items())


@pytest.mark.parametrize("name", ["Q8_0", "F16"])
def test_bias_and_sum(name: str) -> None:
    tensor, x = Tensor(name, (41, 288)), rows_of(6, 288)
    before, bias = rows_of(6, 41, 9), rows_of(1, 41, 10)[0]
    wanted, size = product(tensor, x)
    with MatrixRows(6) as parts:
        parts.make("x", x)
        parts.make("y", before)
        parts.run([MatMul("x", parts.give(tensor, "w"), "y", parts.give_vector(bias, "b"), add=True)])
        found = parts.rows_of("y")
    close(found[:, :41], wanted + bias + before, size + np.abs(bias) + np.abs(before))
    assert not found[:, 41:].any()


@pytest.mark.parametrize(("name", "at", "width"), [("Q4_1", 32, 64), ("F16", 64, 64), ("BF16", 96, 54)])
def test_views(name: str, at: int, width: int) -> None:
    """Of x, at any block, and of y, beside which nothing is touched."""
    tensor, x, beside = Tensor(name, (32, width)), rows_of(3, 150), rows_of(3, 96, 8)
    with MatrixRows(3) as parts:
        parts.make("all", x)
        parts.make("y", beside)
        weight = parts.give(tensor, "w")
        parts.run([View("all", at, width, "x"), View("y", 32, 32, "part"), MatMul("x", weight, "part", add=True)])
        found = parts.rows_of("y")
    wanted, size = product(tensor, x[:, at : at + width])
    close(found[:, 32:64], wanted + beside[:, 32:64], size + np.abs(beside[:, 32:64]))
    np.testing.assert_array_equal(np.delete(found, slice(32, 64), 1), np.delete(beside, slice(32, 64), 1))


def test_rows_in_eight_bits_are_made_once_and_anew() -> None:
    """Once for all matrices that read them, and anew where a buffer, or one that shares columns with it, changes."""
    with MatrixRows(4) as parts:
        for name in ("x", "y", "z"):
            parts.make(name, rows_of(4, 64))
        w, v = parts.give(Tensor("Q4_0", (64, 64)), "w"), parts.give(Tensor("Q8_0", (64, 64)), "v")
        names = kernels(parts.works([MatMul("x", w, "y"), MatMul("x", v, "z")]))
        assert names == ["quantise", "matvec", "matvec"]
        ops = [
            MatMul("x", w, "y"), Add("y", "x", 64), MatMul("x", w, "y"), View("x", 32, 32, "half"),
            Add("y", "half", 32), MatMul("x", w, "y"),
        ]  # fmt: skip
        assert kernels(parts.works(ops)).count("quantise") == 3


@in_every_order
@pytest.mark.parametrize("width", [32, 70, 1000])
def test_rows_in_eight_bits(width: int, order: str) -> None:
    x = rows_of(5, width)
    with MatrixRows(5, order) as parts:
        parts.make("x", x, more=2)
        to = Lowering(parts, parts.widths, StepShape(2, 3, 2, 1))
        parts.device.run(list(quantised(to, "x")))
        assert not list(quantised(to, "x"))
        place, blocks = eight_bits(to, "x"), -(-width // 32)
        few = np.empty((5, place.stride), np.uint8)
        parts.device.download(place.address, few)
        assert not few[2:].any()
        parts.device.run(list(quantised(to, "x", every=True)))
        assert not list(quantised(to, "x", every=True))
        assert not list(quantised(to, "x"))
        every = np.empty((5, place.stride), np.uint8)
        parts.device.download(place.address, every)
    codes, scales = in_eight_bits(x)
    np.testing.assert_array_equal(every[:2], few[:2])
    np.testing.assert_array_equal(every[:, : 32 * blocks].view(np.int8), codes.reshape(5, -1))
    assert every.shape[1] == 48 * blocks
    behind = np.ascontiguousarray(every[:, 32 * blocks :]).view(np.float32).reshape(5, blocks, 4)
    np.testing.assert_array_equal(behind[..., :2].reshape(scales.shape), scales)
    np.testing.assert_array_equal(behind[..., 2:].reshape(scales.shape), scales * codes.sum(axis=2))


@in_every_order
@pytest.mark.parametrize("name", ["Q5_K", "F16"])
def test_matrices_that_read_the_same_rows_share_a_launch(name: str, order: str) -> None:
    """Up to three of one format, each with its own rows, bias and sum; a fourth, or one of another format, has its
    own."""
    x, before, bias = rows_of(5, 512), rows_of(5, 9, 4), rows_of(1, 40, 5)[0]
    tensors = [Tensor(name, (rows, 512), seed=rows) for rows in (40, 9, 33, 7)] + [Tensor("Q8_0", (3, 512))]
    with MatrixRows(5, order) as parts:
        parts.make("x", x)
        for i, tensor in enumerate(tensors):
            nothing = np.full((5, tensor.shape[0]), np.nan, np.float32)
            parts.make(f"y{i}", before if i == 1 else nothing, more=1)
        weights = [parts.give(tensor, f"w{i}") for i, tensor in enumerate(tensors)]
        b = parts.give_vector(bias, "b")
        ops = [MatMul("x", w, f"y{i}", b if i == 0 else None, i == 1) for i, w in enumerate(weights)]
        works = parts.works(ops)
        assert [kernel for kernel in kernels(works) if kernel != "quantise"] == (
            ["matvec_numbers", "matvec_numbers", "matvec"] if name == "F16" else ["matvec"] * 3
        )
        parts.device.run(works)
        for i, tensor in enumerate(tensors):
            found, rows = parts.rows_of(f"y{i}"), tensor.shape[0]
            wanted, size = product(tensor, x)
            more = bias if i == 0 else before if i == 1 else np.float32(0)
            close(found[:, :rows], wanted + more, size + np.abs(more))
            whole = -(-rows // 32) * 32
            assert not found[:, rows:whole].any()
            assert np.isnan(found[:, whole:]).all()


def test_what_reads_what_was_written_waits() -> None:
    """A matrix that reads what the one before it writes, or writes the same, has a launch of its own."""
    with MatrixRows(2) as parts:
        for name in ("x", "y"):
            parts.make(name, rows_of(2, 64))
        w, v = parts.give(Tensor("Q4_0", (64, 64)), "w"), parts.give(Tensor("Q4_0", (64, 64), 1), "v")
        assert kernels(parts.works([MatMul("x", w, "y"), MatMul("y", v, "x")])).count("matvec") == 2
        assert kernels(parts.works([MatMul("x", w, "y"), MatMul("x", v, "y", add=True)])).count("matvec") == 2


def test_exact_rows_are_the_same_beside_bulk_rows() -> None:
    tensor, x = Tensor("Q6_K", (64, 256)), rows_of(12, 256)
    with MatrixRows(12) as parts:
        parts.make("x", x)
        parts.make("y", np.full((12, 64), np.nan, np.float32))
        weight = parts.give(tensor, "w")
        parts.device.run(parts.works([MatMul("x", weight, "y")], StepShape(3, 4, 8, 1)))
        found = parts.rows_of("y")
    np.testing.assert_array_equal(found[:3], ran(tensor, x[:3])[:, :64])
    assert np.isnan(found[3]).all()
    assert np.isfinite(found[4:]).all()


def test_what_does_not_fit_is_refused() -> None:
    with MatrixRows(1) as parts:
        parts.make("x", rows_of(1, 64))
        parts.make("y", rows_of(1, 32))
        weight = parts.give(Tensor("Q4_0", (32, 32)), "w")
        with pytest.raises(ValueError, match="w does not fit buffers x and y"):
            parts.works([MatMul("x", weight, "y")])


def test_examples_are_of_every_way() -> None:
    made: list[Any] = [dict(code.defines) for code in examples()]
    assert {(each["N"], each["R"]) for each in made} >= set(ROWS.items())
    assert {each["SPLIT"] for each in made} == {1, 2, 4}
    assert len(set(map(str, examples()))) == len(made)
