"""From ops to kernel calls, for one kind of step. What becomes of an op, its file in `ops/` says.

All addresses that kernels see are taken here and in `ops/`, from regions of checked size.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kv import CacheMemory
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import Rope, Tap, View
from ggufpy.models.scaling import PositionScale
from ggufpy.models.views import Views
from ggufpy.support.records import dataclass

from . import ops as op_modules
from .memory import Region
from .weights import Matrix
from .workspace import Workspace

if TYPE_CHECKING:
    from .taps import Given


@dataclass(frozen=True)
class Call:
    """One kernel call: its arguments by field name, what it reads and writes, and the op that it is part of, if any."""

    kernel: Kernel
    arguments: Mapping[str, int | float]
    reads: frozenset[str]
    writes: frozenset[str]
    op: Op | None = None


@dataclass(frozen=True)
class Resources:
    """What ops refer to: packed matrices, vectors padded to whole blocks, the cache, and of the step's rows angles by
    rope and factors by position."""

    matrices: Mapping[str, Matrix]
    vectors: Mapping[str, Region]
    cache: CacheMemory
    angles: Mapping[Rope, Region]
    factors: Mapping[PositionScale, Region]
    threads: int
    bulk: Mapping[str, Kernel]  # matrices whose bulk rows have a kernel of their own
    tiled_attention: bool  # of bulk rows
    scratch: Region


@dataclass(frozen=True)
class StepKind:
    """Steps that share a tape: how many exact rows share a reading of the weights (0: there are none), and whether
    there are bulk rows."""

    group: int
    bulk: bool


class Cut:
    """Where a tape ends for Python to have its turn; what follows goes on with what that leaves."""

    def give(self, given: Given, work: Workspace) -> None:
        """Its turn: what is given of a step, whose rows are in a workspace."""
        raise NotImplementedError


class Sink(Protocol):
    """What stands behind taps of a name: it says what becomes of them."""

    def lower(self, to: Lowering, op: Tap) -> Iterator[Call | Cut]: ...


Sinks = Mapping[str, Sink]  # by the name of the tap
NO_SINKS: Sinks = MappingProxyType({})


class OpModule(Protocol):
    """A file of `ops/`: the ops that it is about, and what becomes of those that some ops begin with."""

    LOWERS: tuple[type[Op], ...]

    def lower(self, to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call | Cut]]:
        """How many of the ops are taken together, at least the first, and their calls.

        Calls are made as they are asked for: by then `to` knows what the ops write.
        """


# The files of ops that are not named as the op: looking through all of them takes 3 ms of a start. An op that is in
# none of these places is found all the same.
FILES = {
    "ExpertMatMul": "expert_matmul", "Rotate": "attend", "StoreKv": "attend", "Clamp": "scaling",
    "ScaleByGate": "scaling", "ScaleByPosition": "scaling",
}  # fmt: skip


@cache
def _module(op: str) -> OpModule:
    """What lowers ops of a name. Adding an op is adding a file."""
    likely = FILES.get(op, op.lower())
    names = sorted((info.name for info in pkgutil.iter_modules(op_modules.__path__)), key=lambda name: name != likely)
    for name in names:
        module: OpModule = importlib.import_module(f"{op_modules.__name__}.{name}")
        if op in (kind.__name__ for kind in module.LOWERS):
            return module
    raise ValueError(f"nothing on the CPU runs {op}")


class Lowering:
    """Turns ops into calls on one workspace, for one kind of step."""

    def __init__(self, parts: Resources, work: Workspace, kind: StepKind, sinks: Sinks = NO_SINKS) -> None:
        self.parts, self.work, self.kind, self.sinks = parts, work, kind, sinks
        self.views = Views()
        self._widths = dict(work.widths)  # as written last
        self._made: set[str] = set()  # 8-bit rows ("q:") and tiles ("t:") that are up to date

    def calls(self, ops: Sequence[Op]) -> Iterator[Call | Cut]:
        """The calls of all these ops."""
        at = 0
        while at < len(ops):
            taken, calls = _module(type(ops[at]).__name__).lower(self, ops[at:])
            for op in ops[at : at + taken]:
                self.follow(op)
            yield from calls
            for op in ops[at : at + taken]:
                for name, width in op.writes.items():
                    if width % BLOCK and width < self.work.widths[name]:
                        yield from self._cleared(name, width)
            at += taken

    def follow(self, op: Op) -> None:
        """Notes what an op writes, before its calls are made. What was made of a view's name is not of its columns."""
        if isinstance(op, View):
            self._spoil([op.y])
        self.views.follow(op)
        self._widths.update(op.writes)

    def call(
        self,
        op: Op | None,
        code: Kernel,
        arguments: Mapping[str, int | float],
        reads: Iterable[str],
        writes: Iterable[str],
    ) -> Call:
        """A call for an op. "q:" and "t:" before a buffer's name stand for its 8-bit rows and its tiles, "e:" for the
        lists of rows by the experts that it names."""
        self._spoil(writes)
        self._made.update(name for name in writes if name[1:2] == ":")
        read, written = (frozenset(map(self._touched, names)) for names in (reads, writes))
        return Call(code, arguments, read, written, op)

    def _spoil(self, changed: Iterable[str]) -> None:
        """What was made of these names, and of what shares columns with them, is out of date."""
        if self._made:
            for name in (sharing for one in changed for sharing in self.views.sharing(one)):
                self._made -= {"q:" + name, "t:" + name}

    def _touched(self, name: str) -> str:
        """What threads wait for: the buffer that a view is in, or one form of a buffer or view."""
        return f"{self.work.name}:{self.views.place(name)[0]}"

    def address(self, name: str) -> int:
        """Of the first row of a buffer or view."""
        return self.work.address(*self.views.place(name))

    def stride(self, name: str) -> int:
        """Bytes from row to row."""
        return self.work.stride(self.views.place(name)[0])

    def width(self, name: str) -> int:
        """Columns of what a buffer or view holds now."""
        return self._widths[name]

    def blocks(self, name: str) -> int:
        """The same in blocks of 32."""
        return -(-self._widths[name] // BLOCK)

    def room(self, name: str) -> int:
        """Columns from the first to the end of the buffer."""
        buffer, at = self.views.place(name)
        return self.work.columns[buffer] - at

    def codes(self, buffer: str) -> int:
        """Where 8-bit rows of a buffer go; 0 if no matrix reads them in this kind of step."""
        wanted = self.kind.group or buffer in self.work.forms.quantised_in_bulk
        return self.work.codes_address(buffer) if wanted else 0

    def cut(self, op: Tap, cut: Cut) -> Iterator[Call | Cut]:
        """Has a tap's buffer changed by Python; what has been made of the buffer is made anew where it is read."""
        yield cut
        self._spoil([op.x])

    def forms(self, buffer: str) -> list[str]:
        """What a call writes that makes the 8-bit rows of a buffer beside its floats, where `codes` says so."""
        return [buffer, "q:" + buffer] if self.codes(buffer) else [buffer]

    def made(self, form: str) -> bool:
        """Whether 8-bit rows ("q:") or tiles ("t:") are up to date."""
        return form in self._made

    def parts_of(self, buffer: str) -> int:
        """How many 8-bit rows a row of a buffer is: one, or one for each part that an expert reads.

        Raises GGUFError for parts that are narrower than another layer's in the same buffer.
        """
        parts = self.work.parts(buffer)
        if parts > 1 and self.stride(buffer) != 4 * BLOCK * self.blocks(buffer):
            raise GGUFError("the model's layers have experts of several widths; ggufpy runs models that have one")
        return parts

    def quantised(self, buffer: str) -> Iterator[Call]:
        """Makes the 8-bit rows of a buffer, which a matrix is about to read, unless they are up to date."""
        if not self.made("q:" + buffer):
            parts = self.parts_of(buffer)
            values = {
                "step_ptr": self.work.step.rows_in_parts(parts), "x_ptr": self.address(buffer),
                "q_ptr": self.work.codes_address(buffer), "n_blocks": self.blocks(buffer) // parts,
                "x_stride": self.stride(buffer) // parts, "q_stride": self.work.codes_stride(buffer) // parts,
            }  # fmt: skip
            yield self.call(None, kernel("quantise"), values, [buffer], ["q:" + buffer])

    def _cleared(self, name: str, width: int) -> Iterator[Call]:
        """Makes the last block's padding zeros again: another layer has more columns in the same buffer."""
        if self.views.place(name)[0] == name:
            values = {
                "step_ptr": self.work.step.all_rows, "x_ptr": self.address(name), "x_stride": self.stride(name),
                "first": width, "last": self.blocks(name) * BLOCK,
            }  # fmt: skip
            yield self.call(None, kernel("clear"), values, [name], [name])

    def select(self, source: Workspace, name: str) -> Call:
        """Copies rows of another workspace's buffer into this one's."""
        w = self.work
        if source.columns[name] != w.columns[name]:
            raise ValueError(f"buffer {name} has {source.columns[name]} columns, {w.columns[name]} wanted")
        values = {
            "step_ptr": w.step.all_rows, "rows_ptr": w.step.sources_address, "x_ptr": source.address(name),
            "y_ptr": w.address(name), "row_bytes": w.stride(name),
        }  # fmt: skip
        read, written = frozenset({f"{source.name}:{name}"}), frozenset({f"{w.name}:{name}"})
        return Call(kernel("select_rows"), values, read, written)
