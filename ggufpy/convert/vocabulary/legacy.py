"""Older forms of vocabularies as the tokenizer.json that they mean.

In: vocab.json with merges.txt (GPT-2's form), vocab.txt (BERT's), or tekken.json (Mistral's). Out: a tokenizer.json as
a dictionary, so that all that follows knows one form.
"""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggufpy.convert.reading import read_object, read_text
from ggufpy.convert.vocabulary.files import Sources, part, read_optional
from ggufpy.convert.vocabulary.tokens import Added, added_tokens, checked_vocabulary
from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass
from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.bpe import byte_letters

# tokenizer_class to the pre-tokenizer and normal form that the class has in code.
_CLASSES: dict[str, tuple[str, str | None]] = {
    "Qwen2Tokenizer": ("qwen2", "NFC"), "GPT2Tokenizer": ("gpt-2", None), "RobertaTokenizer": ("gpt-2", None),
    "CodeGenTokenizer": ("gpt-2", None), "BartTokenizer": ("gpt-2", None),
}  # fmt: skip
_TEKKEN = "tekken.json"
_MOST_STEPS = 1 << 26  # of merging all words, about; models have 5 million


def described(sources: Sources) -> tuple[Sources, tuple[str, ...]]:
    """`sources` with a tokenizer.json made of what there is, and lines for the user. GGUFError: there is nothing."""
    folder = sources.folder
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        description, notes = _gpt2(sources)
    elif (folder / "vocab.txt").is_file():
        description, notes = _bert(sources), ()
    elif (folder / _TEKKEN).is_file():
        description, notes = _tekken(sources), ()
    else:
        raise GGUFError(
            f"{folder} has no tokenizer: none of tokenizer.json, tokenizer.model, vocab.json with merges.txt, "
            "vocab.txt, tekken.json; download the missing files"
        )
    text = json.dumps(description)
    return replace(sources, text=text, description=json.loads(text)), notes


def _added(sources: Sources, base: Mapping[str, int]) -> list[dict[str, Any]]:
    return [token.entry for token in added_tokens(sources, base)]


def whole(model: dict[str, Any], added: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": added, **parts, "model": model}


def byte_level(patterns: tuple[str, ...]) -> dict[str, Any]:
    splits = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*splits, last]}


def _gpt2(sources: Sources) -> tuple[dict[str, Any], tuple[str, ...]]:
    base = checked_vocabulary(read_object(sources.folder / "vocab.json"), "vocab.json")
    lines = (read_text(sources.folder / "merges.txt") or "").split("\n")
    listed = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    merges = [line.split(" ") for line in listed]
    named = str(sources.settings.get("tokenizer_class", ""))
    pre, form = _CLASSES.get(named.removesuffix("Fast"), ("gpt-2", None))
    notes: tuple[str, ...] = ()
    if named.removesuffix("Fast") not in _CLASSES:
        notes = ("vocab.json and merges.txt do not say how texts are cut: as those of GPT-2, it is assumed",)
    model = {"type": "BPE", "vocab": base, "merges": merges}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return whole(
        model, _added(sources, base), decoder=decoder, pre_tokenizer=byte_level(pretokenizers.get(pre).patterns),
        normalizer=None if form is None else {"type": form},
    ), notes  # fmt: skip


def _bert(sources: Sources) -> dict[str, Any]:
    text = read_text(sources.folder / "vocab.txt") or ""
    lines = text.split("\n")
    words = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    base = {word: i for i, word in enumerate(words)}  # of a word that stands there twice the last, as in transformers
    settings = sources.settings
    if not sources.special_map and not any(key.endswith("_token") for key in settings):
        usual = {
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "mask_token": "[MASK]",
        }
        sources = replace(sources, settings={**settings, **usual})
    lower = settings.get("do_lower_case", True) is not False
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "lowercase": lower,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True) is not False,
        "strip_accents": settings.get("strip_accents") if isinstance(settings.get("strip_accents"), bool) else None,
    }  # fmt: skip
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": base,
    }  # fmt: skip
    post = {"type": "BertProcessing", "sep": ["[SEP]", base.get("[SEP]", 0)], "cls": ["[CLS]", base.get("[CLS]", 0)]}
    return whole(
        model, _added(sources, base), normalizer=normalizer, pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=post if "[SEP]" in base and "[CLS]" in base else None,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )  # fmt: skip


@dataclass(frozen=True)
class _Tekken:
    """tekken.json: `words` are bytes by rank, which is the order of merges too; `first` is the id of the first one, and
    `special` the texts of those before it that have one, by id."""

    pattern: str
    first: int
    words: list[bytes]
    special: dict[int, str]


def _read_tekken(sources: Sources) -> _Tekken:
    """Raises GGUFError for a file that is damaged."""
    tekken = read_optional(sources.folder / _TEKKEN)
    settings = part(tekken, "config", _TEKKEN)
    pattern, listed = settings.get("pattern"), tekken.get("vocab")
    first, n = settings.get("default_num_special_tokens"), settings.get("default_vocab_size")
    if not isinstance(first, int) or not isinstance(n, int):
        raise GGUFError(f"{_TEKKEN}: the numbers of its tokens are missing; download it again")
    if not isinstance(pattern, str) or not isinstance(listed, list):
        raise GGUFError(f"{_TEKKEN}: 'vocab' or 'pattern' is missing; download it again")
    if not 0 <= first <= n <= 1 << 24:
        raise GGUFError(f"{_TEKKEN}: {first} special tokens of {n} make no sense; download it again")
    words = [_word(entry, i) for i, entry in enumerate(listed[: n - first])]
    if len(set(words)) != len(words):
        raise GGUFError(f"{_TEKKEN}: a token stands there twice; it is damaged")
    if sum(len(word) ** 2 for word in words) > _MOST_STEPS:
        raise GGUFError(f"{_TEKKEN}: its tokens are far longer than those of any vocabulary; it is damaged")
    return _Tekken(pattern, first, words, _special_words(tekken.get("special_tokens"), first))


def _special_words(listed: object, first: int) -> dict[int, str]:
    """Texts of special tokens by id; where a file has none, those that all models have."""
    named = {}
    for entry in listed if isinstance(listed, list) else ():
        rank, text = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if isinstance(rank, int) and 0 <= rank < first and isinstance(text, str) and text:
            named[rank] = text
    return named if listed else {i: text for i, text in enumerate(("<unk>", "<s>", "</s>")) if i < first}


def _tekken(sources: Sources) -> dict[str, Any]:
    """Mistral's form as BPE of bytes, whose merges follow from ranks."""
    tekken = _read_tekken(sources)
    letters = byte_letters()
    ranks = {word: i for i, word in enumerate(tekken.words)}
    spelled = {word: word.decode("latin-1").translate(letters) for word in tekken.words}
    cuts = [(word, _cut(word, ranks)) for word in tekken.words if len(word) > 1]
    merges = [(spelled[word[:cut]], spelled[word[cut:]]) for word, cut in cuts if cut]
    added = [
        Added(tekken.special.get(i, f"<SPECIAL_{i}>"), i, special=True).entry for i in range(tekken.first)
    ]  # fmt: skip
    vocab = {token["content"]: token["id"] for token in added}
    vocab |= {spelled[word]: tekken.first + i for i, word in enumerate(tekken.words)}
    return whole(
        {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True}, added,
        pre_tokenizer=byte_level((tekken.pattern,)), post_processor=_beginning(tekken.special),
        decoder=byte_level(())["pretokenizers"][0],
    )  # fmt: skip


def _beginning(special: Mapping[int, str]) -> dict[str, Any] | None:
    """<s> before a text, where there is such a token."""
    bos = next((i for i, text in special.items() if text == "<s>"), None)
    if bos is None:
        return None
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    }  # fmt: skip


def _word(entry: object, number: int) -> bytes:
    coded = entry.get("token_bytes") if isinstance(entry, dict) else None
    try:
        word = b64decode(coded, validate=True) if isinstance(coded, str) else b""
    except (Base64Error, ValueError):
        word = b""
    if not word:
        raise GGUFError(f"{_TEKKEN}: entry {number} has no bytes in base64 ('token_bytes'); it is damaged")
    return word


def _cut(word: bytes, ranks: Mapping[bytes, int]) -> int:
    """Where the last merge of `word` joins two tokens, by merging its bytes by rank without itself; 0: nowhere."""
    own = ranks[word]
    parts = [word[i : i + 1] for i in range(len(word))]
    while len(parts) > 2:
        best = min(((ranks.get(parts[i] + parts[i + 1], own), i) for i in range(len(parts) - 1)), default=(own, 0))
        if best[0] >= own:
            return 0
        parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
    return len(parts[0]) if all(part in ranks for part in parts) else 0
