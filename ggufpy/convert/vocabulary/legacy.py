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
from ggufpy.convert.vocabulary.tokens import added_tokens, checked_vocabulary
from ggufpy.errors import GGUFError
from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.bpe import byte_letters

# tokenizer_class to the pre-tokenizer and normal form that the class has in code.
_CLASSES: dict[str, tuple[str, str | None]] = {
    "Qwen2Tokenizer": ("qwen2", "NFC"), "GPT2Tokenizer": ("gpt-2", None), "RobertaTokenizer": ("gpt-2", None),
    "CodeGenTokenizer": ("gpt-2", None), "BartTokenizer": ("gpt-2", None),
}  # fmt: skip
_TEKKEN = "tekken.json"


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
    return [
        {"id": t.id, "content": t.text, "single_word": t.single_word, "lstrip": t.lstrip, "rstrip": t.rstrip,
         "normalized": t.normalized, "special": t.special}
        for t in added_tokens(sources, base)
    ]  # fmt: skip


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
    base = {word: i for i, word in enumerate(words)}
    if len(base) != len(words):
        raise GGUFError("vocab.txt: a word stands there twice; it is damaged")
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


def _tekken(sources: Sources) -> dict[str, Any]:
    """Mistral's form: tokens as bytes by rank, which is the order of merges too; special tokens come first."""
    found = read_optional(sources.folder / _TEKKEN)
    settings = part(found, "config", _TEKKEN)
    first, pattern, n = (
        settings.get("default_num_special_tokens"),
        settings.get("pattern"),
        settings.get("default_vocab_size"),
    )
    listed = found.get("vocab")
    if (
        not isinstance(first, int)
        or not isinstance(pattern, str)
        or not isinstance(listed, list)
        or not isinstance(n, int)
    ):
        raise GGUFError(f"{_TEKKEN}: 'vocab', 'pattern' or the numbers of tokens are missing; download it again")
    if not 0 <= first <= n <= 1 << 24:
        raise GGUFError(f"{_TEKKEN}: {first} special tokens of {n} make no sense; download it again")
    words = [_word(entry, i) for i, entry in enumerate(listed[: n - first])]
    ranks = {word: i for i, word in enumerate(words)}
    if len(ranks) != len(words):
        raise GGUFError(f"{_TEKKEN}: a token stands there twice; it is damaged")
    letters = byte_letters()
    spelled = {word: word.decode("latin-1").translate(letters) for word in words}
    base = {spelled[word]: first + i for i, word in enumerate(words)}
    merges = [
        (spelled[word[:cut]], spelled[word[cut:]])
        for word in words
        if len(word) > 1
        for cut in [_cut(word, ranks)]
        if cut
    ]
    special = found.get("special_tokens") or [
        {"rank": i, "token_str": t} for i, t in enumerate(("<unk>", "<s>", "</s>"))
    ]
    named = {}
    for entry in special if isinstance(special, list) else ():
        rank, text = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if isinstance(rank, int) and 0 <= rank < first and isinstance(text, str) and text:
            named[rank] = text
    added = [
        {"id": i, "content": named.get(i, f"<SPECIAL_{i}>"), "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i in range(first)
    ]  # fmt: skip
    bos = next((i for i, text in named.items() if text == "<s>"), None)
    template = None
    if bos is not None:
        single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        template = {
            "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
        }  # fmt: skip
    model = {
        "type": "BPE",
        "vocab": {a["content"]: a["id"] for a in added} | base,
        "merges": merges,
        "ignore_merges": True,
    }
    return whole(
        model,
        added,
        pre_tokenizer=byte_level((pattern,)),
        post_processor=template,
        decoder=byte_level(())["pretokenizers"][0],
    )


def _word(entry: object, number: int) -> bytes:
    coded = entry.get("token_bytes") if isinstance(entry, dict) else None
    try:
        word = b64decode(coded, validate=True) if isinstance(coded, str) else b""
    except (Base64Error, ValueError):
        word = b""
    if not word or len(word) > 1 << 12:
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
