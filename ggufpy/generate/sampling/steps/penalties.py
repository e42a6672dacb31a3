"""Penalties: tokens that came recently become less likely."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from ggufpy.generate.sampling.kinds import Factor, Recent, Within
from ggufpy.generate.sampling.step import Adjust
from ggufpy.support.options import Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling.options import Sampling

_MOST_RECENT = 1 << 31
_MOST_PENALTY = 1e9  # so that a logit stays one: what is forbidden is -inf


class Penalties(Adjust):
    """Positive logits of recent tokens are divided by `repeat_penalty`, negative ones multiplied.

    Then `frequency_penalty` is subtracted as often as the token occurred, and `presence_penalty` once.
    """

    PLACE = 20
    NAME, LETTER = "penalties", "e"
    OPTIONS = (
        Option(
            "repeat_penalty",
            1.0,
            Factor(),
            "divide the logits of recent tokens; 1: off",
            ("--repeat-penalty",),
        ),
        Option(
            "repeat_last_n",
            64,
            Recent(),
            "how many tokens are recent; 0: none, -1: the whole context",
            ("--repeat-last-n",),
        ),
        Option(
            "presence_penalty",
            0.0,
            Within(-_MOST_PENALTY, _MOST_PENALTY),
            "subtract from tokens that occurred",
            ("--presence-penalty",),
        ),
        Option(
            "frequency_penalty",
            0.0,
            Within(-_MOST_PENALTY, _MOST_PENALTY),
            "subtract for every time they did",
            ("--frequency-penalty",),
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        last: int = sampling.repeat_last_n
        self._recent: deque[int] = deque(maxlen=None if last < 0 else min(last, _MOST_RECENT))
        self._counts: Counter[int] = Counter()
        self._repeat: float = sampling.repeat_penalty
        self._presence: float = sampling.presence_penalty
        self._frequency: float = sampling.frequency_penalty

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        changed = sampling.repeat_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        return bool(changed and sampling.repeat_last_n != 0)

    def accept(self, token: int) -> None:
        """See Adjust."""
        if len(self._recent) == self._recent.maxlen:
            oldest = self._recent[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._recent.append(token)
        self._counts[token] += 1

    def tokens(self) -> NDArray[np.int64]:
        """See Adjust."""
        import numpy as np

        return np.fromiter(self._counts.keys(), np.int64, len(self._counts))

    def adjusted(self, logits: NDArray[Any], which: NDArray[np.int64] | slice) -> NDArray[Any]:
        """See Adjust."""
        import numpy as np

        counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))[which]
        repeat = np.float32(self._repeat)
        logits = np.where(logits > 0, logits / repeat, logits * repeat)
        adjusted: NDArray[Any] = logits - counts * np.float32(self._frequency) - np.float32(self._presence)
        return adjusted


STEP = Penalties
