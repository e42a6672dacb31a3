"""As much of CuPy as `ggufpy.backends.gpu.cuda` uses, on the host: copies and products are done, kernels are noted.

An address is that of host memory. `tests/test_gpu_cuda.py` compares its names and signatures with those of CuPy.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

Calls = list[tuple[Any, ...]]


class CUDARuntimeError(RuntimeError):
    """Of a code, as CuPy's: 2 is no memory."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__({2: "cudaErrorMemoryAllocation: out of memory"}.get(status, f"cudaError{status}: broken"))


class CUDADriverError(RuntimeError):
    pass


class CUBLASError(RuntimeError):
    pass


class CompileException(Exception):
    pass


@dataclass
class World:
    """The machine: what happened in `calls`, and what is to go wrong."""

    count: int = 1
    free: int = 1 << 30
    capability: tuple[int, int] = (9, 0)
    refused: dict[str, str] = field(default_factory=dict)  # kernel: the compiler's log
    broken: int = 0  # what a synchronisation says
    calls: Calls = field(default_factory=list)
    compiled: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    capture: Calls | None = None
    stack: list[Any] = field(default_factory=list)  # of contexts: device, stream

    def note(self, *call: Any) -> None:
        """Something that happens on a stream, which is that of the device."""
        assert [type(each).__name__ for each in self.stack[-2:]] == ["Device", "Stream"], self.stack
        (self.calls if self.capture is None else self.capture).append(call)


def bytes_at(address: int, nbytes: int) -> np.ndarray:
    """Host memory as an array."""
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8)


def _matrix(address: int, kind: int, leading: int, columns: int) -> np.ndarray:
    """(leading, columns) column by column, as cuBLAS has it."""
    if kind == 14:  # bf16: the upper half of a float32
        words = bytes_at(address, 2 * leading * columns).view(np.uint16).astype(np.uint32) << 16
        return words.view(np.float32).reshape(columns, leading).T
    dtype = {0: np.dtype(np.float32), 2: np.dtype(np.float16)}[kind]
    return bytes_at(address, dtype.itemsize * leading * columns).view(dtype).reshape(columns, leading).T


class _Entered:
    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> Any:
        self._world.stack.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._world.stack.pop() is self


def install(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Makes this the CuPy that is imported."""
    cuda = ModuleType("cupy.cuda")
    modules = {
        "cupy": ModuleType("cupy"), "cupy.cuda": cuda, "cupy.cuda.compiler": ModuleType("cupy.cuda.compiler"),
        "cupy_backends": ModuleType("cupy_backends"), "cupy_backends.cuda": ModuleType("cupy_backends.cuda"),
        "cupy_backends.cuda.api": ModuleType("api"), "cupy_backends.cuda.libs": ModuleType("libs"),
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    runtime, blas = _Runtime(world), _Blas(world)
    vars(modules["cupy"]).update(cuda=cuda, RawKernel=_kernel_class(world), __version__="14.2.0")
    vars(modules["cupy.cuda.compiler"]).update(CompileException=CompileException)
    vars(modules["cupy_backends.cuda.api"]).update(
        runtime=runtime, driver=SimpleNamespace(CUDADriverError=CUDADriverError)
    )
    vars(modules["cupy_backends.cuda.libs"]).update(cublas=blas, nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)))
    vars(cuda).update(_classes(world), compiler=modules["cupy.cuda.compiler"], get_cuda_path=lambda: None)


class _Runtime:
    """cupy_backends.cuda.api.runtime."""

    CUDARuntimeError = CUDARuntimeError
    memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice = 1, 2, 3

    def __init__(self, world: World) -> None:
        self._world = world

    def getDeviceCount(self) -> int:
        return self._world.count

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        major, minor = self._world.capability
        return {
            "name": b"Fake Card", "major": major, "minor": minor, "multiProcessorCount": 132,
            "sharedMemPerBlockOptin": 232448, "totalGlobalMem": 80 << 30,
        }  # fmt: skip

    def memGetInfo(self) -> tuple[int, int]:
        assert self._world.stack
        return self._world.free, 80 << 30

    def memsetAsync(self, ptr: int, value: int, size: int, stream: int) -> None:
        self._world.note("memset", ptr, size, stream)
        ctypes.memset(ptr, value, size)

    def memcpyAsync(self, dst: int, src: int, size: int, kind: int, stream: int) -> None:
        self._world.note("memcpy", kind, size, stream)
        ctypes.memmove(dst, src, size)


class _Blas:
    """cupy_backends.cuda.libs.cublas."""

    CUBLASError = CUBLASError
    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 0, 1, 68, -1

    def __init__(self, world: World) -> None:
        self._world = world

    def create(self) -> int:
        self._world.note("create")
        return 77

    def destroy(self, handle: int) -> None:
        self._world.note("destroy", handle)

    def gemmEx(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
        B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
    ) -> None:  # fmt: skip
        """C = alpha op(A) op(B) + beta C, of columns that are ld apart."""
        assert (handle, computeType, algo, Ctype) == (77, 68, -1, 0)
        self._world.note("gemm", m, n, k)
        a = _matrix(A, Atype, lda, m if transa else k)
        b = _matrix(B, Btype, ldb, k if transb else n)
        a = a[:k].T if transa else a[:m]
        b = b[:n].T if transb else b[:k]
        c = _matrix(C, 0, ldc, n)[:m]
        by, kept = (float(bytes_at(at, 4).view(np.float32)[0]) for at in (alpha, beta))
        # As cuBLAS: what is there is not read where it counts nothing.
        c[...] = by * (a.astype(np.float32) @ b.astype(np.float32)) + (kept * c if kept else 0)


def _classes(world: World) -> dict[str, Any]:
    """The classes of cupy.cuda."""

    class Device(_Entered):
        def __init__(self, device: int) -> None:
            super().__init__(world)
            self.id = device

    class Stream(_Entered):
        ptr = 4711

        def __init__(self, *, non_blocking: bool = False) -> None:
            super().__init__(world)
            assert non_blocking

        def synchronize(self) -> None:
            assert world.capture is None
            if world.broken:
                raise CUDARuntimeError(world.broken)
            world.calls.append(("synchronize",))

        def begin_capture(self) -> None:
            world.capture = []

        def end_capture(self) -> Any:
            recorded, world.capture = world.capture, None
            assert recorded is not None
            return Graph(recorded)

    class Graph:
        def __init__(self, recorded: Calls) -> None:
            self._recorded = recorded

        def upload(self, stream: Any) -> None:
            world.note("upload graph", stream.ptr)

        def launch(self, stream: Any) -> None:
            assert stream.ptr == 4711
            for call in self._recorded:
                world.note(*call)

    class Event:
        def __init__(self, *, disable_timing: bool) -> None:
            self._recorded = False

        def record(self, stream: Any) -> None:
            world.note("event", stream.ptr)

        def synchronize(self) -> None:
            if world.broken:
                raise CUDARuntimeError(world.broken)
            world.calls.append(("wait",))

    class Memory:
        def __init__(self, size: int) -> None:
            if size > world.free:
                raise CUDARuntimeError(2)
            self._array = np.full(size + 128, 0xAA, np.uint8)
            self.ptr = -(-self._array.ctypes.data // 128) * 128
            self.size = size
            world.free -= size

        def __del__(self) -> None:
            if "size" in vars(self):
                world.free += self.size

    def alloc_pinned_memory(size: int) -> Any:
        return bytearray(size)

    return {
        "Device": Device, "Stream": Stream, "Event": Event, "Memory": Memory, "alloc_pinned_memory": alloc_pinned_memory
    }  # fmt: skip


def _kernel_class(world: World) -> type:
    class RawKernel:
        """Notes its launches as CuPy does them: an argument is an array of one element, whose bytes are passed."""

        def __init__(self, code: str, name: str, options: tuple[str, ...]) -> None:
            self._source = (name, code, options)
            self.max_dynamic_shared_size_bytes = 48 << 10

        def compile(self) -> None:
            assert world.capture is None
            name = self._source[0]
            if name in world.refused:
                raise CompileException(world.refused[name])
            world.compiled.append(self._source)

        def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
            (only,) = args
            assert isinstance(only, np.ndarray)
            assert only.size == 1
            assert min(grid) > 0, "CuPy makes one block of none"
            if shared_mem > self.max_dynamic_shared_size_bytes:
                raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
            passed = bytes_at(only.__array_interface__["data"][0], only.itemsize).tobytes()
            world.note("launch", self._source[0], grid, block, passed, shared_mem)

    return RawKernel


@contextmanager
def no_leak(world: World) -> Iterator[None]:
    """All memory of the device is given back within."""
    before = world.free
    yield
    assert world.free == before
