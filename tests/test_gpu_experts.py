"""Routes and products of experts on a GPU that is the CPU, beside the interpreter's, and their bits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from gpu_products import Floats, Products, half_rows
from gpu_products import half as rounded
from numpy.typing import NDArray

from ggufpy.backends.gpu.device import Launch
from ggufpy.backends.gpu.ops import route
from ggufpy.backends.gpu.step import StepShape
from ggufpy.errors import GGUFError
from ggufpy.models.interpreter import _Run
from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul, Gate, MatMul, Route

KINDS: tuple[Literal["softmax", "sigmoid", "softmax_of_chosen"], ...] = ("softmax", "sigmoid", "softmax_of_chosen")
ROUTES = [(7, 2, 1, 1), (64, 8, 8, 3), (96, 40, 3, 3), (128, 3, 64, 2)]


def exact(op: Op, buffers: dict[str, Any], weights: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The buffers as the interpreter leaves them."""
    rows = len(next(iter(buffers.values())))
    run = _Run({name: np.asarray(values, np.float64) for name, values in weights.items()}, np.zeros(rows, np.int64), {})
    run.buffers.update({name: np.array(values, np.float64) for name, values in buffers.items()})
    run._widths.update({name: values.shape[1] for name, values in run.buffers.items()})
    run.step(op)
    return run.buffers


def routed(parts: Products, op: Route, x: Floats) -> tuple[Floats, Floats]:
    """Whole rows of `chosen` and `shares`."""
    parts.make("x", x)
    for name in ("c", "s"):
        parts.make(name, np.full((parts.rows, op.count), 5.0, np.float32), wide=96)
    parts.run([op], StepShape(parts.rows))
    return parts.rows_of("c"), parts.rows_of("s")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("experts", "count", "groups", "used"), [(7, 2, 1, 1), (64, 8, 8, 3), (96, 40, 3, 3), (128, 3, 64, 2)]
)
@pytest.mark.parametrize("bias", [False, True])
def test_route(kind: Any, experts: int, count: int, groups: int, used: int, bias: bool) -> None:
    random = np.random.default_rng(experts + count)
    x = (random.standard_normal((9, experts)) * 3).astype(np.float32)
    x[1] = np.round(x[1])  # many equal ones
    x[2] = 0.5
    with Products(9, order="backward") as parts:
        values = (np.round(random.standard_normal(experts) * 2) / 8).astype(np.float32)
        weight = parts.give_vector("b", values) if bias else None
        plain = groups == 1
        op = Route("x", experts, "c", "s", count, kind, weight, groups, used, renormalised=plain, scale=2.5)
        chosen, shares = routed(parts, op, x)
        wanted = exact(op, {"x": x}, {"b": values})
        rows = slice(None) if not bias and plain else [0, *range(3, 9)]  # rounded scores may be equal or not in others
        assert np.array_equal(chosen[rows, :count], wanted["c"][rows])
        np.testing.assert_allclose(shares[rows, :count], wanted["s"][rows], rtol=2e-6, atol=1e-12)
        end = -(-count // 32) * 32
        assert not chosen[:, count:end].any()
        assert not shares[:, count:end].any()


def test_numbers_are_always_of_experts() -> None:
    """Whatever the logits are: a number that is no expert's would be read from beyond the matrices."""
    x = np.zeros((8, 33), np.float32)
    x[0], x[1, ::2], x[2, 5], x[3], x[4] = np.nan, np.nan, np.inf, -np.inf, 3e38
    for kind in KINDS:
        for groups in (1, 3):
            with Products(8) as parts:
                op = Route("x", 33, "c", "s", 4, kind, groups=groups, groups_used=groups)
                chosen = routed(parts, op, x)[0][:, :4]
                assert np.all((chosen >= 0) & (chosen < 33) & (chosen == np.floor(chosen)))
                assert all(len(set(row)) == 4 for row in chosen)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Route("x", 4096, "c", "s", 2), "the model has 4096 experts"),
        (Route("x", 650, "c", "s", 2, groups=65), "the model has 65 groups of experts"),
        (Route("x", 8, "c", "s", 2, groups=3), "1 of 3 groups of 8 experts cannot be chosen"),
        (Route("x", 8, "c", "s", 5, groups=2), "5 experts cannot be chosen of 4"),
    ],
)
def test_routes_that_cannot_be(op: Route, message: str) -> None:
    with Products(1) as parts:
        for name in "xcs":
            parts.make(name, np.zeros((1, op.experts), np.float32))
        with pytest.raises(GGUFError, match=message):
            list(route.lower(parts.lowering(StepShape(1)), [op])[1])


def test_examples_have_every_kind() -> None:
    assert {dict(spec.defines)["KIND"] for spec in route.examples()} == {0, 1, 2}


def eight_bits(x: Floats) -> NDArray[np.float64]:
    """Rows as 8-bit codes by 16 columns have them."""
    rows, columns = x.shape
    blocks = np.pad(x, ((0, 0), (0, -columns % 32))).reshape(rows, -1, 16)
    largest: NDArray[Any] = np.abs(blocks).max(axis=2, keepdims=True)
    codes = np.rint(blocks * (np.float32(127) / np.where(largest > 0, largest, np.float32(1))))
    made = codes.astype(np.float64) * (largest / np.float32(127))
    return np.asarray(made.reshape(rows, -1)[:, :columns])


class Case:
    """Five experts of (rows, columns) in a type, a step's n rows that chose some of them, and what comes of it."""

    def __init__(
        self, kind: str, rows: int, columns: int, own: bool, summed: bool, count: int = 2, n: int = 11
    ) -> None:
        random = np.random.default_rng(rows + columns)
        self.own, self.summed, self.count = own, summed, count
        self.w = (random.standard_normal((5, rows, columns)) * 0.2).astype(np.float32)
        self.kind, self.rows, self.columns = kind, rows, columns
        self.x = random.standard_normal((n, columns * (count if own else 1))).astype(np.float32)
        self.chosen = np.array([random.permutation(5)[:count] for _ in range(n)], np.float32)
        self.shares = random.uniform(0.1, 1.0, (n, count)).astype(np.float32)
        self.y = random.standard_normal((n, rows * (1 if summed else count))).astype(np.float32)
        self.bias = random.standard_normal((5, rows)).astype(np.float32)

    def op(self, parts: Products, bias: bool = False, add: bool = False) -> ExpertMatMul:
        for name, values in (("x", self.x), ("c", self.chosen), ("s", self.shares), ("y", self.y)):
            parts.make(name, values[: parts.rows])
        weight = parts.give("w", self.kind, self.w)
        vector = parts.give_vector("b", self.bias) if bias else None
        shares = "s" if self.summed else None
        return ExpertMatMul("x", "c", weight, "y", self.count, vector, self.own, shares, add)

    def wanted(self, op: ExpertMatMul, parts: Products, half: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """y, of 8-bit or of f16 rows, and how large what is added up for it is."""
        weights: dict[str, Any] = {"w": parts.values["w"], "b": self.bias}
        if half:
            x, weights["w"] = half_rows(self.x), rounded(weights["w"])
        else:
            x = self.x.astype(np.float64) if self.kind in ("F32", "F16", "BF16") else eight_bits(self.x)
        buffers: dict[str, Any] = {"x": x, "c": self.chosen, "s": self.shares, "y": self.y}
        size = exact(op, *({name: np.abs(held) for name, held in of.items()} for of in (buffers, weights)))
        return exact(op, buffers, weights)["y"], size["y"]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q6_K", "Q2_K", "Q5_1", "Q8_0", "MXFP4", "F16", "BF16", "F32"])
@pytest.mark.parametrize(("own", "summed"), [(False, False), (True, True)])
def test_experts(kind: str, own: bool, summed: bool) -> None:
    case = Case(kind, 64, 256, own, summed)
    with Products(11, order="shuffled") as parts:
        op = case.op(parts)
        parts.run([op], StepShape(11))
        wanted, size = case.wanted(op, parts)
        assert np.all(np.abs(parts.rows_of("y") - wanted) <= 3e-6 * size)


@pytest.mark.parametrize("kind", ["Q4_1", "F32"])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("own", "count"), [(False, 1), (True, 1), (False, 3), (True, 3)])
@pytest.mark.parametrize("processors", [1, 132])  # two rows a warp, or one
def test_shares_bias_and_odd_shapes(kind: str, add: bool, own: bool, count: int, processors: int) -> None:
    case = Case(kind, 37, 32 * 37 if own or kind != "F32" else 43, own, True, count)
    with Products(11) as parts:
        parts.processors = processors
        op = case.op(parts, bias=True, add=add)
        parts.run([op], StepShape(2, 3, 2, 1))
        got, (wanted, size) = parts.rows_of("y")[:5], (each[:5] for each in case.wanted(op, parts))
        assert np.all(np.abs(got[:, :37] - wanted) <= 3e-6 * size)
        assert not got[:, 37:64].any()


def test_one_expert_of_odd_rows() -> None:
    """Parts that are no whole blocks, of which there is one: zeros behind it."""
    case = Case("Q8_0", 37, 64, False, False, 1)
    with Products(11) as parts:
        op = case.op(parts, bias=True)
        parts.run([op], StepShape(11))
        got, (wanted, size) = parts.rows_of("y"), case.wanted(op, parts)
        assert np.all(np.abs(got[:, :37] - wanted) <= 3e-6 * size)
        assert not got[:, 37:64].any()


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_0", "F16"])
def test_bits_do_not_depend_on_company(kind: str) -> None:
    """A row alone, with others, and where a warp has one row or two."""
    case, found = Case(kind, 96, 512, True, True), []
    for rows, processors in ((1, 132), (11, 132), (11, 1)):
        with Products(rows) as parts:
            parts.processors = processors
            parts.run([case.op(parts)], StepShape(rows))
            found.append(parts.rows_of("y")[0])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


BULK = ("Q4_0", "Q4_K", "Q6_K", "MXFP4", "F16", "BF16")


@pytest.mark.parametrize("kind", [*BULK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("Q5_1", "Q8_0"))])
@pytest.mark.parametrize(("own", "summed"), [(False, False), (True, True)])
def test_many_rows(kind: str, own: bool, summed: bool) -> None:
    """Exact rows by one kernel, bulk rows by another, in one step."""
    case = Case(kind, 96, 256, own, summed, n=90)
    with Products(90, order="shuffled") as parts:
        op = case.op(parts)
        works = parts.run([op], StepShape(3, 5, 85, 2))
        names = [work.spec.name for work in works if isinstance(work, Launch)]
        assert names.count("expert_mma") == 1
        for rows, half in ((slice(0, 3), False), (slice(5, 90), True)):
            wanted, size = case.wanted(op, parts, half)
            assert np.all(np.abs(parts.rows_of("y")[rows] - wanted[rows]) <= 3e-6 * size[rows])


@pytest.mark.parametrize("level", ["sm_75", "sm_80"])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("own", "summed", "count"), [(False, True, 1), (True, True, 3), (False, False, 1)])
def test_many_rows_of_odd_shapes(level: str, add: bool, own: bool, summed: bool, count: int) -> None:
    """Activations that f16 cannot hold as they are, biases, rows that are no whole blocks, experts that nobody chose
    and one that everybody did."""
    case = Case("Q4_1", 37, 96, own, summed, count, n=75)
    case.x *= (10.0 ** (np.arange(75) % 12 - 5.0))[:, None].astype(np.float32)
    case.chosen[:, 0] = 4.0
    case.chosen[:, 1:] = [0.0, 2.0][: count - 1]
    with Products(75, level) as parts:
        op = case.op(parts, bias=True, add=add and summed)
        parts.run([op], StepShape(0, 0, 75, 2))
        got, (wanted, size) = parts.rows_of("y"), case.wanted(op, parts, half=True)
        assert np.all(np.abs(got[:, :37] - wanted) <= 3e-6 * size)
        assert not got[:, 37:64].any()


def test_rows_are_listed_once() -> None:
    """Both products of a feed-forward go by one list, until other experts are chosen."""
    case = Case("Q4_0", 64, 64, False, False, n=40)
    with Products(40) as parts:
        op = case.op(parts)
        to = parts.lowering(StepShape(0, 0, 40, 1))
        names = [work.spec.name for work in to.works([op, op]) if isinstance(work, Launch)]
        assert names == ["expert_lists", "to_half", "expert_mma", "expert_mma"]
        to.spoil(["c"])
        assert next(iter(to.works([op]))).spec.name == "expert_lists"  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [StepShape(5), StepShape(3, 4, 60, 2), StepShape(0, 0, 7, 1)])
def test_a_feed_forward(shape: StepShape) -> None:
    """From the router to the sum, as layers have it: exact rows, both kinds, and too few bulk rows for the experts."""
    random, rows = np.random.default_rng(9), shape.end
    widths = {"x": 64, "y": 64, "l": 8, "c": 2, "s": 2, "g": 128, "u": 128}
    buffers = {name: random.standard_normal((rows, width)).astype(np.float32) for name, width in widths.items()}
    with Products(rows) as parts:
        for name, values in buffers.items():
            parts.make(name, values)
        router = parts.give("router", "F32", random.standard_normal((8, 64)).astype(np.float32))
        gate, up = (
            parts.give(name, "Q8_0", (random.standard_normal((8, 64, 64)) * 0.2).astype(np.float32)) for name in "ab"
        )
        down = parts.give("d", "Q8_0", (random.standard_normal((8, 64, 64)) * 0.2).astype(np.float32))
        ops: list[Op] = [
            MatMul("x", router, "l"),
            Route("l", 8, "c", "s", 2, renormalised=True),
            ExpertMatMul("x", "c", gate, "g", 2),
            ExpertMatMul("x", "c", up, "u", 2),
            Gate("g", "u", "g", 128),
            ExpertMatMul("g", "c", down, "y", 2, own=True, shares="s", add=True),
        ]
        parts.run(ops, shape)
        wanted: dict[str, Any] = dict(buffers)
        for op in ops:
            wanted = exact(op, wanted, parts.values)
        real = [*range(shape.few), *range(shape.first, shape.first + shape.many)]
        assert np.array_equal(parts.rows_of("c")[real, :2], wanted["c"][real])
        error = (parts.rows_of("y") - wanted["y"])[real]
        assert np.sqrt((error**2).mean()) < 0.015 * wanted["y"].std()


def test_what_does_not_fit_is_refused() -> None:
    with Products(11) as parts:
        with pytest.raises(GGUFError, match="w: experts with a feed-forward width of 37; ggufpy runs multiples of 32"):
            parts.run([Case("F32", 37, 64, False, False).op(parts)], StepShape(11))
        op = Case("F32", 32, 64, False, False).op(parts)
        parts.make("x", np.zeros((11, 32), np.float32))
        with pytest.raises(ValueError, match="w does not fit buffers x and y"):
            parts.run([op], StepShape(11))
