"""Layers of a model on cards and on the CPU, as options say: which go where, and what is made of each run of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ggufpy.backends.cpu.model import Beside, Model, cache_shape
from ggufpy.backends.gpu.device import Device
from ggufpy.backends.gpu.estimate import costs
from ggufpy.backends.gpu.model import GpuModel
from ggufpy.backends.gpu.placing import Card, Devices, Part, closed, opened, place
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Loaded
from ggufpy.backends.split import SplitModel
from ggufpy.errors import GGUFError
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource

from .choice import right_kernels
from .engine import step_rows


class CudaDevices:
    """The NVIDIA cards of this machine, through CuPy, which nothing imports before one is opened."""

    def why_none(self) -> str:
        """See Devices."""
        from ggufpy.backends.gpu.listing import why_none

        return why_none()

    def count(self) -> int:
        """See Devices."""
        from ggufpy.backends.gpu.listing import devices

        return len(devices())

    def open(self, index: int) -> Device:
        """See Devices."""
        from ggufpy.backends.gpu.cuda import CudaDevice

        return CudaDevice(index)


def load_placed(
    source: WeightSource, plan: Plan, options: EngineOptions, beside: Beside, devices: Devices
) -> Loaded | None:
    """A model with layers on cards; None where options leave it to the machine ("auto"), and all stay on the CPU.

    Raises GGUFError for what was asked for and cannot be: no card, ops that none runs, too little memory.
    """
    auto = options.gpu_layers == "auto"
    if why := devices.why_none():
        if not auto:
            raise GGUFError(f"layers cannot go to a GPU: {why}")
        _note(options, f"all layers run on the CPU: {why}")
        return None
    try:
        cards = opened(options, devices)
    except GGUFError as error:  # a card that is there and cannot be used
        if not auto:
            raise
        _note(options, f"all layers run on the CPU: {error}")
        return None
    try:
        parts = _parts(source, plan, options, cards)
        if parts:
            return _loaded(source, plan, options, beside, parts)
    except BaseException:
        closed(cards)
        raise
    closed(cards)
    return None


def _parts(source: WeightSource, plan: Plan, options: EngineOptions, cards: Sequence[Card]) -> list[Part]:
    """Which layers go where; what is not wanted is closed."""
    shape = cache_shape(plan, options)
    rows = step_rows(plan, shape.positions, shape.sequences, options.n_batch)
    takes = costs(source, plan, options, rows, cards[0].device.facts)
    parts, line = place(plan, options.gpu_layers, cards, takes)
    _note(options, line)
    if parts:
        used = [part.card.device for part in parts]
        closed([card for card in cards if card.device not in used])
    return parts


def _loaded(source: WeightSource, plan: Plan, options: EngineOptions, beside: Beside, parts: Sequence[Part]) -> Loaded:
    """The layers before these on the CPU, if there are any, and each part on its card."""
    models: list[Loaded] = []
    first = parts[0].start
    if first:
        # With the head, so that kernels can be tried: it is not packed.
        kernels = right_kernels(source, replace(plan, layers=plan.layers[:first]), options)
        models.append(Model(source, plan.part(0, first), options, kernels, beside))
    elif beside is not None:
        beside()
    for part in parts:
        models.append(GpuModel(source, plan.part(part.start, part.stop), options, part.card.device))
    return models[0] if len(models) == 1 else SplitModel(models)


def _note(options: EngineOptions, line: str) -> None:
    if options.note is not None:
        options.note(f"ggufpy: {line}")
