"""From an open file to an engine that is ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ggufpy.backends.cpu.model import Beside, Model, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Loaded
from ggufpy.models.source import WeightSource

from .choice import right_kernels
from .engine import Engine

if TYPE_CHECKING:
    from ggufpy.backends.gpu.placing import Devices
    from ggufpy.models.lora import Adapter


def load(
    source: WeightSource,
    options: EngineOptions,
    beside: Beside = None,
    adapters: Sequence[Adapter] = (),
    devices: Devices | None = None,
) -> Engine:
    """Packs the weights of an open GGUF file, or of arrays in memory, for this machine.

    Sequences say how much each of the `adapters` counts. `beside` is called when weights begin to be packed, which
    takes little Python: it may start other work. `devices` are the cards that layers may go to, None for this
    machine's.

    Raises GGUFError for an architecture that does not run, tensors that do not fit it, a context longer than the
    model's, a cache type that its heads do not fit, too little memory, or layers that cannot go where they should.
    """
    options.check()
    plan = read_plan(source, options.n_ctx)
    if adapters:
        from ggufpy.models.lora import LoraSource
        from ggufpy.models.rewrite import with_lora

        source, plan = LoraSource(source, plan, adapters), with_lora(plan, adapters)
    model: Loaded | None = None
    if options.gpu_layers:
        from .placed import CudaDevices, load_placed  # 10 ms of a start that needs no card

        model = load_placed(source, plan, options, beside, devices or CudaDevices())
    if model is None:
        model = Model(source, plan, options, right_kernels(source, plan, options), beside)
    return Engine(model, options.n_batch, options.prompt_ms / 1000)
