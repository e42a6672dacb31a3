"""A GPU that is the CPU: the sources of kernels compiled with g++, a block's threads as fibers, memory of the host.

It is at least as unkind as hardware. Always: shared memory begins as NaNs; memory has edges that are looked at after
each launch; addresses that are not aligned, and lanes or threads that do not come to where others wait, are errors.
Where it is strict: every load and store must be within memory, and ordered with those of other threads; arithmetic
that C++ leaves undefined is an error; and every launch runs in three orders of threads and blocks, which must leave
the same memory. `gpu_shim/` has what stands for CUDA.
"""

from __future__ import annotations

import ctypes
import os
from bisect import bisect_right, insort
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from gpu_shim_build import SOURCES, build, compiler, explained, library
from numpy.typing import NDArray

from ggufpy.backends.gpu.device import ROW, Facts, Launch, Product, Report, Work
from ggufpy.backends.gpu.source import KernelSpec, text
from ggufpy.errors import GGUFError

RED = 256  # bytes around what is allocated, as in inside.h
ORDERS = ("forward", "backward", "shuffled")
# Kernels that leave a list in any order, which no result depends on: what reads it is looked at in turn.
ANY_ORDER = ("expert_lists",)
# Bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical Specifications").
_SHARED = {"sm_75": 64 << 10, "sm_80": 163 << 10, "sm_86": 99 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10}
_SHARED |= {"sm_100": 227 << 10, "sm_120": 99 << 10}


class ShimError(AssertionError):
    """A kernel, or what launches it, did what it must not do on a device."""


class _Exported(ctypes.Structure):
    """shim::Kernel of runtime.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("run", ctypes.c_void_p),
        ("args", ctypes.c_size_t),
        ("image", ctypes.c_void_p),
        ("image_end", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("shared_end", ctypes.c_void_p),
    )


@cache
def _runtime() -> ctypes.PyDLL:
    """The library that runs kernels, for one of Python's threads at a time."""
    source = "".join(f'#include "{path.name}"\n' for path in sorted(SOURCES.glob("*.cpp")))
    runtime = ctypes.PyDLL(str(build("runtime", source, ("-O2",), "*")), mode=ctypes.RTLD_GLOBAL)
    runtime.shim_launch.restype = ctypes.c_char_p
    runtime.shim_launch.argtypes = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint * 3, ctypes.c_int, ctypes.c_size_t, ctypes.c_int,
        ctypes.c_uint64, ctypes.c_int,
    )  # fmt: skip
    runtime.shim_add.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    runtime.shim_remove.argtypes = (ctypes.c_void_p,)
    return runtime


@cache
def _loaded(path: Path) -> tuple[ctypes.CDLL, _Exported]:
    """A compiled kernel. It stays: a process has few, and their addresses are in no one's way."""
    loaded = ctypes.CDLL(str(path))
    return loaded, _Exported.in_dll(loaded, "shim_kernel")


class ShimMemory:
    """Zeros of the host, with edges that kernels must not touch."""

    def __init__(self, device: ShimDevice, nbytes: int) -> None:
        self.nbytes = nbytes
        whole = np.zeros(nbytes + 2 * RED + ROW, np.uint8)
        start = -(whole.ctypes.data + RED) % ROW + RED
        self.address = whole.ctypes.data + start
        self.content = whole[start : start + nbytes]
        self._device = device
        device.runtime.shim_add(self.address, nbytes)
        self._gone = finalize(self, device.runtime.shim_remove, self.address)  # also with a device that is not closed

    def close(self) -> None:
        """Gives it back. What is used afterwards is an error."""
        self._device.forget(self)
        self._gone()


class _Fetched:
    """What was there when it was fetched, which comes when it is waited for."""

    def __init__(self, pieces: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
        self._pieces = [(content.copy(), target) for content, target in pieces]
        for _, target in pieces:
            target[...] = 0xFF  # NaNs, until then

    def wait(self) -> None:
        for content, target in self._pieces:
            target[...] = content


class ShimGraph:
    """Work that was recorded: it runs again."""

    def __init__(self, device: ShimDevice, works: Sequence[Launch]) -> None:
        self._device, self._works = device, tuple(works)

    def launch(self) -> None:
        self._device.run(self._works)


class ShimDevice:
    """See above. Without `strict` threads and blocks run in one `order`: forward, backward or shuffled (by `seed`).

    GGUFPY_SHIM_STRICT=1 makes every device a strict one, which takes some ten times as long.
    """

    def __init__(
        self,
        level: str = "sm_80",
        memory: int = 1 << 32,
        order: str = "forward",
        seed: int = 0,
        strict: bool | None = None,
    ) -> None:
        compiler()
        self.facts = Facts("shim", level, 4, _SHARED[level], memory)
        self.strict = os.environ.get("GGUFPY_SHIM_STRICT") == "1" if strict is None else strict
        self._order, self._seed = order, seed
        self.runtime = _runtime()
        self._kernels: dict[KernelSpec, Path] = {}
        self._live: dict[int, ShimMemory] = {}
        self._starts: list[int] = []  # addresses of live memory, in order
        self._used = 0

    def free(self) -> int:
        return self.facts.memory - self._used

    def allocate(self, nbytes: int, about: str) -> ShimMemory:
        if nbytes > self.free():
            raise GGUFError(f"{about} takes {nbytes} bytes of device memory, of which {self.free()} are free")
        memory = ShimMemory(self, nbytes)
        self._live[memory.address] = memory
        insort(self._starts, memory.address)
        self._used += nbytes
        return memory

    def forget(self, memory: ShimMemory) -> None:
        """Memory that is given back."""
        if self._live.pop(memory.address, None) is None:
            raise ShimError("device memory is given back twice")
        self._starts.remove(memory.address)
        self._used -= memory.nbytes

    def _bytes(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Device memory, which must lie within one live allocation."""
        at = bisect_right(self._starts, address) - 1
        memory = self._live[self._starts[at]] if at >= 0 else None
        if memory is None or address + nbytes > memory.address + memory.nbytes:
            raise ShimError(f"{nbytes} bytes at {address:#x} are not within device memory")
        return memory.content[address - memory.address :][:nbytes]

    def upload(self, address: int, data: NDArray[Any]) -> None:
        if not data.flags.c_contiguous:
            raise ShimError("what is uploaded is not contiguous")
        self._bytes(address, data.nbytes)[:] = data.reshape(-1).view(np.uint8)

    def download(self, address: int, out: NDArray[Any]) -> None:
        if not out.flags.c_contiguous:
            raise ShimError("what is downloaded into is not contiguous")
        out.reshape(-1).view(np.uint8)[:] = self._bytes(address, out.nbytes)

    def fetch(self, copies: Sequence[tuple[int, NDArray[Any]]]) -> _Fetched:
        if any(not out.flags.c_contiguous for _, out in copies):
            raise ShimError("what is fetched into is not contiguous")
        return _Fetched([(self._bytes(at, out.nbytes), out.reshape(-1).view(np.uint8)) for at, out in copies])

    def copy(self, source: int, target: int, nbytes: int) -> None:
        if abs(source - target) < nbytes:
            raise ShimError("what is copied overlaps where it goes")
        self._bytes(target, nbytes)[:] = self._bytes(source, nbytes)

    def load(self, specs: Sequence[KernelSpec], report: Report | None = None) -> None:
        wanted = [spec for spec in dict.fromkeys(specs) if spec not in self._kernels]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(lambda spec: library(spec, self.facts.level, self.strict), wanted)
            for done, (spec, path) in enumerate(zip(wanted, made, strict=True), 1):
                self._kernels[spec] = path
                if report is not None:
                    report(done, len(wanted))

    def run(self, works: Sequence[Work]) -> None:
        for work in works:
            if isinstance(work, Product):
                self._multiply(work)
            elif self.strict:
                self._launch_in_all_orders(work)
            else:
                self._launch(work, self._order)

    def _launch_in_all_orders(self, launch: Launch) -> None:
        """All of them must leave the same memory."""
        before = {address: memory.content.copy() for address, memory in self._live.items()}
        first: dict[int, NDArray[np.uint8]] = {}
        for order in ORDERS:
            for address, content in before.items() if order != ORDERS[0] else ():
                self._live[address].content[:] = content
            self._launch(launch, order)
            if launch.spec.name in ANY_ORDER:
                continue
            for address, content in first.items():
                differs = np.flatnonzero(self._live[address].content != content)
                if len(differs):
                    raise ShimError(
                        f"kernel {launch.spec.name} leaves other memory where threads run {order}: {len(differs)} "
                        f"bytes, from byte {differs[0]} of an allocation of {len(content)} bytes on"
                    )
            first = first or {address: memory.content.copy() for address, memory in self._live.items()}

    def _launch(self, launch: Launch, order: str) -> None:
        spec = launch.spec
        if spec not in self._kernels:
            self.load([spec])
        _, kernel = _loaded(self._kernels[spec])
        self._check_launch(launch, kernel)
        self._seed += 1
        wrong = self.runtime.shim_launch(
            ctypes.addressof(kernel), launch.arguments, (ctypes.c_uint * 3)(*launch.grid), launch.threads,
            launch.shared, ORDERS.index(order), self._seed, self.strict,
        )  # fmt: skip
        if wrong is not None:
            raise ShimError(explained(wrong.decode(), self._kernels[spec], text(spec)))

    def _check_launch(self, launch: Launch, kernel: _Exported) -> None:
        name = launch.spec.name
        if not 1 <= launch.threads <= launch.spec.threads:
            raise ShimError(f"kernel {name} is for 1 to {launch.spec.threads} threads, not {launch.threads}")
        if not (1 <= launch.grid[0] < 1 << 31 and all(1 <= side <= 65535 for side in launch.grid[1:])):
            raise ShimError(f"kernel {name} cannot have a grid of {launch.grid}")
        fixed = (kernel.shared_end or 0) - (kernel.shared or 0)
        if fixed > 48 << 10 or fixed + launch.shared > self.facts.shared:
            raise ShimError(f"kernel {name} wants {fixed} + {launch.shared} bytes of shared memory: too much")
        if len(launch.arguments) != kernel.args:
            raise ShimError(f"kernel {name} takes {kernel.args} bytes of arguments, not {len(launch.arguments)}")
        arguments = np.frombuffer(launch.arguments, launch.spec.dtype)[0]
        for argument, kind in launch.spec.args:
            address = int(arguments[argument])
            if kind.endswith("*") and address:
                self._bytes(address, 0)

    def _matrix(self, address: int, shape: tuple[int, int], stride: int, dtype: str) -> NDArray[Any]:
        rows, columns = shape
        kind = np.dtype(dtype)
        nbytes = ((rows - 1) * stride + columns) * kind.itemsize
        flat = self._bytes(address, nbytes).view(kind)
        return np.lib.stride_tricks.as_strided(flat, shape, (stride * kind.itemsize, kind.itemsize))

    def _factor(self, address: int, shape: tuple[int, int], stride: int, dtype: str) -> NDArray[np.float32]:
        if dtype == "f16":
            return self._matrix(address, shape, stride, "<f2").astype(np.float32)
        if dtype == "bf16":
            bits = self._matrix(address, shape, stride, "<u2").astype(np.uint32) << 16
            return bits.view(np.float32)
        raise ShimError(f"a product of {dtype}")

    def _multiply(self, product: Product) -> None:
        a = self._factor(product.a, (product.m, product.k), product.a_stride, product.dtype)
        b = self._factor(product.b, (product.n, product.k), product.b_stride, product.dtype)
        c = self._matrix(product.c, (product.m, product.n), product.c_stride, "<f4")
        c[:] = (c if product.add else 0) + a @ b.T

    def record(self, works: Sequence[Work]) -> ShimGraph:
        launches = [work for work in works if isinstance(work, Launch)]
        if len(launches) < len(works):
            raise ShimError("products of the library are not recorded")
        self.load([launch.spec for launch in launches])
        return ShimGraph(self, launches)

    def close(self) -> None:
        for memory in list(self._live.values()):
            memory.close()
        self._kernels.clear()
