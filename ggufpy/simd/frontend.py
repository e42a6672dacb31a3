"""Numba's front end as far as kernels need it: types and IR; no rewriting of arrays, no calls from Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    FixupArgs,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)


class IrLibrary(CPUCodeLibrary):
    """What Numba collects a function's IR in, without making machine code of it.

    LLVM rewrites IR that it makes machine code from, and may then split an address so that a null pointer stands in
    the middle; inlined where that half is constant, it passes for proof that the code is never reached.
    """

    def _optimize_final_module(self) -> None:
        """Left to `kernels/compile.py`, which optimises the whole kernel for its level."""

    def _finalize_final_module(self) -> None:
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowered(NativeLowering):
    """Lowers to IR in an `IrLibrary`.

    Numba tells functions apart by what stands for their machine code, so each gets an object of its own.
    """

    _name = "ggufpy_lowered"

    def run_pass(self, state: Any) -> bool:
        state.flags.no_compile = True
        state.library = IrLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        super().run_pass(state)
        lowered = state["cr"]
        stand_in: Any = [].append
        state["cr"] = lowered._replace(cfunc=stand_in)
        state.targetctx.insert_user_function(stand_in, lowered.fndesc, [state.library])
        return True


PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    IRLegalization,
    Lowered,
    NoPythonBackend,
)


class Frontend(CompilerBase):
    """A pipeline of PASSES."""

    def define_pipelines(self) -> list[Any]:
        manager = PassManager("ggufpy")
        for step in PASSES:
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


def helper(function: Callable[..., Any]) -> Any:
    """Makes a function callable from kernels (and from nowhere else).

    One that differs in nothing from an earlier one, such as a helper of several kernels, is that one: a process types
    and lowers it once. What it closes over is looked at here, so it must not change afterwards.
    """
    try:
        return _made(_Helper(_identity(function), function))
    except TypeError:  # it closes over something without a hash
        return _made.__wrapped__(_Helper((), function))


@dataclass(frozen=True)
class _Helper:
    """A function, and all that its code depends on."""

    identity: tuple[Any, ...]
    function: Callable[..., Any] = field(compare=False)


@functools.cache
def _made(of: _Helper) -> Any:
    options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(pipeline_class=Frontend, **options)(of.function)


def _identity(function: Any) -> tuple[Any, ...]:
    cells = tuple(_exact(cell.cell_contents) for cell in function.__closure__ or ())
    return function.__code__, function.__module__, _exact(function.__defaults__), cells


def _exact(value: Any) -> Any:
    """Stands for a value: 1, 1.0 and True are equal, and so are 0.0 and -0.0, but they do not compile to the same."""
    if isinstance(value, tuple):
        return type(value), tuple(map(_exact, value))
    return type(value), repr(value) if isinstance(value, float | np.floating) else value
