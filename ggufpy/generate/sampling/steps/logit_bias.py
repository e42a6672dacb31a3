"""Logit bias: what a caller adds to the logits of single tokens."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.step import Adjust
from ggufpy.support import checks
from ggufpy.support.options import Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling.options import Sampling


class Biases:
    """Pairs or a mapping of token and bias; kept as pairs, each token once."""

    def check(self, name: str, value: Any) -> tuple[tuple[int, float], ...]:
        """Texts of digits count as tokens (JSON has no others)."""
        pairs: dict[int, float] = {}
        try:
            if isinstance(value, str | bytes):
                raise TypeError("a text has no pairs")
            for token, bias in value.items() if isinstance(value, Mapping) else value:
                pairs[operator.index(int(token) if isinstance(token, str) else token)] = float(bias)
        except (TypeError, ValueError, OverflowError) as error:
            raise GGUFError(
                f"{name} is {checks.shown(value)}; it must map tokens (whole numbers) to numbers"
            ) from error
        for token, bias in pairs.items():
            if token < 0 or math.isnan(bias) or bias == math.inf:
                raise GGUFError(f"{name}: {token}={bias}: a token is 0 or more, a bias finite or -inf")
        return tuple(pairs.items())

    def read(self, text: str) -> tuple[int, float]:
        """One pair: `ID=BIAS`, or llama.cpp's `ID+BIAS` and `ID-BIAS`."""
        match = re.fullmatch(r"(\d+)(?:=([+-]?(?:inf|[\d.]+))|([+-](?:inf|[\d.]+)))", text)
        if match is None or (match[2] or match[3]).count(".") > 1 or (match[2] or match[3]).strip("+-") == ".":
            raise GGUFError(f"{text!r} is not ID=BIAS, such as 42=-inf or 42=1.5")
        return int(match[1]), float(match[2] or match[3])


class LogitBias(Adjust):
    """Adds biases; -inf forbids a token."""

    PLACE = 10
    OPTIONS = (
        Option(
            "logit_bias",
            (),
            Biases(),
            "add to a token's logit, again for more; -inf never takes it",
            ("-l", "--logit-bias"),
            metavar="ID=BIAS",
            default_text="",
            repeated=True,
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        import numpy as np

        self._ids: NDArray[np.int64] = np.array([token for token, _ in sampling.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in sampling.logit_bias], np.float32)

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.logit_bias)

    @classmethod
    def check_tokens(cls, sampling: Sampling, n_vocab: int) -> None:
        """See Step."""
        for token, _ in sampling.logit_bias:
            if token >= n_vocab:
                raise GGUFError(f"logit_bias: token {token} is not in the vocabulary of {n_vocab:,} tokens")

    def tokens(self) -> NDArray[np.int64]:
        """See Adjust."""
        return self._ids

    def adjusted(self, logits: NDArray[Any], which: NDArray[np.int64] | slice) -> NDArray[Any]:
        """See Adjust."""
        return logits + self._biases[which]


STEP = LogitBias
