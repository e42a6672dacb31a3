"""A model in memory: the kernels of its plan, its packed matrices, its vectors and its embeddings."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import models, quants
from ggufpy.errors import GGUFError
from ggufpy.kernels import verdicts
from ggufpy.kernels.cache import Library, library
from ggufpy.kernels.kv_types import of_name
from ggufpy.kernels.matmul_tiles import bulk_kernel, scratch_bytes
from ggufpy.kernels.spec import Kernel, kernel
from ggufpy.models.base import Keys
from ggufpy.plan import MatMul, Op, Plan
from ggufpy.quants.base import IntPanel
from ggufpy.simd.isa import Level, has_tiles

from .cache import CacheShape
from .memory import Region, aligned
from .options import EngineOptions, Progress
from .packing import Packer
from .tape import GROUPS, Forms, cache_constants
from .threads import LAUNCH, WORK
from .weights import Matrix, matmul_kernel, pack_kernel, packed_bytes, vector

MOST_SEQUENCES = 1024
Beside = Callable[[], None] | None


def read_plan(file: Any) -> Plan:
    """The forward pass of an open file. Raises GGUFError for an architecture or tensors that do not run."""
    keys = Keys(file.metadata)
    if not isinstance(keys.architecture, str):
        raise GGUFError("the metadata has no general.architecture: the file does not say what model it is")
    plan = models.find(keys.architecture).plan(keys, file.tensors)
    _check_vocabulary(file.metadata, plan)
    return plan


def _check_vocabulary(metadata: Any, plan: Plan) -> None:
    """GGUFError for tokens without a row. Rows without a token are padding: they are never drawn (`Sampler`)."""
    key = "tokenizer.ggml.tokens"
    if key in metadata and (count := metadata.count(key)) > plan.vocabulary:
        raise GGUFError(
            f"tensor {plan.embedding.name} has {plan.vocabulary:,} rows for the {count:,} tokens of {key}; "
            "convert the model again, with rows for the tokens that were added"
        )


def _cache_shape(plan: Plan, options: EngineOptions) -> CacheShape:
    """What the cache holds. Raises GGUFError for a context longer than the model's, or a type that it cannot have."""
    n_ctx = options.whole("n_ctx", 0) or plan.context
    if n_ctx > plan.context:
        raise GGUFError(f"a context of {n_ctx} was asked for; the model's is {plan.context} (-c 1 to {plan.context})")
    sequences = options.whole("n_parallel", 1)
    if sequences > MOST_SEQUENCES:
        raise GGUFError(f"n_parallel is {sequences}; it may be 1 to {MOST_SEQUENCES}")
    shape = CacheShape(n_ctx, sequences, of_name(options.cache_type_k), of_name(options.cache_type_v))
    shape.key_type.check(plan.heads.key_length, "keys")
    shape.value_type.check(plan.heads.value_length, "values")
    return shape


def matrix_names(ops: Sequence[Op]) -> list[str]:
    """Names of the weights that are multiplied by, in order of use."""
    return list(dict.fromkeys(op.weight.name for op in ops if isinstance(op, MatMul)))


class Model:
    """`plan` with everything in memory that it needs, packed for `level`, by default the best that gives right answers.

    `beside` is called when weights begin to be packed, which takes little Python: it may start other work.

    Raises GGUFError for tensors that cannot be packed, a context longer than the model's, or too little memory.
    """

    def __init__(
        self, file: Any, plan: Plan, options: EngineOptions, level: Level | None = None, beside: Beside = None
    ) -> None:
        self.plan, self._file = plan, file
        self._names = matrix_names((*plan.body, *plan.head))
        self.threads = options.threads()
        self.shape = _cache_shape(plan, options)
        if level is None:
            self.library = self._tried_library(options.progress)
        else:
            self.library = library(level)
            self._load_kernels(self.library, options.progress)
        self.bulk = self._bulk(self.library.level)
        if beside is not None:
            beside()
        self.matrices = self._pack(options.progress)
        vectors = [w.name for w in plan.weights().values() if len(w.shape) == 1]
        self.vectors = {name: _padded(vector(file.tensors[name], name), name) for name in vectors}
        embedding = file.tensors[plan.embedding.name]
        self._embedding, self._embedding_rows = quants.get(embedding.type), embedding.little()

    @property
    def tiled_attention(self) -> bool:
        """Whether bulk rows attend by tiles too."""
        return bool(self.bulk) and has_tiles(self.library.level)

    def _bulk(self, level: Level) -> dict[str, Kernel]:
        """Kernels for bulk rows, of matrices that have one at a level."""
        panels = {n: quants.get(self._file.tensors[n].type).panel for n in self._names}
        found = {n: bulk_kernel(panel, level) for n, panel in panels.items()}
        return {n: code for n, code in found.items() if code is not None}

    def _tried_library(self, progress: Progress | None) -> Library:
        """The kernels of the best level that gives right answers on this machine; new ones are tried first."""

        def fault(level: Level) -> str:
            wanted = self._load_kernels(library(level), progress)
            if verdicts.was_right(wanted, level):
                return ""
            reason = self._fault(level)
            if not reason:
                verdicts.record_right(wanted, level)
            return reason

        return library(verdicts.first_right(fault))

    def _fault(self, level: Level) -> str:
        """What is wrong with the level's kernels, or an empty string."""
        from .trial import Trial, fault_of  # hardly ever wanted, and 10 ms of a start

        h, kinds = self.plan.heads, (self.shape.key_type.name, self.shape.value_type.name)
        types = tuple(sorted({self._file.tensors[name].type for name in self._names}))
        threads = min(self.threads, 2)
        return fault_of(Trial(level.name, h.queries, h.shared, h.key_length, h.value_length, types, kinds, threads))

    def _load_kernels(self, found: Library, progress: Progress | None) -> list[Kernel]:
        """Loads every kernel that packing and running take, so that none is compiled while a user waits for text."""
        h = self.plan.heads
        cached = cache_constants(h, self.shape)
        wanted: list[Kernel] = [LAUNCH, WORK]
        wanted += [kernel(n) for n in ("norm", "swiglu", "quantise", "queue", "tape", "select_rows")]
        wanted += [kernel(n, **cached) for n in ("rope_store", "kv_read")]
        wanted.append(kernel("attention", group=h.group, **cached))
        wanted.append(kernel("attention_join", value_length=h.value_length, group=h.group))
        panels = {quants.get(self._file.tensors[n].type).panel for n in self._names}
        for panel in sorted(panels, key=repr):
            wanted += [matmul_kernel(panel, group) for group in GROUPS]
        types = {self._file.tensors[n].type for n in self._names}
        wanted += [pack_kernel(quants.get(name)) for name in sorted(types)]
        embedding = quants.get(self._file.tensors[self.plan.embedding.name].type)
        if embedding.decoder == "blocks":
            wanted.append(kernel("decode", type=embedding.name.lower()))
        bulk = sorted(set(self._bulk(found.level).values()), key=repr)
        wanted += [kernel("to_tiles"), *bulk] if bulk else []
        if bulk and has_tiles(found.level):
            wanted.append(kernel("attention_tiles", group=h.group, **cached))
        report = None if progress is None else lambda done, total: progress("compile", done, total)
        found.load(wanted, report)
        return wanted

    def _pack(self, progress: Progress | None) -> dict[str, Matrix]:
        tensors = {name: self._file.tensors[name] for name in self._names}
        sizes = {name: packed_bytes(t, self.library.level.lanes) for name, t in tensors.items()}
        # One region, so that huge pages serve small matrices too.
        room = Region(sum(map(aligned, sizes.values())), "the weights").parts(sizes)
        advance = _counter(progress, sum(t.nbytes for t in tensors.values()))
        with Packer(self.library, self.threads, advance) as packer:
            packed = packer.pack_all([(tensor, room[name]) for name, tensor in tensors.items()])
        return dict(zip(tensors, packed, strict=True))

    def forms(self, ops: Sequence[Op]) -> Forms:
        """How matrices read the buffers of these ops."""
        products = [op for op in ops if isinstance(op, MatMul)]
        whole = [op for op in products if isinstance(self.matrices[op.weight.name].panel, IntPanel)]
        tiled = [op for op in products if op.weight.name in self.bulk]
        exact = [op for op in whole if op.weight.name not in self.bulk]
        return Forms(*(frozenset(op.x for op in some) for some in (whole, exact, tiled)))

    @property
    def scratch_bytes(self) -> int:
        """Bytes that bulk products want for each thread."""
        return max(map(scratch_bytes, self.bulk.values()), default=0)

    def embeddings(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows (tokens, n_embd) of tokens that are known to be in the vocabulary."""
        return self._embedding.decode(self._embedding_rows[tokens])

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed matrices, all of which are read for every token."""
        return sum(m.memory.nbytes for m in self.matrices.values())

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
        body, head = (
            sum(2.0 * math.prod(op.weight.shape) for op in ops if isinstance(op, MatMul))
            for ops in (self.plan.body, self.plan.head)
        )
        return body * tokens + head

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        sizes: Counter[str] = Counter()
        for name in self._names:
            sizes[self._file.tensors[name].type] += self._file.tensors[name].nbytes
        return sizes.most_common(1)[0][0]


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """advance(bytes), called from several threads: one report at a time, to the sum so far."""
    lock, done = threading.Lock(), 0

    def advance(nbytes: int) -> None:
        nonlocal done
        with lock:
            done += nbytes
            if progress is not None:
                progress("load", done, total)

    return advance


def _padded(values: NDArray[np.float32], name: str) -> Region:
    """A vector with zeros up to a whole number of blocks."""
    region = Region(-(-values.size // 32) * 128, name)
    region.view(np.float32, values.size)[:] = values.reshape(-1)
    return region
