"""ScaleByGate, ScaleByPosition and Clamp: one launch each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import end, launch, places, spec
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.scaling import Clamp, ScaleByGate, ScaleByPosition

LOWERS = (ScaleByGate, ScaleByPosition, Clamp)
_GATE = spec("scale_by_gate", ["x"], "y", (("weight", "const float*"), ("gate_columns", "int")))
_POSITION = spec(
    "scale_by_position", [], "x",
    (("positions", "const int*"), ("slope", "float"), ("length", "int"), ("offset", "int")),
)  # fmt: skip
_CLAMP = spec("clamp", [], "x", (("low", "float"), ("high", "float")))


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    if isinstance(op, ScaleByGate):
        return 1, _gate(to, op)
    if isinstance(op, ScaleByPosition):
        return 1, _position(to, op)
    assert isinstance(op, Clamp)
    return 1, _clamp(to, op)


def _gate(to: Lowering, op: ScaleByGate) -> Iterator[Work]:
    (columns,) = op.weight.shape
    if op.x in to.views.sharing(op.y) or to.width(op.x) != columns:
        raise ValueError(f"{op} does not fit its buffers")
    values = {
        **places(x=to.place(op.x), y=to.place(op.y)), "weight": to.parts.vector(op.weight), "gate_columns": columns,
        "columns": op.width, "end": end(to, op.y, op.width),
    }  # fmt: skip
    yield to.launch(_GATE, values, (1, to.shape.end, 1))


def _position(to: Lowering, op: ScaleByPosition) -> Iterator[Work]:
    values = {
        **places(x=to.place(op.x)), "positions": to.parts.step.positions, "slope": op.by.slope, "length": op.by.length,
        "offset": op.by.offset,
    }  # fmt: skip
    yield launch(to, _POSITION, op.x, op.width, values)


def _clamp(to: Lowering, op: Clamp) -> Iterator[Work]:
    yield launch(to, _CLAMP, op.x, op.width, {**places(x=to.place(op.x)), "low": op.low, "high": op.high})


def examples() -> list[KernelSpec]:
    """One of each kernel that is made here."""
    return [_GATE, _POSITION, _CLAMP]
