"""What chats have said, as the tokens that were drawn: the same text may be cut into tokens in several ways, and a
later turn that cut it otherwise would be read from there on anew.

In: prompts and answers that are over. Out: the tokens of a prompt that begins with one of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING

from ggufpy.tokenizers.vocab import CONTROL

if TYPE_CHECKING:
    from ggufpy.tokenizers import Tokenizer

MOST = 64  # texts that are kept, the newest
MOST_CHARACTERS = 1 << 22  # of all of them together


class Turns:
    """Texts and their tokens. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = RLock()  # a stream that the garbage collector ends keeps its turn, wherever its thread is
        self._kept: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._characters = 0

    def keep(self, tokenizer: Tokenizer, text: str, tokens: Sequence[int], drawn: Sequence[int]) -> None:
        """Keeps a prompt, as text and tokens, with what was drawn behind it."""
        whole = text + tokenizer.decode(drawn, special=True)
        with self._lock:
            if self._kept.pop(whole, None) is None:
                self._characters += len(whole)
            self._kept[whole] = (*tokens, *drawn)
            while len(self._kept) > MOST or (self._characters > MOST_CHARACTERS and self._kept):
                self._characters -= len(self._kept.popitem(last=False)[0])

    def tokens(self, tokenizer: Tokenizer, text: str, otherwise: Sequence[int]) -> list[int]:
        """The tokens of a prompt: those of the longest kept text that it begins with, where a control token follows
        there, so that no word is cut; else `otherwise`."""
        with self._lock:
            known = max((kept for kept in [*self._kept] if text.startswith(kept)), key=len, default=None)
            before = () if known is None else self._kept.get(known, ())
        if known is None or tuple(otherwise[: len(before)]) == before:
            return list(otherwise)
        rest = tokenizer.encode(text[len(known) :], add_special=False, parse_special=True)
        if rest and tokenizer.vocab.types[rest[0]] != CONTROL:
            return list(otherwise)
        return [*before, *rest]
