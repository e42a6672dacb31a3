"""Kinds of values that options of sampling take, beside those of `support/options.py`."""

from __future__ import annotations

import math

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.options import Real, Whole

_MOST_FACTOR = 1e9  # what comes out is far from the ends of float32


class Factor(Real):
    """Numbers that logits are divided and multiplied by."""

    def check(self, name: str, value: object) -> float:
        """See Kind."""
        factor = super().check(name, value)
        if not 1 / _MOST_FACTOR <= factor <= _MOST_FACTOR:
            raise GGUFError(f"{name} is {factor}, and must be above 0, from 1e-9 to 1e9 (1 turns it off)")
        return factor


class Within(Real):
    """Numbers from `least` to `most`."""

    def __init__(self, least: float, most: float = math.inf) -> None:
        self._least, self._most = least, most

    def check(self, name: str, value: object) -> float:
        """See Kind."""
        number = super().check(name, value)
        if not self._least <= number <= self._most:
            bounds = f"{self._least:g} or more" if math.isinf(self._most) else f"from {self._least:g} to {self._most:g}"
            raise GGUFError(f"{name} is {number}, and must be {bounds}")
        return number


class Recent(Whole):
    """How many tokens are recent."""

    def __init__(self) -> None:
        super().__init__(-1)

    def check(self, name: str, value: object) -> int:
        """See Kind."""
        count = checks.whole(name, value)
        if count < -1:
            raise GGUFError(f"{name} is {count}, and must be 0 or more, or -1 for all tokens")
        return count


class OneOf(Whole):
    """A few whole numbers from 0 on."""

    def __init__(self, most: int) -> None:
        super().__init__(0)
        self._most = most

    def check(self, name: str, value: object) -> int:
        """See Kind."""
        chosen = checks.whole(name, value)
        if not 0 <= chosen <= self._most:
            raise GGUFError(f"{name} is {chosen}, and must be one of {', '.join(map(str, range(self._most + 1)))}")
        return chosen
