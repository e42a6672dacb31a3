"""SIMD levels: which the CPU has, which one runs, and what LLVM is told to generate code for.

A level fixes the number of 32-bit lanes of a vector, and with it the layout of packed weights. Within a level,
`has_tiles` and `has_bf16_dot` say whether there is a faster way to multiply matrices.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
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
    Level("amx", 16, 32, "amx", _X86, (*_AVX512, "amx-tile", "amx-bf16"), host_tuned=True),
    Level("avx512", 16, 32, "avx512", _X86, _AVX512, host_tuned=True),
    Level("avx2", 8, 16, "avx2", _X86, ("avx2", "f16c", "fma"), "haswell", "+avx2,+f16c,+fma"),
    Level("neon", 4, 32, "neon", _ARM, ("neon", "dotprod"), "generic", "+neon,+dotprod"),
    Level("portable", 4, 16, "portable", _X86 | _ARM | {""}),
)

# For tests: the kernels of `amx` on any machine, its tiles being memory. It is none of LEVELS, but can be forced.
EMULATED = Level("amx_emulated", 16, 32, "amx_emulated", _X86 | _ARM, host_tuned=True)

# Linux gives a process its 8 KiB of tiles when it asks (Documentation/arch/x86/xstate.rst): the number of the system
# call arch_prctl on x86-64, its ARCH_REQ_XCOMP_PERM, and XFEATURE_XTILEDATA.
_ARCH_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def host_features() -> frozenset[str]:
    """Feature names that LLVM finds on this CPU."""
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


@functools.cache
def tiles_refused() -> str:
    """Asks the system, once, for the tiles of a CPU that has them; why it does not give them, or an empty string."""
    if not sys.platform.startswith("linux"):
        return f"ggufpy cannot ask {sys.platform} for them"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_ASK), ctypes.c_long(_TILE_DATA)) == 0:
        return ""
    return f"the system refused: {os.strerror(ctypes.get_errno())}"


def _present(level: Level) -> bool:
    """Whether this CPU has the level."""
    return platform.machine() in level.machine and host_features().issuperset(level.needs)


def available() -> tuple[Level, ...]:
    """Levels that this process can run, best first. `portable` is always there."""
    levels = [level for level in LEVELS if level.name == "portable" or (_present(level) and not _unusable(level))]
    return tuple(levels)


def absence(level: Level) -> str:
    """Why this process cannot run a level that is not among `available`."""
    if _present(level):
        return tiles_refused()
    if platform.machine() not in level.machine:
        return "it belongs to another kind of CPU"
    missing = sorted(set(level.needs) - host_features())
    return f"the CPU has no {', '.join(missing)}"


def notes() -> list[str]:
    """A line for each level that the CPU has but this process cannot use."""
    return [f"{at.name} is not used: {tiles_refused()}" for at in LEVELS if _unusable(at)]


def _unusable(level: Level) -> bool:
    return has_tiles(level) and _present(level) and bool(tiles_refused())


def features(level: Level) -> frozenset[str]:
    """LLVM's names of what code at this level may use: the host's, or what the level itself names."""
    if level.host_tuned:
        return host_features()
    return frozenset(name[1:] for name in level.features.split(",") if name.startswith("+"))


def has_tiles(level: Level) -> bool:
    """Whether the level has the primitives of bf16 tiles."""
    return level.lowering in ("amx", "amx_emulated")


def without_tiles(level: Level) -> Level:
    """The level whose code this one shares where it uses no tiles: theirs is all that `amx` has beyond `avx512`.

    So does the emulated level where the CPU has `avx512`; elsewhere its vectors are emulated too.
    """
    avx512 = next(one for one in LEVELS if one.name == "avx512")
    return avx512 if has_tiles(level) and _present(avx512) else level


def has_bf16_dot(level: Level) -> bool:
    """Whether the level has a dot product of bf16 pairs."""
    return level.lowering in ("avx512", "amx") and "avx512bf16" in features(level)


def named(name: str) -> Level:
    """The level of this process, or the emulated one, that is called so. Raises GGUFError if there is none."""
    for level in (*available(), EMULATED):
        if level.name == name:
            return level
    raise GGUFError(f"there is no SIMD level {name} here; choose one of {', '.join(one.name for one in available())}")


def current() -> Level:
    """The level to run at: the one that GGUFPY_ISA names, else the best. Raises GGUFError if the CPU lacks it."""
    wanted = os.environ.get("GGUFPY_ISA", "").strip().lower()
    present = available()
    if not wanted:
        return present[0]
    for level in (*present, EMULATED):
        if level.name == wanted:
            return level
    names = ", ".join(level.name for level in present)
    known = [level for level in LEVELS if level.name == wanted]
    reason = "this CPU does not have it" if known else "there is no such level"
    if known and _present(known[0]):
        reason = tiles_refused()
    raise GGUFError(f"SIMD level {wanted} (--isa, GGUFPY_ISA): {reason}; choose one of {names}")


@functools.cache
def target(level: Level) -> tuple[str, str]:
    """LLVM's CPU name and feature string for code at this level."""
    if not level.host_tuned:
        return level.cpu, level.features
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
