"""A loaded model whose texts can be kept and gone back to: `StatefulModel`, which `ggufpy.Llama` is.

States of the current text (`current.py`), in memory, in files and in caches, and what else of llama_cpp.Llama has to do
with neither completions nor embeddings. `save_state` and `load_state` of one object are for one thread at a time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ggufpy.errors import GGUFError
from ggufpy.generate.current import CurrentModel
from ggufpy.runtime.request import Request
from ggufpy.support import checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.snapshots import Saved
    from ggufpy.generate.state import LlamaState

    Floats = NDArray[np.float32]

DEFAULT_SEED = 0xFFFFFFFF  # another seed for every text (LLAMA_DEFAULT_SEED in include/llama.h of llama.cpp)


@runtime_checkable
class StateCache(Protocol):
    """Where states of texts are kept: `ggufpy.BaseLlamaCache` (`api/caches.py`)."""

    def find(self, key: Sequence[int], model: str) -> LlamaState:
        """The state that has most of the beginning of a text; KeyError if there is none."""

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None: ...


class StatefulModel(CurrentModel):
    """A model whose current text can be saved and gone back to.

    With a cache of states, completions say when they begin and end (`prompt_begins`, `prompt_done`).
    """

    _cache: StateCache | None = None
    _is_recurrent = _is_hybrid = False  # no op keeps a state that cannot be gone back to

    # -- states --

    @cached_property
    def model_fingerprint(self) -> str:
        """What states of this model have in common, as hexadecimal digits (`snapshots.fingerprint`)."""
        from ggufpy.generate import snapshots

        return snapshots.fingerprint(self.engine.model.plan, (self._parts.file, *self._parts.adapters))

    def save_state(self) -> LlamaState:
        """The current text and what the cache holds of it, the logits and the seed: see `LlamaState`."""
        text = self.loop.evaluated
        return self._state_of(text, self._scores_of(text) if text and self._makes_logits else None)

    def state_of(self, tokens: Sequence[int]) -> LlamaState:
        """The state of any text, which is evaluated where it is not, and is the current one then; without logits."""
        return self._state_of(self._ids(tokens), None)

    def _state_of(self, text: list[int], scores: Floats | None) -> LlamaState:
        """The state of a text, whose logits are the last of `scores` where these are given."""
        import numpy as np

        from ggufpy.generate import snapshots
        from ggufpy.generate.state import LlamaState

        saved = None
        if text:
            request = Request(text, reuse="any", saves=True, scales=self._parts.scales)
            self.loop.run(request)
            saved = request.saved
        seed = DEFAULT_SEED if self._seed is None else self._seed
        rows = np.zeros((0, self.n_vocab()), np.float32) if scores is None else scores.copy()
        last = rows[-1] if len(rows) else None
        data = snapshots.encode(snapshots.Saved(self.model_fingerprint, seed, saved, last))
        return LlamaState(np.array(text, np.intc), rows, len(text), data, len(data), seed)

    def load_state(self, state: LlamaState) -> None:
        """Go back to a state: the text, the logits and the seed, as they were.

        Raises GGUFError, and nothing has changed, for a state of another model, of a cache of other types, or one that
        is damaged or longer than the context.
        """
        saved = self._checked_state(state)
        tokens, loop = [] if saved.snapshot is None else list(saved.snapshot.tokens), self.loop
        before = loop.evaluated
        try:
            if tokens:
                loop.run(Request(tokens, origin=saved.snapshot, reuse="any", scales=self._parts.scales))
            else:
                loop.remember(())
        except BaseException:
            loop.remember(before)
            raise
        self._known.clear()
        rows = state.scores
        if len(rows) and self._logits_all and len(rows) == len(tokens):
            self._known.add(tokens, 0, rows)
        elif len(rows):
            self._known.only(tokens, rows[-1].copy())
        if state.seed is not None:
            self.set_seed(state.seed)

    def _checked_state(self, state: LlamaState) -> Saved:
        """What a state holds. Raises GGUFError for one that cannot be loaded here."""
        import numpy as np

        from ggufpy.generate import snapshots
        from ggufpy.generate.state import LlamaState

        if not isinstance(state, LlamaState):
            raise GGUFError(f"state is {checks.shown(state)}; a LlamaState is wanted, as save_state() makes it")
        saved = snapshots.decode(state.checked())
        if saved.model != self.model_fingerprint:
            raise GGUFError(f"the state is not of {self.name}, or of other adapters: evaluate the text again")
        if saved.snapshot is not None and saved.snapshot.scales != self._parts.scales:
            raise GGUFError(
                f"the state is of adapters that count {list(saved.snapshot.scales)} times; these count "
                f"{list(self._parts.scales)}: evaluate the text again"
            )
        tokens = () if saved.snapshot is None else saved.snapshot.tokens
        rows = state.scores
        fits = isinstance(rows, np.ndarray) and rows.ndim == 2 and len(rows) <= len(tokens)
        if not fits or (len(rows) and rows.shape[1] != self.n_vocab()) or rows.dtype != np.float32:
            shape = f"float32 (tokens, {self.n_vocab()})"
            raise GGUFError(f"scores of the state are {checks.shown(rows)}; {shape} are wanted")
        if list(state.input_ids[: state.n_tokens]) != list(tokens):
            raise GGUFError("input_ids of the state are not the tokens that it holds: take it as save_state() made it")
        checks.seed("seed of the state", state.seed)
        return saved

    # -- caches of states --

    @property
    def cache(self) -> StateCache | None:
        """Where completions look for the beginning of their prompt, and leave what they have read."""
        return self._cache

    @cache.setter
    def cache(self, cache: StateCache | None) -> None:
        self.set_cache(cache)

    def set_cache(self, cache: StateCache | None) -> None:
        """Have completions use a cache, as LlamaRAMCache or LlamaDiskCache; None: no more.

        What this object has read lately it does not read again, with or without one: a cache adds what has lost its
        place meanwhile, and what other objects and processes have read.
        """
        if not (cache is None or isinstance(cache, StateCache)):
            raise GGUFError(f"cache is {checks.shown(cache)}; a LlamaRAMCache or another BaseLlamaCache is wanted")
        self._cache = cache

    def prompt_begins(self, tokens: Sequence[int]) -> None:
        """A completion of this prompt is about to begin: what the cache has of it, and this object not, is loaded."""
        if self._cache is None:
            return
        prompt = list(tokens)
        try:
            state = copy.copy(self._cache.find(prompt, self.model_fingerprint))
            shared = self.longest_token_prefix(list(state.input_ids[: state.n_tokens]), prompt)
            if shared > self.loop.known(prompt, self._parts.scales):
                state.seed = None  # what is drawn does not depend on what was in the cache
                self.load_state(state)
        except KeyError:  # nothing begins so
            return
        except GGUFError as error:
            warnings.warn(f"what the cache has of the prompt is not used: {error}", stacklevel=2)

    def prompt_done(self, tokens: Sequence[int]) -> None:
        """A completion has ended; `tokens` are its prompt and what followed: the cache gets what was evaluated."""
        if self._cache is None or self._loop is None:  # a stream may be dropped after its model was closed
            return
        text = list(tokens)
        known = self.loop.known(text, self._parts.scales)
        if not known:
            return
        state = self._state_of(text[:known], None)
        try:
            self._cache[tuple(text)] = state
        except GGUFError as error:  # the answer is there, whatever becomes of the cache
            warnings.warn(f"what was read is not kept in the cache: {error}", stacklevel=2)

    @property
    def ctx(self) -> Any:
        """There is none: raises AttributeError."""
        raise AttributeError("there is no llama.cpp context (ctx): use eval, scores, sample and generate")

    @property
    def model(self) -> Any:
        """There is none: raises AttributeError."""
        raise AttributeError("there is no llama.cpp model (model): use metadata, n_vocab, n_embd and the like")

    @staticmethod
    def longest_token_prefix(a: Sequence[int], b: Sequence[int]) -> int:
        """How many tokens two texts have in common from the first on."""
        first, second = list(a), list(b)
        low, high = 0, min(len(first), len(second))
        while low < high:  # the first `low` are the same
            middle = (low + high + 1) // 2
            if first[low:middle] == second[low:middle]:
                low = middle
            else:
                high = middle - 1
        return low

    @staticmethod
    def logits_to_logprobs(logits: Any, axis: int = -1) -> Floats:
        """Natural logarithms of the softmax of `logits` along an axis, float32 of the same shape."""
        import numpy as np

        wide = np.asarray(logits, np.float32)
        top = wide.max(axis=axis, keepdims=True)
        top = np.where(np.isfinite(top), top, np.float32(0))
        shifted = wide - top
        with np.errstate(divide="ignore"):  # where all are -inf
            found: Floats = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
        return found
