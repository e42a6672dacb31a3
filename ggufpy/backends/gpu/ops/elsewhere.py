"""Elsewhere and Awaited: no launches, but errands between them; what other ops launch in between runs meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.elsewhere import Errand, RowsAt, Sent, Taken
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.models.elsewhere import Awaited, Elsewhere
from ggufpy.models.op import Op

LOWERS = (Elsewhere, Awaited)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Errand]]:
    op = ops[0]
    assert isinstance(op, Elsewhere | Awaited)
    return 1, _errand(to, op)


def _errand(to: Lowering, op: Elsewhere | Awaited) -> Iterator[Errand]:
    if isinstance(op, Awaited):
        if to.views.place(op.y)[0] != op.y:  # all of a row is uploaded
            raise ValueError(f"{op.y} is a view, and is awaited")
        yield Taken(_rows(to, op.y, op.width))
        return
    for name, width in op.given.widths:
        if to.width(name) != width:
            raise ValueError(f"{name} is {to.width(name)} wide, and {width} are wanted elsewhere")
    given = tuple((name, _rows(to, name, width)) for name, width in op.given.widths)
    yield Sent(op.number, given, op.y)


def _rows(to: Lowering, name: str, width: int) -> RowsAt:
    place = to.place(name)
    if place.stride < width:
        raise ValueError(f"{width} columns do not fit {name}")
    return RowsAt(place.address, place.stride, width, to.shape.end)
