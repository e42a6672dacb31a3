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


class _Host:
    """Memory of the host for rows, which grows."""

    def __init__(self) -> None:
        self._floats: Floats = np.zeros(0, np.float32)

    def rows(self, like: RowsAt) -> Floats:
        """As many as there are, whole with what is between them."""
        count = like.rows * like.stride
        if self._floats.size < count:
            self._floats = np.zeros(count, np.float32)
        return self._floats[:count].reshape(like.rows, like.stride)


@dataclass(frozen=True)
class _Away:
    """What has been sent, and is on its way into these arrays."""

    sent: Sent
    given: Mapping[str, Floats]
    arrival: Arrival


class Errands:
    """Between a device and another."""

    def __init__(self, device: Device, other: Other | None, ops: Sequence[Elsewhere]) -> None:
        self._device, self._other = device, other
        self._layers = {op.number: i for i, op in enumerate(ops)}
        self._given = {name: _Host() for op in ops for name in op.reads}
        self._left = _Host()
        self._away: _Away | None = None

    def run(self, errand: Errand) -> None:
        """Raises ValueError for a result that nothing was sent for."""
        if isinstance(errand, Sent):
            self._send(errand)
        else:
            self._take(errand)

    def _send(self, errand: Sent) -> None:
        arrays = {name: self._given[name].rows(rows) for name, rows in errand.given}
        arrival = self._device.fetch([(rows.address, arrays[name]) for name, rows in errand.given])
        given = {name: arrays[name][:, : rows.width] for name, rows in errand.given}
        self._away = _Away(errand, given, arrival)

    def _take(self, errand: Taken) -> None:
        away, self._away = self._away, None
        if away is None or self._other is None:
            raise ValueError("nothing is elsewhere")
        away.arrival.wait()
        left = self._other.run_layer(self._layers[away.sent.number], away.given, away.sent.y)
        y, host = errand.y, self._left.rows(errand.y)
        host[:, : y.width], host[:, y.width :] = left[:, : y.width], 0.0
        self._device.upload(y.address, host)

    def close(self) -> None:
        """Ends the other's threads."""
        if self._other is not None:
            self._other.close()
