"""Which layers go to which card: as many as was asked for, or as fit beside the cache.

In: a plan, what each of its layers takes in bytes, cards with what is free on them. Out: runs of layers with their
devices. Those are the last layers; the output goes with them. llama.cpp has this order too, but counts the output as
one of N (https://github.com/ggml-org/llama.cpp/pull/18148).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Protocol

from ggufpy.backends.options import EngineOptions, Layers
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op
from ggufpy.models.ops import Attend, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.support.records import dataclass

from .device import Device
from .lowering import runs

RESERVE = 512 << 20  # bytes left alone: the library's workspace, recorded work, what the screen takes meanwhile
GIB = 1 << 30


class Devices(Protocol):
    """The cards of this machine."""

    def why_none(self) -> str:
        """What is missing and what to do about it, on one line; nothing where there are cards."""

    def count(self) -> int: ...

    def open(self, index: int) -> Device:
        """Raises GGUFError for a card that cannot be used."""


@dataclass(frozen=True)
class Costs:
    """Bytes on a card: of each layer with its cache, of the head, and of what every card with layers has beside them
    (buffers, the step). `experts` are those of each layer that could be elsewhere; with some of them elsewhere, or with
    all, `work` would be what `works` finds, which takes as long as `work` did, twice."""

    layers: tuple[int, ...]
    head: int
    work: int
    experts: tuple[int, ...]
    works: Callable[[], tuple[int, int]]

    def of(self, start: int, stop: int) -> int:
        """What these layers take on one card."""
        return sum(self.layers[start:stop]) + self.work + (self.head if stop == len(self.layers) else 0)

    def without_experts(self, count: int) -> Costs:
        """With the experts of the first `count` layers elsewhere."""
        kept = tuple(0 if i < count else nbytes for i, nbytes in enumerate(self.experts))
        if kept == self.experts:
            return self
        layers = tuple(map(sum, zip(self.layers, kept, (-nbytes for nbytes in self.experts), strict=True)))
        return replace(self, layers=layers, experts=kept, work=self.works()[0 if any(kept) else 1])


@dataclass(frozen=True)
class Card:
    """A device, the share of layers that goes to it, what is free there, without the reserve, and its number."""

    device: Device
    share: float
    free: int
    index: int = 0


@dataclass(frozen=True)
class Part:
    """Layers from `start` to `stop` on a card."""

    card: Card
    start: int
    stop: int


def opened(options: EngineOptions, devices: Devices) -> list[Card]:
    """The cards that options name. Raises GGUFError for one that there is not."""
    count = devices.count()
    shares = options.tensor_split
    if len(shares) > count:
        raise GGUFError(
            f"--tensor-split has {len(shares)} shares, and there {_are(count, 'card')}: ggufpy doctor lists them"
        )
    if options.main_gpu >= count:
        raise GGUFError(f"--main-gpu {options.main_gpu}: there {_are(count, 'card')}, the first is 0")
    wanted = [(i, share) for i, share in enumerate(shares) if share > 0] or [(options.main_gpu, 1.0)]
    cards: list[Card] = []
    try:
        for index, share in wanted:
            device = devices.open(index)
            cards.append(Card(device, share, max(device.free() - RESERVE, 0), index))
    except BaseException:
        closed(cards)
        raise
    return cards


def closed(cards: Sequence[Card]) -> None:
    """Gives back what was opened."""
    for card in cards:
        card.device.close()


def experts_elsewhere(plan: Plan, cards: Sequence[Card], costs: Costs) -> int:
    """Of how many of the first layers experts should be elsewhere for as many layers as can be: the fewest that make
    room for all, or all where more layers fit then; 0 where that does not help."""
    if (fewest := _fewest_elsewhere(plan, cards, costs)) is not None:
        return fewest
    n = len(plan.layers)
    return n if _largest(plan, cards, costs.without_experts(n)) > _largest(plan, cards, costs) else 0


def _fewest_elsewhere(plan: Plan, cards: Sequence[Card], costs: Costs) -> int | None:
    """Of how many of the first layers experts must be elsewhere for all layers to fit, if they can."""
    n = len(plan.layers)
    if runnable(plan)[0] < n:
        return None
    parts = _parts(plan, n, cards)
    return next((count for count in range(n + 1) if not _fault(plan, parts, costs.without_experts(count))), None)


def _largest(plan: Plan, cards: Sequence[Card], costs: Costs) -> int:
    """How many of the last layers fit."""
    can, _ = runnable(plan)
    return next((n for n in range(can, 0, -1) if not _fault(plan, _parts(plan, n, cards), costs)), 0)


def place(plan: Plan, wanted: Layers, cards: Sequence[Card], costs: Costs) -> tuple[list[Part], str]:
    """Which layers go where, none if none can, and a line about it.

    Raises GGUFError where what was asked for is not "auto" and cannot be done, with the most that can.
    """
    can, why = runnable(plan)
    largest = _largest(plan, cards, costs)
    if wanted == "auto":
        parts = _parts(plan, largest, cards)
        return parts, _line(plan, parts, costs, why if largest == can < len(plan.layers) else "")
    count = len(plan.layers) if wanted == "all" else min(wanted, len(plan.layers))
    if count > can:
        raise GGUFError(f"-ngl {wanted}: {why}: {_advice(largest)}")
    parts = _parts(plan, count, cards)
    if fault := _fault(plan, parts, costs):
        away = _fewest_elsewhere(plan, cards, costs) if count == len(plan.layers) else None
        here = f", keep experts on the CPU (--n-cpu-moe {away})" if away else ""
        more = "" if len(cards) > 1 else ", or spread layers over several cards (--tensor-split)"
        raise GGUFError(f"-ngl {wanted}: {fault}: {_advice(largest)}{here}, a shorter context (-c){more}")
    return parts, _line(plan, parts, costs, "")


def _advice(largest: int) -> str:
    return f"use -ngl {largest}" if largest else "use -ngl 0"


def runnable(plan: Plan) -> tuple[int, str]:
    """How many of the last layers, with the output, have ops that all run on a GPU, and why not more."""
    if missing := _missing(plan.head):
        return 0, f"the output has {missing}, which the CPU alone runs"
    for count, layer in enumerate(reversed(range(len(plan.layers)))):
        if missing := _missing(plan.layers[layer]):
            return count, f"layer {layer} has {missing}, which the CPU alone runs"
    return len(plan.layers), ""


def _missing(ops: Sequence[Op]) -> str:
    """The ops that have no kernel."""
    return ", ".join(dict.fromkeys(type(op).__name__ for op in ops if not runs(op)))


def _parts(plan: Plan, count: int, cards: Sequence[Card]) -> list[Part]:
    """The last `count` layers by shares: card i has those from its share of them to the next one's."""
    n, total = len(plan.layers), sum(card.share for card in cards)
    ends = [n - count + int(count * end / total + 0.5) for end in accumulate((c.share for c in cards), initial=0.0)]
    parts = [Part(card, start, stop) for card, (start, stop) in zip(cards, pairwise(ends), strict=True)]
    return [part for part in parts if part.start < part.stop]


def _fault(plan: Plan, parts: Sequence[Part], costs: Costs) -> str:
    """Why these parts cannot be, or nothing."""
    for part in parts:
        if shared := _shared(plan, part.start):
            return f"layer {shared[0]} attends to what layer {shared[1]} keeps, so both must be on one device"
        need = costs.of(part.start, part.stop)
        if need > part.card.free:
            what = f"{part.stop - part.start} layers take {need / GIB:.1f} GiB on {part.card.device.facts.name}"
            return f"{what}, which has {part.card.free / GIB:.1f} GiB to give"
    return ""


def _shared(plan: Plan, cut: int) -> tuple[int, int] | None:
    """A layer from `cut` on and the one before `cut` that it attends to, if there is such a one."""
    before = {op.layer: i for i, ops in enumerate(plan.layers[:cut]) for op in ops if isinstance(op, StoreKv)}
    for i, ops in enumerate(plan.layers[cut:], cut):
        for op in ops:
            if isinstance(op, Attend) and op.layer in before:
                return i, before[op.layer]
    return None


def _line(plan: Plan, parts: Sequence[Part], costs: Costs, why: str) -> str:
    """What goes where."""
    n = len(plan.layers)
    if not parts:
        return f"0 of {n} layers on a GPU: {why or 'not one fits beside the cache; a shorter context (-c) takes less'}"
    told = []
    for part in parts:
        facts, need = part.card.device.facts, costs.of(part.start, part.stop)
        what = f"{part.stop - part.start} of {n} layers on {facts.name}"
        told.append(f"{what}, {need / GIB:.1f} of {facts.memory / GIB:.1f} GiB")
    return "; ".join(told) + (f" ({why})" if why else "")


def _are(count: int, what: str) -> str:
    return f"is {count} {what}" if count == 1 else f"are {count or 'no'} {what}s"
