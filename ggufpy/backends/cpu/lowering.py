"""From ops to kernel calls, for one kind of step. What becomes of an op, its file in `ops/` says.

All addresses that kernels see are taken here and in `ops/`, from regions of checked size.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kv import CacheMemory
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.plan import Op, Rope

from . import ops as op_modules
from .collect import Collector
from .memory import Region
from .weights import Matrix
from .workspace import Workspace


@dataclass(frozen=True)
class Call:
    """One kernel call: its arguments by field name, what it reads and writes, and the op that it is part of, if any."""

    kernel: Kernel
    arguments: Mapping[str, int | float]
    reads: frozenset[str]
    writes: frozenset[str]
    op: Op | None = None


@dataclass(frozen=True)
class Parts:
    """What ops refer to: packed matrices, vectors padded to whole blocks, the cache, angles of the step by rope."""

    matrices: Mapping[str, Matrix]
    vectors: Mapping[str, Region]
    cache: CacheMemory
    angles: Mapping[Rope, Region]
    threads: int
    bulk: Mapping[str, Kernel]  # matrices whose bulk rows have a kernel of their own
    tiled_attention: bool  # of bulk rows
    scratch: Region


@dataclass(frozen=True)
class Kind:
    """Steps that share a tape: how many exact rows share a reading of the weights (0: there are none), and whether
    there are bulk rows."""

    group: int
    bulk: bool


class OpModule(Protocol):
    """A file of `ops/`: the ops that it is about, and what becomes of those that some ops begin with."""

    LOWERS: tuple[type[Op], ...]

    def lower(self, to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterable[Call]]:
        """How many of the ops are taken together, at least the first, and their calls."""


@cache
def _modules() -> dict[type[Op], OpModule]:
    """By op. Adding an op is adding a file."""
    found: dict[type[Op], OpModule] = {}
    for info in pkgutil.iter_modules(op_modules.__path__):
        module: OpModule = importlib.import_module(f"{op_modules.__name__}.{info.name}")
        found.update(dict.fromkeys(module.LOWERS, module))
    return found


class Lowering:
    """Turns ops into calls on one workspace, for one kind of step."""

    def __init__(self, parts: Parts, work: Workspace, kind: Kind, collector: Collector | None = None) -> None:
        self.parts, self.work, self.kind = parts, work, kind
        self.collector = collector if collector is not None and collector.wants(work.name) else None
        self.tiled: set[str] = set()  # buffers whose tiles are up to date
        self.collected: set[str] = set()  # buffers whose squares have been added up

    def calls(self, ops: Sequence[Op]) -> Iterator[Call]:
        """The calls of all these ops."""
        at = 0
        while at < len(ops):
            taken, calls = _modules()[type(ops[at])].lower(self, ops[at:])
            yield from calls
            at += taken

    def call(
        self,
        op: Op | None,
        code: Kernel,
        arguments: Mapping[str, int | float],
        reads: Iterable[str],
        writes: Iterable[str],
    ) -> Call:
        """A call for an op. "q:" and "t:" before a buffer's name stand for its 8-bit rows and its tiles."""
        read, written = (frozenset(f"{self.work.name}:{buffer}" for buffer in names) for names in (reads, writes))
        self.tiled.difference_update(writes)
        self.collected.difference_update(writes)
        return Call(code, arguments, read, written, op)

    def codes(self, buffer: str) -> int:
        """Where 8-bit rows of a buffer go; 0 if no matrix reads them in this kind of step."""
        wanted = self.kind.group or buffer in self.work.forms.quantised_in_bulk
        return self.work.codes_address(buffer) if wanted else 0

    def quantised(self, op: Op, buffer: str) -> Iterator[Call]:
        """Makes the 8-bit rows of a buffer, if a matrix reads them, after a call that makes none."""
        w = self.work
        if self.codes(buffer):
            values = {
                "step": w.step.all_rows, "x": w.address(buffer), "q": self.codes(buffer),
                "blocks": w.columns[buffer] // BLOCK, "x_stride": w.stride(buffer), "q_stride": w.codes_stride(buffer),
            }  # fmt: skip
            yield self.call(op, kernel("quantise"), values, [buffer], ["q:" + buffer])

    def select(self, source: Workspace, name: str) -> Call:
        """Copies rows of another workspace's buffer into this one's."""
        w = self.work
        if source.columns[name] != w.columns[name]:
            raise ValueError(f"buffer {name} has {source.columns[name]} columns, {w.columns[name]} wanted")
        values = {
            "step": w.step.all_rows, "rows": w.step.sources_address, "x": source.address(name), "y": w.address(name),
            "stride": w.stride(name),
        }  # fmt: skip
        read, written = frozenset({f"{source.name}:{name}"}), frozenset({f"{w.name}:{name}"})
        return Call(kernel("select_rows"), values, read, written)
