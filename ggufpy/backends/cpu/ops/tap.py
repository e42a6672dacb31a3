"""Tap: what the sink of its name makes of it; nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Cut, Lowering
from ggufpy.models.op import Op
from ggufpy.models.ops import Tap

LOWERS = (Tap,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call | Cut]]:
    op = ops[0]
    assert isinstance(op, Tap)
    return 1, to.sinks[op.name].lower(to, op) if op.name in to.sinks else iter(())
