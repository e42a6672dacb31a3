"""How a model is to be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ggufpy.support import checks
from ggufpy.support.cores import checked_threads, default_threads

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EngineOptions:
    """n_ctx: positions in the context, 0 for the model's own. n_threads: None for GGUFPY_THREADS or every core.

    n_batch: tokens a step. n_parallel: sequences that can be full at once. cache_type_k, cache_type_v: what keys and
    values are kept in (`kernels/kv_types.py`). progress(stage, done, total) is called while kernels compile ("compile")
    and while weights are packed ("load", bytes).
    """

    n_ctx: int = 0
    n_threads: int | None = None
    n_batch: int = 512
    progress: Progress | None = None
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    n_parallel: int = 1

    def whole(self, name: str, least: int) -> int:
        """The option's value. Raises GGUFError unless it is a whole number of at least `least`."""
        return checks.whole(name, getattr(self, name), least)

    def threads(self) -> int:
        """The number of threads to use. Raises GGUFError if what was asked for is not a sensible number."""
        if self.n_threads is None:
            return default_threads()
        count = self.whole("n_threads", 1)
        return checked_threads(count, str(count), "n_threads")
