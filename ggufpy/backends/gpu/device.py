"""A device as the rest sees it: memory by address, kernels by their spec, one stream on which all happens in order.

`cuda.py` is one through CuPy; tests have one that runs the same sources on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.support.records import dataclass

from .source import KernelSpec

Bytes = NDArray[np.uint8]
Report = Callable[[int, int], None]  # how many of how many kernels are compiled
ROW = 128  # bytes that every piece of device memory is aligned to


@dataclass(frozen=True)
class Facts:
    """What a device is: its name, its compute capability ("sm_90"), multiprocessors, bytes of shared memory that a
    block may have, bytes of memory in all, and what kernels are compiled and run by."""

    name: str
    level: str
    processors: int
    shared: int
    memory: int
    software: str = ""


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments: `grid` blocks (x, y, z) of `threads` threads, `shared` bytes of dynamic shared
    memory each. Addresses in `arguments` are of the device."""

    spec: KernelSpec
    arguments: bytes
    grid: tuple[int, int, int]
    threads: int
    shared: int = 0


@dataclass(frozen=True)
class Product:
    """c (m, n) float32 = a (m, k) · bᵀ (n, k), both f16 (or bf16), sums in float32; += with `add`. All in rows that are
    `stride`s (in elements) apart, at addresses of the device: the library's product, for many rows."""

    m: int
    n: int
    k: int
    a: int
    a_stride: int
    b: int
    b_stride: int
    c: int
    c_stride: int
    dtype: str = "f16"
    add: bool = False


Work = Launch | Product


class Graph(Protocol):
    """Work that was recorded once and is launched as one."""

    def launch(self) -> None: ...


class Arrival(Protocol):
    """Copies to the host that are on their way."""

    def wait(self) -> None:
        """Returns when all have arrived, whatever was launched after them."""


class Memory(Protocol):
    """Device memory that stays where it is until it is closed."""

    address: int
    nbytes: int


class Device(Protocol):
    """See above. What is launched runs in order; `download` waits for what was launched before."""

    facts: Facts

    def free(self) -> int:
        """Bytes of memory that can be had now."""

    def allocate(self, nbytes: int, about: str) -> Memory:
        """Zeros, aligned to ROW bytes. Raises GGUFError that names `about` where there is too little memory."""

    def upload(self, address: int, data: NDArray[Any]) -> None:
        """Copies a C-contiguous array to the device, in order with what is launched; `data` may change afterwards."""

    def download(self, address: int, out: NDArray[Any]) -> None:
        """Copies into a C-contiguous array, once everything before is through."""

    def fetch(self, copies: Sequence[tuple[int, NDArray[Any]]]) -> Arrival:
        """Begins to copy from addresses into C-contiguous arrays, once everything before is through. What is launched
        next does not wait for it. One at a time: until it has arrived nothing else may be fetched."""

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Within the device."""

    def load(self, specs: Sequence[KernelSpec], report: Report | None = None) -> None:
        """Compiles kernels, or takes them from the disk's cache, before they are wanted. Raises GGUFError."""

    def run(self, works: Sequence[Work]) -> None:
        """Launches work."""

    def record(self, works: Sequence[Work]) -> Graph:
        """Captures work: launches alone, no products of the library."""

    def close(self) -> None:
        """Gives all memory back."""
