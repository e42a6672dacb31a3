"""Ops with a state of their own: declared, but not run on this CPU yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op
from ggufpy.models.recurrent import Conv, Scan

LOWERS = (Conv, Scan)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    what = "short convolutions" if isinstance(ops[0], Conv) else "scans with a state"
    raise GGUFError(f"the model has {what}, which ggufpy does not run yet")
