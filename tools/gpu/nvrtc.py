"""What NVIDIA's compiler says of kernels: registers, shared memory, spills. It needs no card and no driver.

NVRTC is that of PyPI (nvidia-cuda-nvrtc-cu12, headers of nvidia-cuda-runtime-cu12; without -cu12 for CUDA 13), and is
given the options that CuPy gives it. With `--ptxas-options=-v` its log has what ptxas says.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from ggufpy.backends.gpu.cuda import OPTIONS
from ggufpy.errors import GGUFError

LEVELS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
INSTALL = "pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12"
_OF_CUPY = ("-ftz=true", "--device-as-default-execution-space")


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers of a thread, bytes of static shared memory of a block, and bytes of a thread that
    are in memory: its stack (arrays indexed at run time, for one), registers stored there and loaded again."""

    registers: int
    shared: int
    stack: int
    stores: int
    loads: int


@dataclass(frozen=True)
class Multiprocessor:
    """What blocks share on a multiprocessor: threads, blocks and bytes of shared memory that there can be at once."""

    threads: int
    blocks: int
    shared: int


# Technical specifications by compute capability, in an appendix of the CUDA C++ programming guide. All have 65,536
# registers, given out by 256 a warp; from sm_80 on a block takes 1 KiB of shared memory more than it asks for.
MULTIPROCESSORS = {
    "sm_75": Multiprocessor(1024, 16, 64 << 10), "sm_80": Multiprocessor(2048, 32, 164 << 10),
    "sm_86": Multiprocessor(1536, 16, 100 << 10), "sm_89": Multiprocessor(1536, 24, 100 << 10),
    "sm_90": Multiprocessor(2048, 32, 228 << 10), "sm_100": Multiprocessor(2048, 32, 228 << 10),
    "sm_120": Multiprocessor(1536, 24, 100 << 10),
}  # fmt: skip


def occupancy(level: str, threads: int, usage: Usage, dynamic: int = 0) -> float:
    """The part of a multiprocessor's threads that blocks of so many can keep busy at once."""
    most = MULTIPROCESSORS[level]
    warps = -(-threads // 32)
    registers = -(-usage.registers * 32 // 256) * 256 * warps
    shared = usage.shared + dynamic + (1024 if level != "sm_75" else 0)
    blocks = min(most.blocks, most.threads // (32 * warps), 65_536 // registers)
    if shared:
        blocks = min(blocks, most.shared // shared)
    return blocks * 32 * warps / most.threads


class Compiler:
    """NVRTC. Its calls may come from several threads."""

    def __init__(self, library: Path, headers: Path) -> None:
        for builtins in sorted(library.parent.glob("libnvrtc-builtins.so*")):  # which it opens by name alone
            ctypes.CDLL(str(builtins))
        self._nvrtc = ctypes.CDLL(str(library))
        self._headers = headers

    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def compile(self, source: str, level: str) -> Usage:
        """Compiles a source with one kernel. Raises GGUFError with the first error of the compiler."""
        options = (*OPTIONS, *_OF_CUPY, f"-arch={level}", f"-I{self._headers}", "--ptxas-options=-v")
        status, log = self._compiled(source, options)
        if status:
            lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()[:1]
            raise GGUFError(f"{level}: {lines[0] if lines else f'NVRTC says {status}'}")
        return read_log(log)

    def _compiled(self, source: str, options: Sequence[str]) -> tuple[int, str]:
        nvrtc, program = self._nvrtc, ctypes.c_void_p()
        if status := nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None):
            raise GGUFError(f"NVRTC says {status} before it has compiled anything")
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), given)
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return status, log.value.decode("utf-8", "replace")


def read_log(log: str) -> Usage:
    """The sums over what ptxas compiled: an entry, and what it calls, if that was not put into its place."""
    found = {
        name: [int(number) for number in re.findall(pattern, log)]
        for name, pattern in (
            ("registers", r"Used (\d+) registers"), ("shared", r"(\d+) bytes smem"),
            ("stack", r"(\d+) bytes stack frame"), ("stores", r"(\d+) bytes spill stores"),
            ("loads", r"(\d+) bytes spill loads"),
        )
    }  # fmt: skip
    if not (found["registers"] and found["stack"]):
        raise GGUFError("the compiler's log does not say what a kernel takes: is NVRTC older than 12.4?")
    return Usage(
        max(found["registers"]), sum(found["shared"]), sum(found["stack"]), sum(found["stores"]), sum(found["loads"])
    )


@cache
def compiler() -> Compiler:
    """NVRTC of the packages that are installed. Raises GGUFError that says what to install."""
    for library, headers in _places():
        if library.is_file() and (headers / "cuda_fp16.h").is_file():
            return Compiler(library, headers)
    raise GGUFError(f"NVRTC of PyPI is not installed: {INSTALL}")


def _places() -> Iterator[tuple[Path, Path]]:
    spec = util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield Path(place) / "cuda_nvrtc/lib/libnvrtc.so.12", Path(place) / "cuda_runtime/include"
        yield Path(place) / "cu13/lib/libnvrtc.so.13", Path(place) / "cu13/include"
