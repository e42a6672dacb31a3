"""What one rendering uses: work (characters and items made, iterations), the size of values, seconds, output."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, ItemsView, Iterable, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from datetime import datetime
from itertools import islice
from typing import Any

from ggufpy.chat import limits
from ggufpy.chat.limits import TooMuch


class Meter:
    """What one rendering has used. Raises TooMuch when it is too much. `now` is when it was asked for."""

    def __init__(self, work: int, seconds: float, now: datetime) -> None:
        self.now = now
        self._left = work
        self._end = time.monotonic() + seconds

    def charge(self, work: float) -> None:
        """Counts work that is done or about to be."""
        self._left -= math.ceil(work)
        if self._left < 0:
            raise TooMuch("it does more work than any chat needs")
        if time.monotonic() > self._end:
            raise TooMuch(limits.TOO_SLOW)

    def made(self, value: Any) -> Any:
        """`value`, charged by its size."""
        self.charge(weigh(value))
        return value


_METER: ContextVar[Meter] = ContextVar("meter")


def meter() -> Meter:
    """The meter of the rendering that runs."""
    return _METER.get()


def metered(render: Callable[[], Iterable[str]], meter: Meter) -> str:
    """The joined chunks of `render` under a meter. Raises TooMuch beyond a limit."""
    token = _METER.set(meter)
    chunks: list[str] = []
    left = limits.MAX_OUTPUT
    try:
        for chunk in render():
            left -= len(chunk)
            if left < 0:
                raise TooMuch(f"it writes more than {limits.MAX_OUTPUT:,} characters")
            meter.charge(1)
            chunks.append(chunk)
    finally:
        _METER.reset(token)
    return "".join(chunks)


def weigh(value: Any) -> int:
    """Characters and items in `value` and all it holds. Raises TooMuch above MAX_VALUE or MAX_ITEMS."""
    characters = items = 0
    stack = [value]
    while stack and characters <= limits.MAX_VALUE and items <= limits.MAX_ITEMS:
        item = stack.pop()
        items += 1
        if isinstance(item, (str, bytes)):
            characters += len(item)
        elif isinstance(item, (Mapping, ItemsView)):
            stack += _some(item.items() if isinstance(item, Mapping) else item)
        elif isinstance(item, (list, tuple, AbstractSet, ValuesView)):
            stack += _some(item)
        elif isinstance(item, int) and item.bit_length() > limits.MAX_BITS:
            items = limits.MAX_ITEMS + 1
    if characters > limits.MAX_VALUE or items > limits.MAX_ITEMS:
        raise TooMuch("a value grows beyond every limit")
    return characters + items


def _some(items: Collection[Any]) -> Iterable[Any]:
    """`items`, or enough of them to be too many."""
    return items if len(items) <= limits.MAX_ITEMS else islice(items, limits.MAX_ITEMS + 1)
