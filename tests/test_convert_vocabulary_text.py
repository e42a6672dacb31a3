"""Vocabularies of text as GGUF's keys: BPE and Unigram, by a tokenizer.json or SentencePiece's file, and WordPiece."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers
from trained_tokenizers import TEXTS, folder_of, text_bpe, unigram, wordpiece
from vocabularies import CONTROL, UNKNOWN, USER, WHOLE, agree, exported, pieces_of, trained, value, written

import ggufpy
from ggufpy.convert.vocabulary import Vocabulary, vocabulary


@pytest.mark.parametrize("prefix", [True, False])
def test_bpe_of_text_becomes_a_llama_vocabulary(tmp_path: Path, prefix: bool) -> None:
    library = text_bpe(pieces_of("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False), prefix)
    made = vocabulary(folder_of(library, tmp_path / "in", bos_token="<s>", eos_token="</s>"), {}, None)
    assert (value(made, "model"), value(made, "add_space_prefix"), made.notes) == ("llama", prefix, ())
    assert (value(made, "bos_token_id"), value(made, "eos_token_id"), value(made, "unknown_token_id")) == (1, 2, 0)
    assert (value(made, "add_bos_token"), value(made, "add_eos_token")) == (True, False)
    assert WHOLE not in made.keys
    agree(written(made, tmp_path), library, ("<s>", "</s>", "<x>"))
    back = exported(made, tmp_path / "out")
    for text in TEXTS:
        assert back.encode(text).ids == library.encode(text).ids, text


def test_bpe_whose_merges_scores_cannot_say_keeps_its_merges(tmp_path: Path) -> None:
    letters = "abcdefgh"
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters, "ab", "bc", "abc"]
    ids = {text: i for i, text in enumerate(tokens)}
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]  # but not ("a", "bc"), which a score for "abc" would merge
    library = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Replace(" ", "\u2581")
    library.decoder = decoders.ByteFallback()
    library.add_special_tokens(["<unk>"])
    made = vocabulary(folder_of(library, tmp_path / "in"), {}, None)
    assert (value(made, "model"), value(made, "pre")) == ("gemma4", "gemma4")
    own = written(made, tmp_path)
    for text in ("abc", "abcabc bc", "bcabc", "a b c", "h\n\nabc\n", "\u00e9", *TEXTS):
        assert own.encode(text) == library.encode(text).ids, text
        assert own.decode(own.encode(text)) == text.replace("\u2581", " ")
    back = exported(made, tmp_path / "out")
    for text in TEXTS:
        assert back.encode(text, add_special_tokens=False).ids == library.encode(text).ids, text


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe_without_a_tokenizer_json(tmp_path: Path, prefix: bool) -> None:
    options = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": prefix}
    data, _ = trained("bpe", **options)
    (tmp_path / "tokenizer.model").write_bytes(data)
    made = vocabulary(tmp_path, {}, None)
    assert (value(made, "model"), value(made, "add_space_prefix"), made.notes) == ("llama", prefix, ())
    assert value(made, "token_type")[:3] == [UNKNOWN, CONTROL, CONTROL]
    own, library = written(made, tmp_path), sentencepiece.SentencePieceProcessor(model_proto=data)
    assert own.vocab.texts[3] == "<x>"
    assert value(made, "token_type")[3] == USER
    for text in TEXTS:
        if "\0" not in text and not (prefix and text == ""):
            assert own.encode(text) == library.encode(text), text


def test_sentencepiece_unigram_without_a_tokenizer_json(tmp_path: Path) -> None:
    data, _ = trained("unigram")
    (tmp_path / "spiece.model").write_bytes(data)
    made = vocabulary(tmp_path, {}, None)
    assert (value(made, "model"), value(made, "remove_extra_whitespaces")) == ("t5", True)
    own, library = written(made, tmp_path), sentencepiece.SentencePieceProcessor(model_proto=data)
    compared = [text for text in TEXTS if len(text) < 80 and text.isascii() and "\0" not in text]
    assert len(compared) > 20
    same = sum(own.encode(text) == library.encode(text) for text in compared)
    assert same >= len(compared) - 2  # where two ways have the same score, which one is taken is not said
    for text in (" Hello  \u00a0world ", "\uff21\uff22\u00bd\ufb01 E\u0301", "x\ty"):
        assert own.encode(text) == library.encode(text)


def test_unigram_with_a_table_of_characters(tmp_path: Path) -> None:
    library = unigram(pieces_of("unigram"), trained("unigram")[1].charsmap)
    made = vocabulary(folder_of(library, tmp_path / "in", eos_token="</s>", unk_token="<unk>"), {}, None)
    assert (value(made, "model"), value(made, "add_eos_token"), value(made, "eos_token_id")) == ("t5", True, 2)
    agree(written(made, tmp_path), library, ("<unk>", "</s>", "<x>"))
    named = Vocabulary(made.keys | {"tokenizer.ggml.pre": ggufpy.Typed("string", "default")}, (), made.n_tokens)
    own = written(named, tmp_path)  # by GGUF's own keys
    for text in ("Hello  wörld", "  \uff21\uff22\u00bd <x> E\u0301", "naïve café 1234", "日本語のテキスト", ""):
        assert own.encode(text) == library.encode(text, add_special_tokens=False).ids
    back = exported(named, tmp_path / "out")
    for text in TEXTS[:100]:
        assert back.encode(text).ids == own.encode(text, True, True), text


@pytest.mark.parametrize(
    "options",
    [{"lowercase": True}, {"lowercase": False}, {"lowercase": True, "strip_accents": False},
     {"lowercase": False, "strip_accents": True}],
)  # fmt: skip
def test_wordpiece(tmp_path: Path, options: dict[str, bool]) -> None:
    library = wordpiece(**options)
    settings = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "UNK", "PAD", "MASK")}
    made = vocabulary(folder_of(library, tmp_path / "in", **settings), {"type_vocab_size": 2}, None)
    assert next(iter(made.keys)) == "tokenizer.ggml.token_type_count"
    assert (value(made, "model"), value(made, "token_type_count"), made.notes) == ("bert", 2, ())
    ids = [value(made, f"{name}_token_id") for name in ("bos", "eos", "seperator", "cls", "unknown", "padding", "mask")]
    assert ids == [2, 3, 3, 2, 1, 0, 4]
    own = written(made, tmp_path)
    agree(own, library, ("[MASK]", "[SEP]"))
    assert own.decode(own.encode("the of and")).strip() == "the of and"
    back = exported(made, tmp_path / "out")
    for text in TEXTS:
        assert back.encode(text).ids == library.encode(text).ids, text


def test_wordpiece_that_leaves_chinese_characters_together_is_kept_whole(tmp_path: Path) -> None:
    library = wordpiece(lowercase=True, handle_chinese_chars=False)
    made = vocabulary(folder_of(library, tmp_path / "in"), {}, None)
    assert WHOLE in made.keys
    agree(written(made, tmp_path), library)


def test_a_tokenizer_json_comes_before_a_sentencepiece_file_that_says_otherwise(tmp_path: Path) -> None:
    library = text_bpe(pieces_of("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False), False)
    folder = folder_of(library, tmp_path / "in")
    plain = vocabulary(folder, {}, None)
    (folder / "tokenizer.model").write_bytes(trained("unigram")[0])
    made = vocabulary(folder, {}, None)
    assert made == plain
    agree(written(made, tmp_path), library, ("<s>", "</s>", "<x>"))
