"""Which tokens may come next in one text: a grammar at work.

In: a grammar, a vocabulary, tokens as they are drawn. Out: a mask a token. Where masks take their time, the next one is
computed on a thread after a token, so that it is there when the model's step is done; the library lets go of Python's
lock meanwhile. What is quickly computed is when it is asked for: a thread would cost more (spec/notes.md).
"""

from __future__ import annotations

from concurrent.futures import Future
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.grammar.library import import_library, limits, one_line
from ggufpy.grammar.masks import Words, bits, has

if TYPE_CHECKING:
    from ggufpy.grammar.grammar import Grammar
    from ggufpy.grammar.vocabulary import Vocabulary

QUICK = 3e-4  # seconds that a mask may take for the next one to be computed when it is asked for


class Constraint:
    """What `grammar` allows in one text; `ggufpy.generate.sampling.Constraint` says how it is asked.

    With `after`, nothing is constrained until the text that was drawn contains that marker ("</think>"), be it one
    special token or text over several; then the grammar begins. One or two line ends right behind the marker count as
    part of it, and no token runs over its end. A text that ends before the marker is free.

    Raises GGUFError where the grammar names a token that the vocabulary does not have, where it allows nothing in this
    vocabulary, and where a text gets too complex to follow.
    """

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary, after: str | None = None) -> None:
        self._grammar = grammar
        self._vocabulary = vocabulary
        self._matcher: Any = import_library().LLMatcher(
            vocabulary.library_tokenizer, grammar.text_for(vocabulary), log_level=0, limits=limits()
        )
        self._check()
        self._wait = None if after is None else _Marker(after, vocabulary)
        self._drawn = 0
        self._next: Future[Words] | None = None
        self._ready: Words | None = None  # the mask of the present place
        self._ended = False
        self._seconds = 2 * QUICK  # what the newest mask took
        self._begin_mask()

    @property
    def begun(self) -> bool:
        """Whether the marker has come; always so without one."""
        return self._wait is None or self._wait.seen

    def mask(self) -> Words:
        """Tokens that may come next, uint32 (ceil(n_vocab / 32),): token t is bit t % 32 of word t // 32.

        At the grammar's end all end tokens are allowed, and nothing else if nothing can follow.
        """
        if self._wait is not None and not self._wait.seen:
            return self._wait.mask()
        if self._ready is None:
            self._ready = self._computed() if self._next is None else self._next.result()
            self._next = None
        if self._wait is not None and self._wait.may_break:
            return self._ready | bits(self._vocabulary.line_ends, self._vocabulary.n_vocab)
        return self._ready

    def accept(self, token: int) -> None:
        """A token has been drawn. Raises GGUFError for one that the grammar does not allow here."""
        if self._wait is not None:
            if not self._wait.seen:
                self._wait.accept(token)
                return
            breaks = self._wait.may_break and token in self._vocabulary.line_ends
            self._wait.may_break = False
            if breaks and not has(self._mask_here(), token):
                return
        self._consume(token)

    def forced(self, most: int) -> list[int]:
        """At most `most` tokens that must come next, whatever the model says: names of properties and the like.

        They are what masks would leave one after the other; empty while a choice is open.
        """
        if self._ended or not self.begun or (self._wait is not None and self._wait.may_break):
            return []
        self._settle()
        tokens: list[int] = self._matcher.compute_ff_tokens()[:most]
        self._check()
        return tokens

    def _mask_here(self) -> Words:
        """The grammar's own mask, without what may follow a marker."""
        if self._ready is None:
            self.mask()
        assert self._ready is not None
        return self._ready

    def _consume(self, token: int) -> None:
        self._settle()
        if self._ended:
            raise GGUFError("the text has ended, and nothing can follow")
        if token in self._vocabulary.ends and self._matcher.is_accepting():
            self._ended = True
            self._ready = self._none()
            return
        if not self._matcher.consume_token(token):
            self._check_work()
            raise GGUFError(self._refused(token))
        self._drawn += 1
        self._ready = None
        self._begin_mask()

    def _settle(self) -> None:
        """Waits for the mask that is being computed: until then the matcher is the other thread's."""
        if self._next is not None:
            self._ready, self._next = self._next.result(), None

    def _begin_mask(self) -> None:
        if self._seconds > QUICK:
            self._next = self._vocabulary.workers.submit(self._computed)

    def _computed(self) -> Words:
        """The mask of the present place, for the model's number of tokens."""
        start = perf_counter()
        data = self._matcher.compute_bitmask()
        self._seconds = perf_counter() - start
        stuck = "NoExtensionBias" in self._matcher.get_error()
        if not stuck:
            self._check()
        words = self._none()
        known = -(-self._vocabulary.n_known // 32)
        words[:known] = np.frombuffer(data, "<u4", known)
        if self._vocabulary.n_known % 32:
            words[known - 1] &= np.uint32((1 << self._vocabulary.n_known % 32) - 1)
        if stuck or not words.any():
            raise GGUFError(
                f"the grammar ({self._grammar.about}) allows no token of this vocabulary after {self._drawn} tokens: "
                "it asks for characters that the model cannot write, or leads to no end"
            )
        return words

    def _none(self) -> Words:
        return np.zeros(-(-self._vocabulary.n_vocab // 32), np.uint32)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GGUFError(f"the grammar ({self._grammar.about}) failed: {one_line(self._matcher.get_error())}")

    def _check_work(self) -> None:
        """What is too much for the library is said as that, not as a token that is not allowed."""
        told = self._matcher.get_error()
        if "max is" in told or "fuel" in told:
            raise GGUFError(f"the grammar ({self._grammar.about}) is too complex to follow: {one_line(told)}")

    def _refused(self, token: int) -> str:
        if not 0 <= token < self._vocabulary.n_known:
            return f"token {token} is not in the vocabulary of {self._vocabulary.n_known:,} tokens"
        shown = self._vocabulary.bytes_of[token].decode("utf-8", "replace")
        return f"the grammar ({self._grammar.about}) does not allow token {token} ({shown!r}) here"


class _Marker:
    """Waits for a marker in a text, which is free until then."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        if not text:
            raise GGUFError("the marker that a grammar begins after is empty; leave it out")
        self.seen = False
        self.may_break = False  # whether a line end may still follow the marker
        self._marker = text.encode("utf-8", "surrogateescape")
        self._vocabulary = vocabulary
        self._free = bits(range(vocabulary.n_known), vocabulary.n_vocab)
        self._masks: dict[int, Words] = {}
        self._begun = 0  # bytes of the marker that the text ends with

    def mask(self) -> Words:
        """Everything but padding, and tokens that would run over the marker's end."""
        if self._begun not in self._masks:
            over = self._vocabulary.running_over(self._marker, self._begun)
            self._masks[self._begun] = self._free & ~bits(over, self._vocabulary.n_vocab)
        return self._masks[self._begun]

    def accept(self, token: int) -> None:
        """A token has come; a special one counts with its name."""
        data = self._marker[: self._begun] + self._vocabulary.bytes_of[token]
        if self._marker in data:
            self.seen, self.may_break = True, data.endswith(self._marker)
            return
        longest = min(len(data), len(self._marker) - 1)
        self._begun = next((n for n in range(longest, 0, -1) if data.endswith(self._marker[:n])), 0)
