"""The tokenizer of a GGUF file as the files that transformers reads.

In: metadata of a file. Out: tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat template in a
folder. A tokenizer.json that the file has kept is written as it was; otherwise one is made of the keys: BPE with the
expressions of its pre-tokenizer, SentencePiece's BPE as BPE with byte fallback (every way to make a token of two is a
merge, in the order of scores), Unigram and WordPiece with their normalisers.
"""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.convert.vocabulary.legacy import byte_level, whole
from ggufpy.convert.vocabulary.templates import KEY as TEMPLATE
from ggufpy.convert.vocabulary.tokens import SPACE
from ggufpy.errors import GGUFError
from ggufpy.tokenizers import pretokenizers, tokenizer_of
from ggufpy.tokenizers.bpe import FORM_KEY
from ggufpy.tokenizers.hf import KEY as WHOLE
from ggufpy.tokenizers.strings import decode_strings
from ggufpy.tokenizers.vocab import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocab

if TYPE_CHECKING:
    from ggufpy.format.metadata import Metadata

_KEY = "tokenizer.ggml."
_NAMES = {
    "bos": "bos",
    "eos": "eos",
    "unknown": "unk",
    "seperator": "sep",
    "padding": "pad",
    "cls": "cls",
    "mask": "mask",
}


class _Source:
    """Metadata as `tokenizer_of` takes them."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata


def export_vocabulary(metadata: Metadata, folder: Path) -> None:
    """Writes the files of the tokenizer that `metadata` describe to `folder`, which is there.

    Raises GGUFError for a vocabulary that is missing, damaged, or of a kind that tokenizer.json cannot say.
    """
    tokenizer = tokenizer_of(_Source(metadata))
    vocab = tokenizer.vocab
    kept = metadata.get(WHOLE)
    model = str(metadata.get(f"{_KEY}model"))
    named = _named(metadata, vocab)
    if isinstance(kept, str) and metadata.get(f"{_KEY}pre") not in pretokenizers.names():
        text = kept
    else:
        text = json.dumps(_description(metadata, model, vocab), ensure_ascii=False)
    _write(folder / "tokenizer.json", text)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named,
        "added_tokens_decoder": {str(i): _added(vocab, i) for i in _marked(vocab)},
    }  # fmt: skip
    if f"{_KEY}add_bos_token" in metadata or vocab.add_bos:
        settings["add_bos_token"] = vocab.add_bos
    if f"{_KEY}add_eos_token" in metadata or vocab.add_eos:
        settings["add_eos_token"] = vocab.add_eos
    _write(folder / "tokenizer_config.json", _json(settings))
    _write(folder / "special_tokens_map.json", _json(named))
    _write_templates(metadata, folder)


def _write_templates(metadata: Metadata, folder: Path) -> None:
    for key in metadata:
        if key == TEMPLATE:
            path = folder / "chat_template.jinja"
        elif key.startswith(f"{TEMPLATE}.") and key[len(TEMPLATE) + 1 :].replace("_", "").isalnum():
            path = folder / "additional_chat_templates" / f"{key[len(TEMPLATE) + 1 :]}.jinja"
        else:
            continue
        text = metadata[key]
        if not isinstance(text, str):
            raise GGUFError(f"{key} must be a text, not {type(text).__name__}")
        path.parent.mkdir(exist_ok=True)
        _write(path, text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except UnicodeEncodeError as error:
        raise GGUFError(f"{path.name}: the file has text that is not UTF-8, which JSON cannot hold") from error
    except OSError as error:
        raise GGUFError(f"{path} cannot be written: {error.strerror or error}") from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _named(metadata: Metadata, vocab: Vocab) -> dict[str, str]:
    """Special tokens by the names that transformers has for them."""
    ids: dict[str, Any] = {key: metadata.get(f"{_KEY}{key}_token_id") for key in _NAMES}
    usual = {"bos": vocab.bos, "eos": vocab.eos, "unknown": vocab.unknown, "seperator": vocab.sep}
    for key, token in usual.items():  # what a kind takes where the file is silent, if it can be that
        if ids[key] is None and token is not None and vocab.types[token] in (CONTROL, UNKNOWN):
            ids[key] = token
    return {
        f"{_NAMES[key]}_token": vocab.texts[token]
        for key, token in ids.items()
        if isinstance(token, int) and 0 <= token < len(vocab.texts)
    }


def _marked(vocab: Vocab) -> list[int]:
    """Ids that are found before plain text is tokenized."""
    return [token for token, kind in enumerate(vocab.types.tolist()) if kind in (CONTROL, USER_DEFINED, UNKNOWN)]


def _added(vocab: Vocab, token: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    flags["rstrip"] = token in vocab.strip_after_special
    return {"content": vocab.texts[token], **flags, "special": bool(vocab.types[token] != USER_DEFINED)}


def _description(metadata: Metadata, model: str, vocab: Vocab) -> dict[str, Any]:
    """A tokenizer.json that gives the same ids. Tokens that pad the vocabulary are left out of it."""
    makers = {"gpt2": _bytes, "gemma4": _text, "llama": _spm, "t5": _unigram, "bert": _wordpiece}
    if model not in makers:
        raise GGUFError(f"{_KEY}model: the kind {model[:40]!r} cannot be written as a tokenizer.json")
    parts = makers[model](metadata, vocab)
    added = [{"id": token, **_added(vocab, token)} for token in _marked(vocab)]
    return whole(parts.pop("model"), added, post_processor=_frame(vocab, model), **parts)


def _frame(vocab: Vocab, model: str) -> dict[str, Any] | None:
    first = vocab.bos if vocab.add_bos or model == "bert" else None
    last = vocab.sep if model == "bert" else vocab.eos if vocab.add_eos else None
    tokens = [token for token in (first, last) if token is not None]
    if not tokens:
        return None
    names = {vocab.texts[token]: token for token in tokens}

    def around(name: str) -> list[dict[str, Any]]:
        entry = {"Sequence": {"id": name, "type_id": 0}}
        before, after = (
            [{"SpecialToken": {"id": vocab.texts[t], "type_id": 0}}] if t is not None else [] for t in (first, last)
        )
        return [*before, entry, *after]

    special = {name: {"id": name, "ids": [token], "tokens": [name]} for name, token in names.items()}
    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A") + around("B"),
        "special_tokens": special,
    }


def _base(vocab: Vocab) -> dict[str, int]:
    """Text → id without unused tokens, so that `[PAD7]` is no token of a text."""
    return {text: token for text, token in vocab.ids.items() if vocab.stored_types[token] != UNUSED}


def _merges(metadata: Metadata) -> list[list[str]]:
    key = f"{_KEY}merges"
    pairs = []
    for merge in decode_strings(metadata.strings(key)):
        space = merge.find(" ", 1)
        if space > 0:
            pairs.append([merge[:space], merge[space + 1 :]])
    return pairs


def _bytes(metadata: Metadata, vocab: Vocab) -> dict[str, Any]:
    pre = metadata.get(f"{_KEY}pre")
    entry = pretokenizers.get(pre if isinstance(pre, str) else None)
    if entry.raw:
        return _text(metadata, vocab)
    form = metadata.get(FORM_KEY)
    base = _base(vocab)
    merges = [pair for pair in _merges(metadata) if all(side in base for side in (*pair, "".join(pair)))]
    return {
        "model": {"type": "BPE", "vocab": base, "merges": merges, "ignore_merges": entry.ignore_merges},
        "normalizer": {"type": str(form)} if form is not None else None,
        "pre_tokenizer": byte_level(entry.patterns),
        "decoder": byte_level(())["pretokenizers"][0],
    }


def _text(metadata: Metadata, vocab: Vocab) -> dict[str, Any]:
    base = _base(vocab)
    merges = [pair for pair in _merges(metadata) if all(side in base for side in (*pair, "".join(pair)))]
    return _fallback(vocab, base, merges, False)


def _fallback(vocab: Vocab, base: dict[str, int], merges: list[list[str]], prefix: bool) -> dict[str, Any]:
    """BPE of text, with bytes for what has no token."""
    unknown = None if vocab.unknown is None else vocab.texts[vocab.unknown]
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    normalizers = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "model": {
            "type": "BPE", "vocab": base, "merges": merges, "unk_token": unknown, "fuse_unk": True,
            "byte_fallback": True,
        },
        "normalizer": {"type": "Sequence", "normalizers": [*normalizers, replaced]},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }  # fmt: skip


def _spm(metadata: Metadata, vocab: Vocab) -> dict[str, Any]:
    """Merges in the order of the scores of what they make, each in every way that two tokens make it."""
    base = _base(vocab)
    merged = {text for text, token in base.items() if vocab.stored_types[token] in (NORMAL, USER_DEFINED)}
    reachable = [text for text in merged if len(text) > 1]
    order = sorted(reachable, key=lambda text: (-float(vocab.scores[base[text]]), base[text]))
    merges = [
        [text[:cut], text[cut:]]
        for text in order
        for cut in range(1, len(text))
        if text[:cut] in merged and text[cut:] in merged
    ]
    return _fallback(vocab, base, merges, vocab.add_space_prefix)


def _unigram(metadata: Metadata, vocab: Vocab) -> dict[str, Any]:
    charsmap = metadata.get(f"{_KEY}precompiled_charsmap")
    normalizers: list[dict[str, Any]] = []
    if charsmap is not None:
        data = bytes(int(byte) & 255 for byte in charsmap)
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": b64encode(data).decode()})
    merge = metadata.get(f"{_KEY}remove_extra_whitespaces") is True
    if merge:
        for pattern, content in (("^ +| +$", ""), (" {2,}", " ")):
            normalizers.append({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
    scheme = "always" if merge or vocab.add_space_prefix else "never"
    normal = vocab.stored_types == NORMAL
    top = float(vocab.scores[normal].max()) if normal.any() else 0.0
    entries = [
        [text, float(vocab.scores[token]) if normal[token] else 0.0 if kind == USER_DEFINED else top]
        for token, (text, kind) in enumerate(zip(vocab.texts, vocab.stored_types.tolist(), strict=True))
    ]
    return {
        "model": {"type": "Unigram", "unk_id": vocab.unknown, "vocab": entries, "byte_fallback": False},
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False},
    }


def _wordpiece(metadata: Metadata, vocab: Vocab) -> dict[str, Any]:
    base: dict[str, int] = {}
    for text, token in _base(vocab).items():
        if vocab.stored_types[token] in (CONTROL, UNKNOWN):
            base[text] = token
        else:
            base[text[1:] if text.startswith(SPACE) else f"##{text}"] = token
    lower = metadata.get(f"{_KEY}normalizer.lowercase", True) is not False
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": lower,
        "strip_accents": metadata.get(f"{_KEY}normalizer.strip_accents"),
    }  # fmt: skip
    unknown = "[UNK]" if vocab.unknown is None else vocab.texts[vocab.unknown]
    return {
        "model": {
            "type": "WordPiece", "vocab": base, "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }  # fmt: skip
