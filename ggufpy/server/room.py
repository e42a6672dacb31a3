"""Room for models: how many may be loaded at once, how many bytes they may take, and who waits for it.

Those who wait are in a line. What fits beside all that is loaded goes in at once; for the first of the line models that
nobody uses are ended, those first that were used least recently, as soon as that makes room enough.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from ggufpy.server.loader import Abandoned
from ggufpy.server.problems import UNAVAILABLE, Problem
from ggufpy.server.slot import Slot, State
from ggufpy.support.progress import human_bytes

RETRY = {"retry-after": "10"}  # seconds


class Room:
    """At most `models` models (0 for any number) and `memory` bytes (0 likewise). `slots` are all there are, `end` is
    called for one that is to go. A load waits `patience` seconds."""

    def __init__(
        self,
        models: int,
        memory: int,
        patience: float,
        slots: Callable[[], Iterable[Slot]],
        end: Callable[[Slot], None],
    ) -> None:
        self.models, self.memory, self._patience = models, memory, patience
        self._slots, self._end = slots, end
        self._line: list[Slot] = []

    @property
    def taken(self) -> int:
        """Bytes that are taken."""
        return sum(slot.need for slot in self._slots() if slot.holds)

    async def take(self, slot: Slot, need: int) -> None:
        """Gives a model its room, once there is any.

        Raises Problem 503 where there will be none, or not in time, and Abandoned once nobody waits for it any more.
        """
        slot.need = need
        if self.memory and need > self.memory:
            raise Problem(
                UNAVAILABLE,
                f"{slot.entry.name} takes {human_bytes(need)}, and models may take {human_bytes(self.memory)} in all: "
                "a smaller context (-c) or fewer texts at once (-np) take less (ggufpy serve --max-memory)",
                "out_of_memory",
                "model",
            )
        clock = asyncio.get_running_loop().time
        end = clock() + self._patience
        self._line.append(slot)
        try:
            while not self._goes_in(slot):
                if not slot.users or slot.abandoned:
                    raise Abandoned
                left = end - clock()
                if left <= 0:
                    raise self._too_late(slot)
                slot.wake.clear()
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(slot.wake.wait(), left)
        finally:
            self._line.remove(slot)
            self.changed()

    def changed(self) -> None:
        """There may be room: those who wait look again."""
        for slot in self._line:
            slot.wake.set()

    def _goes_in(self, slot: Slot) -> bool:
        """Takes room for a model if there is any; else has others end, if it is the first that waits."""
        holding = [each for each in self._slots() if each.holds]
        closing = [each for each in holding if each.state is State.CLOSING]
        first = self._line[0] is slot
        if self._fits(slot, holding) and (first or not closing):
            slot.holds = True
            return True
        if first:
            staying = [each for each in holding if each.state is not State.CLOSING]
            for each in self._leaving(slot, staying):
                self._end(each)
        return False

    def _leaving(self, slot: Slot, staying: list[Slot]) -> list[Slot]:
        """Those of `staying` that have to go for a model; none where even that is not enough."""
        leaving: list[Slot] = []
        for each in sorted((each for each in staying if each.idle), key=lambda each: each.used):
            if not self._fits(slot, staying):
                staying.remove(each)
                leaving.append(each)
        for each in leaving[::-1]:  # one of another size may have made room enough
            if self._fits(slot, [*staying, each]):
                staying.append(each)
                leaving.remove(each)
        return leaving if self._fits(slot, staying) else []

    def _fits(self, slot: Slot, others: list[Slot]) -> bool:
        if self.models and len(others) >= self.models:
            return False
        return not self.memory or slot.need + sum(each.need for each in others) <= self.memory

    def _too_late(self, slot: Slot) -> Problem:
        holding = [each for each in self._slots() if each.holds]
        bytes_of = f" of {human_bytes(self.memory)}" if self.memory else ""
        count = f" of {self.models}" if self.models else ""
        return Problem(
            UNAVAILABLE,
            f"{slot.entry.name} ({human_bytes(slot.need)}) has waited {self._patience:g} s for room: {len(holding)}"
            f"{count} models are loaded and at work, with {human_bytes(self.taken)}{bytes_of}; try again later "
            "(ggufpy serve --max-models, --max-memory)",
            "no_room", "model", RETRY,
        )  # fmt: skip
