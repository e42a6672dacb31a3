"""Older files of tokenizers: vocab.json with merges.txt, vocab.txt, tekken.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from trained_tokenizers import TEXTS, byte_bpe, byte_level, wordpiece, write_json
from vocabularies import CONTROL, UNUSED, USER, agree, alphabet, value, written

from ggufpy.convert.vocabulary import vocabulary
from ggufpy.tokenizers import pretokenizers


def test_older_files_mean_the_same(tmp_path: Path) -> None:
    library = byte_bpe(byte_level(use_regex=True))
    old = tmp_path / "gpt2"
    old.mkdir()
    library.model.save(str(old))
    write_json(old / "added_tokens.json", {"<user>": library.token_to_id("<user>")})
    write_json(old / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    write_json(old / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    made = vocabulary(old, {}, None)
    own = written(made, tmp_path)
    assert (own.bos, own.eos, own.add_bos) == (0, 1, False)
    assert [own.vocab.types[i] for i in (0, 1, library.token_to_id("<user>"))] == [CONTROL, CONTROL, USER]
    for text in TEXTS:
        assert own.encode(text) == library.encode(text).ids, text

    bert = wordpiece(lowercase=True)
    words = sorted(bert.get_vocab(), key=bert.get_vocab().__getitem__)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8", newline="")
    agree(written(vocabulary(tmp_path / "bert", {}, None), tmp_path), bert)


def test_tekken(tmp_path: Path) -> None:
    pattern = pretokenizers.get("tekken").patterns[0]
    library = byte_bpe(byte_level(pattern))
    letters = {letter: byte for byte, letter in alphabet().items()}
    merged = ["".join(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
    words = [bytes([byte]) for byte in range(256)] + [bytes(letters[c] for c in text) for text in merged]
    words = list(dict.fromkeys(words))
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(word).decode(), "token_str": None} for i, word in enumerate(words)
    ]
    special = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(("<unk>", "<s>", "</s>"))]
    config = {"pattern": pattern, "default_num_special_tokens": 10, "default_vocab_size": len(words) + 10}
    write_json(tmp_path / "tekken.json", {"config": config, "vocab": vocab, "special_tokens": special})
    made = vocabulary(tmp_path, {}, None)
    assert (value(made, "pre"), value(made, "add_bos_token"), value(made, "bos_token_id")) == ("tekken", True, 1)
    own = written(made, tmp_path)
    for text in TEXTS:
        ids = library.encode(text).tokens
        assert [own.token_bytes(token) for token in own.encode(text)] == [bytes(letters[c] for c in t) for t in ids], (
            text
        )


def test_a_word_that_stands_twice_in_vocab_txt_has_its_last_id(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8", newline="")
    own = written(vocabulary(tmp_path, {}, None), tmp_path)
    assert own.encode("the of") == [7, 6]
    assert own.vocab.types[5] == UNUSED
