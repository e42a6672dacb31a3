"""Ops that another device runs while the layer's own goes on: what it is given, and where what it leaves is awaited.

In: a plan. Out: the same with mixtures of experts run elsewhere, whose matrices are the most of such a model and of
which a token reads few; and a plan of what is run there, a layer for each mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ggufpy.support.records import dataclass

from .op import Op
from .ops import Add, AddScaled, ExpertMatMul, Input, IntoY, MatMul, Route
from .plan import Plan, widths

EXPERTS = "experts"  # the buffer of a mixture that is added to another


@dataclass(frozen=True)
class Given(Op):
    """Buffers that hold what another device has put there, and how wide they are."""

    widths: tuple[tuple[str, int], ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def writes(self) -> Mapping[str, int]:
        return dict(self.widths)


@dataclass(frozen=True)
class Elsewhere(Op):
    """Another device begins to run `ops` on copies of what is `given`. They leave `width` columns in buffer y there.

    No two of a plan have the same `number`. One is awaited before the next begins. Weights are those of `ops` alone.
    """

    number: int
    given: Given
    ops: tuple[Op, ...]
    y: str
    width: int

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.given.writes)

    @property
    def writes(self) -> Mapping[str, int]:
        return {}


@dataclass(frozen=True)
class Awaited(IntoY):
    """y = what the last `Elsewhere` leaves."""

    y: str
    width: int

    @property
    def reads(self) -> tuple[str, ...]:
        return ()


def with_experts_elsewhere(plan: Plan, layers: int) -> Plan:
    """The mixtures of the first `layers` layers run elsewhere; layers without one stay as they are."""
    changed = tuple(_changed(i, ops) for i, ops in enumerate(plan.layers[:layers]))
    return replace(plan, layers=(*changed, *plan.layers[layers:]))


def mixtures(plan: Plan) -> int:
    """How many layers have experts."""
    return sum(_run(ops) is not None for ops in plan.layers)


def elsewhere(plan: Plan) -> list[Elsewhere]:
    """What a plan has run elsewhere, in order."""
    return [op for op in plan.body if isinstance(op, Elsewhere)]


def plan_of(plan: Plan) -> Plan:
    """A plan of what another has run elsewhere: layer i is the i-th of `elsewhere`, behind what it is given."""
    layers = tuple((op.given, *op.ops) for op in elsewhere(plan))
    return replace(plan, embed=Input("x", plan.width), layers=layers, head=())


def _run(ops: Sequence[Op]) -> range | None:
    """From the choice of experts to their last product, which alone adds to something; None where there is no such
    mixture, or more than one."""
    choices = [i for i, op in enumerate(ops) if isinstance(op, Route)]
    products = [i for i, op in enumerate(ops) if isinstance(op, ExpertMatMul)]
    if len(choices) != 1 or not products or any(_product(ops[i]).add for i in products[:-1]):
        return None
    return range(choices[0], products[-1] + 1)


def _product(op: Op) -> ExpertMatMul:
    assert isinstance(op, ExpertMatMul)
    return op


def _changed(number: int, ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """A layer whose mixture is begun where it was, and awaited where it is wanted at the latest."""
    run = _run(ops)
    if run is None:
        return ops
    inner, last = ops[run.start : run.stop - 1], _product(ops[run.stop - 1])
    ((y, width),) = last.writes.items()
    out = EXPERTS if last.add else y
    moved = (*inner, replace(last, y=out, add=False))
    begun = Elsewhere(number, _given(ops, run), moved, out, width)
    behind = ops[run.stop :]
    _check(begun, last, behind)
    awaited: list[Op] = [Awaited(out, width)]
    if last.add:
        awaited.append(Add(out, y, width))
    at = _wanted(behind, y, last.add)
    return (*ops[: run.start], begun, *behind[:at], *awaited, *behind[at:])


def _given(ops: Sequence[Op], run: range) -> Given:
    """What a run of ops reads that others have written."""
    wide, written = widths(ops[: run.start]), set[str]()
    read: dict[str, int] = {}
    for op in ops[run.start : run.stop]:
        accumulated = set(op.writes) if op is ops[run.stop - 1] else set()
        read.update((name, wide[name]) for name in op.reads if name not in written | accumulated)
        written |= set(op.writes)
    return Given(tuple(read.items()))


def _check(begun: Elsewhere, last: ExpertMatMul, behind: Sequence[Op]) -> None:
    """Raises ValueError where an op reads what is now elsewhere, but for what is awaited."""
    lost = {name for op in begun.ops for name in op.writes} - {begun.y, last.y}
    for op in behind:
        if missing := lost & set(op.reads):
            raise ValueError(f"{op} reads {sorted(missing)} of a mixture that is elsewhere")
        lost -= set(op.writes)


def _wanted(behind: Sequence[Op], y: str, adds: bool) -> int:
    """Before which op what is awaited must be there: the first that has to do with y. A mixture that is added to y may
    wait until others have been added, too."""

    def passes(op: Op) -> bool:
        return y not in (*op.reads, *op.writes) or (adds and _adds_to(op, y))

    return next((i for i, op in enumerate(behind) if not passes(op)), len(behind))


def _adds_to(op: Op, y: str) -> bool:
    """Whether all that an op has to do with y is to add something to it."""
    adds = isinstance(op, Add | AddScaled) or (isinstance(op, MatMul | ExpertMatMul) and op.add)
    return adds and op.reads.count(y) == 1 and y in op.writes
