"""The tokenizer of a checkpoint as the `tokenizer.*` keys of a GGUF file, and back.

`vocabulary(folder, config, size)` reads a folder as transformers or Mistral write it. What GGUF's own keys describe is
written in them; the tokens that result are compared with those of the folder's tokenizer.json, and where they differ,
the whole tokenizer.json goes into the file (`tokenizer.huggingface.json`), which then names no pre-tokenizer: this
package reads the tokenizer from there, others take the nearest thing they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ggufpy.convert.vocabulary import bpe, sentencepiece, unigram, wordpiece
from ggufpy.convert.vocabulary.compare import Difference, difference, kept, loaded
from ggufpy.convert.vocabulary.export import export_vocabulary
from ggufpy.convert.vocabulary.files import SENTENCEPIECE, Sources, part, read_sources
from ggufpy.convert.vocabulary.legacy import described
from ggufpy.convert.vocabulary.special import special_keys
from ggufpy.convert.vocabulary.templates import template_keys
from ggufpy.convert.vocabulary.tokens import Pieces, with_settings
from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass
from ggufpy.tokenizers.hf import KEY as WHOLE

__all__ = ["Vocabulary", "export_vocabulary", "vocabulary"]

_KEY = "tokenizer.ggml."
_KINDS: dict[str, Callable[[Sources, int | None], list[Pieces]]] = {
    "BPE": bpe.pieces, "Unigram": unigram.pieces, "WordPiece": wordpiece.pieces,
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer: `keys` in llama.cpp's order, lines for the user, how many tokens."""

    keys: dict[str, Typed]
    notes: tuple[str, ...]
    n_tokens: int


def vocabulary(folder: Path, config: Mapping[str, Any], size: int | None) -> Vocabulary:
    """The tokenizer of the checkpoint in `folder`.

    `config` is its config.json; `size` is how many rows its embedding has (None: as many as there are tokens): rows
    without a token get unused ones. Raises GGUFError for files that are missing or damaged, and for more tokens than
    rows.
    """
    sources = read_sources(Path(folder), config)
    notes: list[str] = []
    if sources.description is None and any((sources.folder / name).is_file() for name in SENTENCEPIECE):
        candidates = [sentencepiece.pieces(sources, size)]
    else:
        if sources.description is None:
            sources, assumed = described(sources)
            notes += assumed
        sources = with_settings(sources)
        kind = str(part(sources.description or {}, "model", "tokenizer.json").get("type"))
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise GGUFError(f"tokenizer.json: the kind {kind[:40]!r} of tokenizer cannot be converted; known: {known}")
        candidates = _KINDS[kind](sources, size)
    try:
        chosen, lines = _chosen([(pieces, *_keys(pieces, sources)) for pieces in candidates])
    except GGUFError as error:  # of the file as a key
        raise GGUFError(str(error).replace(WHOLE, "tokenizer.json")) from None
    dropped = candidates[0].table.dropped
    if dropped:
        shown = ", ".join([repr(token.text[:40]) for token in dropped[:3]]) + (", ..." if len(dropped) > 3 else "")
        notes.append(f"{len(dropped)} added tokens have no row in the embedding and are left out: {shown}")
    return Vocabulary(chosen, (*notes, *lines), len(candidates[0].table.texts))


def _keys(pieces: Pieces, sources: Sources) -> tuple[dict[str, Typed], list[str]]:
    """All keys of a candidate, in the order in which llama.cpp writes them."""
    made = pieces.table
    ids = made.ids() if pieces.model != "bert" else {text.removeprefix("\u2581"): i for text, i in made.ids().items()}
    special, notes = special_keys(sources, ids, len(made.texts), pieces.specials)
    templates, lines = template_keys(sources)
    count = f"{_KEY}token_type_count"
    keys = {count: pieces.extra[count]} if count in pieces.extra else {}
    keys[f"{_KEY}model"] = Typed("string", pieces.model)
    if pieces.pre is not None:
        keys[f"{_KEY}pre"] = Typed("string", pieces.pre)
    keys[f"{_KEY}tokens"] = Typed("array[string]", made.texts)
    if pieces.scored:
        keys[f"{_KEY}scores"] = Typed("array[float32]", made.scores)
    keys[f"{_KEY}token_type"] = Typed("array[int32]", made.types)
    if pieces.merges is not None:
        keys[f"{_KEY}merges"] = Typed("array[string]", pieces.merges)
    rest = {key: value for key, value in pieces.extra.items() if key != count}
    return keys | special | templates | rest, [*notes, *lines]


def _chosen(candidates: list[tuple[Pieces, dict[str, Typed], list[str]]]) -> tuple[dict[str, Typed], list[str]]:
    """The first candidate that gives the tokens of tokenizer.json; else the first one with that file in it."""
    first, keys, notes = candidates[0]
    if first.description is None:
        loaded(keys)  # a vocabulary that cannot be read would be found out by the next program only
        return keys, [*notes, *first.notes]
    differences: list[Difference] = []
    for pieces, own, lines in candidates:
        if pieces.pre is None:
            continue
        differences.append(difference(own, first.description))
        if not differences[-1].plain and not differences[-1].special:
            return own, [*lines, *pieces.notes]
        if pieces.model == "gpt2" and not differences[-1].plain:
            line = "white space or words around some added tokens matter to it, which GGUF cannot say"
            return own, [*lines, *pieces.notes, line]
    return _kept(first, keys, [*notes, *first.notes], differences)


def _kept(
    pieces: Pieces, keys: dict[str, Typed], notes: list[str], differences: list[Difference]
) -> tuple[dict[str, Typed], list[str]]:
    """Keys with the whole tokenizer.json, and without a pre-tokenizer."""
    whole = kept(keys, pieces.description or "")
    loaded(whole)
    why = "GGUF has no words for it"
    if differences:
        other = differences[0]
        places = f"{other.plain} of {other.texts} texts" if other.plain else "texts with added tokens"
        why = f"GGUF's own keys would cut {places} otherwise"
    line = f"tokenizer.json is kept whole in {WHOLE}: {why}; programs that do not read it will"
    return whole, [*notes, line]
