"""llama-server's `logit_bias`: [[token or text, bias or false], ...], or an object of the same.

A text stands for each of its tokens; false never lets a token come (llama.cpp: tools/server/server-schema.cpp).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.numbers import whole
from ggufpy.errors import GGUFError
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.api.asynchronous import AsyncCompletions

WANTED = "pairs [token or text, number or false], or an object of them,"
LARGEST = 3.4028234663852886e38  # of float32, which logits are
_ID = re.compile(r"-?[0-9]+")


def biases(llm: AsyncCompletions, given: object) -> list[tuple[int, float]]:
    """Tokens and what is added to their logits, -inf for those that may not come."""
    if isinstance(given, Mapping):
        return [each for key, value in given.items() for each in _pair(llm, f"logit_bias[{key[:80]!r}]", key, value)]
    made: list[tuple[int, float]] = []
    for i, pair in enumerate(checks.items("logit_bias", given, WANTED)):
        if not isinstance(pair, list) or len(pair) != 2:
            raise GGUFError(f"logit_bias[{i}] is {checks.shown(pair)}; {WANTED} are wanted")
        made += _pair(llm, f"logit_bias[{i}]", *pair)
    return made


def _pair(llm: AsyncCompletions, name: str, key: Any, value: Any) -> list[tuple[int, float]]:
    """One pair. As in llama-server a token that the model does not have counts for nothing."""
    bias = -math.inf if value is False else min(max(checks.number(name, value), -LARGEST), LARGEST)
    if isinstance(key, str) and not _ID.fullmatch(key):
        return [(token, bias) for token in llm.tokenizer.encode(key)]
    token = int(key[:20]) if isinstance(key, str) else whole(name, key)
    return [(token, bias)] if 0 <= token < llm.n_vocab() else []


def never_ending(llm: AsyncCompletions) -> list[tuple[int, float]]:
    """Biases with which no text ends."""
    return [(token, -math.inf) for token in sorted(llm.end_tokens())]
