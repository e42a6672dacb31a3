"""A model in memory: the kernels of its plan, its packed matrices, its vectors and its embeddings."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import models, quants
from ggufpy.errors import GGUFError
from ggufpy.kernels.cache import library
from ggufpy.kernels.spec import Kernel, kernel
from ggufpy.models.base import Keys
from ggufpy.plan import MatMul, Op, Plan
from ggufpy.quants.base import IntPanel
from ggufpy.simd import isa

from .memory import Region, aligned
from .options import EngineOptions, Progress
from .tape import PROMPT_TOKENS
from .threads import LAUNCH, WORK
from .weights import Matrix, Packer, matmul_kernel, pack_kernel, packed_bytes, vector


def read_plan(file: Any) -> Plan:
    """The forward pass of an open file. Raises GGUFError for an architecture or tensors that do not run."""
    keys = Keys(file.metadata)
    if not isinstance(keys.architecture, str):
        raise GGUFError("the metadata has no general.architecture: the file does not say what model it is")
    return models.find(keys.architecture).plan(keys, file.tensors)


def matrix_names(ops: Sequence[Op]) -> list[str]:
    """Names of the weights that are multiplied by, in order of use."""
    return list(dict.fromkeys(op.weight.name for op in ops if isinstance(op, MatMul)))


class Model:
    """`plan` with everything in memory that it needs, packed for the SIMD level in force."""

    def __init__(self, file: Any, plan: Plan, options: EngineOptions) -> None:
        self.plan, self._file = plan, file
        self._names = matrix_names((*plan.body, *plan.head))
        self.threads = options.threads()
        self.library = library(isa.current())
        self._load_kernels(options.progress)
        self.matrices = self._pack(options.progress)
        vectors = [w.name for w in plan.weights().values() if len(w.shape) == 1]
        self.vectors = {name: _padded(vector(file.tensors[name], name), name) for name in vectors}
        embedding = file.tensors[plan.embedding.name]
        self._embedding, self._embedding_rows = quants.get(embedding.type), embedding.little()

    def _load_kernels(self, progress: Progress | None) -> None:
        """Loads every kernel that packing and running take, so that none is compiled while a user waits for text."""
        h = self.plan.heads
        wanted: list[Kernel] = [LAUNCH, WORK]
        wanted += [kernel(n) for n in ("norm", "swiglu", "quantise", "rope_store", "tape", "select_rows")]
        wanted.append(kernel("attention", key_length=h.key_length, value_length=h.value_length, group=h.group))
        wanted.append(kernel("attention_join", value_length=h.value_length, group=h.group))
        panels = {quants.get(self._file.tensors[n].type).panel for n in self._names}
        for panel in sorted(panels, key=repr):
            wanted += [pack_kernel(panel), matmul_kernel(panel, 1), matmul_kernel(panel, PROMPT_TOKENS)]
        report = None if progress is None else lambda done, total: progress("compile", done, total)
        self.library.load(wanted, report)

    def _pack(self, progress: Progress | None) -> dict[str, Matrix]:
        tensors = {name: self._file.tensors[name] for name in self._names}
        sizes = {name: packed_bytes(t, self.library.level.lanes) for name, t in tensors.items()}
        # One region, so that huge pages serve small matrices too.
        room = Region(sum(map(aligned, sizes.values())), "the weights").parts(sizes)
        advance = _counter(progress, sum(t.nbytes for t in tensors.values()))
        with Packer(self.library, self.threads, advance) as packer:
            return {name: packer.pack(t, room[name]) for name, t in tensors.items()}

    def quantised(self, ops: Sequence[Op]) -> frozenset[str]:
        """Buffers that a matrix reads as 8-bit rows."""
        products = [op for op in ops if isinstance(op, MatMul)]
        return frozenset(op.x for op in products if isinstance(self.matrices[op.weight.name].panel, IntPanel))

    def embeddings(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows (tokens, n_embd) of tokens that are known to be in the vocabulary."""
        return self._embedding.decode(self._embedding_rows[tokens])

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed matrices, all of which are read for every token."""
        return sum(m.memory.nbytes for m in self.matrices.values())

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of the matrix products for one token, logits included."""
        return 2.0 * sum(m.rows * m.columns for m in self.matrices.values())

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
