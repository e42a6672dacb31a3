"""Matrices on their way to a device: threads pack them, and the caller's thread copies what they have packed.

Devices belong to the thread that opened them, and what lies packed in between is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import accumulate
from queue import Full, Queue
from threading import Event
from typing import Any

from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.models.source import SourceTensor

from .device import ROW, Device, Memory
from .formats import matrix_bytes
from .weights import DeviceMatrix, matrix_of, pack

WAITING = 2  # pieces that may wait to be copied, for each thread
Advance = Callable[[int], None]
Pieces = Queue[tuple[int, NDArray[Any]] | SourceTensor]


class _Stopped(Exception):
    """Nobody copies any more."""


def bytes_of(tensor: SourceTensor) -> int:
    """What a tensor takes on a device, in whole rows of its memory."""
    return -(-matrix_bytes(quants.get(tensor.type), tensor.shape) // ROW) * ROW


def uploaded(
    device: Device, tensors: Sequence[SourceTensor], threads: int, advance: Advance
) -> tuple[dict[str, DeviceMatrix], Memory]:
    """Matrices by name in one piece of device memory, which is theirs; advance(bytes of the file) is called for each.

    Raises GGUFError for scales that are not finite and for too little memory.
    """
    sizes = [bytes_of(tensor) for tensor in tensors]
    memory = device.allocate(max(sum(sizes), ROW), "the weights")
    starts = dict(zip((tensor.name for tensor in tensors), accumulate(sizes, initial=memory.address), strict=False))
    pieces: Pieces = Queue(WAITING * threads)
    stopped = Event()

    def send(item: tuple[int, NDArray[Any]] | SourceTensor) -> bool:
        """Waits for room, unless nobody copies any more."""
        while not stopped.is_set():
            with suppress(Full):
                pieces.put(item, timeout=0.1)
                return True
        return False

    def put(start: int, at: int, array: NDArray[Any]) -> None:
        if not send((start + at, array)):
            raise _Stopped

    def one(tensor: SourceTensor) -> float:
        try:
            return pack(tensor, partial(put, starts[tensor.name]))
        finally:
            send(tensor)  # the last of it, or all that there is

    largest = sorted(tensors, key=lambda tensor: -tensor.nbytes)  # so that none is long alone at the end
    with ThreadPoolExecutor(threads) as pool:
        made: dict[str, Future[float]] = {tensor.name: pool.submit(one, tensor) for tensor in largest}
        try:
            _copy(device, pieces, len(tensors), advance)
        finally:
            stopped.set()
        multipliers = {name: future.result() for name, future in made.items()}
    return {each.name: matrix_of(each, starts[each.name], multipliers[each.name]) for each in tensors}, memory


def _copy(device: Device, pieces: Pieces, left: int, advance: Advance) -> None:
    """Copies pieces until as many tensors are through."""
    while left:
        piece = pieces.get()
        if isinstance(piece, tuple):
            device.upload(*piece)
        else:
            left -= 1
            advance(piece.nbytes)
