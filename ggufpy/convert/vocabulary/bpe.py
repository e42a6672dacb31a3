"""BPE vocabularies of a tokenizer.json: of bytes (`gpt2`), or of text with bytes for the rest (`llama`, `gemma4`).

In: the parsed tokenizer.json. Out: `Pieces`. A `llama` vocabulary merges what makes the token of the highest score,
so scores are the ranks of merges here; whether that gives the same tokens is for the comparison to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.convert.vocabulary.files import Sources, part, steps
from ggufpy.convert.vocabulary.pretokenizer import recognise
from ggufpy.convert.vocabulary.sentencepiece import Model, read_model
from ggufpy.convert.vocabulary.tokens import SPACE, Pieces, Table, added_tokens, checked_vocabulary, is_byte, table
from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.tokenizers.bpe import FORM_KEY, FORMS
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.vocab import BYTE, NORMAL, UNKNOWN, USER_DEFINED

_NAME = "tokenizer.json"
_MOST_MERGES = 10_000_000


def pieces(sources: Sources, size: int | None) -> list[Pieces]:
    """What the vocabulary may be in GGUF, the likeliest first. Raises GGUFError for a damaged tokenizer.json."""
    description = sources.description or {}
    model = part(description, "model", _NAME)
    base = checked_vocabulary(model.get("vocab"), _NAME)
    merges = _merges(model.get("merges"), base)
    made = table(base, added_tokens(sources, base), size, _NAME)
    if _of_bytes(description):
        return [_byte_level(sources, made, merges)]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        note = "its BPE marks parts of words, which GGUF has no words for"
        return [Pieces("gpt2", None, made, _texts(merges), description=sources.text, notes=(note,))]
    candidates = [_scored(sources, base, merges, made)]
    spaced = _spaces_as_text(made, base)
    if spaced is not None:
        candidates.append(_scored(sources, base, merges, spaced))
    candidates.append(_text_level(sources, made, merges))
    kind = str(sources.config.get("model_type", ""))
    return candidates[::-1] if kind.startswith("gemma4") else candidates


def _of_bytes(description: Mapping[str, Any]) -> bool:
    places = (("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers"), ("decoder", "decoders"))
    return any(
        step.get("type") == "ByteLevel" for key, members in places for step in steps(description.get(key), members)
    )


def _byte_level(sources: Sources, made: Table, merges: list[tuple[str, str]]) -> Pieces:
    description = sources.description or {}
    library = import_library("tokenizers")
    tokenizer = guarded(_NAME, lambda: library.Tokenizer.from_str(sources.text))
    entry, listed = recognise(description, tokenizer)
    form, exact = _form(description.get("normalizer"))
    extra = {} if form is None else {FORM_KEY: Typed("string", form)}
    notes = []
    if entry is None:
        notes.append("its pre-tokenizer has no name in GGUF and cuts like none that has")
    elif not listed:
        notes.append(f"its pre-tokenizer is not one that is known, but cuts as {entry.names[0]!r} does")
    if not exact:
        notes.append("its normaliser has no name in GGUF")
    pre = entry.names[0] if entry is not None and exact else None
    return Pieces("gpt2", pre, made, _texts(merges), extra=extra, description=sources.text, notes=tuple(notes))


def _form(node: object) -> tuple[str | None, bool]:
    """The normal form of Unicode that texts are brought into, and whether that is all of the normaliser."""
    kinds = [step.get("type") for step in steps(node, "normalizers")]
    if not kinds:
        return None, True
    return (str(kinds[0]), True) if len(kinds) == 1 and kinds[0] in FORMS else (None, False)


def _merges(listed: object, base: Mapping[str, int]) -> list[tuple[str, str]]:
    """Merges as pairs. Raises GGUFError for what is none, and for tokens that the vocabulary does not have."""
    if not isinstance(listed, list):
        raise GGUFError(f"{_NAME}: the merges of its BPE are missing")
    if len(listed) > _MOST_MERGES:
        raise GGUFError(f"{_NAME} has {len(listed):,} merges; {_MOST_MERGES:,} are the most")
    pairs: list[tuple[str, str]] = []
    for i, merge in enumerate(listed):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(side, str) and side for side in pair):
            raise GGUFError(f"{_NAME}: merge {i} is {str(merge)[:40]!r}, and must be two tokens")
        left, right = pair
        for side in (left, right):
            if side not in base:
                raise GGUFError(f"{_NAME}: merge {i} is of {side[:40]!r}, which is no token; it is damaged")
        pairs.append((left, right))
    return pairs


def _texts(merges: Sequence[tuple[str, str]]) -> list[str]:
    """Merges as GGUF has them: a space within a token is written as the byte alphabet writes it."""
    return [f"{left.replace(' ', chr(0x120))} {right.replace(' ', chr(0x120))}" for left, right in merges]


def _spaces_as_text(made: Table, base: Mapping[str, int]) -> Table | None:
    """The table with added tokens that are runs of spaces as tokens of plain text; None if there are none.

    SentencePiece finds such a token before it cuts a text. To a tokenizer.json it is written with U+2581, which a
    text does not have: there it comes of merges alone.
    """
    runs = [(text, token) for text, token in base.items() if len(text) > 1 and not text.strip(SPACE)]
    runs = [(text, token) for text, token in runs if token < len(made.types) and made.types[token] == USER_DEFINED]
    if not runs:
        return None
    texts, types = list(made.texts), list(made.types)
    for text, token in runs:
        texts[token], types[token] = text, NORMAL
    return Table(texts, types, made.scores, made.dropped)


def _text_level(sources: Sources, made: Table, merges: list[tuple[str, str]]) -> Pieces:
    """As `gemma4`: merges stay as they are, and texts are cut at line ends alone."""
    types = _with_bytes(made, _unknown(sources))
    scores = [-1000.0] * len(types)
    return Pieces(
        "gemma4",
        "gemma4",
        Table(made.texts, types, scores, made.dropped),
        _texts(merges),
        True,
        specials=_specials(sources, made),
        description=sources.text,
    )


def _unknown(sources: Sources) -> str | None:
    text = part(sources.description or {}, "model", _NAME).get("unk_token")
    return text if isinstance(text, str) else None


def _specials(sources: Sources, made: Table) -> dict[str, int]:
    ids = made.ids()
    unknown = _unknown(sources)
    return {"unk": ids[unknown]} if unknown is not None and unknown in ids else {}


def _with_bytes(made: Table, unknown: str | None) -> list[int]:
    types = list(made.types)
    for token, text in enumerate(made.texts):
        if types[token] == NORMAL and is_byte(text):
            types[token] = BYTE
        elif text == unknown:
            types[token] = UNKNOWN
    return types


def _scored(sources: Sources, base: Mapping[str, int], merges: list[tuple[str, str]], made: Table) -> Pieces:
    """As `llama`: scores of SentencePiece's own file where it is there, else by the ranks of merges."""
    types = _with_bytes(made, _unknown(sources))
    model = read_model(sources.folder)
    own = None if model is None else _own_scores(model, base)
    ranked = _ranks(merges) if own is None else own
    lowest = min(ranked.values(), default=0.0)
    scores = list(made.scores)
    for token, (text, kind) in enumerate(zip(made.texts, types, strict=True)):
        if kind == NORMAL:
            alone = 0.0 if len(text) == 1 and own is None else lowest - 1.0
            scores[token] = ranked.get(text, alone)
        elif kind in (BYTE, UNKNOWN):
            scores[token] = 0.0
    prefix = _prefixed(sources.description or {})
    extra = {"tokenizer.ggml.add_space_prefix": Typed("bool", prefix)}
    built = Table(made.texts, types, scores, made.dropped)
    return Pieces("llama", "default", built, None, True, extra, _specials(sources, built), sources.text)


def _own_scores(model: Model, base: Mapping[str, int]) -> dict[str, float] | None:
    """Scores by text, where the model's pieces are those of the vocabulary and it is BPE too."""
    alike = all(base.get(piece.text, i) == i for i, piece in enumerate(model.pieces))
    return {piece.text: piece.score for piece in model.pieces} if alike and model.kind == "bpe" else None


def _ranks(merges: list[tuple[str, str]]) -> dict[str, float]:
    """Text → score: the sooner it is merged the higher, in steps of one, which float32 holds exactly."""
    ranks: dict[str, float] = {}
    for left, right in merges:
        ranks.setdefault(left + right, -float(len(ranks)))
    return ranks


def _prefixed(description: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text: a Prepend among the normalisers, or Metaspace's way."""
    for step in steps(description.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            return True
    for step in steps(description.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme")
            return scheme in ("always", "first") if scheme is not None else step.get("add_prefix_space") is not False
    return False
