"""Tokenizers that are made of GGUF files, as transformers' AutoTokenizer reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained_tokenizers import TEXTS, byte_bpe, byte_level, folder_of, wordpiece

import ggufpy
from ggufpy.convert.vocabulary import export_vocabulary, vocabulary

pytestmark = pytest.mark.oracle
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (
            lambda: byte_bpe(byte_level(use_regex=True)),
            {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "x{{ 1 }}"},
        ),
        (lambda: byte_bpe(byte_level(r"[aeiou]+|\d\d")), {"eos_token": "</s>"}),
        (lambda: wordpiece(lowercase=True), {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}),
    ],
    ids=["named", "kept whole", "wordpiece"],
)
def test_auto_tokenizer_gives_the_same_ids(tmp_path: Path, make: Callable[[], Any], settings: dict[str, str]) -> None:
    made = vocabulary(folder_of(make(), tmp_path / "in", **settings), {}, None)
    path = tmp_path / "v.gguf"
    ggufpy.write(path, {"general.architecture": "llama", **made.keys}, {})
    own = ggufpy.load_tokenizer(path)
    out = tmp_path / "out"
    out.mkdir()
    with ggufpy.open(path) as file:
        export_vocabulary(file.metadata, out)
    other = transformers.AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        assert other(text)["input_ids"] == own.encode(text, add_special=True, parse_special=True), text
    assert other.eos_token_id == own.eos
    assert other.chat_template == settings.get("chat_template")


def test_files_that_transformers_has_saved_are_read(tmp_path: Path) -> None:
    library = byte_bpe(byte_level(use_regex=True))
    first = folder_of(library, tmp_path / "in", bos_token="<s>", eos_token="</s>", chat_template="T")
    transformers.AutoTokenizer.from_pretrained(first).save_pretrained(tmp_path / "saved")
    one, two = vocabulary(first, {}, None), vocabulary(tmp_path / "saved", {}, None)
    assert one.keys == two.keys
