"""How a model is to be run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ggufpy.backends.cpu.kernels.kv_types import of_name
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.cores import checked_threads, default_threads
from ggufpy.support.options import Real, Text, Whole, declared, option
from ggufpy.support.records import dataclass

Progress = Callable[[str, int, int], None]
Note = Callable[[str], None]
Layers = int | Literal["all", "auto"]


class CacheType(Text):
    """Names of what keys and values can be kept in (`kernels/kv_types.py`)."""

    def check(self, name: str, value: object) -> str:
        """See Kind."""
        return of_name(super().check(name, value)).name


class GpuLayers:
    """How many layers go to a GPU: a number, -1 or "all", or "auto"."""

    def check(self, name: str, value: object) -> Layers:
        """See Kind."""
        if isinstance(value, str):
            if value not in ("all", "auto"):
                raise GGUFError(f"{name} is {checks.shown(value)}; it must be a whole number, all or auto")
            return "all" if value == "all" else "auto"
        count = checks.whole(name, value, -1)
        return "all" if count == -1 else count

    def read(self, text: str) -> Layers:
        """See Kind."""
        if text in ("all", "auto"):
            return self.check("", text)
        try:
            return self.check("", int(text))
        except (ValueError, GGUFError):
            raise GGUFError(f"{text!r} is not a number of layers, all or auto") from None


class Split:
    """Shares of several things, as 3,1 on the command line: a number each, of which one counts."""

    def check(self, name: str, value: object) -> tuple[float, ...]:
        """See Kind."""
        shares = tuple(checks.number(name, each) for each in checks.items(name, value, "a list of numbers"))
        if any(share < 0 for share in shares) or (shares and not sum(shares)):
            raise GGUFError(f"{name} is {checks.shown(list(shares))}; shares are 0 or more, and one is above 0")
        return shares

    def read(self, text: str) -> tuple[float, ...]:
        """See Kind."""
        return self.check("the split", [Real().read(each) for each in text.split(",")])


@dataclass(frozen=True)
class EngineOptions:
    """Defaults, bounds, help and flags are those of the command line, too.

    n_ctx: positions in the context, 0 for the model's own. n_threads: None for GGUFPY_THREADS or every core.
    n_batch: tokens a step. n_parallel: sequences that can be full at once. cache_type_k, cache_type_v: what keys and
    values are kept in. prompt_ms: how long a step may take for prompts while other texts are written, 0 for any time.
    n_gpu_layers: how many of the last layers run on a GPU, with the output, which goes with them; -1 is "all", "auto"
    as many as fit. They are on the card `main_gpu`, or on several by the shares in `tensor_split`, in order.
    n_cpu_moe: of the model's first so many layers the experts stay on the CPU, even if the layers go to a card; of all
    with `cpu_moe`.
    progress(stage, done, total) is called while kernels compile ("compile") and while weights are packed ("load",
    bytes); note(line) is told what was decided about layers.
    """

    n_ctx: int = option(
        0, Whole(0), "context in tokens", "-c", "--ctx-size", metavar="CTX", default_text="0, the model's"
    )
    n_threads: int | None = option(
        None, Whole(1), "CPU threads", "-t", "--threads", metavar="T", default_text="one a core"
    )
    n_batch: int = option(512, Whole(1), "prompt tokens at a time", "-b", "--batch", metavar="B")
    n_gpu_layers: Layers = option(
        0, GpuLayers(), "layers on an NVIDIA card: the last N and the output, all, or auto for what fits there",
        "-ngl", "--n-gpu-layers", "--gpu-layers", metavar="N",
    )  # fmt: skip
    cache_type_k: str = option("f16", CacheType(), "type of the K cache", "-ctk", "--cache-type-k", metavar="TYPE")
    cache_type_v: str = option("f16", CacheType(), "type of the V cache", "-ctv", "--cache-type-v", metavar="TYPE")
    n_parallel: int = option(1, Whole(1), "texts at a time", "-np", "--parallel", metavar="N")
    prompt_ms: int = option(
        1000, Whole(0), "milliseconds that a step may give to prompts while other texts come; 0 sets no bound",
        "--prompt-ms", metavar="MS",
    )  # fmt: skip
    main_gpu: int = option(0, Whole(0), "which card (ggufpy doctor lists them)", "-mg", "--main-gpu", metavar="I")
    tensor_split: tuple[float, ...] = option(
        (), Split(), "spread layers over several cards by shares, as 3,1", "-ts", "--tensor-split", metavar="SHARES",
        default_text="all on --main-gpu",
    )  # fmt: skip
    n_cpu_moe: int = option(
        0, Whole(0), "keep the experts of the first N layers on the CPU, where their layers are on a card", "-ncmoe",
        "--n-cpu-moe", metavar="N", default_text="",
    )  # fmt: skip
    cpu_moe: bool = False
    progress: Progress | None = None
    note: Note | None = None

    def check(self) -> None:
        """Raise GGUFError for what no model can do."""
        for name, each in declared(self).items():
            each.check(getattr(self, name))
        if (self.cpu_moe or self.n_cpu_moe) and not self.gpu_layers:
            flag = "--cpu-moe" if self.cpu_moe else f"--n-cpu-moe {self.n_cpu_moe}"
            raise GGUFError(f"{flag} says which experts stay on the CPU: say what goes to a card (-ngl, n_gpu_layers)")

    @property
    def gpu_layers(self) -> Layers:
        """How many layers go to a GPU, as `GpuLayers` keeps it."""
        return GpuLayers().check("n_gpu_layers", self.n_gpu_layers)

    def experts_here(self, layers: int) -> int:
        """Of how many of the first layers, of so many, the experts stay on the CPU."""
        return layers if self.cpu_moe else min(self.n_cpu_moe, layers)

    def threads(self) -> int:
        """The number of threads to use. Raises GGUFError if what was asked for is not a sensible number."""
        if self.n_threads is None:
            return default_threads()
        count: int = declared(self)["n_threads"].check(self.n_threads)
        return checked_threads(count, str(count), "n_threads")
