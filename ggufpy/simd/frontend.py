"""Numba's front end as far as kernels need it: types and IR; no rewriting of arrays, no calls from Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit, types
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

WHOLE = "ggufpy_whole_"  # what the names of functions begin with that are not inlined


class IrLibrary(CPUCodeLibrary):
    """What Numba collects a function's IR in, without making machine code of it.

    LLVM rewrites IR that it makes machine code from, and may then split an address so that a null pointer stands in
    the middle; inlined where that half is constant, it passes for proof that the code is never reached.
    """

    def _optimize_final_module(self) -> None:
        """Left to `jit/compile.py`, which optimises the whole kernel for its level."""

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


OPTIONS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def helper(function: Callable[..., Any]) -> Any:
    """Makes a function callable from kernels (and from nowhere else); inlined, constants in arguments and all."""
    return njit(pipeline_class=Frontend, **OPTIONS)(function)


def whole(function: Callable[..., Any]) -> Any:
    """As `helper`, of whole numbers and without a result, and one piece of code for all calls."""
    signature = types.void(*[types.int64] * len(inspect.signature(function).parameters))
    function.__qualname__ = WHOLE + function.__qualname__
    return njit(signature, pipeline_class=Frontend, **OPTIONS)(function)
