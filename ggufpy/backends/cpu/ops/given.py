"""Given: no call. What is there, the program has been given (`CpuProgram.run_layer`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.models.elsewhere import Given
from ggufpy.models.op import Op

LOWERS = (Given,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    return 1, iter(())
