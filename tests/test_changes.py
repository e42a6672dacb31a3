"""Changes of tensors: what is refused by its shape, and what they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ggufpy.errors import GGUFError
from ggufpy.format.rows import Numbers, Picked, Rows, Shaped, Transposed
from ggufpy.models.changes import Change, Join, PairHalves, Split, SplitEach, Transpose


def ones(*shape: int) -> Rows:
    return Numbers(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("change", "shapes", "said"),
    [
        (SplitEach(), [(8,)], r"a shape of \[8\] is none of experts"),
        (SplitEach(), [()], "is none of experts"),
        (SplitEach(), [(2, 2, 4, 4)], "is none of experts"),
        (SplitEach(), [(2, 3, 4)], "3 rows of gate and up"),
        (Join((4, 4)), [(4, 3), (5, 3)], r"tensors of \(4, 5\) rows cannot be joined; those of \(4, 4\) can"),
        (Join((4, 4)), [(4,), (4, 3)], "cannot be joined"),
        (Join((4, 4)), [(4, 3), (4,)], "cannot be joined"),
        (Join((4, 4)), [(4, 3), (4, 5)], "cannot be joined"),
        (Split((4, 4)), [(7, 3)], "7 rows cannot be split"),
        (PairHalves(4), [()], "1 rows are not 4 heads"),
    ],
)
def test_shapes_that_a_change_is_not_for(change: Change, shapes: list[Any], said: str) -> None:
    with pytest.raises(GGUFError, match=said):
        change.forward([ones(*shape) for shape in shapes])


def test_a_single_number_has_nothing_to_exchange() -> None:
    (made,) = Transpose().forward([ones()])
    assert made.shape == ()


def picked(rows: Rows) -> Any:
    """The order of rows that a tensor is read in."""
    inner = rows.source if isinstance(rows, Shaped) else rows
    assert isinstance(inner, Picked)
    return inner.order


@pytest.mark.parametrize("interleaved", [False, True])
def test_gate_and_up_there_and_back(interleaved: bool) -> None:
    whole = np.arange(3 * 8 * 5, dtype=np.float32).reshape(3, 8, 5)
    change = SplitEach(interleaved)
    gate, up = change.forward([Numbers(whole)])
    wanted = (whole[:, 0::2], whole[:, 1::2]) if interleaved else (whole[:, :4], whole[:, 4:])
    for made, values in zip((gate, up), wanted, strict=True):
        np.testing.assert_array_equal(made.to_numpy(), values)
    (back,) = change.backward([gate, up])
    np.testing.assert_array_equal(back.to_numpy(), whole)
    biases = whole[:, :, 0]
    made_biases = change.forward([Numbers(biases)])
    for made, values in zip(made_biases, wanted, strict=True):
        np.testing.assert_array_equal(made.to_numpy(), values[:, :, 0])
    (back,) = change.backward(made_biases)
    np.testing.assert_array_equal(back.to_numpy(), biases)


def test_layers_that_are_alike_share_the_orders_of_their_rows() -> None:
    """Hundreds of layers with hundreds of experts would else keep more numbers of rows than the work takes."""
    layers = [ones(6, 8, 4) for _ in range(2)]
    for change in (SplitEach(), SplitEach(interleaved=True)):
        one, other = (change.forward([layer]) for layer in layers)
        for a, b in zip(one, other, strict=True):
            assert picked(a) is picked(b)
        assert picked(change.backward(one)[0]) is picked(change.backward(other)[0])
    a, b = (PairHalves(4).forward([ones(8, 4)])[0] for _ in range(2))
    assert picked(a) is picked(b)
    (turned,) = Transpose().forward([ones(6, 8, 4)])
    assert isinstance(turned, Transposed)
