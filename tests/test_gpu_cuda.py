"""A device through CuPy: what is asked of CuPy, in which order, and what its failures are turned into."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import cupy_fake
import numpy as np
import pytest

from ggufpy.backends.gpu import cuda, listing
from ggufpy.backends.gpu.cuda import SLOT, SLOTS, CudaDevice
from ggufpy.backends.gpu.device import Launch, Product
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.errors import GGUFError

ADD = KernelSpec("one", (("x", "const float *"), ("n", "int"), ("by", "float")), (("GROUP", 4),), 128)
OTHER = KernelSpec("two", (("x", "float *"),))
VALUES = {"x": 0x1122334455667788, "n": -7, "by": 0.5}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> cupy_fake.World:
    """A machine with CuPy and a card."""
    made = cupy_fake.World()
    cupy_fake.install(monkeypatch, made)
    monkeypatch.setattr(listing, "look", lambda: listing.Found((), 12_090, "cupy-cuda12x 14.2.0", ""))
    monkeypatch.setattr(cuda, "text", lambda spec: f"// source of {spec.name}")
    return made


@pytest.fixture
def device(world: cupy_fake.World) -> CudaDevice:
    made = CudaDevice()
    world.calls.clear()
    return made


def _launch(spec: KernelSpec = ADD, values: dict[str, Any] = VALUES, shared: int = 0) -> Launch:
    return Launch(spec, spec.record(values), (3, 2, 1), spec.threads, shared)


def _named(calls: list[tuple[Any, ...]], *names: str) -> list[tuple[Any, ...]]:
    return [call for call in calls if call[0] in names]


# -- what it is --


def test_facts(device: CudaDevice) -> None:
    assert (device.facts.name, device.facts.level, device.facts.processors) == ("Fake Card", "sm_90", 132)
    assert (device.facts.shared, device.facts.memory) == (232448, 80 << 30)


def test_devices_that_are_not_there(world: cupy_fake.World) -> None:
    for index in (1, -1):
        with pytest.raises(GGUFError, match=r"there is no GPU -?1: there are 1, from 0 on \(ggufpy doctor"):
            CudaDevice(index)


def test_devices_that_are_too_old(world: cupy_fake.World) -> None:
    world.capability = (7, 0)
    with pytest.raises(GGUFError, match="Fake Card is sm_70, and sm_75 is needed"):
        CudaDevice()


def test_what_is_missing_is_said(world: cupy_fake.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "look", lambda: listing.Found((), 0, "", "CuPy is missing: install it"))
    assert cuda.fault() == "CuPy is missing: install it"
    with pytest.raises(GGUFError, match="CuPy is missing"):
        CudaDevice()


@pytest.mark.parametrize(("driver", "extra"), [(12_040, "cuda12"), (13_000, "cuda13")])
def test_libraries_that_are_missing(
    world: cupy_fake.World, monkeypatch: pytest.MonkeyPatch, driver: int, extra: str
) -> None:
    def lost() -> tuple[int, int]:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: no such file\nlong advice")

    import cupy_backends.cuda.libs as libs

    libs.nvrtc.getVersion = lost
    monkeypatch.setattr(listing, "look", lambda: listing.Found((), driver, "cupy-cuda12x 14.2.0", ""))
    assert cuda.fault() == (
        "cupy-cuda12x 14.2.0 cannot load a library of CUDA (CuPy failed to load libnvrtc.so.12: OSError: no such file)"
        f": pip install 'ggufpy[{extra}]'"
    )


# -- memory --


def test_memory_is_zeros_and_comes_back(world: cupy_fake.World, device: CudaDevice) -> None:
    with cupy_fake.no_leak(world):
        first, second = device.allocate(1000, "weights"), device.allocate(1, "a flag")
        assert first.address % 128 == second.address % 128 == 0
        assert first.nbytes == 1000
        assert not cupy_fake.bytes_at(first.address, 1024).any()
        del first
        gc.collect()
        assert world.free == (1 << 30) - 128
        device.close()


def test_too_little_memory(world: cupy_fake.World, device: CudaDevice) -> None:
    world.free = 3_000_000
    with pytest.raises(GGUFError) as caught:
        device.allocate(5_000_000_000, "layers 3 to 31")
    assert str(caught.value) == (
        "layers 3 to 31 needs 5.0 GB of Fake Card, and 3.0 MB are free: put fewer layers there (-ngl), or take a "
        "smaller context (-c) or cache (-ctk q8_0 -ctv q8_0)"
    )
    assert device.free() == 3_000_000


@pytest.mark.parametrize("nbytes", [1, 40, SLOT, SLOT + 4, 3 * SLOTS * SLOT // 2 + 12])
def test_bytes_go_there_and_back(world: cupy_fake.World, device: CudaDevice, nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    memory = device.allocate(nbytes, "room")
    device.upload(memory.address, data)
    copied = device.allocate(nbytes, "more room")
    device.copy(memory.address, copied.address, nbytes)
    back = np.empty_like(data)
    device.download(copied.address, back)
    assert (back == data).all()


def test_arrays_of_any_type(device: CudaDevice) -> None:
    for data in (np.arange(12, dtype=np.float32).reshape(3, 4), np.float16([[1], [2]]), np.array(7, np.int32)):
        memory = device.allocate(data.nbytes, "room")
        device.upload(memory.address, data)
        back = np.zeros_like(data)
        device.download(memory.address, back)
        assert (back == data).all()
    with pytest.raises(ValueError, match="C-contiguous"):
        device.upload(memory.address, np.zeros((4, 4))[:, ::2])
    with pytest.raises(ValueError, match="C-contiguous"):
        device.download(memory.address, np.zeros((4, 4)).T)


def test_uploads_wait_for_their_slot_alone(world: cupy_fake.World, device: CudaDevice) -> None:
    memory = device.allocate(SLOT, "room")
    world.calls.clear()
    device.upload(memory.address, np.ones(10, np.uint8))
    assert [call[0] for call in world.calls] == ["wait", "memcpy", "event"]
    device.download(memory.address, np.ones(10, np.uint8))
    assert [call[0] for call in world.calls[3:]] == ["memcpy", "synchronize"]


@pytest.mark.parametrize("counts", [(3, 40), (SLOT // 4, 8), (2 * SLOT,)])
def test_what_is_fetched_comes_when_it_is_waited_for(
    world: cupy_fake.World, device: CudaDevice, counts: tuple[int, ...]
) -> None:
    """In one piece of pinned memory, which grows once whatever came before is through."""
    memory = device.allocate(4 * sum(counts), "room")
    data = np.random.default_rng(0).standard_normal(sum(counts)).astype(np.float32)
    device.upload(memory.address, data)
    starts = np.cumsum([0, *counts])[:-1].tolist()
    found = [np.full(count, np.nan, np.float32) for count in counts]
    for times in range(2):
        world.calls.clear()
        arrival = device.fetch([(memory.address + 4 * at, each) for at, each in zip(starts, found, strict=True)])
        grows = times == 0 and 4 * sum(counts) > SLOT
        assert [call[0] for call in world.calls] == ["synchronize"] * grows + ["memcpy"] * len(counts) + ["event"]
        device.upload(memory.address, data + 1)  # behind it
        arrival.wait()
        assert world.calls[-1] == ("wait",)
        np.testing.assert_array_equal(np.concatenate(found), data)
        data = data + 1
    with pytest.raises(ValueError, match="C-contiguous"):
        device.fetch([(memory.address, np.zeros((4, 4)).T)])
    arrival = device.fetch([(memory.address, found[0])])
    world.broken = 700
    with pytest.raises(GGUFError, match=r"^Fake Card failed while computing: cudaError700: broken; -ngl 0 runs"):
        arrival.wait()


def test_a_failure_is_one_line(world: cupy_fake.World, device: CudaDevice) -> None:
    memory = device.allocate(16, "room")
    world.broken = 700
    with pytest.raises(GGUFError, match=r"^Fake Card failed while computing: cudaError700: broken; -ngl 0 runs"):
        device.download(memory.address, np.zeros(16, np.uint8))
    device.close()  # its memory goes back all the same
    assert world.free == 1 << 30


# -- kernels --


def test_kernels_are_compiled_once(world: cupy_fake.World, device: CudaDevice) -> None:
    seen: list[tuple[int, int]] = []
    device.load([ADD, OTHER, ADD], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert {name for name, _, _ in world.compiled} == {"one", "two"}
    for name, code, options in world.compiled:
        assert code == f"// source of {name}"
        assert options[0] == "--std=c++17"
    device.load([OTHER])
    device.run([_launch()])
    assert len(world.compiled) == 2


def test_kernels_that_do_not_compile(world: cupy_fake.World, device: CudaDevice) -> None:
    world.refused["one"] = "k.cu(3): warning: x\nk.cu(7): error: identifier undefined\n1 error detected"
    with pytest.raises(GGUFError, match=r"kernel one does not compile for sm_90, please report it: k.cu\(7\): error"):
        device.load([ADD, OTHER])
    world.refused["one"] = 'k.cu(1): catastrophic error: cannot open source file "cuda_fp16.h"'
    with pytest.raises(GGUFError, match=r"CUDA's headers are missing .*: pip install 'ggufpy\[cuda12\]'"):
        device.load([ADD])


def test_launches_pass_their_arguments_in_order(world: cupy_fake.World, device: CudaDevice) -> None:
    device.run([_launch(), _launch(OTHER, {"x": 5}, 100), _launch()])
    launches = _named(world.calls, "launch")
    assert [call[1] for call in launches] == ["one", "two", "one"]
    assert launches[0][2:] == ((3, 2, 1), (128,), ADD.record(VALUES), 0)
    assert launches[1][4:] == ((5).to_bytes(8, "little"), 100)
    assert np.frombuffer(launches[0][4], ADD.dtype)[0].item() == (0x1122334455667788, -7, 0.5)


def test_no_blocks_are_refused(world: cupy_fake.World, device: CudaDevice) -> None:
    with pytest.raises(ValueError, match=r"kernel one cannot have a grid of \(0, 2, 1\)"):
        device.run([Launch(ADD, ADD.record(VALUES), (0, 2, 1), 128)])


def test_much_shared_memory_is_asked_for(world: cupy_fake.World, device: CudaDevice) -> None:
    device.run([_launch(shared=100_000), _launch(shared=60_000)])
    device.record([_launch(shared=200_000)])
    assert [call[5] for call in _named(world.calls, "launch")] == [100_000, 60_000]


def test_recorded_work_is_launched_as_one(world: cupy_fake.World, device: CudaDevice) -> None:
    graph = device.record([_launch(), _launch(OTHER, {"x": 5})])
    assert not _named(world.calls, "launch")
    assert _named(world.calls, "upload graph") == [("upload graph", 4711)]
    for times in (1, 2):
        graph.launch()
        assert [call[1] for call in _named(world.calls, "launch")] == ["one", "two"] * times
    with pytest.raises(ValueError, match="not recorded"):
        device.record([Product(1, 1, 1, 0, 1, 0, 1, 0, 1)])


def test_a_failed_recording_ends(world: cupy_fake.World, device: CudaDevice) -> None:
    device._shared[ADD] = 1 << 30  # as if it had been asked for
    with pytest.raises(GGUFError, match="failed while recording work: CUDA_ERROR_INVALID_VALUE"):
        device.record([_launch(shared=100_000)])
    assert world.capture is None


# -- products --


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("add", [False, True])
def test_products(world: cupy_fake.World, device: CudaDevice, dtype: str, add: bool) -> None:
    rng = np.random.default_rng(3)
    m, n, k, a_stride, b_stride, c_stride = 5, 7, 12, 16, 12, 9
    a, b = _halves(rng, (m, a_stride), dtype), _halves(rng, (n, b_stride), dtype)
    c = np.full((m, c_stride), np.nan, np.float32) if not add else rng.random((m, c_stride), np.float32)
    at = [device.allocate(each.nbytes, "a matrix") for each in (a, b, c)]
    for memory, each in zip(at, (a, b, c), strict=True):
        device.upload(memory.address, each)
    where = [memory.address for memory in at]
    device.run([Product(m, n, k, where[0], a_stride, where[1], b_stride, where[2], c_stride, dtype, add)])
    got = np.empty_like(c)
    device.download(where[2], got)
    expected = _floats(a, dtype)[:, :k] @ _floats(b, dtype)[:, :k].T + (c[:, :n] if add else 0)
    np.testing.assert_allclose(got[:, :n], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[:, n:], c[:, n:])  # behind a row nothing is written
    device.close()
    assert _named(world.calls, "create", "destroy") == [("create",), ("destroy", 77)]


def _halves(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Random values, as f16 or the upper halves of float32."""
    values = rng.standard_normal(shape).astype(np.float32)
    return values.astype(np.float16) if dtype == "f16" else (values.view(np.uint32) >> 16).astype(np.uint16)


def _floats(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(np.float32) if dtype == "f16" else (values.astype(np.uint32) << 16).view(np.float32)


# -- CuPy itself --


def test_cupy_has_what_is_used() -> None:
    """Names and arguments of the CuPy that is installed, which needs no card."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy: pip install 'ggufpy[cuda12]'")
    from cupy.cuda import compiler
    from cupy_backends.cuda.api import driver, runtime

    assert issubclass(compiler.CompileException, Exception)
    assert issubclass(driver.CUDADriverError, Exception)
    error = runtime.CUDARuntimeError(2)
    assert error.status == cuda._OUT_OF_MEMORY
    assert "out of memory" in str(error)
    for name, arguments in (
        ("memcpyAsync", "dst, src, size, kind, stream"), ("memsetAsync", "ptr, value, size, stream"),
        ("getDeviceProperties", "device"), ("memGetInfo", ""), ("getDeviceCount", ""),
    ):  # fmt: skip
        assert _documented(getattr(runtime, name)) == arguments
    fake = cupy_fake._Runtime
    for name in ("memcpyHostToDevice", "memcpyDeviceToHost", "memcpyDeviceToDevice"):
        assert getattr(runtime, name) == getattr(fake, name)
    kernel = cupy.RawKernel('extern "C" __global__ void k() {}', "k", cuda.OPTIONS)
    assert "log_stream" in type(kernel).compile.__doc__
    assert "shared_mem" in type(kernel).__call__.__doc__
    assert inspect.isdatadescriptor(type(kernel).max_dynamic_shared_size_bytes)
    for name, arguments in (("begin_capture", {"mode"}), ("end_capture", set()), ("synchronize", set())):
        assert set(inspect.signature(getattr(cupy.cuda.Stream, name)).parameters) == {"self"} | arguments
    assert "disable_timing" in inspect.signature(cupy.cuda.Event).parameters
    assert "stream" in inspect.signature(cupy.cuda.Event.record).parameters
    for name in ("launch", "upload"):
        assert _documented(getattr(cupy.cuda.Graph, name)) == "self, stream=None"
    assert "size" in cupy.cuda.Memory.__doc__
    assert "non_blocking" in cupy.cuda.Stream.__doc__
    assert "size" in cupy.cuda.alloc_pinned_memory.__doc__
    assert callable(cupy.cuda.get_cuda_path)
    assert callable(cupy.cuda.Device(0).__enter__)
    try:
        from cupy_backends.cuda.libs import cublas, nvrtc
    except ImportError as missing:
        pytest.skip(f"cuBLAS or NVRTC is not installed: {missing}".splitlines()[0])
    ours = list(inspect.signature(cupy_fake._Blas.gemmEx).parameters)
    assert _documented(cublas.gemmEx) == ", ".join(ours[1:])
    for name in ("CUBLAS_OP_N", "CUBLAS_OP_T", "CUBLAS_COMPUTE_32F", "CUBLAS_GEMM_DEFAULT"):
        assert getattr(cublas, name) == getattr(cupy_fake._Blas, name)
    assert _documented(cublas.create) == ""
    assert _documented(cublas.destroy) == "handle"
    assert nvrtc.getVersion() >= (12, 0)


def _documented(function: Any) -> str:
    """The names of a compiled function's arguments, of the first line that Cython writes of it."""
    line = function.__doc__.splitlines()[0]
    inside = line[line.index("(") + 1 : line.rindex(")")]
    return ", ".join(part.split()[-1] for part in inside.split(",") if part.strip())
