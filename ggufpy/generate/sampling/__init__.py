"""How the next token is chosen: options (`Sampling`), and the chain of steps that they ask for (`Sampler`).

A step is a module of `steps/`; it has its options, their help and flags, and its place in the chain. What knows options
(`Sampling`, the command line) needs no NumPy, so each part is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.support.lazy import lazy

if TYPE_CHECKING:
    from ggufpy.generate.sampling.options import Sampling
    from ggufpy.generate.sampling.sampler import Constraint, Guides, Sampler

__all__ = ["Constraint", "Guides", "Sampler", "Sampling"]

_HOME = {"Constraint": "sampler", "Guides": "sampler", "Sampler": "sampler", "Sampling": "options"}

__getattr__ = lazy(__name__, _HOME)
