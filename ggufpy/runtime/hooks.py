"""What the taps of an engine's plan are for: functions that look at activations, and sums of squares.

In: functions by the name of an activation, a collector. Out: a program that runs the plan with their taps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ggufpy.backends.cpu.program import CpuProgram
from ggufpy.backends.program import Program
from ggufpy.errors import GGUFError
from ggufpy.models.plan import Plan
from ggufpy.support import checks

from .sequence import Sequence

if TYPE_CHECKING:  # what few steps want is imported by them: 10 ms of a start
    from ggufpy.backends.cpu.collect import Collector
    from ggufpy.backends.cpu.lowering import Sink
    from ggufpy.models.taps import Hook, TapRows

Installed = dict[str, "list[Hook]"]  # functions that come and go together, by the activations that they are for


def on_the_cpu(program: Program) -> CpuProgram:
    """The program, for what only one on this CPU can do. Raises GGUFError for another."""
    if not isinstance(program, CpuProgram):
        raise GGUFError("this is done where all layers are on one CPU: load the model with n_gpu_layers 0 (-ngl 0)")
    return program


class Hooks:
    """Of one engine, which holds its lock around every change; `plan` is the model's.

    An activation may have several functions: each is given what those before it leave.
    """

    def __init__(self, plan: Plan, program: Program) -> None:
        self._plan, self._program = plan, program
        self._installed: list[Installed] = []
        self._collector: Collector | None = None
        self._sequences: tuple[Sequence, ...] = ()  # of the step that functions look at
        self.running = False

    def begin(self, new: Mapping[str, Hook]) -> Installed:
        """Adds functions, by names or patterns. Raises GGUFError for what is none, and for names of no activation."""
        from ggufpy.models.taps import activations, matching

        on_the_cpu(self._program)
        places, installed = activations(self._plan), Installed()
        for pattern, hook in new.items():
            name = checks.text("the name of an activation", pattern)
            if not callable(hook):
                raise GGUFError(f"the hook of {name} is {checks.shown(hook)}; a function (values, rows) is wanted")
            for one in matching(places, name):
                installed.setdefault(one, []).append(hook)
        self._tap([*self._installed, installed], self._collector)
        return installed

    def end(self, installed: Installed) -> None:
        """Takes functions away."""
        self._tap([one for one in self._installed if one is not installed], self._collector)

    def collect(self, collector: Collector | None) -> None:
        """Has steps add to this collector's sums. Raises GGUFError if there is another."""
        if collector is not None and self._collector is not None:
            raise GGUFError("what the model multiplies is being summed already: end that first")
        self._tap(self._installed, collector)

    def see(self, sequences: Callable[[], tuple[Sequence, ...]]) -> None:
        """Says of which sequences the step is that begins."""
        if self._installed:
            self._sequences = sequences()

    def forget(self) -> None:
        """The step has ended: its sequences may go."""
        self._sequences = ()

    def _tap(self, installed: list[Installed], collector: Collector | None) -> None:
        from ggufpy.backends.cpu.taps import HookSink
        from ggufpy.models.rewrite import with_taps

        program = on_the_cpu(self._program)
        functions: dict[str, list[Hook]] = {}
        for one in installed:
            for name, hooks in one.items():
                functions.setdefault(name, []).extend(partial(self._call, hook) for hook in hooks)
        plan = with_taps(self._plan, functions)
        sinks: dict[str, Sink] = {name: HookSink(tuple(hooks)) for name, hooks in functions.items()}
        if collector is not None:
            plan = collector.tapped(plan)
            sinks |= collector.sinks
        program.rewrite(plan, sinks)
        self._installed, self._collector = installed, collector

    def _call(self, hook: Hook, values: NDArray[Any], rows: TapRows) -> NDArray[Any] | None:
        """Calls a function, which is told the sequences too. Where it fails, its step ends."""
        self.running = True
        try:
            return hook(values, replace(rows, sequences=self._sequences))
        except BaseException:
            self.forget()
            raise
        finally:
            self.running = False
