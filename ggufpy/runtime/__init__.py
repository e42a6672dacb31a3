"""Runs plans: packed weights, threads, the key/value cache, and a `Session` that applications hold through `Llama`."""

from __future__ import annotations

from ggufpy.backends.options import EngineOptions
from ggufpy.jit import verdicts

from .session import Session, load


def isa_name() -> str:
    """The SIMD level that runs: "avx512", "avx2", "portable", …"""
    return verdicts.current().name


__all__ = ["EngineOptions", "Session", "isa_name", "load"]
