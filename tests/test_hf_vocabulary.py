"""What transformers makes of tokenizer_config.json beside a tokenizer.json."""

from __future__ import annotations

from pathlib import Path

import pytest
from trained_tokenizers import byte_bpe, byte_level, folder_of
from vocabularies import added, written

from ggufpy.convert.vocabulary import vocabulary

pytestmark = pytest.mark.oracle
transformers = pytest.importorskip("transformers")


def test_tokens_that_the_settings_alone_have(tmp_path: Path) -> None:
    library = byte_bpe(byte_level(use_regex=True))
    number = library.get_vocab_size(with_added_tokens=True)
    folder = folder_of(
        library, tmp_path / "in", bos_token="<s>", eos_token="</s>", pad_token="!",
        added_tokens_decoder={str(number): added(number, "<new>", False)},
    )  # fmt: skip
    own = written(vocabulary(folder, {}, None), tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("a <new> b", "wow!! <s>", "<new><new></s>", "the end!"):
        assert other(text)["input_ids"] == own.encode(text, add_special=True, parse_special=True), text
