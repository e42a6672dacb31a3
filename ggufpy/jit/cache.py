"""Compiled kernels on disk and in this process: object code is compiled once, then loaded without importing Numba.

A cached object is named by a hash of everything that shapes it: kernel and SIMD sources, versions, level, CPU. It is
stored with its own digest, so that a damaged file is compiled again rather than run.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ggufpy.simd.emulated import STATE_SYMBOL, state_function
from ggufpy.simd.isa import Level, target
from ggufpy.support.folders import cache_dir

from .spec import HOMES, ROOT, Kernel, code_level

Progress = Callable[[int, int], None]
SHAPING = ("compile", "objects", "spec")  # modules here that code depends on
NOT_CODECS = frozenset({"__init__", "encoding", "trial"})  # modules of `quants` that it does not
_LOCK = threading.RLock()


def folder() -> Path:
    """Where object code is kept: `kernels` in the cache folder (GGUFPY_CACHE)."""
    return cache_dir() / "kernels"


@functools.cache
def sources_digest(block_type: str = "") -> str:
    """Of everything that shapes a kernel; those that encode or decode a block type depend on its module too."""
    digest = hashlib.sha256()
    shaping = [Path(__file__).with_name(f"{name}.py") for name in SHAPING]
    for home in (*HOMES, "simd"):
        shaping += (ROOT / home).glob("*.py")
    if block_type:
        shaping += (path for path in (ROOT / "quants").glob("*.py") if path.stem not in NOT_CODECS)
        shaping += (ROOT / "quants" / "types").glob(f"{block_type}.py")
    for source in sorted(shaping):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for distribution in ("numba", "llvmlite"):
        digest.update(_version(distribution).encode() + b"\0")
    digest.update(f"{sys.platform} {sys.version_info[:2]}".encode())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    """Of an installed distribution, from the folder beside its package; importing importlib.metadata takes 20 ms."""
    spec = find_spec(distribution)
    if spec is not None and spec.origin is not None:
        folders = sorted(Path(spec.origin).parent.parent.glob(f"{distribution}-*.dist-info"))
        if len(folders) == 1:
            return folders[0].name
    from importlib import metadata

    return metadata.version(distribution)


def cache_path(kernel: Kernel, level: Level) -> Path:
    level = code_level(kernel, level)
    sources = sources_digest(str(kernel.parameters.get("type", "")))
    key = "\0".join([sources, level.name, *target(level), kernel.symbol])
    return folder() / f"{kernel.symbol}-{level.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.o"


def _read(path: Path) -> bytes | None:
    """The object code in a cache file, or None if it is absent or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, code = stored[:32], stored[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Best effort: a cache that cannot be written costs time at the next start, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)


def _ignored(done: int, total: int) -> None:
    """Nobody wants to know."""


class Library:
    """The kernels of one level, loaded into this process. Addresses stay valid for the life of the process."""

    def __init__(self, level: Level) -> None:
        import llvmlite.binding as llvm

        self.level = level
        self._llvm = llvm
        self._addresses: dict[Kernel, int] = {}
        self._linked: list[Any] = []  # keeps code in memory
        self._jit = _linker()

    def load(self, kernels: Iterable[Kernel], progress: Progress | None = None) -> None:
        """Makes kernels callable; those that no cache holds are compiled, `progress(done, total)` counting them."""
        with _LOCK:
            wanted = [k for k in dict.fromkeys(kernels) if k not in self._addresses]
            codes = {k: _read(cache_path(k, self.level)) for k in wanted}
            missing = [k for k in wanted if codes[k] is None]
            if missing:
                from .ahead import compiled

                report = progress or _ignored
                report(0, len(missing))
                for done, (kernel, code) in enumerate(compiled(missing, self.level), 1):
                    codes[kernel] = code
                    report(done, len(missing))
            self._link({k: code for k, code in codes.items() if code is not None})

    def _link(self, objects: dict[Kernel, bytes]) -> None:
        """Puts objects into memory, each with its constants beside its code, out of reach of the others."""
        for kernel, code in objects.items():
            builder = self._llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
            if self.level.lowering == "amx_emulated":
                builder.import_symbol(STATE_SYMBOL, state_function()[1])
            linked = builder.export_symbol(kernel.symbol).link(self._jit, f"{kernel.symbol}-{self.level.name}")
            self._linked.append(linked)
            self._addresses[kernel] = int(linked[kernel.symbol])

    def address(self, kernel: Kernel) -> int:
        """The entry point `void (int64 args, int64 ith, int64 nth)` of a kernel, loading it first if need be."""
        if kernel not in self._addresses:
            self.load([kernel])
        return self._addresses[kernel]

    def call(self, kernel: Kernel, args: Any, ith: int = 0, nth: int = 1) -> None:
        """Calls a kernel on this thread with one structured value; the GIL is released meanwhile."""
        function(self.address(kernel))(args.ctypes.data, ith, nth)


def _linker() -> Any:
    """LLVM's JITLink: an object is laid out as one piece, and a distance that does not fit is an error."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.create_lljit_compiler(use_jit_link=True)


def function(address: int) -> Callable[[int, int, int], None]:
    """A kernel's entry point as something Python calls."""
    import ctypes

    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)


@functools.cache
def library(level: Level) -> Library:
    """The process's one library of a level."""
    return Library(level)
