"""The numbers that a completion can be asked with: which bounds they have, and what becomes of one beyond them.

Bounds that are hard refuse a number; others bring it within (llama.cpp: tools/server/server-schema.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

INT = 2**31 - 1
FACTOR = 1e9  # that logits are multiplied by, at most


@dataclass(frozen=True)
class Number:
    """A field that is a number. `hard`: one that is out of bounds is refused."""

    least: float = -math.inf
    most: float = math.inf
    hard: bool = False
    whole: bool = False

    def check(self, name: str, value: object) -> float | int:
        """The number as it counts. Raises GGUFError for what is none, and for one beyond hard bounds."""
        number = whole(name, value) if self.whole else checks.number(name, value)
        if self.hard and not self.least <= number <= self.most:
            open_ = self.most >= INT and number < self.least
            bounds = f"{self.least:g} or more" if open_ else f"from {self.least:g} to {self.most:,.15g}"
            raise GGUFError(f"{name} is {checks.shown(number)}, and must be {bounds}")
        return min(max(number, self.least), self.most)


def whole(name: str, value: object) -> int:
    """A whole number; 40.0 is one in JSON."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return checks.whole(name, value)


_SHARE = Number(0.0, 1.0)
_COUNT = Number(0, INT, hard=True, whole=True)
_LAST = Number(-1, INT, hard=True, whole=True)

# By llama-server's names: what `ggufpy.Sampling` takes under the same ones.
SAMPLING: Mapping[str, Number] = MappingProxyType(
    {
        "temperature": Number(0.0),
        "dynatemp_range": Number(0.0),
        "dynatemp_exponent": Number(),
        "top_k": Number(0, INT, whole=True),
        "top_p": _SHARE,
        "min_p": _SHARE,
        "top_n_sigma": Number(),
        "typical_p": _SHARE,
        "xtc_probability": _SHARE,
        "xtc_threshold": _SHARE,
        "repeat_last_n": _LAST,
        "repeat_penalty": Number(1 / FACTOR, FACTOR, hard=True),
        "presence_penalty": Number(),
        "frequency_penalty": Number(),
        "dry_multiplier": Number(0.0),
        "dry_base": Number(),
        "dry_allowed_length": _COUNT,
        "dry_penalty_last_n": _LAST,
        "mirostat": Number(0, 2, whole=True),
        "mirostat_tau": Number(),
        "mirostat_eta": Number(),
        "adaptive_target": Number(most=1.0),
        "adaptive_decay": Number(0.0, 0.99, hard=True),
        "min_keep": _COUNT,
    }
)
# Which say how a text goes on beside the sampling, or nothing where the context is never shifted.
OTHERS: Mapping[str, Number] = MappingProxyType(
    {
        "n_predict": Number(-1, INT, hard=True, whole=True),
        "n_indent": _COUNT,
        "n_keep": _LAST,
        "n_discard": _COUNT,
        "n_cache_reuse": _COUNT,
        "t_max_predict_ms": Number(-1, 2**63 - 1, hard=True, whole=True),
        "t_max_prompt_ms": Number(-1, 2**63 - 1, hard=True, whole=True),
        "n_probs": Number(0, INT, hard=True, whole=True),
        "sse_ping_interval": Number(-1, INT, hard=True, whole=True),
        "id_slot": Number(-1, INT, hard=True, whole=True),
    }
)
DRY_BASE = 1.75  # in place of one below 1


def checked(given: Mapping[str, Any], numbers: Mapping[str, Number]) -> dict[str, Any]:
    """Those of `numbers` that are given, as they count; null says nothing."""
    return {name: number.check(name, given[name]) for name, number in numbers.items() if given.get(name) is not None}


def sampling_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of the sampling, as options of `ggufpy.Sampling`."""
    made = checked(given, SAMPLING)
    if made.get("dry_base", DRY_BASE) < 1:
        made["dry_base"] = DRY_BASE
    if given.get("seed") is not None:
        made["seed"] = _seed(given["seed"])
    if given.get("samplers") is not None:
        made["samplers"] = _samplers(given["samplers"])
    if given.get("dry_sequence_breakers") is not None:
        breakers = checks.items("dry_sequence_breakers", given["dry_sequence_breakers"], "a list of texts")
        if not breakers:
            raise GGUFError("dry_sequence_breakers is empty; a list of texts is wanted, none of them empty")
        made["dry_sequence_breakers"] = breakers
    return made


def _seed(value: object) -> int:
    """A seed; llama-server's have 32 bits, of which a number below 0 is the complement."""
    seed = whole("seed", value)
    return checks.seed("seed", seed % 2**32 if -(2**31) <= seed < -1 else seed) or 0


def _samplers(value: object) -> object:
    """Names, or letters of a text."""
    if not isinstance(value, str | list):
        raise GGUFError(f"samplers is {checks.shown(value)}; a list of names or a text of letters is wanted")
    return value
