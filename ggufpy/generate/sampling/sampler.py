"""From logits to the next token: the chain of steps that the options of one text ask for.

In: `Sampling` and float32 logits (n_vocab,). Out: a token id. Functions of the caller come first, then what a grammar
allows, then the steps: those that change logits of the whole vocabulary, then all from the first that leaves some of it
out, of which the last one draws.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import dropwhile, takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.candidates import Candidates, Floats
from ggufpy.generate.sampling.options import Sampling
from ggufpy.generate.sampling.repetition import Text
from ggufpy.generate.sampling.step import Adjust, Cut, Step, Vocabulary
from ggufpy.generate.sampling.steps import wanted
from ggufpy.support.records import dataclass

Processor = Callable[[NDArray[np.int64], Floats], Floats]  # ids of the text so far and logits (n_vocab,) to new logits


class Constraint(Protocol):
    """What a grammar allows in one text (`grammar/`); it hears of drawn tokens only, not of the prompt."""

    def mask(self) -> NDArray[np.uint32]:
        """Which tokens may come next: (ceil(n_vocab / 32),), token t by bit t % 32 of word t // 32 (of 70 tokens,
        token 33 is bit 1 of word 1)."""

    def accept(self, token: int) -> None:
        """A token has been drawn."""


@dataclass(frozen=True)
class Guides:
    """What beside options decides about one text: a grammar, and functions of the caller, called in order.

    `vocabulary`, a model's tokenizer, is for steps that go by what tokens say (DRY's breakers, infill). `watch` is told
    of every draw what it is made of: the ids of the tokens that are left and their probabilities, likeliest first.
    """

    constraint: Constraint | None = None
    processors: tuple[Processor, ...] = ()
    vocabulary: Vocabulary | None = None
    watch: Callable[[NDArray[np.int64], NDArray[np.float64]], None] | None = None


NO_GUIDES = Guides()


class Sampler:
    """Draws tokens for one text: it holds the random numbers and what steps remember of the text.

    The same seed, logits and accepted tokens give the same tokens. Of `n_vocab` logits only the first `n_known` can be
    drawn: what follows are rows of padding, which stand for no token.
    """

    def __init__(
        self, sampling: Sampling, n_vocab: int, n_known: int | None = None, guides: Guides = NO_GUIDES
    ) -> None:
        sampling.check_tokens(n_vocab)
        self.sampling = sampling
        self.n_vocab = n_vocab
        self.n_known = n_vocab if n_known is None else n_known
        self._constraint, self._processors, self._watch = guides.constraint, guides.processors, guides.watch
        self._text = Text()  # kept for functions of the caller
        self._drawing = False  # whether a token has been asked for: what comes from then on is no prompt
        steps = [step(sampling) for step in wanted(sampling)]
        for step in steps:
            step.learn(guides.vocabulary)
        self._hearing = [step for step in steps if type(step).accept is not Step.accept]
        first = takewhile(lambda step: isinstance(step, Adjust), steps)
        self._adjusts = [step for step in first if isinstance(step, Adjust)]
        rest = steps[len(self._adjusts) :]
        self._rest = [] if _takes_best(rest) else rest
        self._floor = _floor(rest)
        self._random = np.random.Generator(np.random.PCG64(None if sampling.seed == -1 else sampling.seed))

    def accept(self, token: int) -> None:
        """Tells the steps of a token of the text, from the prompt or drawn. Raises GGUFError for no token."""
        index = operator.index(token)
        if not 0 <= index < self.n_vocab:
            raise GGUFError(f"token {index} is not in the vocabulary of {self.n_vocab:,} tokens")
        if self._processors:
            self._text.add(index)
        if self._constraint is not None and self._drawing:
            self._constraint.accept(index)
        for step in self._hearing:
            step.accept(index)

    def sample(self, logits: Floats) -> int:
        """The next token for `logits`, float32 (n_vocab,), which are not changed.

        Raises GGUFError if they have another shape, hold NaN or +inf, or leave no token.
        """
        logits = np.asarray(logits, np.float32)
        if logits.shape != (self.n_vocab,):
            raise GGUFError(f"logits have the shape {logits.shape}, and must have ({self.n_vocab},)")
        self._drawing = True
        logits = self.adjusted(logits)[: self.n_known]
        best = int(logits.argmax())  # the first of equals; NaN counts as the largest
        if not math.isfinite(logits[best]):
            raise GGUFError(_no_choice(float(logits[best]), self._constraint is not None))
        if self._rest:
            return self._drawn(logits)
        if self._watch is not None:
            self._watch(np.array([best]), np.ones(1))
        return best

    def adjusted(self, logits: Floats) -> Floats:
        """Logits after the caller's functions, the mask and the steps that change them ahead of all others.

        They are a copy if there are any of these.
        """
        logits = self._processed(logits)
        if self._constraint is not None:
            logits = self._masked(logits, self._constraint.mask())
        elif self._adjusts:
            logits = logits.copy()
        if not self._adjusts:  # errstate takes 1 µs
            return logits
        with np.errstate(over="ignore", invalid="ignore"):
            for step in self._adjusts:
                ids = step.tokens()
                logits[ids] = step.adjusted(logits[ids], slice(None))
        return logits

    def _processed(self, logits: Floats) -> Floats:
        """What the caller's functions make of a copy of `logits`. Raises GGUFError for another shape."""
        if not self._processors:
            return logits
        ids, logits = self._text.ids, logits.copy()
        for process in self._processors:
            logits = np.asarray(process(ids, logits), np.float32)
            if logits.shape != (self.n_vocab,):
                raise GGUFError(f"a logits processor gave the shape {logits.shape}, and must give ({self.n_vocab},)")
        return logits

    def _masked(self, logits: Floats, words: NDArray[np.uint32]) -> Floats:
        """A copy of `logits` with -inf where the bit of a token is 0. Raises GGUFError for words of another form.

        A grammar allows a few tokens, or nearly all: those that are fewer are written.
        """
        count = -(-self.n_vocab // 32)
        if words.shape != (count,) or words.dtype != np.uint32:
            raise GGUFError(f"a mask is {words.dtype} {words.shape}, and must be uint32 ({count},)")
        octets = words.astype("<u4", order="C", copy=False).view(np.uint8)
        allowed = np.unpackbits(octets, count=self.n_vocab, bitorder="little").view(np.bool_)
        if 2 * np.count_nonzero(allowed) < self.n_vocab:
            places = np.flatnonzero(allowed)
            masked = np.full_like(logits, -np.inf)
            masked[places] = logits[places]
        else:
            masked = logits.copy()
            masked[np.flatnonzero(~allowed)] = -np.inf
        return masked

    def _drawn(self, logits: Floats) -> int:
        candidates = Candidates(logits, self._random, self._floor)
        with np.errstate(over="ignore"):  # to -inf, for a temperature near 0
            for step in self._rest[:-1]:
                step.apply(candidates)
            if self._watch is not None:
                candidates.sort()
                self._watch(candidates.ids, candidates.shares())
            self._rest[-1].apply(candidates)
        return int(candidates.ids[0])  # the last step has drawn


def _takes_best(steps: Sequence[Step]) -> bool:
    """Whether no more than the likeliest token is left of all, so that no step needs to run."""
    for step in steps:
        if not isinstance(step, Cut) or not step.keeps_best:
            return False
        if step.takes_best:
            return True
    return False


def _floor(steps: Sequence[Step]) -> float | None:
    """How far below the largest logit nothing is drawn, where that is known as candidates are sorted."""
    for step in dropwhile(lambda step: isinstance(step, Cut) and not step.sorts, steps):
        if not isinstance(step, Cut):
            return None
        if step.floor is not None or not step.blind_below:
            return step.floor
    return None


def _no_choice(best: float, masked: bool) -> str:
    if best == -math.inf:
        why = "the grammar allows no token, or logit_bias none of those" if masked else "take back some logit_bias"
        return f"every token is forbidden (all logits are -inf); {why}"
    kind = "NaN" if math.isnan(best) else "infinite"
    return f"the model's logits hold {kind} values: its weights are damaged, or a logit_bias is infinite"
