"""Texts of markers."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKENS = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


def tokens_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts of markers, those that look like several control tokens in a row apart; in order, each once."""
    found: dict[str, None] = {}
    for text in texts:
        for part in _TOKENS.findall(text) or [text]:
            found.setdefault(part)
    return tuple(part for part in found if part)
