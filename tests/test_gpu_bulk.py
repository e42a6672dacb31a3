"""Products of many rows on a GPU that is the CPU: f16 rows, decoded blocks, the library's product and our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gpu_products import Floats, Products, half, half_rows
from numpy.typing import NDArray

from ggufpy.backends.gpu import bulk
from ggufpy.backends.gpu.device import Product, Work
from ggufpy.backends.gpu.step import StepShape
from ggufpy.models.ops import MatMul, View

TYPES = ("Q4_0", "Q4_K", "Q6_K", "MXFP4", "F16", "BF16", "F32")
FURTHER = ("Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0")
EPSILON = 3e-6  # of float32 sums, of the sum of sizes
ROUNDED = {"IQ4_XS": 2.0**-11}  # types whose scales a device has rounded to f16


def sizes(rows: int, columns: int, seed: int = 0) -> Floats:
    """Rows of ordinary activations, with one column that is much larger than the others."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, columns)).astype(np.float32)
    x[:, 3] *= 40
    return x


def weights(rows: int, columns: int, seed: int = 1) -> Floats:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.1).astype(np.float32)


def product(parts: Products, op: MatMul, shape: StepShape) -> tuple[list[Work], NDArray[Any]]:
    """Runs the bulk rows of a product; the work, and y's bulk rows with all their columns."""
    to = parts.lowering(shape)
    to.works([])
    works = list(bulk.works(to, op))
    parts.device.run(works)
    return works, parts.rows_of(op.y)[shape.first : shape.first + shape.many]


def check(
    got: NDArray[Any], x: NDArray[np.float64], w: NDArray[np.float64], added: Sequence[Any] = (), more: float = 0.0
) -> None:
    """got = x · wᵀ and what is `added`, to within what float32 sums lose, and `more`, and zeros up to a whole block."""
    n = len(w)
    check_sums(got[:, :n], x, w, added, more)
    assert not got[:, n : -(-n // 32) * 32].any()


def check_sums(
    got: NDArray[Any], x: NDArray[np.float64], w: NDArray[np.float64], added: Sequence[Any], more: float = 0.0
) -> None:
    wanted, room = summed(x, w, added)
    assert np.all(np.abs(got - wanted) <= (EPSILON + more) * room), np.max(np.abs(got - wanted) / room)


def summed(x: NDArray[Any], w: NDArray[Any], added: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x · wᵀ and what is added, and the sum of the sizes of all terms. A float32 sum is rounded by the size of what it
    has so far, so where old values and a bias cancel, it has lost more than what is left of them tells."""
    x, w, terms = x.astype(np.float64), w.astype(np.float64), [np.asarray(each, np.float64) for each in added]
    return sum(terms, x @ w.T), sum(map(np.abs, terms), np.abs(x) @ np.abs(w).T)


def factors(parts: Products, name: str, x: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is multiplied: rows and weights as the way of this type rounds them."""
    w = parts.values[name].astype(np.float64)
    if parts._matrices[name].format.dtype == "f32":
        return x.astype(np.float64), w
    return half_rows(x), half(np.clip(w, -65504.0, 65504.0))


@pytest.mark.parametrize("kind", [*TYPES, *(pytest.param(kind, marks=pytest.mark.slow) for kind in FURTHER)])
@pytest.mark.parametrize("many", [13, 70])
def test_product(kind: str, many: int) -> None:
    columns = 768 if kind.endswith(("_K", "_XS")) or kind.startswith("TQ") else 352
    with Products(many + 5) as parts:
        x = sizes(parts.rows, columns)
        parts.make("x", x)
        parts.make("y", np.full((parts.rows, 150), 7.0, np.float32), wide=192)
        weight = parts.give("w", kind, weights(150, columns))
        works, got = product(parts, MatMul("x", weight, "y"), StepShape(2, 5, many, 1))
        rows, w = factors(parts, "w", x[5:])
        check(got, rows, w, more=ROUNDED.get(kind, 0.0))
        assert np.all(parts.rows_of("y")[:5, :150] == 7.0)  # rows before the bulk ones stay
        assert any(isinstance(work, Product) for work in works) == (kind != "F32" and (many > 64 or kind == "F16"))


@pytest.mark.parametrize("level", ["sm_75", "sm_90"])
@pytest.mark.parametrize("rows", [1, 64, 65, 200])
def test_tiles_of_all_sizes(level: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "way_of", lambda matrix, rows: "tiles")
    with Products(rows, level, order="shuffled") as parts:
        x = sizes(rows, 96)
        parts.make("x", x)
        for n in (1, 33, 130):
            parts.make(f"y{n}", np.zeros((rows, n), np.float32))
            weight = parts.give(f"w{n}", "Q4_1", weights(n, 96, n))
            works, got = product(parts, MatMul("x", weight, f"y{n}"), StepShape(0, 0, rows, 1))
            assert [work.spec.name for work in works if not isinstance(work, Product)][-1] == "matmul_mma"
            check(got, *factors(parts, weight.name, x))


@pytest.mark.parametrize("processors", [1, 8, 132])
def test_columns_are_split_where_tiles_are_few(processors: int) -> None:
    with Products(20) as parts:
        parts.processors = processors
        x = sizes(20, 1056)
        parts.make("x", x)
        parts.make("y", np.ones((20, 260), np.float32))
        weight, bias = parts.give("w", "Q5_0", weights(260, 1056)), parts.give_vector("b", weights(1, 260)[0])
        for add in (False, True):
            added = [parts.rows_of("y")[:, :260] * add, parts.values["b"]]
            works, got = product(parts, MatMul("x", weight, "y", bias, add), StepShape(0, 0, 20, 1))
            check(got, *factors(parts, "w", x), added)
            joined = [work for work in works if not isinstance(work, Product) and work.spec.name == "join_sums"]
            assert len(joined) == (processors > 1)


@pytest.mark.parametrize("kind", ["Q4_0", "F16", "F32", "BF16"])
@pytest.mark.parametrize("many", [9, 66])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_add_and_bias_of_any_rows(kind: str, many: int, add: bool, with_bias: bool) -> None:
    """Rows of every size, as models have them that do not fit f16: none overflows, none loses all its bits."""
    with Products(many) as parts:
        x = sizes(many, 64)
        x *= (10.0 ** (np.arange(many) % 12 - 5.0))[:, None].astype(np.float32)
        x[4] = 0.0
        y = sizes(many, 40, 3)
        parts.make("x", x)
        parts.make("y", y)
        bias = parts.give_vector("b", weights(1, 40)[0]) if with_bias else None
        weight = parts.give("w", kind, weights(40, 64))
        _, got = product(parts, MatMul("x", weight, "y", bias, add), StepShape(0, 0, many, 1))
        added = [*([y] if add else []), *([parts.values["b"]] if with_bias else [])]
        check(got, *factors(parts, "w", x), added)
        # And near to what no rounding at all gives: as near as f16 is to float32.
        whole, room = summed(x, parts.values["w"], added)
        assert np.all(np.abs(got[:, :40] - whole) <= 2.0**-10 * room)


def test_slices_of_a_large_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SLICE", 2 * 64 * 40)
    with Products(80) as parts:
        x = sizes(80, 64)
        parts.make("x", x)
        parts.make("y", np.zeros((80, 100), np.float32))
        weight = parts.give("w", "Q8_0", weights(100, 64))
        works, got = product(parts, MatMul("x", weight, "y"), StepShape(0, 0, 80, 2))
        check(got, *factors(parts, "w", x))
        assert [work.n for work in works if isinstance(work, Product)] == [32, 32, 32, 32]


@pytest.mark.parametrize("kind", ["Q4_0", "F16", "F32"])
@pytest.mark.parametrize("many", [20, 70])
@pytest.mark.parametrize("rows", [64, 51])
def test_views_of_a_buffer(kind: str, many: int, rows: int) -> None:
    """x and y as columns of wider buffers, whose other columns stay; also views that end with it amid a block."""
    with Products(many) as parts:
        columns = 64 if kind == "Q4_0" else 52
        x, y = sizes(many, 64 + columns), sizes(many, 32 + rows if rows % 32 else 192, 5)
        parts.make("x", x)
        parts.make("y", y)
        weight = parts.give("w", kind, weights(rows, columns))
        to = parts.lowering(StepShape(0, 0, many, 1))
        list(to.works([View("x", 64, columns, "part"), View("y", 32, rows, "into")]))
        parts.device.run(list(bulk.works(to, MatMul("part", weight, "into", add=True))))
        got, (rounded, w) = parts.rows_of("y"), factors(parts, "w", x[:, 64 : 64 + columns])
        check_sums(got[:, 32 : 32 + rows], rounded, w, [y[:, 32 : 32 + rows]])
        assert np.array_equal(got[:, :32], y[:, :32])
        assert np.array_equal(got[:, 32 + rows : y.shape[1]], y[:, 32 + rows :])


def test_rows_are_made_once() -> None:
    with Products(70) as parts:
        parts.make("x", sizes(70, 64))
        for name in "yz":
            parts.make(name, np.zeros((70, 32), np.float32))
        weight = parts.give("w", "Q4_0", weights(32, 64))
        to = parts.lowering(StepShape(0, 0, 70, 1))

        def names(works: Sequence[Work]) -> list[str]:
            return ["product" if isinstance(work, Product) else work.spec.name for work in works]

        first, second = (names(list(bulk.works(to, MatMul("x", weight, y)))) for y in "yz")
        assert first == ["to_half", "decode_half", "product", "adjust_rows"]
        assert second == first[1:]
        to.spoil(["x"])
        assert names(list(bulk.works(to, MatMul("x", weight, "y"))))[0] == "to_half"


def test_buffers_that_do_not_fit() -> None:
    with Products(9) as parts:
        parts.make("x", sizes(9, 32))
        parts.make("y", np.zeros((9, 32), np.float32))
        weight = parts.give("w", "Q4_0", weights(32, 64))
        with pytest.raises(ValueError, match="does not fit buffers x and y"):
            list(bulk.works(parts.lowering(StepShape(0, 0, 9, 1)), MatMul("x", weight, "y")))


def test_bf16_beyond_f16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that f16 has not: held at its largest, and small ones rounded to its smallest steps."""
    with Products(9) as parts:
        x = sizes(9, 32)
        values = weights(3, 32)
        values[0, 0], values[1, 1], values[2, 2] = 1e6, -1e5, 3e-6
        parts.make("x", x)
        parts.make("y", np.zeros((9, 3), np.float32))
        weight = parts.give("w", "BF16", values)
        _, got = product(parts, MatMul("x", weight, "y"), StepShape(0, 0, 9, 1))
        check(got, *factors(parts, "w", x))
