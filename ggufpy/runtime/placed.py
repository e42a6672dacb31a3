"""Layers of a model on cards and on the CPU, as options say: which go where, and what is made of each run of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ggufpy.backends.cpu.model import Beside, Model, cache_shape, load_kernels
from ggufpy.backends.gpu.device import Device
from ggufpy.backends.gpu.estimate import costs
from ggufpy.backends.gpu.model import GpuModel
from ggufpy.backends.gpu.placing import Card, Costs, Devices, Part, closed, experts_elsewhere, opened, place
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Loaded
from ggufpy.backends.split import SplitModel
from ggufpy.errors import GGUFError
from ggufpy.models.elsewhere import elsewhere, mixtures, plan_of, with_experts_elsewhere
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource
from ggufpy.support.records import dataclass

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
        cards = _right_cards(source, plan, options, devices)
    except GGUFError as error:  # a card that is there and cannot be used
        if not auto:
            raise
        _note(options, f"all layers run on the CPU: {error}")
        return None
    try:
        placed = _placed(source, plan, options, cards)
        if placed.parts:
            return _loaded(source, plan, options, beside, placed)
    except BaseException:
        closed(cards)
        raise
    closed(cards)
    return None


def _right_cards(source: WeightSource, plan: Plan, options: EngineOptions, devices: Devices) -> list[Card]:
    """Those that options name, which have given right answers. Raises GGUFError for others."""
    from .card_trial import check  # 14 ms, which a machine without a card can do without

    cards = opened(options, devices)
    try:
        for card in cards:
            check(source, plan, options, card.device.facts, partial(devices.open, card.index))
    except BaseException:
        closed(cards)
        raise
    return cards


@dataclass(frozen=True)
class _Placed:
    """What goes to cards, of a plan that may have some of its experts elsewhere."""

    plan: Plan
    parts: Sequence[Part]


def _placed(source: WeightSource, plan: Plan, options: EngineOptions, cards: Sequence[Card]) -> _Placed:
    """Which layers go where; what is not wanted is closed."""
    shape = cache_shape(plan, options)
    rows = step_rows(plan, shape.positions, shape.sequences, options.n_batch)
    takes = costs(source, plan, options, rows, cards[0].device.facts)
    here = _experts_here(plan, options, cards, takes)
    plan = with_experts_elsewhere(plan, here)
    parts, line = place(plan, options.gpu_layers, cards, takes.without_experts(here))
    away = sum(len(elsewhere(plan.part(part.start, part.stop))) for part in parts)
    _note(options, line + (f"; experts of {away} of them on the CPU" if away else ""))
    if parts:
        used = [part.card.device for part in parts]
        closed([card for card in cards if card.device not in used])
    return _Placed(plan, parts)


def _experts_here(plan: Plan, options: EngineOptions, cards: Sequence[Card], takes: Costs) -> int:
    """Of how many layers experts stay on the CPU: as options say, or with "auto" as `experts_elsewhere` does.

    What is left of a layer without its experts is a small part of its bytes, and its cache is on the card with it.
    """
    count = options.experts_here(len(plan.layers))
    if count and not mixtures(plan):
        _note(options, "the model has no experts to keep on the CPU")
    return count or (experts_elsewhere(plan, cards, takes) if options.gpu_layers == "auto" else 0)


def _loaded(source: WeightSource, plan: Plan, options: EngineOptions, beside: Beside, placed: _Placed) -> Loaded:
    """The layers before those on cards on the CPU, if there are any, and each part on its card."""
    models: list[Loaded] = []
    first = placed.parts[0].start
    if first:
        # With the head, so that kernels can be tried: it is not packed.
        kernels = right_kernels(source, replace(plan, layers=plan.layers[:first]), options)
        models.append(Model(source, plan.part(0, first), options, kernels, beside))
    elif beside is not None:
        beside()
    for part in placed.parts:
        on_card = placed.plan.part(part.start, part.stop)
        other = _elsewhere(source, plan, options, on_card)
        models.append(GpuModel(source, on_card, options, part.card.device, other))
    return models[0] if len(models) == 1 else SplitModel(models)


def _elsewhere(source: WeightSource, plan: Plan, options: EngineOptions, on_card: Plan) -> Model | None:
    """What layers on a card have run on the CPU."""
    away = elsewhere(on_card)
    if not away:
        return None
    # Kernels are tried with whole layers.
    kernels = right_kernels(source, replace(plan, layers=tuple(plan.layers[op.number] for op in away)), options)
    moved = plan_of(on_card)
    load_kernels(source, moved, options, kernels)
    return Model(source, moved, options, kernels)


def _note(options: EngineOptions, line: str) -> None:
    if options.note is not None:
        options.note(f"ggufpy: {line}")
