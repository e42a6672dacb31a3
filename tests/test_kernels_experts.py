"""Kernels of experts against NumPy: routing and lists, packing, products of what was chosen, sums of squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, Room, padded, quantised, run, some_fast, step, synthetic, up
from experts_reference import KINDS, a_route, routed

from ggufpy import quants
from ggufpy.backends.cpu.packing import Packer
from ggufpy.backends.cpu.weights import Matrix, expert_kernel, packed_bytes
from ggufpy.jit.cache import library
from ggufpy.jit.spec import kernel
from ggufpy.models.ops import Route
from ggufpy.quants.base import FloatPanel
from ggufpy.simd.isa import Level

at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)


# -- routing -----------------------------------------------------------------------------------------------


@dataclass
class Routed:
    """What the kernel makes of rows of logits: numbers, shares, and the lists by expert of real rows."""

    chosen: Any
    shares: Any
    starts: Any
    pairs: Any
    tally: Any


def route(
    level: Level, x: Any, op: Route, bias: Any = None, rows: tuple[int, int, int] | None = None, nth: int = 1
) -> Routed:
    """`rows` are exact ones, the first of the others, and how many these are."""
    exact, first, bulk = rows or (len(x), 0, 0)
    columns = up(op.experts, 32)
    given = Room(np.pad(np.asarray(x, np.float32), ((0, 0), (0, columns - op.experts)), constant_values=99))
    chosen, shares = (Room(np.full((len(x), 32), np.nan, np.float32)) for _ in range(2))
    starts, pairs = Room(np.full(op.experts + 2, 77)), Room(np.full((len(x) * op.count, 2), -1, np.int32))
    tally = Room(np.array([5, 6]))
    run(
        kernel("route", kind=op.kind), level, nth, step_ptr=step(len(x)), exact_ptr=Room(np.array([exact])),
        bulk_ptr=Room(np.array([first, bulk])), x_ptr=given,
        bias_ptr=0 if bias is None else Room(padded(bias, columns)), chosen_ptr=chosen, shares_ptr=shares,
        x_stride=4 * columns, y_stride=128, n_experts=op.experts, n_chosen=op.count, n_groups=op.groups,
        n_groups_used=op.groups_used, renormalises=int(op.renormalised), scale=op.scale,
        scores_ptr=Room(np.zeros((len(x), columns), np.float32)), scores_stride=4 * columns, starts_ptr=starts,
        pairs_ptr=pairs, tally_ptr=tally,
    )  # fmt: skip
    return Routed(chosen.array[:, : op.count], shares.array[:, : op.count], starts.array, pairs.array, tally.array)


@pytest.mark.parametrize("kind", KINDS)
@at_every_level
def test_a_route_chooses_the_best(level: Level, kind: Any) -> None:
    rng = np.random.default_rng(1)
    cases = [(1, 1, 1, 1), (5, 2, 1, 1), (16, 16, 1, 1), (128, 8, 1, 1), (40, 4, 4, 2), (24, 3, 8, 3), (6, 2, 6, 2)]
    for experts, count, groups, used in cases:
        for with_bias in (False, True):
            x = (rng.standard_normal((7, experts)) * 3).astype(np.float32)
            bias = rng.standard_normal(experts).astype(np.float32) if with_bias else None
            op = a_route(experts, count, kind=kind, groups=groups, groups_used=used, renormalised=count > 2, scale=1.5)
            chosen, shares = routed(x, op, bias)
            for nth in (1, 3):
                found = route(level, x, op, bias, nth=nth)
                np.testing.assert_array_equal(found.chosen, chosen)
                np.testing.assert_allclose(found.shares, shares, rtol=3e-6, atol=1e-30)


@at_every_level
def test_shares_are_divided_by_no_less_than_the_least_sum(level: Level) -> None:
    x, op = np.full((2, 5), -15.0), a_route(5, 2, kind="sigmoid", renormalised=True)
    np.testing.assert_allclose(route(level, x, op).shares, routed(x, op)[1], rtol=1e-5)
    assert route(level, x, op).shares.sum() < 0.03


@at_every_level
def test_rows_are_listed_by_expert(level: Level) -> None:
    op, rng = a_route(9, 3), np.random.default_rng(2)
    x = rng.standard_normal((23, 9))
    for nth, exact, first, bulk in [(1, 23, 0, 0), (2, 5, 8, 15), (3, 0, 0, 23), (1, 1, 0, 0)]:
        found = route(level, x, op, rows=(exact, first, bulk), nth=nth)
        real = [*range(exact), *range(first, first + bulk)]
        wanted = sorted((int(found.chosen[row, k]), row, k) for row in real for k in range(3))
        assert found.pairs[: len(wanted)].tolist() == [[row, k] for _, row, k in wanted]
        assert (found.pairs[len(wanted) :] == -1).all()
        each = np.bincount([e for e, _, _ in wanted], minlength=9)
        assert found.starts[:10].tolist() == [0, *np.cumsum(each).tolist()]
        assert found.tally.tolist() == [5 + np.count_nonzero(each), 7]


@pytest.mark.parametrize("kind", KINDS)
@at_every_level
def test_of_equal_experts_the_lower_number_is_chosen(level: Level, kind: Any) -> None:
    for experts in (3, 16, 33):
        found = route(level, np.zeros((2, experts)), a_route(experts, 3, kind=kind))
        assert found.chosen.tolist() == [[0, 1, 2]] * 2
    x = np.array([[1, 2, 0, 2, 1, 2, 0, 0]])
    assert route(level, x, a_route(8, 4, kind=kind)).chosen.tolist() == [[1, 3, 5, 0]]
    grouped = a_route(8, 3, kind=kind, groups=4, groups_used=2)
    assert route(level, np.zeros((1, 8)), grouped).chosen.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("kind", KINDS)
@at_every_level
def test_whatever_logits_are_the_numbers_are_of_experts(level: Level, kind: Any) -> None:
    x = np.full((5, 21), np.nan, np.float32)
    x[1, 4:9], x[2], x[3], x[4, ::2] = 1.0, -np.inf, np.inf, -3e38
    for op in (a_route(21, 20, kind=kind), a_route(21, 3, kind=kind, groups=7, groups_used=1)):
        for bias in (None, np.full(21, np.nan, np.float32)):
            found = route(level, x, op, bias)
            for row in found.chosen.tolist():
                assert len(set(row)) == op.count
                assert set(row) <= set(range(21))
    assert set(route(level, x, a_route(21, 5, kind=kind)).chosen[1]) == set(range(4, 9))


# -- products ----------------------------------------------------------------------------------------------


@dataclass
class Source:
    """A tensor as the packer sees one."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: Any

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    def little(self) -> Any:
        return self.data

    def release(self) -> None:
        pass


def source(type_name: str, experts: int, rows: int, columns: int) -> Source:
    made = synthetic().make_rows(quants.get(type_name), columns, np.random.default_rng(rows))
    data = np.resize(made, (experts * rows, made.shape[1]))
    data = np.random.default_rng(experts).permutation(data).reshape(experts, rows, -1)
    return Source("w", type_name, (experts, rows, columns), data)


def pack(of: Source, level: Level) -> Matrix:
    with Packer(library(level), 1, lambda nbytes: None) as packer:
        return packer.pack(of)


TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "Q5_1", "Q2_K", "IQ2_S", "F16", "BF16", "F32")


def test_experts_are_packed_one_after_the_other() -> None:
    for name in ("Q4_0", "Q4_K", "F16", "F32", "TQ1_0"):  # the last by way of NumPy
        for rows in (16, 21):
            of = source(name, 3, rows, 256)
            matrix = pack(of, BEST)
            assert (matrix.experts, matrix.rows, matrix.columns) == (3, rows, 256)
            assert matrix.memory.nbytes == packed_bytes(of, BEST.lanes) == 3 * matrix.expert_bytes
            together = matrix.memory.bytes.reshape(3, -1)
            for e in range(3):
                one = pack(Source("w", name, (rows, 256), np.ascontiguousarray(of.data[e])), BEST)
                if rows == 16 and one.multiplier == matrix.multiplier:  # of other rows, those that fill up differ
                    np.testing.assert_array_equal(together[e], one.memory.bytes)
            assert matrix.multiplier == pack(Source("w", name, (rows, 256), of.data[0]), BEST).multiplier


@dataclass
class Product:
    """Matrices of experts, with all it takes to multiply by them at a level."""

    level: Level
    matrix: Matrix
    weights: Any
    count: int
    own: bool
    summed: bool

    def run(self, x: Any, chosen: Any, nth: int = 1, rows: Any = None, **of: Any) -> Any:
        """y as the kernel leaves it, of x (rows, parts, columns); NaN where it does not write."""
        m, lanes, count = self.matrix, self.level.lanes, self.count
        exact, first, bulk = rows or (len(x), 0, 0)
        real = [*range(exact), *range(first, first + bulk)]
        listed = sorted((int(chosen[row, k]), row, k) for row in real for k in range(count))
        counts = np.bincount([e for e, _, _ in listed], minlength=m.experts)
        width = m.blocks * 32
        given = np.stack([padded(part, width) for part in np.moveaxis(x, 1, 0)], axis=1)
        if not isinstance(m.panel, FloatPanel):
            given = quantised(given.reshape(-1, width))[0].reshape(*given.shape[:2], -1)
        acts = Room(given)
        parts = 1 if self.summed else count
        stride = up(m.rows, 32)
        y = Room(np.full((len(x), parts * stride), np.nan, np.float32))
        if of.get("add") is not None:
            y.array[:] = padded(of["add"], stride)
        shares, bias = of.get("shares"), of.get("bias")
        run(
            expert_kernel(m.panel), self.level, nth, step_ptr=step(len(x)), n_experts=m.experts,
            starts_ptr=Room(np.concatenate([[0], np.cumsum(counts), [0]])),
            pairs_ptr=Room(np.array([pair[1:] for pair in listed], np.int32)),
            weights_ptr=m.memory.at(0, m.memory.nbytes), expert_bytes=m.expert_bytes, x_ptr=acts,
            x_stride=acts.array.strides[0], x_part_stride=acts.array.strides[1] if self.own else 0, y_ptr=y,
            y_stride=y.array.strides[0], y_part_stride=0 if self.summed else 4 * stride,
            shares_ptr=0 if shares is None else Room(shares.astype(np.float32)), shares_stride=4 * count,
            bias_ptr=0 if bias is None else Room(padded(bias, up(m.rows, 32))), bias_stride=4 * up(m.rows, 32),
            n_panels=m.panels, n_blocks=m.blocks, adds=int(of.get("add") is not None), multiplier=m.multiplier,
        )  # fmt: skip
        found = y.array.reshape(len(x), parts, stride)
        if of.get("add") is None and not self.summed:
            written = up(m.rows, lanes)
            assert np.isnan(found[:, :, written:]).all(), "written past the last panel"
        return found[:, :, : m.rows].copy()

    def wanted(self, x: Any, chosen: Any, shares: Any = None, bias: Any = None, add: Any = None) -> tuple[Any, Any]:
        """(exact products, the error that adding up in float32 may bring), in the kernel's shape."""
        values = np.asarray(x, np.float64)
        if not isinstance(self.matrix.panel, FloatPanel):
            width = up(values.shape[2], 32)
            flat = np.concatenate([padded(part, width) for part in x])
            values = quantised(flat)[1].reshape(*x.shape[:2], width)[..., : values.shape[2]]
        if not self.own:
            values = values.repeat(self.count, axis=1)
        w = self.weights[chosen.astype(int)]
        y = np.einsum("nkc,nkrc->nkr", values, w)
        part = 1e-5 if isinstance(self.matrix.panel, FloatPanel) else 2e-3  # scales and minima are f16 in memory
        bound = part * np.einsum("nkc,nkrc->nkr", np.abs(values), np.abs(w)) + 1e-6
        if bias is not None:
            y = y + bias[chosen.astype(int)]
        if shares is None:
            return y, bound
        y, bound = ((part * np.abs(shares)[..., None]).sum(axis=1, keepdims=True) for part in (y, bound))
        return (y if add is None else y + add[:, None]), bound


def product(name: str, level: Level, shape: tuple[int, int, int], count: int, own: bool, summed: bool) -> Product:
    of = source(name, *shape)
    weights = np.asarray(quants.dequantize(of.data, name), np.float64).reshape(shape)
    return Product(level, pack(of, level), weights, count, own, summed)


def choose(rng: Any, rows: int, experts: int, count: int) -> Any:
    """Random experts of each row, none twice."""
    return np.array([rng.permutation(experts)[:count] for _ in range(rows)])


def check_products(name: str, level: Level) -> None:
    block, rng = quants.get(name).weights, np.random.default_rng(5)
    columns = max(block, 32) * 2
    shapes: list[Any] = [(5, 96, 2, False, False), (4, 40, 3, True, True), (3, 100, 1, False, True)]
    for experts, height, count, own, summed in shapes:
        p = product(name, level, (experts, height, columns), count, own, summed)
        bias = rng.standard_normal((experts, height)).astype(np.float32)
        for rows in (1, 3, 17):
            x = rng.standard_normal((rows, count if own else 1, columns)).astype(np.float32)
            chosen, shares = choose(rng, rows, experts, count), rng.uniform(0.1, 1, (rows, count)) if summed else None
            start = rng.standard_normal((rows, height)).astype(np.float32) if summed else None
            more: dict[str, Any] = {"shares": shares}
            added: list[dict[str, Any]] = [{"add": start}, {"bias": bias, "add": start}] if summed else []
            for some in ({}, {"bias": bias}, *added):
                found = p.run(x, chosen, **more, **some)
                exact, bound = p.wanted(x, chosen, **more, **some)
                assert (np.abs(found - exact) <= bound).all(), (experts, rows, some.keys())
            for nth in (2, 3, 7):  # as the last of those
                np.testing.assert_array_equal(p.run(x, chosen, nth, **more, **some), found)
            alone = [p.run(x[i : i + 1], chosen[i : i + 1], **pick(more | some, i)) for i in range(rows)]
            np.testing.assert_array_equal(np.concatenate(alone), found)


def pick(given: dict[str, Any], row: int) -> dict[str, Any]:
    """What is by row, of one row."""
    one = {name: values[row : row + 1] for name, values in given.items() if name != "bias" and values is not None}
    return one | ({"bias": given["bias"]} if "bias" in given else {})


@pytest.mark.parametrize(
    ("level", "name"),
    [
        *some_fast([(BEST, name) for name in TYPES], [(BEST, name) for name in ("Q4_0", "Q8_0", "Q2_K", "F32")]),
        *((level, name) for level in LEVELS[1:] for name in ("Q4_0", "Q8_0", "Q2_K", "F16")),
    ],
    ids=lambda part: getattr(part, "name", part),
)
def test_products_of_experts(level: Level, name: str) -> None:
    check_products(name, level)


@at_every_level
def test_products_leave_other_rows_alone(level: Level) -> None:
    """Rows that only fill up are in no list; of a sum they are cleared."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((12, 1, 64)).astype(np.float32)
    chosen = choose(rng, 12, 4, 2)
    p = product("F32", level, (4, 32, 64), 2, False, False)
    found, whole = p.run(x, chosen, 2, (3, 4, 8)), p.run(x, chosen)
    np.testing.assert_array_equal(np.delete(found, 3, axis=0), np.delete(whole, 3, axis=0))
    assert np.isnan(found[3]).all()


@at_every_level
def test_sums_of_squares_by_expert(level: Level) -> None:
    rng = np.random.default_rng(8)
    for experts, count, rows, own in [(3, 2, 50, True), (8, 3, 9, False), (4, 1, 1, False)]:
        parts = count if own else 1
        x, chosen = Room(rng.standard_normal((rows, parts, 64)).astype(np.float32)), choose(rng, rows, experts, count)
        listed = sorted((int(chosen[row, k]), row, k) for row in range(rows) for k in range(count))
        counts = np.bincount([e for e, _, _ in listed], minlength=experts)
        sums, lows = (Room(np.zeros((experts, 64), np.float32)) for _ in range(2))
        seen = Room(np.zeros(experts, np.int64))
        for nth in (1, 3):
            run(
                kernel("collect_experts"), level, nth, starts_ptr=Room(np.concatenate([[0], np.cumsum(counts), [0]])),
                pairs_ptr=Room(np.array([pair[1:] for pair in listed], np.int32)), n_experts=experts, x_ptr=x,
                x_stride=x.array.strides[0], x_part_stride=256 if own else 0, n_columns=64, sums_ptr=sums,
                lows_ptr=lows, counts_ptr=seen,
            )  # fmt: skip
        wanted = np.zeros((experts, 64))
        for e, row, k in listed:
            wanted[e] += 2 * x.array[row, k if own else 0].astype(np.float64) ** 2
        np.testing.assert_allclose(sums.array.astype(np.float64) + lows.array, wanted, rtol=3e-7)
        assert seen.array.tolist() == (2 * counts).tolist()
