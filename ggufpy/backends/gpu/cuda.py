"""A device of NVIDIA's through CuPy: memory, kernels compiled by NVRTC, one stream, graphs, and cuBLAS.

Only this module imports CuPy, when the first device is made. How CuPy passes a NumPy array of one element by value to a
kernel, and what it caches where, is said in its source (cupy/cuda/function.pyx, cupy/_core/raw.pyx).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from importlib import util
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support.cores import default_threads
from ggufpy.support.progress import human_bytes
from ggufpy.support.records import dataclass

from . import listing
from .device import ROW, Arrival, Bytes, Facts, Graph, Launch, Product, Report, Work
from .source import KernelSpec, text

OPTIONS = ("--std=c++17",)  # CuPy adds -ftz=true, the architecture, and --device-as-default-execution-space
SLOTS, SLOT = 4, 4 << 20  # pieces of pinned memory through which data goes to the device, and bytes of each
PLAIN_SHARED = 48 << 10  # bytes of dynamic shared memory that a block may have without asking
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_TYPES = {"f16": 2, "bf16": 14}  # cudaDataType, of library_types.h
_FLOAT = 0


@dataclass(frozen=True)
class _Cuda:
    """What is used of CuPy. `errors` are what it raises when CUDA fails."""

    cuda: Any
    raw_kernel: Any
    runtime: Any
    cublas: Any
    refusal: type[Exception]  # of a source that does not compile
    errors: tuple[type[Exception], ...]
    toolkit: int  # CUDA version that kernels are compiled by, as 12
    software: str  # versions of all that has a part in it


def _load() -> _Cuda:
    """CuPy with the libraries that it loads. Raises GGUFError that says what to install."""
    found = listing.look()
    if found.fault:
        raise GGUFError(found.fault)
    try:
        import cupy
        from cupy.cuda import compiler
        from cupy_backends.cuda.api import driver, runtime
        from cupy_backends.cuda.libs import cublas, nvrtc

        version = nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:  # CuPy raises any of them for a library that it lacks
        raise GGUFError(
            f"{found.cupy} cannot load a library of CUDA ({_line(error)}): {listing.install(found.driver)}"
        ) from error
    return _Cuda(
        cupy.cuda, cupy.RawKernel, runtime, cublas, compiler.CompileException,
        (runtime.CUDARuntimeError, driver.CUDADriverError, cublas.CUBLASError),
        int(version[0]), f"{found.cupy}, NVRTC {'.'.join(map(str, version))}, driver of CUDA {found.cuda}",
    )  # fmt: skip


def fault() -> str:
    """As `listing.why_none`, once CuPy has been loaded too: which libraries it finds is known only then."""
    try:
        _load()
    except GGUFError as error:
        return str(error)
    return ""


class CudaMemory:
    """Zeros of the device, freed when nothing refers to them, or when the device is closed."""

    def __init__(self, owner: Any, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self._owner = owner

    @property
    def is_open(self) -> bool:
        """Whether it has not been given back."""
        return self._owner is not None

    def close(self) -> None:
        """Gives it back now."""
        self._owner = None


class _Staging:
    """Pinned memory through which data goes to the device: a slot is used again when its last copy is through."""

    def __init__(self, cuda: Any) -> None:
        self._slots = [_pinned(cuda, SLOT) for _ in range(SLOTS)]
        self._through: list[Any] = [cuda.Event(disable_timing=True) for _ in range(SLOTS)]
        self._next = 0

    def fill(self, data: Bytes) -> tuple[int, Any]:
        """Where a copy of at most SLOT bytes is, and the event to be recorded behind its copy to the device."""
        at, self._next = self._next, (self._next + 1) % SLOTS
        self._through[at].synchronize()
        slot = self._slots[at]
        slot[: len(data)] = data
        return slot.ctypes.data, self._through[at]


class _Recorded:
    """See Graph."""

    def __init__(self, device: CudaDevice, graph: Any) -> None:
        self._device, self._graph = device, graph

    def launch(self) -> None:
        self._device.replay(self._graph)


class _Fetched:
    """See Arrival: what is in pinned memory when an event is through, and where it is wanted."""

    def __init__(self, device: CudaDevice, landed: Any, pieces: Sequence[tuple[Bytes, Bytes]]) -> None:
        self._device, self._landed, self._pieces = device, landed, pieces

    def wait(self) -> None:
        self._device.wait_for(self._landed)
        for source, target in self._pieces:
            target[...] = source


class CudaDevice:
    """See Device. It is used by one thread at a time, whichever."""

    facts: Facts

    def __init__(self, index: int = 0) -> None:
        """The device of that number among those that CUDA shows. Raises GGUFError where it cannot be used."""
        self._api = api = _load()
        count = api.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise GGUFError(f"there is no GPU {index}: there are {count}, from 0 on (ggufpy doctor lists them)")
        self.index = index
        self._device = api.cuda.Device(index)
        self._kernels: dict[KernelSpec, Any] = {}
        self._shared: dict[KernelSpec, int] = {}  # bytes of dynamic shared memory that were asked for
        self._memory: WeakSet[CudaMemory] = WeakSet()
        self._blas: int | None = None
        self._one, self._zero = (
            np.array([1], np.float32),
            np.array([0], np.float32),
        )  # what cuBLAS multiplies by, read on the host
        self.facts = self._look()
        with self._device:
            try:
                self._stream = api.cuda.Stream(non_blocking=True)
                self._staging = _Staging(api.cuda)
                self._landing, self._fetching = _pinned(api.cuda, SLOT), _pinned(api.cuda, SLOT)
                self._landed = api.cuda.Event(disable_timing=True)
            except api.errors as error:
                raise GGUFError(
                    f"{self.facts.name} cannot be used ({_line(error)}): is another program on it?"
                ) from error
        self._options = (*OPTIONS, *(f"-I{folder}" for folder in _headers(api)))

    def _look(self) -> Facts:
        found = self._api.runtime.getDeviceProperties(self.index)
        level = f"sm_{found['major']}{found['minor']}"
        if (found["major"], found["minor"]) < listing.LEAST_LEVEL:
            raise GGUFError(f"{found['name'].decode()} is {level}, and sm_75 is needed: take another with --main-gpu")
        return Facts(
            found["name"].decode("utf-8", "replace"), level, found["multiProcessorCount"],
            found["sharedMemPerBlockOptin"], found["totalGlobalMem"], self._api.software,
        )  # fmt: skip

    @contextmanager
    def _here(self, doing: str) -> Iterator[None]:
        """This device and its stream are the thread's meanwhile; what fails is one line."""
        with self._device, self._stream:
            try:
                yield
            except self._api.errors as error:
                raise GGUFError(
                    f"{self.facts.name} failed while {doing}: {_line(error)}; -ngl 0 runs without it"
                ) from error

    # -- memory --

    def free(self) -> int:
        """See Device."""
        with self._here("looking at its memory"):
            return int(self._api.runtime.memGetInfo()[0])

    def allocate(self, nbytes: int, about: str) -> CudaMemory:
        """See Device."""
        size = max(-(-nbytes // ROW) * ROW, ROW)
        with self._here(f"making room for {about}"):
            try:
                owner = self._api.cuda.Memory(size)
            except self._api.runtime.CUDARuntimeError as error:
                if error.status != _OUT_OF_MEMORY:
                    raise
                raise GGUFError(
                    f"{about} needs {human_bytes(size)} of {self.facts.name}, and {human_bytes(self.free())} are free: "
                    "put fewer layers there (-ngl), or take a smaller context (-c) or cache (-ctk q8_0 -ctv q8_0)"
                ) from error
            self._api.runtime.memsetAsync(owner.ptr, 0, size, self._stream.ptr)
        made = CudaMemory(owner, owner.ptr, nbytes)
        self._memory.add(made)
        return made

    def upload(self, address: int, data: NDArray[Any]) -> None:
        """See Device."""
        runtime, source = self._api.runtime, _flat(data)
        with self._here("copying to it"):
            for start in range(0, len(source), SLOT):
                piece = source[start : start + SLOT]
                staged, through = self._staging.fill(piece)
                runtime.memcpyAsync(address + start, staged, len(piece), runtime.memcpyHostToDevice, self._stream.ptr)
                through.record(self._stream)

    def download(self, address: int, out: NDArray[Any]) -> None:
        """See Device."""
        runtime, target, landing = self._api.runtime, _flat(out), self._landing
        with self._here("computing"):
            for start in range(0, len(target), SLOT):
                piece = target[start : start + SLOT]
                runtime.memcpyAsync(
                    landing.ctypes.data, address + start, len(piece), runtime.memcpyDeviceToHost, self._stream.ptr
                )
                self._stream.synchronize()
                piece[...] = landing[: len(piece)]

    def fetch(self, copies: Sequence[tuple[int, NDArray[Any]]]) -> Arrival:
        """See Device."""
        runtime, targets = self._api.runtime, [_flat(out) for _, out in copies]
        pieces: list[tuple[Bytes, Bytes]] = []
        with self._here("computing"):
            if (size := sum(map(len, targets))) > len(self._fetching):
                self._stream.synchronize()  # what may still be copied to the memory that is given up
                self._fetching = _pinned(self._api.cuda, size)
            at = 0
            for (address, _), target in zip(copies, targets, strict=True):
                landing = self._fetching[at : at + len(target)]
                runtime.memcpyAsync(
                    landing.ctypes.data, address, len(target), runtime.memcpyDeviceToHost, self._stream.ptr
                )
                pieces.append((landing, target))
                at += len(target)
            self._landed.record(self._stream)
        return _Fetched(self, self._landed, pieces)

    def wait_for(self, event: Any) -> None:
        """Until what was recorded before an event is through."""
        with self._here("computing"):
            event.synchronize()

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """See Device."""
        runtime = self._api.runtime
        with self._here("copying within it"):
            runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, self._stream.ptr)

    # -- kernels --

    def load(self, specs: Sequence[KernelSpec], report: Report | None = None) -> None:
        """See Device. NVRTC lets go of the interpreter while it compiles, so several threads help."""
        wanted = [spec for spec in dict.fromkeys(specs) if spec not in self._kernels]
        if not wanted:
            return
        pool = ThreadPoolExecutor(min(len(wanted), default_threads()))
        try:
            made = {pool.submit(self._compiled, spec): spec for spec in wanted}
            for done, future in enumerate(as_completed(made), 1):
                self._kernels[made[future]] = future.result()
                if report is not None:
                    report(done, len(wanted))
        finally:
            pool.shutdown(cancel_futures=True)

    def _compiled(self, spec: KernelSpec) -> Any:
        """A kernel from CuPy's cache on disk, or compiled and put there."""
        kernel = self._api.raw_kernel(text(spec), spec.name, self._options)
        with self._here(f"loading kernel {spec.name}"):
            try:
                kernel.compile()
            except self._api.refusal as error:
                raise GGUFError(self._refused(spec, str(error))) from error
            except OSError as error:
                raise GGUFError(f"compiled kernels cannot be kept ({error}): set CUPY_CACHE_DIR to a folder") from error
        return kernel

    def _refused(self, spec: KernelSpec, log: str) -> str:
        lines = [line.strip() for line in log.splitlines()]
        reason = next((line for line in lines if "error" in line), lines[0] if lines else "no reason was given")
        if "cannot open source file" in reason:
            return f"CUDA's headers are missing ({reason}): {listing.install(1000 * self._api.toolkit)}"
        return f"kernel {spec.name} does not compile for {self.facts.level}, please report it: {reason}"

    # -- work --

    def run(self, works: Sequence[Work]) -> None:
        """See Device."""
        self.load([work.spec for work in works if isinstance(work, Launch)])
        with self._here("computing"):
            for work in works:
                if isinstance(work, Launch):
                    self._launch(work)
                else:
                    self._multiply(work)

    def record(self, works: Sequence[Work]) -> Graph:
        """See Device."""
        launches = [work for work in works if isinstance(work, Launch)]
        if len(launches) != len(works):
            raise ValueError("the library's products are not recorded")
        self.load([launch.spec for launch in launches])
        with self._here("recording work"):
            for launch in launches:
                self._allow(launch)  # not a thing to do while work is captured
            self._stream.begin_capture()
            try:
                for launch in launches:
                    self._launch(launch)
            except BaseException:
                with suppress(*self._api.errors):  # the capture ends, and has failed; why is already said
                    self._stream.end_capture()
                raise
            graph = self._stream.end_capture()
            graph.upload(self._stream)
        return _Recorded(self, graph)

    def replay(self, graph: Any) -> None:
        """Launches a graph of CuPy's."""
        with self._here("computing"):
            graph.launch(self._stream)

    def _launch(self, launch: Launch) -> None:
        """On the current stream. The arguments go as one array of one element, which CuPy passes by value."""
        if not all(launch.grid):  # CuPy would make one block of none
            raise ValueError(f"kernel {launch.spec.name} cannot have a grid of {launch.grid}")
        self._allow(launch)
        arguments = np.frombuffer(launch.arguments, np.dtype((np.void, len(launch.arguments))))
        self._kernels[launch.spec](launch.grid, (launch.threads,), (arguments,), shared_mem=launch.shared)

    def _allow(self, launch: Launch) -> None:
        """Much shared memory has to be asked for, once."""
        if launch.shared > max(PLAIN_SHARED, self._shared.get(launch.spec, 0)):
            self._kernels[launch.spec].max_dynamic_shared_size_bytes = launch.shared
            self._shared[launch.spec] = launch.shared

    def _multiply(self, product: Product) -> None:
        """cuBLAS has matrices column by column, so row by row it is cᵀ (n, m) = b · aᵀ."""
        p, blas = product, self._api.cublas
        if self._blas is None:
            self._blas = blas.create()
        kind = _TYPES[p.dtype]
        beta = self._one if p.add else self._zero
        blas.gemmEx(
            self._blas, blas.CUBLAS_OP_T, blas.CUBLAS_OP_N, p.n, p.m, p.k,
            self._one.ctypes.data, p.b, kind, p.b_stride, p.a, kind, p.a_stride,
            beta.ctypes.data, p.c, _FLOAT, p.c_stride,
            blas.CUBLAS_COMPUTE_32F, blas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def close(self) -> None:
        """See Device."""
        with self._here("ending"):
            with suppress(*self._api.errors):  # one that has failed said so where it was used
                self._stream.synchronize()
            for memory in list(self._memory):
                memory.close()
            self._kernels.clear()
            if self._blas is not None:
                self._api.cublas.destroy(self._blas)
                self._blas = None


def _pinned(cuda: Any, nbytes: int) -> Bytes:
    """Host memory that the device copies to and from by itself. The array keeps it."""
    return np.frombuffer(cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)


def _flat(data: NDArray[Any]) -> Bytes:
    """The bytes of an array, not copied. Raises ValueError unless they are in one piece, in order."""
    if not data.flags.c_contiguous:
        raise ValueError("only C-contiguous arrays are copied to or from a device")
    return data.reshape(-1).view(np.uint8)


def _headers(api: _Cuda) -> Iterator[Path]:
    """The folder that has cuda_fp16.h and cuda_bf16.h: of NVIDIA's packages (nvidia/cuda_runtime for CUDA 12,
    nvidia/cu13 from 13 on), or of a toolkit. Where there is none, compiling says so."""
    spec = util.find_spec("nvidia")
    places = [Path(each) for each in (spec.submodule_search_locations or ())] if spec is not None else []
    folders = [place / ("cuda_runtime" if api.toolkit < 13 else f"cu{api.toolkit}") for place in places]
    folders += [Path(each) for each in (os.environ.get("CUDA_PATH"), api.cuda.get_cuda_path()) if each]
    for folder in folders:
        if (folder / "include" / "cuda_bf16.h").is_file():
            yield folder / "include"
            return


def _line(error: BaseException) -> str:
    """The first line of an error, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
