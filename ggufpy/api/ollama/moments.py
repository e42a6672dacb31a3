"""Times as ollama writes them: moments in RFC 3339 with nanoseconds, lengths in nanoseconds or as texts of Go."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone

from ggufpy.errors import GGUFError
from ggufpy.support import checks

NEVER = "2318-01-01T00:00:00Z"  # when what is kept for ever ends: clients want a moment
FOREVER = -1.0
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)"
_LENGTH = re.compile(rf"([+-]?)((?:{_PART})+)")
_MOST = 1e10  # seconds: more is for ever


def written(seconds: float) -> str:
    """A moment (seconds since 1970, UTC) in RFC 3339."""
    whole, rest = divmod(int(seconds * 1e6), 10**6)
    return datetime.fromtimestamp(whole, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:06}000Z"


def now() -> str:
    """This moment."""
    whole, rest = divmod(time.time_ns(), 10**9)
    return datetime.fromtimestamp(whole, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09}Z"


def nanoseconds(seconds: float) -> int:
    """A length of time, at least 1: clients divide by it."""
    return max(int(seconds * 1e9), 1)


def keep_alive(value: object) -> float | None:
    """Seconds that a model stays after a request, FOREVER for those below 0; None where nothing is said.

    In: a number of seconds, or a text of numbers with units as Go's time.ParseDuration has them ("1h30m"), or of
    seconds without one. Raises GGUFError for anything else.
    """
    if value is None:
        return None
    seconds = _read(value) if isinstance(value, str) else checks.number("keep_alive", value)
    return FOREVER if seconds < 0 or seconds > _MOST else seconds


def _read(text: str) -> float:
    found = _LENGTH.fullmatch(text) if len(text) <= 100 else None
    if found is not None:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, found[2]))
        return -seconds if found[1] == "-" else seconds
    if re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?", text):
        return float(text)
    told = 'seconds, or a text such as "5m" or "1h30m", or -1 for ever'
    raise GGUFError(f"keep_alive is {checks.shown(text)}; it must be {told}")
