"""Special tokens cut out of a text before it is tokenized, with the precedence of llama.cpp: longer texts
first."""

from __future__ import annotations

from collections.abc import Iterable

from ggufpy.tokenizers.vocab import CONTROL, UNKNOWN, USER_DEFINED, Vocab

_PREFIX = 3  # characters that tokens are grouped by, so that thousands of them cost a few searches
_WHITE = " \t\n\v\f\r"


class Partition:
    """Splits texts at the special tokens of a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self._texts = vocab.texts
        self._strip_after = vocab.strip_after_special
        types = vocab.types
        self._user = _group(vocab, (types == USER_DEFINED).nonzero()[0].tolist())
        self._control = _group(vocab, ((types == CONTROL) | (types == UNKNOWN)).nonzero()[0].tolist())

    def split(self, text: str, parse_special: bool) -> list[str | int]:
        """`text` as pieces of text and ids of the special tokens between them.

        User-defined tokens are always found, control and unknown ones only with `parse_special`.
        """
        groups = (self._user, self._control) if parse_special else (self._user,)
        present = [token for group in groups for token in self._present(group, text)]
        parts: list[str | int] = [text] if text else []
        for token in sorted(present, key=self._precedence):
            parts = [new for part in parts for new in ([part] if isinstance(part, int) else self._cut(part, token))]
        return parts

    def _precedence(self, token: int) -> tuple[int, int]:
        return -len(self._texts[token].encode("utf-8", "surrogateescape")), token

    def _present(self, groups: dict[str, list[int]], text: str) -> list[int]:
        """Ids of the tokens whose texts are somewhere in `text`."""
        texts = self._texts
        return [t for prefix, tokens in groups.items() if prefix in text for t in tokens if texts[t] in text]

    def _cut(self, text: str, token: int) -> Iterable[str | int]:
        first, *rest = text.split(self._texts[token])
        if first:
            yield first
        for piece in rest:
            yield token
            tail = piece.lstrip(_WHITE) if token in self._strip_after else piece
            if tail:
                yield tail


def _group(vocab: Vocab, tokens: list[int]) -> dict[str, list[int]]:
    """Ids by the first characters of their texts; of duplicated texts only the first."""
    groups: dict[str, list[int]] = {}
    for token in tokens:
        text = vocab.texts[token]
        if vocab.ids[text] == token:
            groups.setdefault(text[:_PREFIX], []).append(token)
    return groups
