"""SIMD levels: which the CPU has, which one runs, and what LLVM is told to generate code for.

A level fixes the number of 32-bit lanes of a vector, and with it the layout of packed weights.
"""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass

from ggufpy.errors import GGUFError


@dataclass(frozen=True)
class Level:
    """One SIMD level. `needs` are LLVM feature names that the CPU must have; `lanes` is 32-bit lanes a vector.

    `registers` is how many vector registers a kernel may plan with; `host_tuned` levels are compiled for the very
    CPU, the others for `cpu` with `features` alone, so that a forced level cannot use what it does not name.
    """

    name: str
    lanes: int
    registers: int
    lowering: str
    machine: frozenset[str]
    needs: tuple[str, ...] = ()
    cpu: str = ""
    features: str = ""
    host_tuned: bool = False


_X86 = frozenset({"x86_64", "AMD64"})
_ARM = frozenset({"aarch64", "arm64"})
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "f16c", "fma")

# Best first. `amx` computes few tokens as avx512 does; its tiles serve matrix products of many tokens.
LEVELS = (
    Level("amx", 16, 32, "avx512", _X86, (*_AVX512, "amx-tile", "amx-int8", "amx-bf16"), host_tuned=True),
    Level("avx512", 16, 32, "avx512", _X86, _AVX512, host_tuned=True),
    Level("avx2", 8, 16, "avx2", _X86, ("avx2", "f16c", "fma"), "haswell", "+avx2,+f16c,+fma"),
    Level("neon", 4, 32, "neon", _ARM, ("neon", "dotprod"), "generic", "+neon,+dotprod"),
    Level("portable", 4, 16, "portable", _X86 | _ARM | {""}),
)


@functools.cache
def host_features() -> frozenset[str]:
    """Feature names that LLVM finds on this CPU."""
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def available() -> tuple[Level, ...]:
    """Levels that this machine can run, best first. `portable` is always there."""
    machine = platform.machine()
    found = [
        level
        for level in LEVELS
        if level.name == "portable" or (machine in level.machine and host_features().issuperset(level.needs))
    ]
    return tuple(found)


def current() -> Level:
    """The level to run at: the one that GGUFPY_ISA names, else the best. Raises GGUFError if the CPU lacks it."""
    wanted = os.environ.get("GGUFPY_ISA", "").strip().lower()
    present = available()
    if not wanted:
        return present[0]
    for level in present:
        if level.name == wanted:
            return level
    names = ", ".join(level.name for level in present)
    known = any(level.name == wanted for level in LEVELS)
    reason = "this CPU does not have it" if known else "there is no such level"
    raise GGUFError(f"GGUFPY_ISA={wanted}: {reason}; choose one of {names}")


def target(level: Level) -> tuple[str, str]:
    """LLVM's CPU name and feature string for code at this level."""
    if not level.host_tuned:
        return level.cpu, level.features
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
