"""From ops to work for the device, for one shape of step. What becomes of an op, its file in `ops/` says.

All addresses that kernels see are taken here and in `ops/`, from memory of checked size.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Rope, Tap, View
from ggufpy.models.views import Views, check_blocks
from ggufpy.support.records import dataclass

from . import ops as op_modules
from .device import Launch, Work
from .elsewhere import Errand
from .source import KernelSpec
from .step import StepAddresses, StepShape

if TYPE_CHECKING:
    from .kv import LayerCache
    from .weights import DeviceMatrix

BLOCK = 32  # columns; rows of buffers are whole blocks, and what is behind a buffer's width is zeros


@dataclass(frozen=True)
class Place:
    """Where a buffer or view is: the address of its first row, and the distance of rows in floats."""

    address: int
    stride: int


Piece = Work | Errand


class Parts(Protocol):
    """What ops refer to, and room of a program's own. All of it stays where it is as long as the program."""

    def buffer(self, name: str) -> Place:
        """float32 rows of a buffer, as wide as any layer writes it."""

    def matrix(self, weight: Weight) -> DeviceMatrix: ...

    def vector(self, weight: Weight) -> int:
        """float32 of a vector, padded with zeros to whole blocks; (parts, length) ones row by row, each padded."""

    def cache(self, layer: int) -> LayerCache: ...

    def angles(self, rope: Rope) -> int:
        """float32 (rows, dimensions / 2, 2): cosine and sine by which each pair of the step's rows is turned, times
        the rope's magnitude."""

    def room(self, about: str, nbytes: int) -> int:
        """Memory for what work leaves to work behind it in the same step: the same for the same `about`.

        One that turns out to be too small moves. Work that was made before goes on with what it had, so a name needs
        no size in it; but what is to be read again is asked for in one size in all of a step.
        """

    @property
    def step(self) -> StepAddresses: ...

    @property
    def processors(self) -> int:
        """Multiprocessors of the device, by which work is split."""


class OpModule(Protocol):
    """A file of `ops/`: the ops that it is about, and what becomes of those that some ops begin with."""

    LOWERS: tuple[type[Op], ...]

    def lower(self, to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Piece]]:
        """How many of the ops are taken together, at least the first, and their work.

        Work is made as it is asked for: by then `to` knows what the ops write.
        """


@cache
def _modules() -> Mapping[str, OpModule]:
    """What lowers ops, by the name of their class. Adding an op is adding a file."""
    found: dict[str, OpModule] = {}
    for info in pkgutil.iter_modules(op_modules.__path__):
        module: OpModule = importlib.import_module(f"{op_modules.__name__}.{info.name}")
        found.update((kind.__name__, module) for kind in module.LOWERS)
    return found


def runs(op: Op) -> bool:
    """Whether an op has a file here."""
    return type(op).__name__ in _modules() or isinstance(op, Tap | View)


class Lowering:
    """Turns ops into work on one program's memory, for one shape of step."""

    def __init__(self, parts: Parts, widths: Mapping[str, int], shape: StepShape) -> None:
        self.parts, self.shape = parts, shape
        self.views = Views()
        self._widths = dict(widths)  # as written last
        self._made: set[str] = set()  # other forms of rows ("q8:x", "f16:x") that are up to date

    def works(self, ops: Sequence[Op]) -> Iterator[Piece]:
        """The work of all these ops, and errands where some of it is done elsewhere."""
        at = 0
        while at < len(ops):
            op = ops[at]
            if isinstance(op, Tap | View):
                self._follow(op)
                at += 1
                continue
            taken, works = _modules()[type(op).__name__].lower(self, ops[at:])
            for each in ops[at : at + taken]:
                self._follow(each)
            yield from works
            at += taken

    def _follow(self, op: Op) -> None:
        """Notes what an op writes, before its work is made."""
        if isinstance(op, View):
            check_blocks(op, self.width(op.x), BLOCK)
            self._made = {form for form in self._made if form.partition(":")[2] != op.y}
        self.views.follow(op)
        self._widths.update(op.writes)
        if not isinstance(op, View):
            self.spoil(op.writes)

    def spoil(self, changed: Iterable[str]) -> None:
        """Other forms of these names, and of what shares columns with them, are out of date."""
        if self._made:
            sharing = {name for one in changed for name in self.views.sharing(one)}
            self._made = {form for form in self._made if form.partition(":")[2] not in sharing}

    def made(self, form: str) -> bool:
        """Whether rows in another form are up to date: "q8:NAME", "f16:NAME"."""
        return form in self._made

    def note(self, form: str) -> None:
        """Rows in another form are made now."""
        self._made.add(form)

    def place(self, name: str) -> Place:
        """Of a buffer or view."""
        buffer, at = self.views.place(name)
        whole = self.parts.buffer(buffer)
        return Place(whole.address + 4 * at, whole.stride)

    def width(self, name: str) -> int:
        """Columns of what a buffer or view holds now."""
        return self._widths[name]

    def launch(
        self, spec: KernelSpec, values: Mapping[str, int | float], grid: tuple[int, int, int], shared: int = 0
    ) -> Launch:
        """A launch of blocks with as many threads as the kernel is compiled for."""
        return Launch(spec, spec.record(values), grid, spec.threads, shared)
