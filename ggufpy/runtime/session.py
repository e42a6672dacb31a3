"""One context of a model: the steps that turn tokens into logits."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.plan import buffers

from .cache import KvCache
from .memory import Region
from .model import Model, read_plan
from .options import EngineOptions
from .rope import RopeTable
from .tape import Call, Lowering, Parts, Tape, Workspace
from .threads import Team

HEAD_ROWS = 32  # rows of logits computed at a time


def load(file: Any, options: EngineOptions) -> Session:
    """Packs the weights of an open GGUF file for this machine and sets up a context.

    Raises GGUFError for an architecture that does not run, tensors that do not fit it, a context longer than the
    model's, or too little memory.
    """
    plan = read_plan(file)
    n_ctx = options.whole("n_ctx", 0) or plan.context
    if n_ctx > plan.context:
        raise GGUFError(f"a context of {n_ctx} was asked for; the model's is {plan.context} (-c 1 to {plan.context})")
    n_batch = options.whole("n_batch", 1)
    return Session(Model(file, plan, options), n_ctx, n_batch)


class Session:
    """One context of one model. Tokens are appended by `eval`; logits are those of the newest token."""

    def __init__(self, model: Model, n_ctx: int, n_batch: int) -> None:
        plan, self._model = model.plan, model
        self._n_ctx, self._n_past = n_ctx, 0
        self._lock = threading.RLock()
        self._cache = KvCache(plan.heads, plan.layers, n_ctx, model.library.level.lanes, model.threads)
        self._rope = RopeTable(plan.rope)
        self._rows = min(n_batch, n_ctx)
        body = {n: w for n, w in plan.widths.items() if n != "logits"}
        head = {n: plan.widths[n] for op in plan.head for n in buffers(op)}
        self._work = Workspace("body", body, model.quantised(plan.body), self._rows, n_ctx)
        self._head = Workspace("head", head, model.quantised(plan.head), min(HEAD_ROWS, self._rows), self._rows)
        self._table = Region(self._rows * max(plan.rope.dimensions, 1) * 4, "rotary angles")
        self._x, self._logits = self._work.rows_of("x"), self._head.rows_of("logits")
        self._angles = self._table.view(np.float32, self._rows, plan.rope.dimensions // 2, 2)
        self._calls = self._lower()
        self._tapes: dict[str, Tape] = {}
        self._newest: int | None = None  # the row of logits that belongs to the newest token
        self._team = Team(model.threads, model.library)

    def _lower(self) -> dict[str, list[Call]]:
        """The calls of each kind of step: one token, or several without and with logits; and logits of rows."""
        plan, model = self._model.plan, self._model
        parts = Parts(plan, model.matrices, model.vectors, self._cache, self._table, model.threads)
        body, head = {}, {}
        for single in (True, False):
            body[single] = list(Lowering(parts, self._work, single).calls(plan.body))
            rows = Lowering(parts, self._head, single)
            head[single] = [rows.select(self._work, "x"), *rows.calls(plan.head)]
        return {
            "one": [*body[True], *head[True]],
            "several": body[False],
            "last": [*body[False], *head[True]],
            "rows": head[False],
        }

    def _run(self, kind: str) -> None:
        if kind not in self._tapes:
            self._tapes[kind] = Tape(self._calls[kind], self._model.library)
        self._tapes[kind].run(self._team)

    @property
    def n_ctx(self) -> int:
        """Positions in the context."""
        return self._n_ctx

    @property
    def n_past(self) -> int:
        """Positions evaluated so far."""
        return self._n_past

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary: the length of a row of logits."""
        return self._model.plan.vocabulary

    @property
    def n_embd(self) -> int:
        """The width of the model."""
        return self._model.plan.embedding.shape[1]

    @property
    def n_threads(self) -> int:
        return self._model.threads

    @property
    def isa(self) -> str:
        """The SIMD level that the weights are packed for."""
        return self._model.library.level.name

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed matrices, all of which are read for every token."""
        return self._model.weight_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes of the key/value cache when it is full."""
        return self._cache.nbytes

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of the matrix products for one token, logits included."""
        return self._model.flops_per_token

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        return self._model.type_name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuses a second thread: buffers belong to one step at a time."""
        if not self._lock.acquire(blocking=False):
            raise GGUFError("the model is at work for another thread: use one at a time, or load it twice")
        try:
            yield
        finally:
            self._lock.release()

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Tokens as an array. Raises GGUFError for one that is not in the vocabulary, or if they do not fit."""
        if not isinstance(tokens, Sequence | np.ndarray):
            raise GGUFError(f"tokens are a {type(tokens).__name__}; a sequence of whole numbers is wanted")
        items = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
        for i, token in enumerate(items):
            if isinstance(token, bool) or not isinstance(token, int | np.integer):
                raise GGUFError(f"token {i} is a {type(token).__name__}; tokens are whole numbers")
            if not 0 <= token < self.n_vocab:
                raise GGUFError(f"token {token:d} at {i} is not in the vocabulary of {self.n_vocab}")
        if self._n_past + len(items) > self._n_ctx:
            raise GGUFError(
                f"the context is full: {self._n_past} tokens and {len(items)} more exceed {self._n_ctx}; "
                "use a longer context (-c, n_ctx) or a shorter text"
            )
        return np.array(items, np.int64)

    def _steps(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
        """Prepares one step after the other: (first token, tokens, whether it is the last), to be run by the caller."""
        for start in range(0, ids.size, self._rows):
            part = ids[start : start + self._rows]
            self._x[: part.size, : self.n_embd] = self._model.embeddings(part)
            self._x[: part.size, self.n_embd :] = 0.0
            self._rope.fill(self._n_past, self._angles[: part.size])
            self._work.set_step(part.size, self._n_past)
            self._newest = None
            yield start, part.size, start + part.size == ids.size
            self._n_past += part.size

    def eval(self, tokens: Sequence[int]) -> None:
        """Appends tokens to the context, `n_batch` a step; `last_logits` then speaks of the last of them."""
        with self._alone():
            for _, count, last in self._steps(self._checked(tokens)):
                if last or count == 1:
                    self._head.set_step(1, count - 1)
                self._run("one" if count == 1 else "last" if last else "several")
                self._newest = 0 if last else None

    def last_logits(self) -> NDArray[np.float32]:
        """Logits (n_vocab,) of the newest token. Raises GGUFError if the context is empty or has been cut since."""
        if self._newest is None:
            raise GGUFError("there are no logits: evaluate at least one token first")
        logits: NDArray[np.float32] = self._logits[self._newest, : self.n_vocab].copy()
        return logits

    def eval_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Appends tokens and returns the logits of each, (len(tokens), n_vocab)."""
        with self._alone():
            ids = self._checked(tokens)
            out = np.empty((ids.size, self.n_vocab), np.float32)
            for start, count, _ in self._steps(ids):
                if count == 1:
                    self._head.set_step(1, 0)
                    self._run("one")
                    out[start] = self._logits[0, : self.n_vocab]
                    self._newest = 0
                else:
                    self._run("several")
                    self._head_rows(count, out[start : start + count])
            return out

    def _head_rows(self, count: int, out: NDArray[np.float32]) -> None:
        for first in range(0, count, self._head.rows):
            rows = min(self._head.rows, count - first)
            self._head.set_step(rows, first)
            self._run("rows")
            out[first : first + rows] = self._logits[:rows, : self.n_vocab]
            self._newest = rows - 1

    def truncate(self, n: int) -> None:
        """Keeps the first n positions of the context. Raises GGUFError if there are fewer."""
        with self._alone():
            if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= self._n_past:
                raise GGUFError(f"cannot keep {n!r} positions of {self._n_past}")
            if n != self._n_past:
                self._newest = None
            self._n_past = operator.index(n)

    def close(self) -> None:
        """Ends the threads. The session cannot be used afterwards."""
        self._team.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
