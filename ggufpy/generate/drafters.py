"""Guessing what follows, so that one step checks several tokens: two drafters, and how much they may draft.

In: the tokens of a text as they come. Out: tokens that may come next. A draft changes how fast a text is written and
nothing else: `runtime/scheduler.py` draws every token from the model's own logits, and keeps of a draft what was drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ggufpy.errors import GGUFError
from ggufpy.runtime.request import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.loop import Loop
    from ggufpy.tokenizers import Tokenizer

FIRST_DRAFT = 4  # tokens of a text's first draft; from then on it depends on what was accepted
MOST_MISSES = 6  # refused drafts that count: after n in a row the next 2^(n - 1) - 1 steps go without one
TOKEN_BITS = 32  # n-grams are kept as one whole number, this much for a token
LEAST_SURE = 0.75  # a draft ends before a token less likely than this (llama.cpp's --draft-p-min)
MOST_PADDING = 128  # vocabularies of a family may differ by this many unused tokens (llama.cpp: common/speculative.cpp)


UNSURE = -1  # in place of a token, where a draft ends


class Model(Protocol):
    """What drafting needs of a loaded model; `ggufpy.Llama` is one."""

    @property
    def name(self) -> str: ...
    @property
    def loop(self) -> Loop: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def n_ctx(self) -> int: ...
    def n_known(self) -> int: ...
    def end_tokens(self) -> frozenset[int]: ...


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def begin(self, tokens: Sequence[int]) -> None:
        """A text that begins with `tokens`; whatever was added before belongs to another one."""

    def add(self, token: int) -> None:
        """The text has grown by a token."""

    def propose(self, most: int) -> list[int]:
        """At most `most` tokens that may come next, none if there is no good guess."""


class PromptLookup:
    """Drafts what followed the newest n-gram where the text, prompt and answer, had it last.

    At most `count` tokens, for the longest n-gram of `longest` to `shortest` tokens that occurred before (shorter
    ones are mostly accidents). An occurrence so late that fewer than `count` tokens follow is taken for the beginning
    of a repetition.
    """

    def __init__(self, count: int, longest: int = 4, shortest: int = 3) -> None:
        if count < 1 or not 1 <= shortest <= longest:
            raise GGUFError(f"prompt lookup cannot draft {count} tokens for n-grams of {shortest} to {longest}")
        self._count = count
        self._masks = {size: (1 << TOKEN_BITS * size) - 1 for size in range(longest, shortest - 1, -1)}
        self._clear()

    def _clear(self) -> None:
        self._text: list[int] = []
        self._newest = 0  # the last `longest` tokens as one number
        # For each size: the position after the latest n-gram that something follows. The newest one is not yet in it.
        self._after: dict[int, dict[int, int]] = {size: {} for size in self._masks}

    def begin(self, tokens: Sequence[int]) -> None:
        """Index `tokens`; if they go on from the text before (a chat), only what is new."""
        tokens = list(tokens)
        if tokens[: len(self._text)] != self._text:
            self._clear()
        for token in tokens[len(self._text) :]:
            self.add(token)

    def add(self, token: int) -> None:
        """Index one more token: what ended before it is now followed by something."""
        at = len(self._text)
        for size, mask in self._masks.items():
            if at >= size:
                self._after[size][self._newest & mask] = at
        self._text.append(token)
        self._newest = (self._newest << TOKEN_BITS | token) & next(iter(self._masks.values()))

    def propose(self, most: int) -> list[int]:
        """What followed the longest n-gram that the text has had before."""
        text = self._text
        for size, mask in self._masks.items():
            at = self._after[size].get(self._newest & mask) if len(text) >= size else None
            if at is not None:
                period = len(text) - at
                return [text[at + i % period] for i in range(min(most, self._count))]
        return []


class DraftModel:
    """Drafts what a smaller model of the same vocabulary finds likeliest, as long as that is sure of itself.

    At most `count` tokens. The draft's context may be shorter than the target's: the text's middle is then left out.
    There are no guesses while others have the smaller model. Raises GGUFError if the vocabularies differ.
    """

    def __init__(self, draft: Model, target: Model, count: int = 16) -> None:
        if count < 1:
            raise GGUFError(f"a draft of {count} tokens is none: draft_max must be at least 1")
        if draft.loop is target.loop:
            raise GGUFError("a model cannot draft for itself: load the smaller one as another Llama")
        _check_vocabulary(draft, target)
        self._loop, self._n_ctx, self._count = draft.loop, draft.n_ctx(), count
        self._known = min(draft.n_known(), target.n_known())  # what is beyond it means nothing to one of them
        self._greedy = _Sure(draft.n_known(), self._known, draft.end_tokens())
        self._text: list[int] = []
        self._strange = 0  # tokens of the text that the draft model does not know

    def begin(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens`, or the first and the newest of them if all do not fit."""
        tokens, n_ctx = list(tokens), self._n_ctx
        self._text = tokens if len(tokens) <= n_ctx else tokens[:1] + tokens[len(tokens) - n_ctx // 2 :]
        self._strange = sum(token >= self._known for token in self._text)
        if not self._strange:
            self._loop.run(Request(self._text, reuse="any"), patient=False)

    def add(self, token: int) -> None:
        """The text has grown; it is evaluated when a draft is asked for."""
        self._text.append(token)
        self._strange += token >= self._known

    def propose(self, most: int) -> list[int]:
        """The likeliest tokens, one after the other."""
        count = min(most, self._count, self._n_ctx // 4)
        if count < 1 or self._strange:
            return []
        self._make_room(count)
        request = Request(self._text, self._greedy, ends=frozenset({UNSURE}), limit=count, reuse="any")
        self._loop.run(request, patient=False)
        return request.produced

    def _make_room(self, count: int) -> None:
        """Leave out the older half of the text, but for its first token, if `count` more would not fit."""
        over = len(self._text) + count - self._n_ctx
        if over > 0:
            del self._text[1 : 1 + max(over, len(self._text) // 2)]


class _Sure:
    """Takes the likeliest of the first `n` tokens, unless that is not likely enough, not `known` to both, or an end."""

    def __init__(self, n: int, known: int, ends: frozenset[int]) -> None:
        self._n, self._known, self._ends = n, known, ends

    def accept(self, token: int) -> None:
        """Nothing depends on what came before."""

    def sample(self, logits: NDArray[np.float32]) -> int:
        token, sure = _likeliest(logits[: self._n])
        return token if sure >= LEAST_SURE and token < self._known and token not in self._ends else UNSURE


class Speculation:
    """The drafts of one text: how long they are, and how they did (`drafted`, `accepted`: tokens).

    A draft is as long as what was accepted of the last one and a little more. Drafts that are refused as a whole are
    followed by ever longer pauses, and every token accepted makes up for one of them: guessing costs little where
    nothing can be guessed.
    """

    def __init__(self, drafter: Drafter | None, ends: frozenset[int] = frozenset()) -> None:
        self.drafted = self.accepted = 0
        self._drafter, self._ends = drafter, ends
        self._waiting: deque[int] = deque()  # drafted, and not yet sampled
        self._hits = 0  # accepted of the present draft
        self._length = FIRST_DRAFT
        self._misses = self._pause = 0

    def begin(self, tokens: Sequence[int]) -> None:
        """The prompt."""
        if self._drafter is not None:
            self._drafter.begin(tokens)

    def draft(self, room: int) -> list[int]:
        """Tokens that may come next, at most `room`; `check` then wants to hear what came."""
        if self._drafter is None:
            return []
        if self._pause:
            self._pause -= 1
            return []
        most = min(room, self._length)
        tokens = self._drafter.propose(most) if most > 0 else []
        end = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        self._waiting = deque(tokens[:end])  # nothing follows an end
        self._hits = 0
        self.drafted += end
        return tokens[:end]

    def check(self, token: int) -> bool:
        """Whether the sampled `token` is what the draft has next. If not, the draft is over."""
        if self._drafter is None:
            return False
        self._drafter.add(token)
        if not self._waiting:
            return False
        if hit := token == self._waiting[0]:
            self._waiting.popleft()
            self._hits += 1
            self.accepted += 1
        if not hit or not self._waiting:
            self._learn(refused=not hit)
            self._waiting.clear()
        return hit

    def _learn(self, refused: bool) -> None:
        """The next draft's length and how long it is off, now that a draft is over."""
        self._length = self._hits + 1 if refused else max(self._length, 2 * self._hits)
        if self._hits:
            self._misses = max(0, self._misses - self._hits)
        else:
            self._misses = min(self._misses + 1, MOST_MISSES)
            self._pause = 2 ** (self._misses - 1) - 1


def _likeliest(logits: NDArray[np.float32]) -> tuple[int, float]:
    """The likeliest token and its probability, NaN where logits are not finite."""
    import numpy as np

    token = int(logits.argmax())
    with np.errstate(invalid="ignore"):
        return token, 1 / float(np.exp(logits - logits[token]).sum())


def _check_vocabulary(draft: Model, target: Model) -> None:
    """Raise GGUFError unless both have the same tokens, but for padding at the end."""
    ours, theirs = (llama.tokenizer.vocab.texts for llama in (draft, target))
    shared = min(len(ours), len(theirs))
    if abs(len(ours) - len(theirs)) > MOST_PADDING:
        what = f"one has {len(ours):,} tokens, the other {len(theirs):,}"
    elif ours[:shared] != theirs[:shared]:
        at = next(i for i in range(shared) if ours[i] != theirs[i])
        what = f"token {at} is {ours[at]!r:.40} in one and {theirs[at]!r:.40} in the other"
    else:
        return
    raise GGUFError(f"{draft.name} cannot draft for {target.name}: their vocabularies differ ({what})")
