"""How a model is to be run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ggufpy.errors import GGUFError

Progress = Callable[[str, int, int], None]
MOST_THREADS = 256


@dataclass(frozen=True)
class EngineOptions:
    """n_ctx: positions in the context, 0 for the model's own. n_threads: None for GGUFPY_THREADS or every core.

    n_batch: tokens a step. progress(stage, done, total) is called while kernels compile ("compile") and while weights
    are packed ("load", bytes).
    """

    n_ctx: int = 0
    n_threads: int | None = None
    n_batch: int = 512
    progress: Progress | None = None

    def threads(self) -> int:
        """The number of threads to use. Raises GGUFError if what was asked for is not a sensible number."""
        wanted: int | str | None = self.n_threads
        source = "the number of threads"
        if wanted is None and os.environ.get("GGUFPY_THREADS"):
            wanted, source = os.environ["GGUFPY_THREADS"], "GGUFPY_THREADS"
        if wanted is None:
            return min(_cores(), MOST_THREADS)
        try:
            count = int(wanted)
        except ValueError:
            count = 0
        if not 1 <= count <= MOST_THREADS:
            raise GGUFError(f"{source} is {wanted}; it must be from 1 to {MOST_THREADS}")
        return count


def _cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
