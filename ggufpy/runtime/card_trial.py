"""A known-answer check of a card: a model's kinds of layers, small, on the card against float64 in NumPy.

As on the CPU (`trial.py`), whoever loads a model with a card for the first time has its kernels tried: no text is
better than a wrong one. What was right is kept, by card, driver, compiler, sources and model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from ggufpy.backends import gpu
from ggufpy.backends.cpu.model import cache_shape
from ggufpy.backends.cpu.needs import matrix_names
from ggufpy.backends.gpu.device import Device, Facts
from ggufpy.backends.gpu.model import GpuModel
from ggufpy.backends.gpu.placing import runnable
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.jit import verdicts
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource

from .trial import POSITIONS, Trial, error_on, fault_in, small

# Prompts that go through our product on tensor cores and through the library's; one token made, recorded and replayed;
# two and four that share a reading of the weights.
PIECES = (30, 111, 1, 1, 1, 2, 4, 1)


def check(source: WeightSource, plan: Plan, options: EngineOptions, facts: Facts, opened: Callable[[], Device]) -> None:
    """Tries a card, opened once more for it, unless it is known to be right. Raises GGUFError where it is wrong."""
    count, _ = runnable(plan)
    if not count:
        return
    trial = _trial(source, replace(plan, layers=plan.layers[-count:]), options, facts.level)
    key = "\0".join([facts.name, facts.software, _sources(), repr(trial)])
    if verdicts.has_passed("card", key):
        return
    if options.note is not None:
        options.note(f"ggufpy: trying the kernels on {facts.name}, once for a kind of model")
    if fault := fault_on(trial, opened()):
        advice = "use -ngl 0, and please report it with what `ggufpy doctor` prints"
        raise GGUFError(f"{facts.name} gives wrong answers ({fault}): {advice}")
    verdicts.record_passed("card", key)


def _trial(source: WeightSource, plan: Plan, options: EngineOptions, level: str) -> Trial:
    shape = cache_shape(plan, options)
    types = {name: source.tensors[name].type for name in matrix_names((*plan.body, *plan.head))}
    kinds = shape.key_type.name, shape.value_type.name
    return Trial(level, *small(plan, types), kinds, 1, PIECES, POSITIONS)


def fault_on(trial: Trial, device: Device) -> str:
    """What is wrong with a device's answers, or an empty string. The device is closed."""
    try:
        error = error_on(trial, lambda source, options: GpuModel(source, trial.plan, options, device))
    except BaseException:
        device.close()
        raise
    return fault_in(trial, error)


@cache
def _sources() -> str:
    """A digest of all that answers come from."""
    digest = hashlib.sha256()
    home = Path(gpu.__file__).parent
    for path in sorted(path for path in home.rglob("*") if path.suffix in (".py", ".cu", ".cuh")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
