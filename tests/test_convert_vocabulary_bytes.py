"""Byte-level BPE as GGUF's keys: pre-tokenizers that have a name there, and those that have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers
from trained_tokenizers import TEXTS, byte_bpe, byte_level, folder_of, text_bpe
from vocabularies import MARKED, WHOLE, agree, exported, pieces_of, value, written

import ggufpy
from ggufpy.convert.vocabulary import Vocabulary, probes, vocabulary
from ggufpy.tokenizers import pretokenizers

QWEN = pretokenizers.get("qwen2").patterns[0]
BYTE_LEVEL: list[tuple[str, Callable[[], Any], str]] = [
    ("own expression", lambda: byte_bpe(byte_level(use_regex=True)), "gpt-2"),
    (
        "digits",
        lambda: byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(use_regex=True)])),
        "smollm",
    ),
    (
        "llama 3",
        lambda: byte_bpe(byte_level(*pretokenizers.get("llama-bpe").patterns), ignore_merges=True),
        "llama-bpe",
    ),
    ("qwen with NFC", lambda: byte_bpe(byte_level(QWEN), normalizers.NFC()), "qwen2"),
    ("NFKC", lambda: byte_bpe(byte_level(use_regex=True), normalizers.NFKC()), "gpt-2"),
    ("deepseek", lambda: byte_bpe(byte_level(*pretokenizers.get("deepseek-v3").patterns)), "deepseek-v3"),
    ("gpt-4o", lambda: byte_bpe(byte_level(*pretokenizers.get("gpt-4o").patterns)), "gpt-4o"),
    ("tekken", lambda: byte_bpe(byte_level(*pretokenizers.get("tekken").patterns), ignore_merges=True), "tekken"),
    ("afmoe", lambda: byte_bpe(byte_level(*pretokenizers.get("afmoe").patterns)), "afmoe"),
    (
        "without regard to case",
        lambda: byte_bpe(byte_level(QWEN.replace(pretokenizers._CONTRACTION, "(?i:'s|'t|'re|'ve|'m|'ll|'d)"))),
        "qwen2",
    ),
]


@pytest.mark.parametrize(("make", "pre"), [case[1:] for case in BYTE_LEVEL], ids=[case[0] for case in BYTE_LEVEL])
def test_byte_level_bpe(tmp_path: Path, make: Callable[[], Any], pre: str) -> None:
    library = make()
    made = vocabulary(folder_of(library, tmp_path / "in"), {}, None)
    assert (value(made, "model"), value(made, "pre"), made.notes) == ("gpt2", pre, ())
    assert WHOLE not in made.keys
    agree(written(made, tmp_path), library, MARKED)
    back = exported(made, tmp_path / "out")
    for text in TEXTS:
        assert back.encode(text).ids == library.encode(text).ids, text


def test_a_pretokenizer_that_is_written_otherwise_is_known_by_what_it_does(tmp_path: Path) -> None:
    library = byte_bpe(byte_level(r"(?:[']s|'t|'[rv]e|'m|'ll|'d)|[ ]?\p{L}+| ?\p{N}+| ?[^\p{N}\s\p{L}]+|\s+(?!\S)|\s+"))
    made = vocabulary(folder_of(library, tmp_path / "in"), {}, None)
    assert value(made, "pre") == "gpt-2"
    assert "cuts as 'gpt-2' does" in made.notes[0]
    agree(written(made, tmp_path), library, MARKED)


UNNAMED: list[tuple[str, Callable[[], Any]]] = [
    ("vowels", lambda: byte_bpe(byte_level(r"[aeiou]+|\d\d"))),
    ("a space before", lambda: byte_bpe(byte_level(use_regex=True, prefix=True))),
    (
        "punctuation",
        lambda: byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level(use_regex=True)])),
    ),
    ("lower case", lambda: byte_bpe(byte_level(use_regex=True), normalizers.Lowercase())),
]


@pytest.mark.parametrize("make", [case[1] for case in UNNAMED], ids=[case[0] for case in UNNAMED])
def test_what_has_no_name_is_kept_whole(tmp_path: Path, make: Callable[[], Any]) -> None:
    library = make()
    folder = folder_of(library, tmp_path / "in")
    made = vocabulary(folder, {}, None)
    assert (value(made, "model"), value(made, "pre")) == ("gpt2", None)
    assert made.keys[WHOLE].value == (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert "kept whole" in made.notes[-1]
    own = written(made, tmp_path)
    agree(own, library, MARKED)
    assert own.decode(own.encode("12 abc"), special=True).strip() == "12 abc"
    back = exported(made, tmp_path / "out")
    assert back.encode("Some text 12").ids == library.encode("Some text 12").ids


def test_a_named_pretokenizer_comes_before_the_kept_file(tmp_path: Path) -> None:
    made = vocabulary(folder_of(UNNAMED[0][1](), tmp_path / "in"), {}, None)
    kept = [written(made, tmp_path).encode(text) for text in TEXTS[:50]]
    named = Vocabulary(made.keys | {"tokenizer.ggml.pre": ggufpy.Typed("string", "qwen2")}, (), made.n_tokens)
    tokenizer = written(named, tmp_path)
    own = [tokenizer.encode(text) for text in TEXTS[:50]]
    assert own != kept
    unknown = Vocabulary(made.keys | {"tokenizer.ggml.pre": ggufpy.Typed("string", "of-my-own")}, (), made.n_tokens)
    tokenizer = written(unknown, tmp_path)
    assert [tokenizer.encode(text) for text in TEXTS[:50]] == kept
    tokenizer = ggufpy.load_tokenizer(tmp_path / "vocabulary.gguf", pre="qwen2")
    assert [tokenizer.encode(text) for text in TEXTS[:50]] == own


def test_white_space_around_added_tokens_is_kept_or_said(tmp_path: Path) -> None:
    library = byte_bpe(byte_level(use_regex=True))
    library.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    made = vocabulary(folder_of(library, tmp_path / "in"), {}, None)
    assert value(made, "pre") == "gpt-2"
    assert "added tokens" in made.notes[0]
    pieces = pieces_of("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    llama = text_bpe(pieces, prefix=False)
    llama.add_special_tokens([AddedToken("<end>", rstrip=True)])
    kept = vocabulary(folder_of(llama, tmp_path / "llama"), {}, None)
    assert WHOLE in kept.keys
    own = written(kept, tmp_path)
    for text in ("a <end>  b", "<end>\n\nb<end> ", "<end> <x> c"):
        assert own.encode(text, parse_special=True) == llama.encode(text, add_special_tokens=False).ids
        assert own.encode(text, parse_special=False) != own.encode(text, parse_special=True)


def test_probes_are_the_same_everywhere() -> None:
    assert probes.texts(3, seed=4) == probes.texts(3, seed=4)
    assert len(set(probes.texts(200, seed=5))) > 190
    assert all("<s>" in text for text in probes.texts(20, seed=6, special=["<s>"]))
