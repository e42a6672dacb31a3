"""A loaded model with a current text: what has been evaluated, its logits, and what may follow.

The current text is that of the latest call, whatever it was. `eval`, `sample` and `generate` of one object are for one
thread at a time, as in llama_cpp. Completions of other threads may run meanwhile; each of them becomes the current
text.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ggufpy.errors import GGUFError
from ggufpy.generate.loaded import NEW_SEED, NO_TOKEN, LoadedModel
from ggufpy.generate.loading import LoadOptions, Parts
from ggufpy.runtime.request import Request
from ggufpy.support import checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.loop import Stream
    from ggufpy.generate.sampling import Constraint, Guides, Sampling
    from ggufpy.generate.scores import Scores

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]

NO_EFFECT = {"tfs_z": 1.0, "penalize_nl": True}  # options that llama_cpp 0.3.36 takes and does not read, unless so
LAST_N = 64  # tokens that penalties look back


class CurrentModel(LoadedModel):
    """A model that remembers the text of its latest call.

    `last_n_tokens_size` is how many tokens penalties look back where a call does not say, `_logits_all` whether the
    logits of all tokens of the text are kept.
    """

    last_n_tokens_size: int = LAST_N
    _logits_all: bool = False

    def _setup(self, parts: Parts, seed: int | None, options: LoadOptions) -> None:
        from ggufpy.generate.scores import Scores

        self._known: Scores = Scores(parts.engine.n_vocab)
        super()._setup(parts, seed, options)

    def close(self) -> None:
        """Give back threads, memory and the file; closing twice is fine. Calls of other threads end with GGUFError."""
        self._known.clear()
        super().close()

    # -- the current text --

    @property
    def n_tokens(self) -> int:
        """How many tokens of the current text are evaluated; set it to a smaller number to go back."""
        return len(self.loop.evaluated)

    @n_tokens.setter
    def n_tokens(self, count: int) -> None:
        text, wanted = self.loop.evaluated, checks.whole("n_tokens", count, 0)
        if wanted > len(text):
            raise GGUFError(f"n_tokens is {wanted}, and {len(text)} tokens are evaluated: more come by eval(tokens)")
        self.loop.remember(text[:wanted])

    @property
    def input_ids(self) -> Ints:
        """The current text, int32 (n_ctx,): `input_ids[:n_tokens]`, then zeros. A copy."""
        import numpy as np

        text, ids = self.loop.evaluated, np.zeros(self.n_ctx(), np.intc)
        ids[: len(text)] = text
        return ids

    @property
    def _input_ids(self) -> Ints:
        return self.input_ids[: self.n_tokens]

    @property
    def eval_tokens(self) -> deque[int]:
        """The current text."""
        return deque(self.loop.evaluated, maxlen=self.n_ctx())

    @property
    def scores(self) -> Floats:
        """Logits, float32: (n_tokens, n_vocab) of a model loaded with `logits_all`, else (1, n_vocab), the last.

        What is not known of them any more is evaluated again.
        """
        return self._scores_of(self.loop.evaluated)

    def _scores_of(self, text: list[int]) -> Floats:
        """What `scores` has of a text that was the current one."""
        import numpy as np

        if not text:
            return np.empty((0, self.n_vocab()), np.float32)
        return self._rows(text) if self._logits_all else self._last_row(text)[None]

    @property
    def _scores(self) -> Floats:
        return self.scores

    @property
    def eval_logits(self) -> deque[list[float]]:
        """`scores` as lists."""
        return deque(self.scores.tolist(), maxlen=self.n_ctx() if self._logits_all else 1)

    def reset(self) -> None:
        """Forget everything that was evaluated."""
        self.loop.forget()

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` behind the current text; raises GGUFError when the context is full."""
        loop, ids = self.loop, self._ids(tokens)
        before = loop.evaluated
        if len(ids) > self.n_ctx() - len(before):
            raise GGUFError(
                f"{len(ids)} tokens do not fit: {len(before)} of the {self.n_ctx()} in the context are taken; "
                "shorten the prompt, or load the model with a larger n_ctx (-c)"
            )
        if not ids:
            return
        if self._logits_all:
            self._read(before + ids)
        elif self._makes_logits:
            self._read_last(before + ids)
        else:
            loop.run(Request(before + ids, reuse="any", scales=self._parts.scales))

    @property
    def _makes_logits(self) -> bool:
        return self.engine.makes_logits

    def _read(self, text: list[int]) -> None:
        """Evaluates a text and keeps all logits that this makes."""

        def take(first: int, rows: Floats) -> None:
            self._known.add(text, first, rows)

        self.loop.run(Request(text, take=take, reuse="any", scales=self._parts.scales))

    def _read_last(self, text: list[int]) -> Floats:
        """Evaluates a text and keeps the logits of its last token."""
        last = _LastRow()
        ends = frozenset({NO_TOKEN})
        self.loop.run(Request(text, last, ends=ends, reuse="any", scales=self._parts.scales))
        assert last.row is not None
        self._known.only(text, last.row)
        return last.row

    def _last_row(self, text: list[int]) -> Floats:
        """The logits (n_vocab,) of the last token of a text."""
        rows = self._known.rows(text, len(text) - 1)
        return self._read_last(text) if rows is None else rows[-1]

    def _rows(self, text: list[int]) -> Floats:
        """The logits (tokens, n_vocab) of a text."""
        rows = self._known.rows(text, 0)
        if rows is None:
            rows = self.logits(text)
            self._known.add(text, 0, rows)
        return rows

    # -- sampling --

    def set_seed(self, seed: int) -> None:
        """Texts without a seed of their own have seeds from this one on; -1 or 4294967295: another one every time."""
        chosen = checks.seed("seed", seed)
        with self._seeding:
            self._seed = None if chosen in NEW_SEED else chosen

    def sampling(self, **options: Any) -> Sampling:
        """Sampling options in one object, with this model's next seed where none is given.

        Also under the names of llama_cpp; of these `tfs_z` and `penalize_nl` have no effect there either.
        """
        for name, nothing in NO_EFFECT.items():
            if options.pop(name, nothing) not in (nothing, None):
                warnings.warn(f"{name} has no effect: llama.cpp dropped it, and so has llama_cpp", stacklevel=3)
        if options.get("repeat_last_n") is None and self.last_n_tokens_size != LAST_N:
            options["repeat_last_n"] = self.last_n_tokens_size
        return super().sampling(**options)

    def sample(
        self, *, idx: int | None = None, logits_processor: object = None, grammar: object = None, **options: Any
    ) -> int:
        """A token that may follow the current text, or its first `idx` + 1 tokens; nothing is evaluated with it.

        `options` are those of `ggufpy.Sampling`, under llama_cpp's names too; `logits_processor` and `grammar` as in
        `generate`. Tokens before the last can be asked for where the model was loaded with `logits_all`.
        """
        text = self.loop.evaluated
        if not text:
            raise GGUFError("there is nothing to sample from: call eval(tokens) first")
        at = len(text) - 1 if idx is None else checks.whole("idx", idx)
        if not -len(text) <= at < len(text):
            raise GGUFError(f"idx is {at}, and {len(text)} tokens are evaluated")
        at %= len(text)
        sampler = self._sampler(self.sampling(**options), frozenset(), self._guides(None, logits_processor, grammar))
        if at == len(text) - 1:
            row = self._last_row(text)
        elif self._logits_all:
            row = self._rows(text)[at]
        else:
            raise GGUFError(f"the logits of token {at} were not kept: load the model with logits_all=True")
        for token in text[: at + 1]:
            sampler.accept(token)
        return int(sampler.sample(row))

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling | None = None,
        *,
        reset: bool = True,
        logits_processor: object = None,
        stopping_criteria: object = None,
        grammar: object = None,
        guides: Guides | None = None,
        **options: Any,
    ) -> Stream:
        """An iterator of the ids that follow `tokens`, up to an end token (not yielded) or the context's end.

        With `reset` False `tokens` stand behind the current text. `logits_processor` is a function or several, each of
        which gets the ids so far and a copy of the logits (n_vocab,) and returns logits; `stopping_criteria` likewise,
        called with the logits before they are changed, and the text ends before a token for which one returns True.
        `grammar` is a `LlamaGrammar`. The other options are those of `LoadedModel.generate`, `ignore_eos`,
        `context_shift`, `keep`, `limit` and `scales`, and of `ggufpy.Sampling`, under llama_cpp's names too.
        """
        ids = self._ids(tokens)
        if not checks.flag("reset", reset):
            ids = self.loop.evaluated + ids
        guides = self._guides(guides, logits_processor, grammar)
        stream = super().generate(ids, sampling, guides=guides, **options)
        criteria = _functions("stopping_criteria", stopping_criteria)
        if criteria:
            request = stream.request
            assert request.sampler is not None
            request.sampler = _Stopping(request.sampler, criteria)
            request.ends = request.ends | {NO_TOKEN}
        return stream

    def _guides(self, guides: Guides | None, processors: object, grammar: object) -> Guides | None:
        """What is given under llama_cpp's names, with what there is already."""
        functions = _functions("logits_processor", processors)
        if not functions and grammar is None:
            return guides
        from ggufpy.generate.sampling import Guides

        before = guides or Guides()
        constraint = before.constraint if grammar is None else self._constraint(grammar)
        return Guides(constraint, before.processors + functions)

    def _constraint(self, grammar: object) -> Constraint:
        """What a grammar allows in one text."""
        if isinstance(grammar, _Constraint):
            return grammar
        raise GGUFError(f"grammar is {checks.shown(grammar)}; a ggufpy.LlamaGrammar is wanted")


@runtime_checkable
class _Constraint(Protocol):
    """`sampling.Constraint`, which is not imported before a text is sampled."""

    def mask(self) -> Any: ...
    def accept(self, token: int) -> None: ...


class _LastRow:
    """Keeps the logits behind a prompt, and ends there."""

    def __init__(self) -> None:
        self.row: Floats | None = None

    def accept(self, token: int) -> None:
        """Nothing depends on what came before."""

    def sample(self, logits: Floats) -> int:
        self.row = logits.copy()
        return NO_TOKEN


class _Stopping:
    """Draws what another sampler does, until one of some functions says that the text ends."""

    def __init__(self, inner: Any, criteria: tuple[Callable[..., Any], ...]) -> None:
        self._inner, self._criteria = inner, criteria
        self._text: list[int] = []

    def accept(self, token: int) -> None:
        self._text.append(token)
        self._inner.accept(token)

    def sample(self, logits: Floats) -> int:
        import numpy as np

        token = int(self._inner.sample(logits))
        ids = np.array(self._text, np.intc)
        return NO_TOKEN if any(ends(ids, logits.copy()) for ends in self._criteria) else token


def _functions(name: str, given: object) -> tuple[Callable[..., Any], ...]:
    """A function, or those of a list."""
    if given is None:
        return ()
    functions = [given] if callable(given) else list(given) if isinstance(given, Iterable) else [None]
    if not all(map(callable, functions)):
        raise GGUFError(f"{name} is {checks.shown(given)}; a function or a list of functions is wanted")
    return tuple(functions)
