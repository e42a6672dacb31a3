"""A GPU that is the CPU: the sources of kernels compiled with g++, a block's threads as fibers, memory of the host.

It is unkind where hardware is: shared memory begins as NaNs, memory has edges that are looked at after each launch,
lanes and threads that do not come to where others wait are an error, and threads and blocks run in an order that
can be chosen. See `gpu_shim/` for what stands for CUDA there.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from bisect import bisect_right, insort
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ggufpy.backends.gpu.device import ROW, Facts, Launch, Product, Report, Work
from ggufpy.backends.gpu.source import KernelSpec, text
from ggufpy.errors import GGUFError

HEADERS = Path(__file__).parent / "gpu_shim"
RED = 256  # bytes around what is allocated, as in runtime.cpp
ORDERS = ("forward", "backward", "shuffled")
BASE_FLAGS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden")
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\[\];")
_TAIL = """
}
extern "C" __attribute__((visibility("default"))) const shim::Kernel shim_kernel = {
    shim_name, shim_run, sizeof(Args), __start_shim_shared, __stop_shim_shared, THREADS};
"""


class ShimError(AssertionError):
    """A kernel did what it must not do on a device."""


def compiler() -> str:
    """The C++ compiler that kernels are compiled with. Skips the test where there is none."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("no g++ here, with which kernels for a GPU are compiled for the CPU")
    return found


@cache
def _cpu_flags() -> tuple[str, ...]:
    """Fused multiply-adds, which devices have, where this CPU has them."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    return ("-mfma", "-ffp-contract=fast") if re.search(r"^flags.*\bfma\b", cpu, re.MULTILINE) else ()


@cache
def _headers() -> str:
    return "".join(path.read_text("utf-8") for path in sorted(HEADERS.glob("*.[ch]*")))


def _folder() -> Path:
    """Where compiled kernels are kept."""
    cached = os.environ.get("GGUFPY_CACHE")
    folder = Path(cached) / "gpu-shim" if cached else Path(tempfile.gettempdir()) / f"ggufpy-gpu-shim-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _build(name: str, source: str, flags: Sequence[str]) -> Path:
    """The shared library of a source, compiled unless the cache has it."""
    flags = (*BASE_FLAGS, *_cpu_flags(), *flags)
    hashed = hashlib.sha256("\0".join((source, _headers(), *flags)).encode()).hexdigest()[:24]
    built = _folder() / f"{name}-{hashed}.so"
    if built.exists():
        return built
    with tempfile.TemporaryDirectory(dir=_folder()) as made:
        written = Path(made) / f"{name}.cpp"
        written.write_text(source, "utf-8")
        command = [compiler(), *flags, f"-I{HEADERS}", str(written), "-o", f"{made}/{name}.so"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise GGUFError(f"kernel {name} does not compile for the CPU:\n{done.stderr}")
        os.replace(f"{made}/{name}.so", built)  # several processes may make the same
    return built


class _Exported(ctypes.Structure):
    """shim::Kernel of runtime.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("run", ctypes.c_void_p),
        ("args", ctypes.c_size_t),
        ("shared", ctypes.c_void_p),
        ("shared_end", ctypes.c_void_p),
        ("threads", ctypes.c_int),
    )


@cache
def _runtime() -> ctypes.CDLL:
    source = (HEADERS / "runtime.cpp").read_text("utf-8")
    library = ctypes.CDLL(str(_build("runtime", source, ("-O2",))), mode=ctypes.RTLD_GLOBAL)
    library.shim_launch.restype = ctypes.c_char_p
    library.shim_launch.argtypes = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint * 3, ctypes.c_int, ctypes.c_size_t, ctypes.c_int,
        ctypes.c_uint64,
    )  # fmt: skip
    library.shim_add.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.shim_remove.argtypes = (ctypes.c_void_p,)
    return library


def _whole(spec: KernelSpec, level: str) -> str:
    """A kernel's source for the CPU."""
    arch = int(level.removeprefix("sm_")) * 10
    source = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(shim_now->dynamic);", text(spec))
    return f'#define __CUDA_ARCH__ {arch}\n#include "device.h"\nnamespace {{\n#line 1\n{source}{_TAIL}'


class ShimMemory:
    """Zeros of the host, with edges that kernels must not touch."""

    def __init__(self, device: ShimDevice, nbytes: int) -> None:
        self.nbytes = nbytes
        self._whole = np.zeros(nbytes + 2 * RED + ROW, np.uint8)
        start = self._whole.ctypes.data
        self.address = -(-(start + RED) // ROW) * ROW
        self._device = device

    def close(self) -> None:
        """Gives it back. What is used afterwards is an error."""
        self._device.forget(self)


class ShimGraph:
    """Work that was recorded: it runs again."""

    def __init__(self, device: ShimDevice, works: Sequence[Launch]) -> None:
        self._device, self._works = device, tuple(works)

    def launch(self) -> None:
        self._device.run(self._works)


class ShimDevice:
    """See above. `order` is that in which threads and blocks run: forward, backward or shuffled (by `seed`)."""

    def __init__(
        self, level: str = "sm_80", memory: int = 1 << 32, order: str = "forward", seed: int = 0, shared: int = 96 << 10
    ) -> None:
        compiler()
        self.facts = Facts("shim", level, 4, shared, memory)
        self._order, self._seed = ORDERS.index(order), seed
        self._runtime = _runtime()
        self._kernels: dict[KernelSpec, ctypes.CDLL] = {}
        self._live: dict[int, ShimMemory] = {}
        self._starts: list[int] = []  # addresses of live memory, in order
        self._used = 0

    def free(self) -> int:
        return self.facts.memory - self._used

    def allocate(self, nbytes: int, about: str) -> ShimMemory:
        if nbytes > self.free():
            raise GGUFError(f"{about} takes {nbytes} bytes of device memory, of which {self.free()} are free")
        memory = ShimMemory(self, nbytes)
        self._runtime.shim_add(memory.address, nbytes)
        self._live[memory.address] = memory
        insort(self._starts, memory.address)
        self._used += nbytes
        return memory

    def forget(self, memory: ShimMemory) -> None:
        """Memory that is given back."""
        if self._live.get(memory.address) is not memory:
            raise ShimError("device memory was given back twice")
        self._runtime.shim_remove(memory.address)
        del self._live[memory.address]
        self._starts.remove(memory.address)
        self._used -= memory.nbytes

    def _bytes(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Device memory, which must lie within one live allocation."""
        at = bisect_right(self._starts, address) - 1
        memory = self._live[self._starts[at]] if at >= 0 else None
        if memory is None or address + nbytes > memory.address + memory.nbytes:
            raise ShimError(f"{nbytes} bytes at {address:#x} are not within device memory")
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def upload(self, address: int, data: NDArray[Any]) -> None:
        if not data.flags.c_contiguous:
            raise ShimError("what is uploaded is not contiguous")
        self._bytes(address, data.nbytes)[:] = data.reshape(-1).view(np.uint8)

    def download(self, address: int, out: NDArray[Any]) -> None:
        if not out.flags.c_contiguous:
            raise ShimError("what is downloaded into is not contiguous")
        out.reshape(-1).view(np.uint8)[:] = self._bytes(address, out.nbytes)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        self._bytes(target, nbytes)[:] = self._bytes(source, nbytes).copy()

    def load(self, specs: Sequence[KernelSpec], report: Report | None = None) -> None:
        wanted = [spec for spec in dict.fromkeys(specs) if spec not in self._kernels]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, (spec, path) in enumerate(zip(wanted, pool.map(self._compile, wanted), strict=True), 1):
                self._kernels[spec] = ctypes.CDLL(str(path))
                if report is not None:
                    report(done, len(wanted))

    def _compile(self, spec: KernelSpec) -> Path:
        return _build(spec.name, _whole(spec, self.facts.level), ())

    def run(self, works: Sequence[Work]) -> None:
        for work in works:
            if isinstance(work, Product):
                self._multiply(work)
            else:
                self._launch(work)

    def _launch(self, launch: Launch) -> None:
        spec = launch.spec
        if spec not in self._kernels:
            self.load([spec])
        kernel = _Exported.in_dll(self._kernels[spec], "shim_kernel")
        shared = (kernel.shared_end or 0) - (kernel.shared or 0) + launch.shared
        if not 1 <= launch.threads <= spec.threads:
            raise ShimError(f"kernel {spec.name} is for 1 to {spec.threads} threads, not {launch.threads}")
        if not (1 <= launch.grid[0] < 1 << 31 and all(1 <= side <= 65535 for side in launch.grid[1:])):
            raise ShimError(f"kernel {spec.name} cannot have a grid of {launch.grid}")
        if shared > self.facts.shared:
            raise ShimError(f"kernel {spec.name} wants {shared} bytes of shared memory of {self.facts.shared}")
        if len(launch.arguments) != kernel.args:
            raise ShimError(f"kernel {spec.name} takes {kernel.args} bytes of arguments, not {len(launch.arguments)}")
        self._seed += 1
        grid = (ctypes.c_uint * 3)(*launch.grid)
        wrong = self._runtime.shim_launch(
            ctypes.addressof(kernel), launch.arguments, grid, launch.threads, launch.shared, self._order, self._seed
        )
        if wrong is not None:
            raise ShimError(wrong.decode())

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
            self.forget(memory)
        self._kernels.clear()
