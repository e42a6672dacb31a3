"""How many threads to use where nobody says: GGUFPY_THREADS, or the processors that this process may use."""

from __future__ import annotations

import os

from ggufpy.errors import GGUFError

MOST_THREADS = 256


def default_threads() -> int:
    """Raises GGUFError if GGUFPY_THREADS is not a sensible number."""
    if text := os.environ.get("GGUFPY_THREADS"):
        count = int(text) if text.strip().isdecimal() and len(text) < 10 else 0
        return checked_threads(count, text[:40], "GGUFPY_THREADS")
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity is not None else os.cpu_count() or 1, MOST_THREADS)


def checked_threads(count: int, shown: str, source: str) -> int:
    """The count. Raises GGUFError, which names where it is from, if it is not a sensible number."""
    if not 1 <= count <= MOST_THREADS:
        raise GGUFError(f"{source} is {shown}; it must be a whole number from 1 to {MOST_THREADS}")
    return count
