"""From an open file to an engine that is ready."""

from __future__ import annotations

from typing import Any

from ggufpy.backends.cpu.model import Beside, Model, read_plan
from ggufpy.backends.options import EngineOptions

from .choice import right_kernels
from .engine import Engine


def load(file: Any, options: EngineOptions, beside: Beside = None) -> Engine:
    """Packs the weights of an open GGUF file for this machine.

    `beside` is called when weights begin to be packed, which takes little Python: it may start other work.

    Raises GGUFError for an architecture that does not run, tensors that do not fit it, a context longer than the
    model's, a cache type that its heads do not fit, or too little memory.
    """
    options.check()
    plan = read_plan(file)
    return Engine(Model(file, plan, options, right_kernels(file, plan, options), beside), options.n_batch)
