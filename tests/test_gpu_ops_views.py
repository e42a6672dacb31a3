"""Ops on views of wider buffers on a GPU: what is beside their columns stays as it was, whatever their width."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from gpu_shim import ORDERS
from test_gpu_ops import check, ran, vector

from ggufpy.errors import GGUFError
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Add, Gate, Norm, Scale, SoftCap, View
from ggufpy.models.scaling import Clamp, ScaleByGate

in_every_order = pytest.mark.parametrize("order", ORDERS)
WEIGHTS = {"w": vector(1, 32), "b": vector(2, 2, 32), "own": vector(3, 2, 32), "gate": vector(4, 64)}


def ops_of(last: int) -> Sequence[Op]:
    """Ops on columns 32 to 96, 96 to 160 and, `last` wide, from 160 on to the end of "all"."""
    return (
        View("all", 32, 64, "a"), View("all", 96, 64, "b"), View("all", 160, last, "c"),
        Norm("a", Weight("w", (32,)), "a", 1e-5, 2), Add("a", "b", 64),
        Norm("b", Weight("own", (2, 32)), "d", 1e-5, 2, "layer", Weight("b", (2, 32))),
        Gate("a", "d", "b", 64, "gelu"), View("all", 32, 64, "again"), Scale("again", 64, 3.0),
        SoftCap("c", last, 1.5), Clamp("c", last, 0.5, 1.0), ScaleByGate("a", Weight("gate", (64,)), "c", last),
    )  # fmt: skip


@in_every_order
@pytest.mark.parametrize("last", [1, 32, 45, 131])
def test_ops_on_views(last: int, order: str) -> None:
    given = {"all": vector(last, 4, 160 + last), "b": vector(1, 4, 64)}  # a buffer of a view's name is not touched
    check(ops_of(last), given, WEIGHTS, order, more=1, atol=1e-5)


@in_every_order
def test_a_width_that_is_no_whole_block_of_a_view_ends_where_it_does(order: str) -> None:
    ops = (View("all", 32, 64, "a"), Scale("a", 37, 2.0), View("all", 32, 64, "a"), Clamp("a", 6, 0.1, 0.2))
    check(ops, {"all": vector(3, 3, 200)}, {}, order, atol=1e-6)


@pytest.mark.parametrize(("at", "width", "wrong"), [(16, 32, "16 to 48"), (32, 16, "32 to 48"), (0, 33, "0 to 33")])
def test_views_that_are_no_whole_blocks_are_refused(at: int, width: int, wrong: str) -> None:
    with pytest.raises(GGUFError, match=rf"columns {wrong} of all \(70\) apart: .* of 32 only"):
        ran([View("all", at, width, "a")], {"all": vector(1, 2, 70)}, {})


def test_a_view_that_is_not_within_its_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="all has 70 columns"):
        ran([View("all", 64, 32, "a")], {"all": vector(1, 2, 70)}, {})
