"""Runs plans: an `Engine` makes steps of several sequences, a `Scheduler` makes requests into steps."""

from __future__ import annotations

from ggufpy.backends.options import EngineOptions
from ggufpy.jit import verdicts

from .engine import Engine
from .loading import load


def isa_name() -> str:
    """The SIMD level that runs: "avx512", "avx2", "portable", …"""
    return verdicts.current().name


__all__ = ["Engine", "EngineOptions", "isa_name", "load"]
