"""A model ready to run: packed weights, a context, and the steps that turn tokens into logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import models, quants
from ggufpy.errors import GGUFError
from ggufpy.kernels.cache import library
from ggufpy.kernels.spec import Kernel, kernel
from ggufpy.models.base import Keys
from ggufpy.plan import MatMul, Plan, buffers
from ggufpy.quants.base import IntPanel
from ggufpy.simd import isa

from .cache import KvCache
from .memory import Region, aligned
from .options import EngineOptions
from .rope import RopeTable
from .tape import PROMPT_TOKENS, Lowering, Parts, Tape, Workspace
from .threads import Team
from .weights import Matrix, Packer, matmul_kernel, pack_kernel, packed_bytes, vector

HEAD_ROWS = 32  # rows of logits computed at a time


def load(file: Any, options: EngineOptions) -> Session:
    """Packs the weights of an open GGUF file for this machine and sets up a context.

    Raises GGUFError for an architecture that does not run, tensors that do not fit it, a context longer than the
    model's, or too little memory.
    """
    keys = Keys(file.metadata)
    if not isinstance(keys.architecture, str):
        raise GGUFError("the metadata has no general.architecture: the file does not say what model it is")
    plan = models.find(keys.architecture).plan(keys, file.tensors)
    n_ctx = options.n_ctx or plan.context
    if not 0 < n_ctx <= plan.context:
        raise GGUFError(f"a context of {n_ctx} was asked for; the model's is {plan.context} (-c 1 to {plan.context})")
    if options.n_batch < 1:
        raise GGUFError(f"the batch is {options.n_batch}; it must be at least 1")
    return Session(file, plan, n_ctx, options)


def _kernels(plan: Plan, file: Any) -> list[Kernel]:
    """Every kernel that loading and running the plan takes."""
    h = plan.heads
    wanted = [kernel(n) for n in ("norm", "swiglu", "quantise", "rope_store", "tape", "select_rows")]
    wanted.append(kernel("attention", key_length=h.key_length, value_length=h.value_length, group=h.group))
    wanted.append(kernel("attention_join", value_length=h.value_length, group=h.group))
    panels = {quants.get(file.tensors[n].type).panel for n in _matrices(plan)}
    for panel in sorted(panels, key=repr):
        wanted += [pack_kernel(panel), matmul_kernel(panel, 1), matmul_kernel(panel, PROMPT_TOKENS)]
    return wanted


def _matrices(plan: Plan) -> list[str]:
    """Names of the weights that are multiplied by, in order of use."""
    ops = (*plan.body, *plan.head)
    return list(dict.fromkeys(op.weight.name for op in ops if isinstance(op, MatMul)))


class Session:
    """One context of one model. Tokens are appended by `eval`; logits are those of the newest token."""

    def __init__(self, file: Any, plan: Plan, n_ctx: int, options: EngineOptions) -> None:
        level = isa.current()
        self._file, self._plan = file, plan
        self.n_ctx, self.n_vocab, self.n_embd = n_ctx, plan.vocabulary, plan.embedding.shape[1]
        self.n_threads, self.isa = options.threads(), level.name
        self.n_past = 0
        self._library = library(level)
        self._load_kernels(options)
        self._pack(options)
        self._cache = KvCache(plan.heads, plan.layers, n_ctx, level.lanes, self.n_threads)
        self._rope = RopeTable(plan.rope)
        self._embedding = quants.get(file.tensors[plan.embedding.name].type)
        self._embedding_rows = file.tensors[plan.embedding.name].little()
        self._rows = min(options.n_batch, n_ctx)
        self._build()
        self._team = Team(self.n_threads)
        self._fresh = False

    def _load_kernels(self, options: EngineOptions) -> None:
        progress = options.progress
        report = None if progress is None else lambda done, total: progress("compile", done, total)
        self._library.load(_kernels(self._plan, self._file), report)

    def _pack(self, options: EngineOptions) -> None:
        tensors = self._file.tensors
        names = _matrices(self._plan)
        total, done = sum(tensors[n].nbytes for n in names), 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if options.progress is not None:
                options.progress("load", done, total)

        sizes = {n: packed_bytes(tensors[n], self._library.level.lanes) for n in names}
        # One region, so that huge pages serve small matrices too.
        room = Region(sum(aligned(size) for size in sizes.values()), "the weights").parts(sizes)
        with Packer(self._library, self.n_threads, advance) as packer:
            self._matrices: dict[str, Matrix] = {n: packer.pack(tensors[n], room[n]) for n in names}
        self._vectors = {
            w.name: _padded(vector(tensors[w.name], w.name), w.name)
            for w in self._plan.weights().values()
            if len(w.shape) == 1
        }

    def _build(self) -> None:
        """Workspaces and tapes: one token, several tokens, and the same followed by logits."""
        plan = self._plan
        self._table = Region(self._rows * max(plan.rope.dimensions, 1) * 4, "rotary angles")
        parts = Parts(plan, self._matrices, self._vectors, self._cache, self._table, self.n_threads)
        body_widths = {n: w for n, w in plan.widths.items() if n != "logits"}
        head_names = {n for op in plan.head for n in buffers(op)}
        head_widths = {n: plan.widths[n] for n in head_names}
        self._work = Workspace("body", body_widths, self._rows, self._quantised(plan.body))
        self._head = Workspace("head", head_widths, min(HEAD_ROWS, self._rows), self._quantised(plan.head))
        self._x = self._work.rows_of("x")
        self._angles = self._table.view(np.float32, self._rows, plan.rope.dimensions // 2, 2)
        tapes = {}
        for single in (True, False):
            body = list(Lowering(parts, self._work, single).calls(plan.body))
            head = [Lowering(parts, self._head, single).select(self._work, "x")]
            head += Lowering(parts, self._head, single).calls(plan.head)
            tapes[single] = (body, head)
        one, many = tapes[True], tapes[False]
        self._tapes = {
            "one": [*one[0], *one[1]],
            "many": many[0],
            "many last": [*many[0], *one[1]],
            "rows": many[1],
        }
        self._built: dict[str, Tape] = {}

    def _quantised(self, ops: Sequence[Any]) -> frozenset[str]:
        """Buffers that a matrix reads as 8-bit rows."""
        products = [op for op in ops if isinstance(op, MatMul)]
        return frozenset(op.x for op in products if isinstance(self._matrices[op.weight.name].panel, IntPanel))

    def _run(self, name: str) -> None:
        if name not in self._built:
            self._built[name] = Tape(self._tapes[name], self._library)
        self._built[name].run(self._team)

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights, all of which are read for every token."""
        return sum(m.memory.nbytes for m in self._matrices.values())

    @property
    def kv_bytes(self) -> int:
        """Bytes of the key/value cache when it is full."""
        return self._cache.nbytes

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of the matrix products for one token, logits included."""
        return 2.0 * sum(m.rows * m.columns for m in self._matrices.values())

    @property
    def type_name(self) -> str:
        """The type that most of the weights' bytes are in."""
        sizes: Counter[str] = Counter()
        for name in self._matrices:
            sizes[self._file.tensors[name].type] += self._file.tensors[name].nbytes
        return sizes.most_common(1)[0][0] if sizes else "F32"

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Tokens as an array. Raises GGUFError for one that is not in the vocabulary, or if they do not fit."""
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise GGUFError("tokens must be a flat sequence of whole numbers")
        bad = np.flatnonzero((ids < 0) | (ids >= self.n_vocab))
        if bad.size:
            raise GGUFError(f"token {ids[bad[0]]} at {bad[0]} is not in the vocabulary of {self.n_vocab}")
        if self.n_past + ids.size > self.n_ctx:
            raise GGUFError(
                f"the context is full: {self.n_past} tokens and {ids.size} more exceed {self.n_ctx}; "
                "use a longer context (-c, n_ctx) or a shorter text"
            )
        return ids.astype(np.int64)

    def _prepare(self, ids: NDArray[np.int64]) -> None:
        """Embeddings, angles and the step's numbers for the next tokens."""
        self._x[: ids.size, : self.n_embd] = self._embedding.decode(self._embedding_rows[ids])
        self._rope.fill(self.n_past, self._angles[: ids.size])
        self._work.set_step(ids.size, self.n_past)

    def eval(self, tokens: Sequence[int]) -> None:
        """Appends tokens to the context, `n_batch` a step; `last_logits` then speaks of the last of them."""
        ids = self._checked(tokens)
        for start in range(0, ids.size, self._rows):
            part = ids[start : start + self._rows]
            self._prepare(part)
            last = start + self._rows >= ids.size
            if last:
                self._head.set_step(1, part.size - 1)
            self._run("one" if part.size == 1 else "many last" if last else "many")
            self.n_past += part.size
            self._fresh = last

    def last_logits(self) -> NDArray[np.float32]:
        """Logits (n_vocab,) of the newest token. Raises GGUFError if nothing has been evaluated since the last cut."""
        if not self._fresh:
            raise GGUFError("there are no logits: evaluate at least one token first")
        logits: NDArray[np.float32] = self._head.rows_of("logits")[0, : self.n_vocab].copy()
        return logits

    def eval_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Appends tokens and returns the logits of each, (len(tokens), n_vocab)."""
        ids = self._checked(tokens)
        out = np.empty((ids.size, self.n_vocab), np.float32)
        for start in range(0, ids.size, self._rows):
            part = ids[start : start + self._rows]
            self._prepare(part)
            if part.size == 1:
                self._head.set_step(1, 0)
                self._run("one")
                out[start] = self._head.rows_of("logits")[0, : self.n_vocab]
            else:
                self._run("many")
                self._head_rows(part.size, out[start : start + part.size])
            self.n_past += part.size
        self._fresh = False
        return out

    def _head_rows(self, count: int, out: NDArray[np.float32]) -> None:
        for first in range(0, count, self._head.rows):
            rows = min(self._head.rows, count - first)
            self._head.set_step(rows, first)
            self._run("rows")
            out[first : first + rows] = self._head.rows_of("logits")[:rows, : self.n_vocab]

    def truncate(self, n: int) -> None:
        """Keeps the first n positions of the context. Raises GGUFError if there are fewer."""
        if not 0 <= n <= self.n_past:
            raise GGUFError(f"cannot keep {n} positions of {self.n_past}")
        self._fresh = self._fresh and n == self.n_past
        self.n_past = n

    def close(self) -> None:
        """Ends the threads. The session cannot be used afterwards."""
        self._team.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _padded(values: NDArray[np.float32], name: str) -> Region:
    """A vector with zeros up to a whole number of blocks."""
    region = Region(-(-values.size // 32) * 128, name)
    region.view(np.float32, values.size)[:] = values.reshape(-1)
    return region
