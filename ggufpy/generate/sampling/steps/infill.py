"""Infill: for code between a prefix and a suffix, where the end of the text counts more than in other texts.

Facts: llama_sampler_infill in src/llama-sampler.cpp of llama.cpp, and what include/llama.h says of it. It is for
samplers such as "top_k;top_p;infill", behind what leaves few candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut, Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling

_END_WEIGHT = 3  # the text ends where ends times this times the number of candidates outweigh the rest
_MOST = 1000  # candidates whose texts are looked at, the likeliest
_LIKELY = 0.2  # what a token must have, with those that it begins


class Infill(Cut):
    """Ends the text if ends are likely enough, else leaves tokens that are sure, with the shares of what they begin.

    Of tokens of which one is the beginning of another ("he", "hell") the likelier stands for both. What then has less
    than 0.2, or less than an even part among those that are left, is dropped; ends stay.
    """

    PLACE = 95
    NAME, LETTER, USUAL = "infill", "i", False
    keeps_best = False

    def __init__(self, sampling: Sampling) -> None:
        self._vocabulary: Vocabulary | None = None

    def learn(self, vocabulary: Vocabulary | None) -> None:
        """See Step."""
        self._vocabulary = vocabulary

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        import numpy as np

        if self._vocabulary is None:
            return
        candidates.sort()
        ids, p = candidates.ids.tolist(), candidates.shares()
        ends = np.array([token in self._vocabulary.end_tokens for token in ids])
        if _END_WEIGHT * p[ends].sum() * len(ids) > p[~ends].sum():
            candidates.keep(np.flatnonzero(ends))
            return
        candidates.first(_MOST)
        ids, p, ends = ids[:_MOST], p[:_MOST], ends[:_MOST]
        together, alive = self._merged(ids, p)
        kept = ends | (together >= _LIKELY)
        if not (kept & ~ends).any():
            self._end(candidates)
            return
        shares = together / together[kept].sum()
        kept &= ends | (shares >= 1 / ((kept & ~ends).sum() + 1))
        candidates.keep(np.flatnonzero(kept & alive))

    def _merged(self, ids: list[int], p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Shares with those of tokens that one stands for, and which tokens still stand for themselves."""
        import numpy as np

        assert self._vocabulary is not None
        texts = [self._vocabulary.token_bytes(token, special=False) for token in ids]
        places: dict[bytes, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        begun: list[list[int]] = [[] for _ in ids]  # by token the places of those that it begins, itself too
        for place, text in enumerate(texts):
            for size in range(1, len(text) + 1):
                for beginning in places.get(text[:size], ()):
                    begun[beginning].append(place)
        shares, alive = p.tolist(), [True] * len(ids)
        for first, others in enumerate(begun):
            for other in others:
                if not alive[first]:
                    break
                if other == first or not alive[other]:
                    continue
                stays, goes = (other, first) if shares[other] > shares[first] else (first, other)
                shares[stays] += shares[goes]
                shares[goes], alive[goes] = 0.0, False
        return np.array(shares), np.array(alive)

    def _end(self, candidates: Candidates) -> None:
        """Leave the likeliest end, candidate or not; where none may come the likeliest token stays."""
        assert self._vocabulary is not None
        whole = candidates.whole
        ends = [token for token in sorted(self._vocabulary.end_tokens) if token < len(whole)]
        best = max(ends, key=lambda token: float(whole[token]), default=None)
        if best is None or whole[best] == float("-inf"):
            candidates.first(1)
        else:
            candidates.only(best)


STEP = Infill
