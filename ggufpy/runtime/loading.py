"""From an open file to an engine that is ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ggufpy.backends.cpu.model import Beside, Model, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.models.source import WeightSource

from .choice import right_kernels
from .engine import Engine

if TYPE_CHECKING:
    from ggufpy.models.lora import Adapter


def load(
    source: WeightSource, options: EngineOptions, beside: Beside = None, adapters: Sequence[Adapter] = ()
) -> Engine:
    """Packs the weights of an open GGUF file, or of arrays in memory, for this machine.

    Sequences say how much each of the `adapters` counts. `beside` is called when weights begin to be packed, which
    takes little Python: it may start other work.

    Raises GGUFError for an architecture that does not run, tensors that do not fit it, a context longer than the
    model's, a cache type that its heads do not fit, or too little memory.
    """
    options.check()
    plan = read_plan(source, options.n_ctx)
    if adapters:
        from ggufpy.models.lora import LoraSource
        from ggufpy.models.rewrite import with_lora

        source, plan = LoraSource(source, plan, adapters), with_lora(plan, adapters)
    model = Model(source, plan, options, right_kernels(source, plan, options), beside)
    return Engine(model, options.n_batch, options.prompt_ms / 1000)
