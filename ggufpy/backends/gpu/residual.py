"""Additions to the residual stream with the norms beside them, as one launch: of what is added, and of the sum.

Families with norms before and after each part of a layer have Norm(r → r), Add(r → x), Norm(x → y) in a row. Each of
the two norms may be missing. What is written is what the ops write one by one, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.models.op import Op
from ggufpy.models.ops import Add, Norm
from ggufpy.support.records import dataclass

from . import coded
from .device import Launch
from .elementwise import end, spec
from .lowering import Lowering, Place
from .norms import Shape, kind, shape_of, vector
from .source import KernelSpec

WIDEST = 6144  # columns: two rows and the weights of two norms are in registers together
_NORM = (("weight", "const float*"), ("bias", "const float*"), ("eps", "float"))
_MORE = (
    ("y", "float*"), ("y_stride", "long long"), *((f"{name}_before", kind) for name, kind in _NORM),
    *((f"{name}_behind", kind) for name, kind in _NORM), *coded.ARGS,
)  # fmt: skip


@dataclass(frozen=True)
class Residual:
    """An addition with a norm of what is added `before` it and one of the sum `behind` it, one of them at least;
    and what comes after all that."""

    add: Add
    r: Place
    x: Place
    before: Norm | None
    behind: Norm | None
    rest: Sequence[Op]

    @property
    def taken(self) -> int:
        return 1 + (self.before is not None) + (self.behind is not None)


def begins(to: Lowering, ops: Sequence[Op]) -> Residual | None:
    """What ops begin with, where it is an addition with norms. It is asked before `to` follows them."""
    first = ops[0]
    before = first if isinstance(first, Norm) else None
    ops = ops[1:] if before else ops
    if not ops or not isinstance(add := ops[0], Add) or add.width > WIDEST:
        return None
    if before and (before.x != before.y or before.y != add.x or not _whole(before, add.width)):
        return None
    if add.x in to.views.sharing(add.y):
        return None
    behind, rest = _behind(to, add, ops[1:])
    if before is None and behind is None:
        return None
    return Residual(add, to.place(add.x), to.place(add.y), before, behind, rest)


def _behind(to: Lowering, add: Add, ops: Sequence[Op]) -> tuple[Norm | None, Sequence[Op]]:
    """The norm of the sum, if ops begin with it and it writes elsewhere or in place, and what follows it."""
    if not (ops and isinstance(op := ops[0], Norm) and op.x == add.y and _whole(op, add.width)):
        return None, ops
    apart = op.y not in to.views.sharing(add.x) | to.views.sharing(add.y)
    return (op, ops[1:]) if apart or op.y == add.y else (None, ops)


def _whole(op: Norm, width: int) -> bool:
    """Whether it is of whole rows of a width."""
    return op.groups == 1 and op.part == width


def works(to: Lowering, found: Residual) -> Iterator[Launch]:
    """One launch."""
    add, behind = found.add, found.behind
    last, y = end(to, add.y, add.width), Place(0, 0)
    shape = shape_of(1, last)
    values: dict[str, int | float] = {
        "r": found.r.address, "r_stride": found.r.stride, "x": found.x.address, "x_stride": found.x.stride,
        "columns": add.width, "end": last, "r_end": end(to, add.x, add.width), "y_end": 0,
    }  # fmt: skip
    rows = 0
    if behind is not None:
        y, values["y_end"] = to.place(behind.y), end(to, behind.y, add.width)
        rows = coded.rows_wanted(to, behind.y, add.width, found.rest)
    values |= {
        "y": y.address, "y_stride": y.stride, **_norm(to, found.before, "before"), **_norm(to, behind, "behind"),
        **coded.codes(to, behind.y if behind else "", rows),
    }  # fmt: skip
    yield to.launch(_spec(_kind(found.before), _kind(behind), shape), values, (1, to.shape.end, 1))


def _kind(op: Norm | None) -> str:
    return "NONE" if op is None else kind(op)


def _norm(to: Lowering, op: Norm | None, which: str) -> dict[str, int | float]:
    """The arguments of a norm, zeros of one that there is not."""
    weight, bias, eps = (0, 0, 0.0)
    if op is not None:
        (weight, _), (bias, _), eps = vector(to, op, op.weight), vector(to, op, op.bias), op.eps
    return {f"weight_{which}": weight, f"bias_{which}": bias, f"eps_{which}": eps}


def _spec(before: str, behind: str, shape: Shape) -> KernelSpec:
    made = spec("add_norm", ["r"], "x", (*_MORE, ("r_end", "int"), ("y_end", "int")))
    args = tuple((name, "float*" if name == "r" else kind) for name, kind in made.args)
    defines = (("BEFORE", before), ("BEHIND", behind), *shape.defines, ("ALIGNED", 1))
    return KernelSpec(made.name, args, defines, shape.threads)


def examples() -> list[KernelSpec]:
    """One of each way to stand together, and of each way to share rows out."""
    kinds = [("RMS", "RMS"), ("LAYER", "LAYER"), ("RMS", "NONE"), ("NONE", "RMS"), ("NONE", "LAYER"), ("L2", "L2")]
    widest, *shapes = (shape_of(1, columns) for columns in (WIDEST, 2304, 512, 96))
    return [*(_spec(*pair, widest) for pair in kinds), *(_spec("RMS", "RMS", shape) for shape in shapes)]
