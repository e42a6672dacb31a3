"""One context of a model: an engine with a single sequence, for those who hold one conversation."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.model import Beside, Model, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError

from .choice import right_kernels
from .engine import Chunk, Engine


def load(file: Any, options: EngineOptions, beside: Beside = None) -> Session:
    """Packs the weights of an open GGUF file for this machine and sets up a context.

    `beside` is called when weights begin to be packed, which takes little Python: it may start other work.

    Raises GGUFError for an architecture that does not run, tensors that do not fit it, a context longer than the
    model's, a cache type that its heads do not fit, or too little memory.
    """
    options.check()
    plan = read_plan(file)
    return Session(Engine(Model(file, plan, options, right_kernels(file, plan, options), beside), options.n_batch))


class Session:
    """One context of one model. Tokens are appended by `eval`; logits are those of the newest token.

    `engine` runs further sequences beside it, up to the n_parallel that it was loaded for.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self._model = engine, engine.model
        self._sequence = engine.sequence()
        self._newest: NDArray[np.float32] | None = None  # logits of the newest token

    @property
    def n_ctx(self) -> int:
        """Positions in the context."""
        return self.engine.n_ctx

    @property
    def n_past(self) -> int:
        """Positions evaluated so far."""
        return self._sequence.n_past

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary: the length of a row of logits."""
        return self.engine.n_vocab

    @property
    def n_embd(self) -> int:
        """The width of the model."""
        return self._model.plan.width

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
        return self.engine.kv_bytes

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
        return self._model.prompt_flops(tokens)

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        return self._model.type_name

    def _steps(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], bool]]:
        """(first, tokens, whether it is the last) of every step. Raises GGUFError if they do not fit."""
        self._sequence.reserve(ids.size)
        rows = self.engine.rows
        for start in range(0, ids.size, rows):
            self._newest = None
            yield start, ids[start : start + rows], start + rows >= ids.size

    def eval(self, tokens: Items[int]) -> None:
        """Appends tokens to the context, `n_batch` a step; `last_logits` then speaks of the last of them."""
        text = self.engine.tokens(tokens)
        bulk = self.engine.reads_in_bulk(text.size)
        for _, ids, last in self._steps(text):
            (rows,) = self.engine.step([Chunk(self._sequence, ids.tolist(), "last" if last else "none", bulk)])
            self._newest = rows[0] if last else None

    def last_logits(self) -> NDArray[np.float32]:
        """Logits (n_vocab,) of the newest token. Raises GGUFError if the context is empty or has been cut since."""
        if self._newest is None:
            raise GGUFError("there are no logits: evaluate at least one token first")
        logits: NDArray[np.float32] = self._newest.copy()
        return logits

    def eval_logits(self, tokens: Items[int], exact: bool = False) -> NDArray[np.float32]:
        """Appends tokens and returns the logits of each, (len(tokens), n_vocab).

        `exact` gives them the bits that they have when tokens are evaluated one by one, at the speed of small batches.
        """
        text = self.engine.tokens(tokens)
        bulk = not exact and self.engine.reads_in_bulk(text.size)
        out = np.empty((text.size, self.n_vocab), np.float32)
        for start, ids, _ in self._steps(text):
            rows = out[start : start + ids.size]
            self.engine.step([Chunk(self._sequence, ids.tolist(), "all", bulk)], [rows])
            self._newest = rows[-1].copy()
        return out

    def truncate(self, n: int) -> None:
        """Keeps the first n positions of the context. Raises GGUFError if there are fewer."""
        before = self.n_past
        self._sequence.truncate(n)
        if n != before:
            self._newest = None

    def shift(self, keep: int, drop: int) -> None:
        """Forgets positions keep to keep + drop; those after them move down, and `n_past` falls by `drop`.

        What has been computed from the forgotten tokens stays in those that are kept. Raises GGUFError if there are
        fewer positions.
        """
        self._sequence.shift(keep, drop)

    def close(self) -> None:
        """Ends the threads. The session cannot be used afterwards."""
        self.engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
