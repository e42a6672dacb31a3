"""DRY, don't repeat yourself (p-e-w 2024): tokens that would go on with a repetition become less likely.

Facts: llama_sampler_dry in src/llama-sampler.cpp of llama.cpp. A repetition is what the text ends with and had before,
in tokens. The longer it is, the higher is the penalty of the token that came next then. It does not reach back beyond a
sequence breaker, so that what begins each line of a list or dialogue may come again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.kinds import Recent, Within
from ggufpy.generate.sampling.step import Adjust, Vocabulary
from ggufpy.support import checks
from ggufpy.support.options import Option, Whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling.options import Sampling

_MOST_BREAKERS, _LONGEST_BREAKER = 100, 40  # 40 bytes as in llama.cpp
_MOST_TAIL = 20  # tokens of a breaker behind the one that it begins in
_LARGEST = 88.7228391  # ln of the largest float32: powers stop growing there
_LARGEST_PENALTY = 1e20  # so that a logit stays one: what is forbidden is -inf


class Breakers:
    """Texts that end a repetition."""

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        """None in a list takes back those ahead of it, as `none` does on the command line."""
        texts: list[str] = []
        for i, each in enumerate(checks.items(name, value, "a list of texts")):
            if each is None:
                texts.clear()
                continue
            size = len(checks.text(f"{name}[{i}]", each).encode("utf-8", "surrogatepass"))
            if not 0 < size <= _LONGEST_BREAKER:
                raise GGUFError(f"{name}[{i}] has {size} bytes, and must have 1 to {_LONGEST_BREAKER}")
            texts.append(each)
        if len(texts) > _MOST_BREAKERS:
            raise GGUFError(f"{name} has {len(texts)} texts, and may have {_MOST_BREAKERS}")
        return tuple(dict.fromkeys(texts))

    def read(self, text: str) -> str | None:
        """See Kind."""
        return None if text == "none" else text


class Dry(Adjust):
    """Subtracts multiplier · base^(length - allowed length) from tokens that go on with a repetition of that length.

    Of several the longest counts. A token that has a breaker in it may always come.
    """

    PLACE = 25
    NAME, LETTER = "dry", "d"
    OPTIONS = (
        Option(
            "dry_multiplier",
            0.0,
            Within(0, 1e9),
            "subtract from tokens that go on with a repetition, as in 0.8; 0: off",
            ("--dry-multiplier",),
        ),
        Option(
            "dry_base",
            1.75,
            Within(1),
            "multiply that by X for each token that the repetition is longer than allowed",
            ("--dry-base",),
        ),
        Option(
            "dry_allowed_length",
            2,
            Whole(0),
            "tokens that may be repeated for nothing",
            ("--dry-allowed-length",),
            metavar="N",
        ),
        Option(
            "dry_penalty_last_n",
            64,
            Recent(),
            "how far back repetitions are looked for, in tokens; 0: off, -1: the whole context",
            ("--dry-penalty-last-n",),
            metavar="N",
        ),
        Option(
            "dry_sequence_breakers",
            ("\n", ":", '"', "*"),
            Breakers(),
            "texts that no repetition reaches across, in place of the usual ones; again for another, "
            "the word none for no text",
            ("--dry-sequence-breaker",),
            aliases=("dry_sequence_breaker",),
            metavar="TEXT",
            default_text=r"""\n : " *""",
            repeated=True,
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        from ggufpy.generate.sampling.repetition import Repetition

        self._text = Repetition(sampling.dry_penalty_last_n)
        self._multiplier: float = sampling.dry_multiplier
        self._base: float = sampling.dry_base
        self._allowed: int = sampling.dry_allowed_length
        self._breakers: tuple[str, ...] = sampling.dry_sequence_breakers
        self._penalties: NDArray[np.float32] | None = None

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.dry_multiplier > 0 and sampling.dry_penalty_last_n != 0)

    def learn(self, vocabulary: Vocabulary | None) -> None:
        """See Step."""
        if vocabulary is not None:
            self._text.break_at(_sequences(vocabulary, self._breakers))

    def accept(self, token: int) -> None:
        """See Step."""
        self._text.add(token)

    def tokens(self) -> NDArray[np.int64]:
        """See Adjust; the penalties are kept for `adjusted`."""
        import numpy as np

        ids, lengths = self._text.continued(self._allowed)
        most = int(_LARGEST / math.log(self._base)) if self._base > 1.000001 else 0
        over = lengths - self._allowed
        over = np.minimum(over, most) if most else over
        penalties = np.minimum(self._multiplier * self._base ** over.astype(np.float64), _LARGEST_PENALTY)
        self._penalties = penalties.astype(np.float32)
        return ids

    def adjusted(self, logits: NDArray[Any], which: NDArray[np.int64] | slice) -> NDArray[Any]:
        """See Adjust."""
        assert self._penalties is not None
        return logits - self._penalties[which]


def _sequences(vocabulary: Vocabulary, breakers: tuple[str, ...]) -> dict[int, set[tuple[int, ...]]]:
    """What of a breaker may follow a token that it begins in, by that token: () where it has all of one.

    With the breaker "##" a token "###" has all of it, and one that ends with a single "#" begins it: behind that come
    the tokens that the rest, "#", is made of.
    """
    found: dict[int, set[tuple[int, ...]]] = {}
    for breaker in breakers:
        data = breaker.encode("utf-8", "surrogateescape")
        for token in vocabulary.texts.containing(data):
            found.setdefault(token, set()).add(())
        for size in range(1, len(data)):
            if tokens := vocabulary.texts.ending(data[:size]):
                rest = tuple(vocabulary.encode(data[size:])[:_MOST_TAIL])
                for token in tokens.difference(vocabulary.texts.containing(data)):
                    found.setdefault(token, set()).add(rest)
    return found


STEP = Dry
