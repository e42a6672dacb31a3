"""The steps of sampling, a module each, which ends with its class (`step.py`), `STEP`.

Modules are found by their files. They import NumPy where they compute, because the command line, which asks them for
their options, needs none.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from ggufpy.generate.sampling.step import Step
from ggufpy.support.options import Option


@cache
def chain() -> tuple[type[Step], ...]:
    """Every step, in the order in which they run."""
    steps = [import_module(f"{__name__}.{module.name}").STEP for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted(steps, key=lambda step: step.PLACE))


@cache
def options() -> tuple[Option, ...]:
    """What the steps can be asked, in their order."""
    return tuple(option for step in chain() for option in step.OPTIONS)
