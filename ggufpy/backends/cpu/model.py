"""A model in memory: the kernels of its plan, its packed matrices, its vectors and its embeddings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy import models, quants
from ggufpy.backends.cpu.kernels.kv_types import of_name
from ggufpy.backends.cpu.kernels.matmul_tiles import scratch_bytes
from ggufpy.backends.cpu.kv import CacheShape
from ggufpy.backends.embedding import Embeddings
from ggufpy.backends.options import EngineOptions, Progress
from ggufpy.errors import GGUFError
from ggufpy.format.metadata import Metadata
from ggufpy.jit.cache import Library
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.base import Keys
from ggufpy.models.op import Op
from ggufpy.models.ops import Embed, ExpertMatMul
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource

from .lowering import Sinks
from .memory import Region, aligned
from .needs import (
    bulk_kernels,
    forms_of,
    geometries,
    kernels_of,
    main_type,
    matrix_names,
    products,
    prompt_flops,
    tiled_attention,
    vectors,
)
from .packing import Packer
from .threads import LAUNCH, WORK
from .weights import Matrix, pack_kernel, packed_bytes, vector, vector_bytes
from .workspace import Forms

if TYPE_CHECKING:
    from .program import CpuProgram

MOST_SEQUENCES = 1024
Beside = Callable[[], None] | None


def read_plan(source: WeightSource, n_ctx: int = 0) -> Plan:
    """The forward pass of a model for a context of `n_ctx`, 0 for its own, which some models' rotation goes by.

    Raises GGUFError for an architecture or tensors that do not run.
    """
    keys = Keys(source.metadata, n_ctx)
    if not isinstance(keys.architecture, str):
        raise GGUFError("the metadata has no general.architecture: the file does not say what model it is")
    if keys.number("attention.max_alibi_bias", 0.0, or_zero=True):
        raise GGUFError("the model's attention is weighed by distance (ALiBi), which ggufpy does not run yet")
    plan = models.find(keys.architecture).plan(keys, source.tensors)
    _check_vocabulary(source.metadata, plan)
    return replace(plan, pooling=keys.pooling())


def _check_vocabulary(metadata: Metadata, plan: Plan) -> None:
    """GGUFError for tokens without a row. Rows without a token are padding: they are never drawn (`Sampler`)."""
    key = "tokenizer.ggml.tokens"
    if key in metadata and (count := metadata.count(key)) > plan.vocabulary:
        raise GGUFError(
            f"tensor {plan.embed.weights[0].name} has {plan.vocabulary:,} rows for the {count:,} tokens of {key}; "
            "convert the model again, with rows for the tokens that were added"
        )


def cache_shape(plan: Plan, options: EngineOptions) -> CacheShape:
    """What the cache holds. Raises GGUFError for a context longer than the model's, or a type that it cannot have."""
    n_ctx = options.n_ctx or plan.context
    if n_ctx > plan.context:
        raise GGUFError(f"a context of {n_ctx} was asked for; the model's is {plan.context} (-c 1 to {plan.context})")
    if isinstance(plan.embed, Embed) and plan.embed.positions is not None and n_ctx > plan.embed.positions.shape[0]:
        most = plan.embed.positions
        raise GGUFError(
            f"a context of {n_ctx} was asked for; the model has learned {most.shape[0]} positions ({most.name}): "
            f"use -c 1 to {most.shape[0]}"
        )
    if options.n_parallel > MOST_SEQUENCES:
        raise GGUFError(f"n_parallel is {options.n_parallel}; it may be 1 to {MOST_SEQUENCES}")
    shape = CacheShape(n_ctx, options.n_parallel, of_name(options.cache_type_k), of_name(options.cache_type_v))
    for heads in geometries(plan):
        shape.key_type.check(heads.key_length, "keys")
        shape.value_type.check(heads.value_length, "values")
    return shape


def load_kernels(source: WeightSource, plan: Plan, options: EngineOptions, library: Library) -> list[Kernel]:
    """Loads every kernel that packing and running take, so that none is compiled while a user waits for text.

    Raises GGUFError as `Model` does, and for a plan that cannot be run.
    """
    types = {name: quants.get(source.tensors[name].type) for name in matrix_names((*plan.body, *plan.head))}
    wanted: list[Kernel] = [LAUNCH, WORK, kernel("queue"), kernel("tape"), kernel("select_rows")]
    wanted += [pack_kernel(kind) for kind in dict.fromkeys(types.values())]
    if isinstance(plan.embed, Embed):
        embeddings = [quants.get(source.tensors[weight.name].type) for weight in plan.embed.weights]
        wanted += [kernel("decode", type=kind.name.lower()) for kind in embeddings if kind.decoder == "blocks"]
    if plan.makes_logits:
        wanted.append(kernel("largest"))  # which sampling takes
    panels = {name: kind.panel for name, kind in types.items()}
    wanted += kernels_of(plan, panels, cache_shape(plan, options), library.level)
    progress = options.progress
    report = None if progress is None else lambda done, total: progress("compile", done, total)
    library.load(wanted, report)
    return wanted


class Model:
    """`plan` with everything in memory that it needs, packed for the level of `kernels`, which are loaded.

    `beside` is called when weights begin to be packed, which takes little Python: it may start other work.

    Raises GGUFError for tensors that cannot be packed, a context longer than the model's, or too little memory.
    """

    def __init__(
        self, source: WeightSource, plan: Plan, options: EngineOptions, kernels: Library, beside: Beside = None
    ) -> None:
        self.plan, self._tensors, self.library = plan, source.tensors, kernels
        self._names = matrix_names((*plan.body, *plan.head))
        self.threads = options.threads()
        self.shape = cache_shape(plan, options)
        panels = {name: quants.get(self._tensors[name].type).panel for name in self._names}
        self.bulk = bulk_kernels(plan, panels, self.library.level)
        if beside is not None:
            beside()
        self.matrices = self._pack(options.progress)
        names = [weight.name for weight in vectors(plan)]
        self.vectors = {name: _padded(vector(self._tensors[name]), name) for name in names}
        self.embeddings = Embeddings(plan.embed, self._tensors)

    @property
    def positions(self) -> int:
        """Of a sequence."""
        return self.shape.positions

    @property
    def sequences(self) -> int:
        """That can be full at once."""
        return self.shape.sequences

    @property
    def bulk_rows(self) -> bool:
        """Whether any matrix has a kernel for many rows."""
        return bool(self.bulk)

    @property
    def isa(self) -> str:
        """The SIMD level that the weights are packed for."""
        return self.library.level.name

    def program(self, rows: int) -> CpuProgram:
        """For steps of at most so many rows."""
        from .program import CpuProgram  # it imports this module

        return CpuProgram(self, rows)

    @property
    def tiled_attention(self) -> bool:
        """Whether bulk rows attend by tiles too."""
        return tiled_attention(self.bulk, self.library.level)

    def _pack(self, progress: Progress | None) -> dict[str, Matrix]:
        tensors = {name: self._tensors[name] for name in self._names}
        sizes = {name: packed_bytes(t, self.library.level.lanes) for name, t in tensors.items()}
        # One region, so that huge pages serve small matrices too.
        room = Region(sum(map(aligned, sizes.values())), "the weights").parts(sizes)
        advance = _counter(progress, sum(t.nbytes for t in tensors.values()))
        with Packer(self.library, self.threads, advance) as packer:
            packed = packer.pack_all([(tensor, room[name]) for name, tensor in tensors.items()])
        return dict(zip(tensors, packed, strict=True))

    def forms(self, ops: Sequence[Op]) -> Forms:
        """How matrices read the buffers of these ops."""
        return forms_of(ops, {name: matrix.panel for name, matrix in self.matrices.items()}, self.bulk)

    def load_kernels(self, plan: Plan, sinks: Sinks) -> None:
        """Loads what tapes of a plan with other ops on the same matrices call."""
        panels = {name: matrix.panel for name, matrix in self.matrices.items()}
        self.library.load(kernels_of(plan, panels, self.shape, self.library.level, sinks))

    @property
    def scratch_bytes(self) -> int:
        """Bytes that bulk products want for each thread."""
        return max(map(scratch_bytes, self.bulk.values()), default=0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed matrices that are read for a token: all of them, or those of the experts that it uses."""
        read: dict[str, int] = {}
        for op in products((*self.plan.body, *self.plan.head)):
            matrix = self.matrices[op.weight.name]
            read[op.weight.name] = matrix.expert_bytes * (op.count if isinstance(op, ExpertMatMul) else 1)
        return sum(read.values())

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
        return prompt_flops(self.plan, tokens)

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        return main_type(self._tensors[name] for name in self._names)


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
    """A vector, or one for each expert, with zeros up to a whole number of blocks."""
    region = Region(vector_bytes(values.shape), name)
    rows = values.reshape(-1, values.shape[-1])
    region.view(np.float32, len(rows), region.nbytes // 4 // len(rows))[:, : rows.shape[1]] = rows
    return region
