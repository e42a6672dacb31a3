"""Every kernel compiles for every level as CuPy compiles it, without spills: NVRTC of PyPI, which needs no card."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from ggufpy.backends.gpu import catalogue
from ggufpy.backends.gpu.source import KernelSpec, text
from ggufpy.errors import GGUFError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from gpu import nvrtc
from gpu.nvrtc import LEVELS, Usage


@pytest.fixture(scope="module")
def compiler() -> nvrtc.Compiler:
    try:
        return nvrtc.compiler()
    except GGUFError as missing:
        pytest.skip(str(missing))


def _faults(compiler: nvrtc.Compiler, wanted: Iterable[tuple[KernelSpec, str]]) -> list[str]:
    """What is wrong with kernels at levels."""

    def fault(spec: KernelSpec, level: str) -> str:
        try:
            usage = compiler.compile(text(spec), level)
        except GGUFError as error:
            return f"{spec.name} {dict(spec.defines)}: {error}"
        if usage.stores or usage.loads or usage.stack:
            return f"{spec.name} {dict(spec.defines)}, {level}: {usage}"
        return ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return [said for said in pool.map(lambda pair: fault(*pair), wanted) if said]


def test_every_file_has_examples() -> None:
    assert {spec.name for spec in catalogue.kernels()} == catalogue.sources()


def test_a_kernel_of_each_file_compiles(compiler: nvrtc.Compiler) -> None:
    first: dict[str, KernelSpec] = {}
    for spec in catalogue.kernels():
        first.setdefault(spec.name, spec)
    assert _faults(compiler, zip(first.values(), cycle(("sm_75", "sm_90", "sm_120")), strict=False)) == []


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_kernel_compiles(compiler: nvrtc.Compiler, level: str) -> None:
    assert _faults(compiler, ((spec, level) for spec in catalogue.kernels())) == []


# -- what the compiler's report is read for --

HEAD = 'struct Args { float* x; int n; };\n#include <cuda_fp16.h>\n#include <cuda_bf16.h>\nextern "C" __global__ void '
STACKED = (
    HEAD
    + """__launch_bounds__(256) k(const Args a) {
    __shared__ float room[64];
    float kept[24];
    for (int i = 0; i < 24; i++) kept[i] = a.x[i] * 2;
    float sum = 0;
    for (int i = 0; i < a.n; i++) sum += kept[(int)a.x[i] % 24];
    room[threadIdx.x & 63] = sum;
    __syncthreads();
    a.x[threadIdx.x] = room[(threadIdx.x + 1) & 63];
}"""
)
SPILLING = (
    HEAD
    + """__launch_bounds__(1024, 2) k(const Args a) {
    float kept[96];
#pragma unroll
    for (int i = 0; i < 96; i++) kept[i] = a.x[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int turn = 0; turn < a.n; turn++) {
#pragma unroll
        for (int i = 0; i < 96; i++) kept[i] = kept[i] * kept[(i + 1) % 96] + kept[(i + 7) % 96];
    }
#pragma unroll
    for (int i = 0; i < 96; i++) a.x[i * 1024 + threadIdx.x] = kept[i];
}"""
)


@pytest.mark.parametrize("level", ["sm_75", "sm_90", "sm_120"])
def test_stacks_and_spills_are_seen(compiler: nvrtc.Compiler, level: str) -> None:
    assert compiler.version() >= (12, 8), "sm_100 and sm_120 are known from 12.8 on"
    stacked = compiler.compile(STACKED, level)
    assert (stacked.stack, stacked.stores, stacked.shared) == (96, 0, 256)
    if level != "sm_75":  # which has 1024 threads a multiprocessor, so two such blocks are not asked for
        spilling = compiler.compile(SPILLING, level)
        assert spilling.stores > 0
        assert spilling.loads > 0
        assert spilling.registers <= 64


def test_sources_that_do_not_compile(compiler: nvrtc.Compiler) -> None:
    with pytest.raises(GGUFError, match=r'sm_90: kernel.cu\(1\): error: .*identifier "flaot"'):
        compiler.compile('extern "C" __global__ void k(flaot x) {}', "sm_90")


@pytest.mark.parametrize(
    ("level", "threads", "usage", "dynamic", "expected"),
    [
        ("sm_90", 256, Usage(32, 0, 0, 0, 0), 0, 1.0),  # 8 blocks
        ("sm_90", 256, Usage(64, 0, 0, 0, 0), 0, 0.5),  # 64 registers: 4 blocks of 16,384
        ("sm_90", 128, Usage(40, 0, 0, 0, 0), 0, 0.75),  # 12 blocks of 5,120
        ("sm_75", 256, Usage(32, 20 << 10, 0, 0, 0), 0, 0.75),  # 3 blocks of 20 KiB
        ("sm_86", 1024, Usage(32, 0, 0, 0, 0), 0, 2 / 3),  # one block of 1,536
        ("sm_90", 32, Usage(16, 0, 0, 0, 0), 0, 0.5),  # 32 blocks of a warp
        ("sm_90", 128, Usage(168, 0, 0, 0, 0), 100 << 10, 0.125),  # 2 blocks of 101 KiB
    ],
)  # fmt: skip
def test_occupancy(level: str, threads: int, usage: Usage, dynamic: int, expected: float) -> None:
    assert nvrtc.occupancy(level, threads, usage, dynamic) == pytest.approx(expected)


def test_logs_without_figures_are_refused() -> None:
    with pytest.raises(GGUFError, match="does not say what a kernel takes"):
        nvrtc.read_log("ptxas info    : 0 bytes gmem")
