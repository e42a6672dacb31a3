"""Compiles kernels for the CPU with g++, keeps what is compiled, and says which lines a message is about."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from ggufpy.backends.gpu.source import KernelSpec, text
from ggufpy.errors import GGUFError

SOURCES = Path(__file__).parent / "gpu_shim"
_FLAGS = ("-std=c++17", "-shared", "-fPIC", "-g", "-fno-exceptions", "-fno-strict-aliasing", "-fvisibility=hidden")
# What g++ notes is handled by memory.cpp, so its own libraries are left out.
_KERNEL = ("-O1", "-nodefaultlibs", "-lm", "-lc", "-fno-threadsafe-statics", "-fsanitize=alignment,null")
_CHECKED = (
    "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=bounds,shift-exponent,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow",
)  # fmt: skip
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\[\];")
_PLACE = re.compile(r"@0x([0-9a-f]+)")
_LINE = re.compile(r"line (\d+)")
_TAIL = """
}
extern "C" __attribute__((visibility("default"))) const shim::Kernel shim_kernel = {
    shim_name, shim_run, sizeof(Args), __ehdr_start, _end, __start_shim_shared, __stop_shim_shared};
"""


def compiler() -> str:
    """The C++ compiler that kernels are compiled with. Skips the test where there is none."""
    if sys.platform != "linux":  # what is compiled relies on ELF
        pytest.skip("kernels for a GPU are compiled for the CPU on Linux only")
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
def _included(pattern: str) -> str:
    """What a source may include."""
    return "".join(path.read_text("utf-8") for path in sorted(SOURCES.glob(pattern)))


def _folder() -> Path:
    """Where compiled kernels are kept."""
    cached = os.environ.get("GGUFPY_CACHE")
    folder = Path(cached) / "gpu-shim" if cached else Path(tempfile.gettempdir()) / f"ggufpy-gpu-shim-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(name: str, source: str, flags: Sequence[str], includes: str = "*.h") -> Path:
    """The shared library of a source that may include such files, compiled unless the cache has it."""
    flags = (*_FLAGS, *_cpu_flags(), *flags)
    hashed = hashlib.sha256("\0".join((source, _included(includes), *flags)).encode()).hexdigest()[:24]
    built = _folder() / f"{name}-{hashed}.so"
    if built.exists():
        return built
    with tempfile.TemporaryDirectory(dir=_folder()) as made:
        written = Path(made) / f"{name}.cpp"
        written.write_text(source, "utf-8")
        command = [compiler(), f"-I{SOURCES}", str(written), *flags, "-o", f"{made}/{name}.so"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise GGUFError(f"{name} does not compile for the CPU:\n{done.stderr}")
        os.replace(f"{made}/{name}.so", built)  # several processes may make the same
    return built


def explained(message: str, library: Path, source: str) -> str:
    """A message of the library's with the lines of source that it speaks of: places in code become lines."""

    def line_of(place: re.Match[str]) -> str:
        command = ["addr2line", "-i", "-e", str(library), place[1]]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return f"code {place[1]}"
        of_kernel = [line.rpartition(":")[2].split()[0] for line in said.splitlines() if ".cpp:" in line]
        return f"line {of_kernel[0]}" if of_kernel else f"code {place[1]}"

    lines = source.splitlines()
    message = _PLACE.sub(line_of, message)
    spoken = dict.fromkeys(int(number) for number in _LINE.findall(message))
    return "\n".join([message, *(f"    {number}: {lines[number - 1].strip()}" for number in spoken)])


def library(spec: KernelSpec, level: str, checked: bool) -> Path:
    """The shared library of a kernel. `checked`: it says what memory it touches."""
    arch = int(level.removeprefix("sm_")) * 10
    source = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(shim_now->dynamic);", text(spec))
    whole = f'#define __CUDA_ARCH__ {arch}\n#include "device.h"\nnamespace {{\n#line 1\n{source}{_TAIL}'
    return build(spec.name, whole, (*_KERNEL, *(_CHECKED if checked else ())))
