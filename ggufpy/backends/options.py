"""How a model is to be run."""

from __future__ import annotations

from collections.abc import Callable

from ggufpy.backends.cpu.kernels.kv_types import of_name
from ggufpy.support.cores import checked_threads, default_threads
from ggufpy.support.options import Text, Whole, declared, option
from ggufpy.support.records import dataclass

Progress = Callable[[str, int, int], None]


class CacheType(Text):
    """Names of what keys and values can be kept in (`kernels/kv_types.py`)."""

    def check(self, name: str, value: object) -> str:
        """See Kind."""
        return of_name(super().check(name, value)).name


@dataclass(frozen=True)
class EngineOptions:
    """Defaults, bounds, help and flags are those of the command line, too.

    n_ctx: positions in the context, 0 for the model's own. n_threads: None for GGUFPY_THREADS or every core.
    n_batch: tokens a step. n_parallel: sequences that can be full at once. cache_type_k, cache_type_v: what keys and
    values are kept in. prompt_ms: how long a step may take for prompts while other texts are written, 0 for any time.
    progress(stage, done, total) is called while kernels compile ("compile") and while weights are packed ("load",
    bytes).
    """

    n_ctx: int = option(
        0, Whole(0), "context in tokens", "-c", "--ctx-size", metavar="CTX", default_text="0, the model's"
    )
    n_threads: int | None = option(
        None, Whole(1), "CPU threads", "-t", "--threads", metavar="T", default_text="one a core"
    )
    n_batch: int = option(512, Whole(1), "prompt tokens at a time", "-b", "--batch", metavar="B")
    n_gpu_layers: int = option(
        0, Whole(-1), "layers on a GPU (0 only, for now)", "-ngl", "--n-gpu-layers", metavar="N", default_text=""
    )
    cache_type_k: str = option("f16", CacheType(), "type of the K cache", "-ctk", "--cache-type-k", metavar="TYPE")
    cache_type_v: str = option("f16", CacheType(), "type of the V cache", "-ctv", "--cache-type-v", metavar="TYPE")
    n_parallel: int = option(1, Whole(1), "texts at a time", "-np", "--parallel", metavar="N")
    prompt_ms: int = option(
        1000, Whole(0), "milliseconds that a step may give to prompts while other texts come; 0 sets no bound",
        "--prompt-ms", metavar="MS",
    )  # fmt: skip
    progress: Progress | None = None

    def check(self) -> None:
        """Raise GGUFError for what no model can do."""
        for name, each in declared(self).items():
            each.check(getattr(self, name))

    def threads(self) -> int:
        """The number of threads to use. Raises GGUFError if what was asked for is not a sensible number."""
        if self.n_threads is None:
            return default_threads()
        count: int = declared(self)["n_threads"].check(self.n_threads)
        return checked_threads(count, str(count), "n_threads")
