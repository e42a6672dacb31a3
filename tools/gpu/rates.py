"""What a card can do at best, measured: bytes a second that it copies, operations a second of cuBLAS."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from ggufpy.backends.gpu.device import Device, Product

COPIED = 1 << 30  # bytes, much more than any cache
SIDE = 8192  # of the matrices
TURNS, TIMES = 5, 10


def copy_rate(device: Device) -> float:
    """Bytes a second, those read and those written."""
    source, target = (device.allocate(COPIED, "a copy") for _ in range(2))
    seconds = _median(device, target.address, lambda: device.copy(source.address, target.address, COPIED))
    return 2 * COPIED / seconds


def matrix_rate(device: Device) -> float:
    """Floating-point operations a second: f16 factors, float32 sums."""
    a, b = (device.allocate(2 * SIDE * SIDE, "a matrix") for _ in range(2))
    c = device.allocate(4 * SIDE * SIDE, "a product")
    rows = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32).astype(np.float16)
    for factor in (a, b):  # zeros would need less power, and so be faster
        device.upload(factor.address, rows)
    work = [Product(SIDE, SIDE, SIDE, a.address, SIDE, b.address, SIDE, c.address, SIDE)]
    return 2 * SIDE**3 / _median(device, c.address, lambda: device.run(work))


def _median(device: Device, address: int, once: Callable[[], None]) -> float:
    """Seconds of one of many that follow each other. The first turn does not count."""
    seconds, last = [], np.empty(1, np.uint8)
    for _ in range(TURNS + 1):
        device.download(address, last)  # waits for all before
        start = time.perf_counter()
        for _ in range(TIMES):
            once()
        device.download(address, last)
        seconds.append((time.perf_counter() - start) / TIMES)
    return median(seconds[1:])
