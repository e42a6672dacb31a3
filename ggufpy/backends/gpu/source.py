"""A kernel's source: a file of `kernels/`, the arguments it takes, and the constants it is compiled with.

`kernels/NAME.cu` has one entry, `KERNEL(NAME)`, which sees its arguments as the struct `a` (`kernels/common.cuh`). The
struct is made from `KernelSpec.args`, so that host and device cannot disagree about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import numpy as np

from ggufpy.support.records import dataclass

_DTYPES = {"int": "<i4", "long long": "<i8", "float": "<f4"}
_INCLUDE = re.compile(r'^#include "([a-z0-9_]+\.cuh)"$', re.MULTILINE)


@dataclass(frozen=True)
class KernelSpec:
    """A kernel: the name of its file and entry, its arguments (name, C type), its constants, and how many threads a
    block has at most."""

    name: str
    args: tuple[tuple[str, str], ...]
    defines: tuple[tuple[str, str | int], ...] = ()
    threads: int = 256

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The arguments as the device has them: pointers are 64 bits, all at their natural places."""
        return _dtype(self.args)

    def record(self, values: Mapping[str, int | float]) -> bytes:
        """The arguments' bytes. Raises ValueError unless each has a value."""
        if set(values) != {name for name, _ in self.args}:
            raise ValueError(f"kernel {self.name} takes {[name for name, _ in self.args]}, not {sorted(values)}")
        made = np.zeros((), self.dtype)
        for name, value in values.items():
            made[name] = value
        return made.tobytes()


@cache
def _dtype(args: tuple[tuple[str, str], ...]) -> np.dtype[np.void]:
    return np.dtype([(name, "<u8" if kind.endswith("*") else _DTYPES[kind]) for name, kind in args], align=True)


@cache
def text(spec: KernelSpec) -> str:
    """The whole source: constants, the struct of arguments, and the file with what it includes."""
    lines = [f"#define {name} {value}" for name, value in spec.defines]
    lines += [f"#define THREADS {spec.threads}", "struct Args {"]
    lines += [f"    {kind} {name};" for name, kind in spec.args]
    return "\n".join([*lines, "};", "", _file(f"{spec.name}.cu")])


def _file(name: str) -> str:
    """A file of `kernels/`, each that it includes in its place, once."""
    seen: set[str] = set()

    def included(found: re.Match[str]) -> str:
        if found[1] in seen:
            return ""
        seen.add(found[1])
        return _INCLUDE.sub(included, _read(found[1]))

    return _INCLUDE.sub(included, _read(name))


def _read(name: str) -> str:
    return (files(__package__) / "kernels" / name).read_text("utf-8")
