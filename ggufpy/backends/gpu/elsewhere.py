"""What another device does of a step: rows are sent there, and what it leaves is taken back.

In: pieces among a step's work that say what goes and what comes (`models/elsewhere.py`). What the device has been given
to do in between, it does meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ggufpy.backends.program import Floats
from ggufpy.models.elsewhere import Elsewhere
from ggufpy.support.records import dataclass

from .device import Arrival, Device


@dataclass(frozen=True)
class RowsAt:
    """`rows` rows at an address of the device, `stride` floats apart, `width` of which count."""

    address: int
    stride: int
    width: int
    rows: int


@dataclass(frozen=True)
class Sent:
    """What goes elsewhere, by buffer, for the `Elsewhere` of that number, which leaves its result in y."""

    number: int
    given: tuple[tuple[str, RowsAt], ...]
    y: str


@dataclass(frozen=True)
class Taken:
    """Where what is left elsewhere goes."""

    y: RowsAt


Errand = Sent | Taken


class Other(Protocol):
    """A program of what is run elsewhere, a layer for each `Elsewhere` (`CpuProgram`)."""

    def run_layer(self, layer: int, given: Mapping[str, Floats], y: str) -> Floats: ...
    def close(self) -> None: ...


class Errands:
    """Between a device and another."""

    def __init__(self, device: Device, other: Other | None, ops: Sequence[Elsewhere]) -> None:
        self._device, self._other = device, other
        self._layers = {op.number: i for i, op in enumerate(ops)}
        self._hosts: dict[str, Floats] = {}
        self._away: tuple[Sent, dict[str, Floats], Arrival] | None = None

    def run(self, errand: Errand) -> None:
        """Raises ValueError for a result that nothing was sent for."""
        if isinstance(errand, Sent):
            given = {name: self._host(name, rows) for name, rows in errand.given}
            copies = [(rows.address, given[name]) for name, rows in errand.given]
            self._away = errand, given, self._device.fetch(copies)
            return
        if self._away is None or self._other is None:
            raise ValueError("nothing is elsewhere")
        (sent, given, arrival), self._away = self._away, None
        arrival.wait()
        narrow = {name: given[name][:, : rows.width] for name, rows in sent.given}
        left = self._other.run_layer(self._layers[sent.number], narrow, sent.y)
        host = self._host("", errand.y)
        host[:, : errand.y.width], host[:, errand.y.width :] = left[:, : errand.y.width], 0.0
        self._device.upload(errand.y.address, host)

    def _host(self, name: str, rows: RowsAt) -> Floats:
        """Memory of the host for rows, whole with what is between them."""
        count = rows.rows * rows.stride
        if name not in self._hosts or self._hosts[name].size < count:
            self._hosts[name] = np.zeros(count, np.float32)
        return self._hosts[name][:count].reshape(rows.rows, rows.stride)

    def close(self) -> None:
        """Ends the other's threads."""
        if self._other is not None:
            self._other.close()
