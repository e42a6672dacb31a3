"""Mirostat (Basu et al. 2021): the text keeps a surprise of tau bits a token, whatever the model makes of it.

Facts: llama_sampler_mirostat and llama_sampler_mirostat_v2 in src/llama-sampler.cpp of llama.cpp, and the chain around
them in common/sampling.cpp: logit_bias, then the temperature, then mirostat. What else is asked for does not run, and a
temperature of 0 takes the likeliest token. Version 1 there takes one token where the number of them does not fit an int
(flat distributions) or one of the likeliest 100 has no probability in float32; here it takes what the formula says.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ggufpy.generate.sampling.kinds import OneOf, Within
from ggufpy.generate.sampling.step import Last
from ggufpy.support.options import Option

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling

_MOST = 1e6  # of tau and eta, so that mu is a number
_STEEPEST = 1e6  # difference of neighbouring logits that counts: with it the likeliest token is taken alone
_RANKS = 100  # likeliest tokens from which version 1 estimates how fast probabilities fall


class Mirostat(Last):
    """Draws from the likeliest tokens, of which it takes the more, the less surprise there was.

    mu begins at 2 tau, and after each token eta times what its surprise is above tau is taken off it. Version 2 takes
    the tokens of at most mu bits of surprise. Version 1 takes as many as mu allows where probabilities fall as Zipf has
    it, rank^-s, with s estimated from the likeliest ones.
    """

    PLACE = 110
    CHAIN = ("temperature",)
    OPTIONS = (
        Option(
            "mirostat",
            0,
            OneOf(2),
            "1 or 2, its versions: keep the surprise of the text, in place of all samplers but the temperature",
            ("--mirostat",),
            aliases=("mirostat_mode",),
            metavar="N",
            default_text="0, off",
        ),
        Option(
            "mirostat_tau",
            5.0,
            Within(0, _MOST),
            "bits of surprise a token that mirostat keeps",
            ("--mirostat-ent",),
            aliases=("mirostat_ent",),
        ),
        Option(
            "mirostat_eta",
            0.1,
            Within(0, _MOST),
            "how fast mirostat learns from the last token",
            ("--mirostat-lr",),
            aliases=("mirostat_lr",),
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        self._version: int = sampling.mirostat
        self._tau: float = sampling.mirostat_tau
        self._eta: float = sampling.mirostat_eta
        self._mu = 2 * self._tau

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.mirostat)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        if self._version == 1:
            candidates.sort(self._count(candidates))
        else:
            self._cut(candidates)
        shares = candidates.shares()
        surprise = -math.log2(shares[candidates.draw(shares)])
        self._mu -= self._eta * (surprise - self._tau)

    def _cut(self, candidates: Candidates) -> None:
        """Keep the tokens of at most mu bits; the likeliest stays."""
        import numpy as np

        below = candidates.logits - candidates.logits.max()
        least = math.log(np.exp(below).sum()) - self._mu * math.log(2)
        if least > 0:
            candidates.sort(1)
        else:
            candidates.keep(np.flatnonzero(below >= least))
            candidates.sort()

    def _count(self, candidates: Candidates) -> int:
        """How many tokens are taken: k = (e 2^mu / (1 - n^-e))^(1/s) with e = s - 1, for a vocabulary of n."""
        import numpy as np

        n, bits = len(candidates.whole), self._mu * math.log(2)
        top = candidates.largest(_RANKS)
        if len(top) < 2:
            return 1
        steps = np.log(np.arange(2, len(top) + 1) / np.arange(1, len(top)))
        falls = np.minimum(top[:-1] - top[1:], _STEEPEST)
        s = float((steps * falls).sum() / (steps * steps).sum())
        if s <= 0:  # they have all the same: what is above 1 grows without end, and the rest vanishes
            return n if bits >= math.log(n - 1) else 1
        e = s - 1
        # both parts of e / (1 - n^-e) have one sign; it is 1 / ln n where e is 0
        share = 1 / math.log(n) if abs(e) < 1e-9 else e / -math.expm1(-e * math.log(n))
        log_k = (math.log(share) + bits) / s
        return n if log_k >= math.log(n) else max(int(math.exp(log_k)), 1)


STEP = Mirostat
