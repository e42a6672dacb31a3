"""Which level a model runs at: the best whose kernels give right answers on this machine; new ones are tried first."""

from __future__ import annotations

from ggufpy.backends.cpu.model import cache_shape, load_kernels
from ggufpy.backends.cpu.needs import matrix_names
from ggufpy.backends.options import EngineOptions
from ggufpy.jit import verdicts
from ggufpy.jit.cache import Library, library
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource
from ggufpy.simd.isa import Level


def right_kernels(source: WeightSource, plan: Plan, options: EngineOptions) -> Library:
    """Loaded, of the best level. Raises GGUFError if there is none, and for what `load_kernels` refuses."""

    def fault(level: Level) -> str:
        wanted = load_kernels(source, plan, options, library(level))
        if verdicts.was_right(wanted, level):
            return ""
        reason = _fault(source, plan, options, level)
        if not reason:
            verdicts.record_right(wanted, level)
        return reason

    return library(verdicts.first_right(fault))


def _fault(source: WeightSource, plan: Plan, options: EngineOptions, level: Level) -> str:
    """What is wrong with the level's kernels, or an empty string."""
    from .trial import Trial, fault_of, small  # hardly ever wanted, and 10 ms of a start

    shape = cache_shape(plan, options)
    types = {name: source.tensors[name].type for name in matrix_names((*plan.body, *plan.head))}
    kinds = shape.key_type.name, shape.value_type.name
    return fault_of(Trial(level.name, *small(plan, types), kinds, min(options.threads(), 2)))
