"""How much memory a model takes, reckoned from its header before it is loaded, and how much there is.

What is reckoned is what may be touched: packed weights, the cache of contexts that are full, the buffers of a step. The
system gives memory as it is touched, so a model whose texts are short takes less. Layers that go to a GPU take nothing
here; where it is left to the GPU how many go ("auto"), all are reckoned.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.errors import GGUFError
from ggufpy.server.settings import AUTO
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.backends.cpu.kv import CacheShape
    from ggufpy.backends.cpu.needs import Panels
    from ggufpy.backends.options import EngineOptions
    from ggufpy.generate.loading import LoadOptions
    from ggufpy.models.plan import Plan
    from ggufpy.models.source import WeightSource

CONTEXT_STEP = 256  # tokens
MOST_CONTEXT = 1 << 24  # tokens: more than any model has
SHARE = 0.8  # of the machine's memory that models may have where nobody says how much
BASE = 24 << 20  # bytes of a model's thread, its tokeniser's tables and the process that renders its template
TOKEN = 400  # bytes of Python's objects for each token of a vocabulary
GROUPS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes: its packed weights, its key-value cache when all of it is held, the buffers of its
    steps, and what is beside them (vocabulary, template)."""

    weights: int
    cache: int
    work: int
    beside: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.work + self.beside

    def __add__(self, other: Needs) -> Needs:
        return Needs(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def needed(path: str | os.PathLike[str], options: LoadOptions) -> Needs:
    """What a file takes that is loaded so, with its adapters and its draft model.

    Raises GGUFError as loading does for what cannot be run.
    """
    from dataclasses import replace

    from ggufpy import format as gguf_format
    from ggufpy import hub
    from ggufpy.backends.cpu.model import read_plan
    from ggufpy.models import lora
    from ggufpy.models.rewrite import with_lora

    with gguf_format.open(path) as file:
        source: WeightSource = file
        plan = read_plan(file, options.n_ctx)
        opened = [gguf_format.open(name) for name, _ in options.lora]
        try:
            if opened:
                names = [os.fspath(name) for name, _ in options.lora]
                adapters = [lora.read(each, name) for each, name in zip(opened, names, strict=True)]
                source, plan = lora.LoraSource(file, plan, adapters), with_lora(plan, adapters)
            found = needed_of(source, plan, options)
        finally:
            for each in opened:
                each.close()
    draft = options.draft_model
    if not isinstance(draft, str | os.PathLike):
        return found
    own = replace(options, shorten=True, draft_model=None, lora=())
    return found + needed(hub.resolve(draft), own)


def with_context(path: str | os.PathLike[str], options: LoadOptions, limit: int) -> LoadOptions:
    """The options, with a context for each text where they leave that to the model: its own, or as much of it (in
    steps of 256 tokens) as brings all that the model takes within `limit` bytes (0 for no bound).

    Raises GGUFError as loading does for what cannot be run.
    """
    from dataclasses import replace

    def takes(blocks: int) -> int:
        return needed(path, replace(options, n_ctx=blocks * CONTEXT_STEP)).total

    if options.n_ctx or not limit or needed(path, options).total <= limit:
        return options
    low, high = 1, MOST_CONTEXT // CONTEXT_STEP
    while low < high:  # the first `low` blocks are taken in any case, and `high` may be too many
        middle = (low + high + 1) // 2
        try:
            low, high = (middle, high) if takes(middle) <= limit else (low, middle - 1)
        except GGUFError:  # more than the model has
            high = middle - 1
    return replace(options, n_ctx=low * CONTEXT_STEP)


def needed_of(source: WeightSource, plan: Plan, options: EngineOptions) -> Needs:
    """What an engine takes for a plan. Raises GGUFError as the engine does for what cannot be run."""
    from ggufpy import quants
    from ggufpy.backends.cpu.memory import aligned
    from ggufpy.backends.cpu.model import cache_shape
    from ggufpy.backends.cpu.needs import matrix_names, vectors
    from ggufpy.backends.cpu.weights import packed_bytes, vector_bytes
    from ggufpy.jit import verdicts
    from ggufpy.runtime.engine import step_rows

    lanes = verdicts.current().lanes
    shape = cache_shape(plan, options)
    rows, threads = step_rows(plan, shape.positions, shape.sequences, options.n_batch), options.threads()
    weights = work = cache = 0
    for part in _on_the_cpu(plan, options):
        names = matrix_names((*part.body, *part.head))
        panels = {name: quants.get(source.tensors[name].type).panel for name in names}
        weights += sum(aligned(packed_bytes(source.tensors[name], lanes)) for name in names)
        weights += sum(vector_bytes(weight.shape) for weight in vectors(part))
        work += _buffers(part, panels, rows, threads) + _attention(part, shape, threads, lanes)
        cache += _cache(part, shape, rows, lanes)
    tokens = "tokenizer.ggml.tokens"
    vocabulary = source.metadata.count(tokens) if tokens in source.metadata else 0
    drawn = 4 * 4 * plan.vocabulary * shape.sequences  # logits of each text, and what a sampler makes of them
    return Needs(weights, cache, work, BASE + TOKEN * vocabulary + drawn)


def _on_the_cpu(plan: Plan, options: EngineOptions) -> list[Plan]:
    """What stays here, a program for each: layers, with the head where none goes, and experts of layers that go.

    Experts of several cards have a program for each card, of the same buffers: they are shared out here evenly.
    """
    from itertools import pairwise

    from ggufpy.models.elsewhere import plan_of, with_experts_elsewhere

    layers = options.gpu_layers
    if layers in (0, "auto"):
        return [plan]
    count = len(plan.layers)
    first = 0 if layers == "all" else max(count - int(layers), 0)
    gone = with_experts_elsewhere(plan, options.experts_here(count))
    cards = max(sum(share > 0 for share in options.tensor_split), 1)
    ends = [first + (count - first) * card // cards for card in range(cards + 1)]
    moved = [plan_of(gone.part(start, stop)) for start, stop in pairwise(ends)]
    return [part for part in (plan.part(0, first), *moved) if part.layers]


def _cache(plan: Plan, shape: CacheShape, rows: int, lanes: int) -> int:
    """Bytes of all pages, as `CacheMemory` has them for steps of so many rows."""
    from ggufpy.backends.caches import layers_by_cache
    from ggufpy.models.ops import StoreKv

    heads = {op.layer: op.heads for op in plan.body if isinstance(op, StoreKv)}
    total = 0
    for cache, layers in layers_by_cache(plan, shape.positions, rows).items():
        pages = cache.most(shape.positions, rows) * shape.sequences
        for layer in layers:
            one = heads[layer]
            size = shape.key_type.key_page(one.key_length, lanes) + shape.value_type.value_page(one.value_length, lanes)
            total += pages * one.shared * size
    return total


def _buffers(plan: Plan, panels: Panels, rows: int, threads: int) -> int:
    """Bytes of the buffers of layers, head and products, as `CpuProgram` has them. Those of layers and head are made,
    and never touched."""
    from ggufpy.backends.cpu.kernels.matmul_tiles import scratch_bytes
    from ggufpy.backends.cpu.needs import body_widths, bulk_kernels, forms_of, head_widths
    from ggufpy.backends.cpu.program import HEAD_ROWS
    from ggufpy.backends.cpu.workspace import MOST, Workspace
    from ggufpy.jit import verdicts

    bulk = bulk_kernels(plan, panels, verdicts.current())
    parts = [
        Workspace("body", body_widths(plan), forms_of(plan.body, panels, bulk), rows + MOST, plan.adapters),
        Workspace("head", head_widths(plan), forms_of(plan.head, panels, bulk), min(HEAD_ROWS, rows), plan.adapters),
    ]
    regions = [region for work in parts for some in (work.floats, work.codes, work.tiles) for region in some.values()]
    return sum(region.nbytes for region in regions) + max(map(scratch_bytes, bulk.values()), default=1) * threads


def _attention(plan: Plan, shape: CacheShape, threads: int, lanes: int) -> int:
    """Bytes that attention works in: parts of single rows by page, and scratch of each thread."""
    from ggufpy.backends.cpu.kernels.attention import part_bytes, scratch_bytes
    from ggufpy.backends.cpu.kernels.attention_tiles import scratch_bytes as tiled_bytes
    from ggufpy.models.ops import Attend

    heads = [op.heads for op in plan.body if isinstance(op, Attend)]
    parts = max((one.shared * part_bytes(one.value_length, one.group, lanes) for one in heads), default=0)
    lengths = [(one.key_length, one.value_length, one.group) for one in heads]
    scratch = max((max(scratch_bytes(*one, lanes), tiled_bytes(*one)) for one in lengths), default=0)
    return parts * shape.pages * shape.sequences + scratch * threads


def give_back() -> None:
    """Gives memory that is free back to the system: glibc keeps that of threads which have ended, some 70 MB for each
    model that comes and goes (malloc_trim(3)). Other systems' allocators do so themselves."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(AttributeError):  # musl has no such function
        ctypes.CDLL(None).malloc_trim(0)


def allowed(max_memory: int) -> int:
    """Bytes that models may take (`ServerOptions.max_memory`), 0 for no bound."""
    return memory_limit() if max_memory == AUTO else max_memory


def memory_limit() -> int:
    """Bytes that models may take where nobody says how many: a share of the machine's memory, or of the bound of the
    control group that this process is in. 0 where neither is known."""
    known = [size for size in (_machine(), _group_limit()) if size]
    return int(SHARE * min(known)) if known else 0


def _machine() -> int:
    """Bytes of memory that this machine has, 0 where that cannot be told."""
    if sys.platform == "win32":
        return _windows()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _windows() -> int:
    """MEMORYSTATUSEX.ullTotalPhys of GlobalMemoryStatusEx (sysinfoapi.h)."""
    import ctypes

    status = (ctypes.c_ulonglong * 8)()  # dwLength and dwMemoryLoad, 4 bytes each, then seven sizes
    ctypes.memset(status, 0, 64)
    ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = 64
    library = ctypes.CDLL("kernel32")
    return int(status[1]) if library.GlobalMemoryStatusEx(ctypes.byref(status)) else 0


def _group_limit(groups: Path = GROUPS, root: Path = CGROUPS) -> int:
    """The least bound of the control groups that this process is in, 0 without one.

    Version 2 has memory.max in the folder of each group and of those around it, version 1 memory.limit_in_bytes below
    memory/ (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
    """
    try:
        lines = groups.read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    limits = []
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:
            top, name = root, "memory.max"
        elif "memory" in kinds.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
        for at in (folder, *folder.parents):
            if at.is_relative_to(top):
                limits.append(_number_in(at / name))
    return min((limit for limit in limits if 0 < limit < 1 << 60), default=0)  # version 1 says 2^63 for none


def _number_in(path: Path) -> int:
    """The number that a file has, 0 for another word and where there is none."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return 0
