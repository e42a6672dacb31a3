"""WordPiece, Unigram, BPE of text, and a kept tokenizer.json, as files of GGUF describe them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpy.errors import GGUFError
from ggufpy.format import write
from ggufpy.tokenizers import Tokenizer, load_tokenizer, pretokenizers

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def load(tmp_path: Path, chosen: str | None = None, **keys: Any) -> Tokenizer:
    """The tokenizer of a file with these keys under tokenizer.ggml; None leaves one out."""
    found = {f"tokenizer.ggml.{key.replace('__', '.')}": value for key, value in keys.items() if value is not None}
    write(tmp_path / "v.gguf", {"general.architecture": "llama", **found}, {})
    return load_tokenizer(tmp_path / "v.gguf", chosen)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "aff", "able", "▁able", "▁!", "▁é", "▁e", "▁中", "▁E", "▁Ünd"]


def bert(**more: Any) -> dict[str, Any]:
    types = [CONTROL] * 4 + [NORMAL] * (len(WORDS) - 4)
    ids = {"bos_token_id": np.uint32(2), "seperator_token_id": np.uint32(3), "unknown_token_id": np.uint32(1)}
    return {"model": "bert", "tokens": WORDS, "token_type": np.array(types, np.int32), **ids, **more}


def test_wordpiece_takes_the_longest_pieces_of_a_word(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, **bert())
    assert tokenizer.encode("unaffable! able\u2003UNABLE") == [4, 5, 6, 8, 7, 4, 6]
    assert tokenizer.encode("unaffablex able") == [1, 7]  # what no pieces make is unknown as a whole
    assert tokenizer.encode("able中able") == [7, 11, 7]
    assert tokenizer.encode("able\0\u200d\ufffdable") == tokenizer.encode("ableable") == [7, 6]
    assert tokenizer.encode("un" + "able" * 25) == [1]  # BERT knows no word of more than 100 characters
    assert tokenizer.encode("[CLS]") == [1, 1, 1]
    assert tokenizer.encode("[CLS]able", parse_special=True) == [2, 7]
    assert tokenizer.decode([4, 5, 6, 8]) == " unaffable !"


def test_wordpiece_is_framed_whatever_the_flags_say(tmp_path: Path) -> None:
    for flag in (None, True, False):
        tokenizer = load(tmp_path, **bert(add_bos_token=flag, add_eos_token=flag and None, add_sep_token=flag))
        assert tokenizer.encode("able", add_special=True) == [2, 7, 3]


@pytest.mark.parametrize(
    ("lowercase", "strip", "ids"),
    [
        (None, None, [10, 10]),
        (True, None, [10, 10]),
        (True, False, [9, 10]),
        (False, None, [1, 12]),
        (False, True, [12, 12]),
    ],
)
def test_case_and_accents_of_wordpiece(
    tmp_path: Path, lowercase: bool | None, strip: bool | None, ids: list[int]
) -> None:
    keys = bert(normalizer__lowercase=lowercase, normalizer__strip_accents=strip)
    assert load(tmp_path, **keys).encode("É E") == ids


PIECES = [
    ("<pad>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    ("<unk>", 0.0, UNKNOWN),
    ("▁", -3.0, NORMAL),
    ("a", -4.0, NORMAL),
    ("b", -4.0, NORMAL),
    ("▁a", -2.0, NORMAL),
    ("ab", -5.0, NORMAL),
    ("▁ab", -9.0, NORMAL),
    ("<user>", 0.0, USER),
    ("[PAD10]", -10000.0, UNUSED),
]


def t5(**more: Any) -> dict[str, Any]:
    texts, scores, types = zip(*PIECES, strict=True)
    arrays = {"scores": np.array(scores, np.float32), "token_type": np.array(types, np.int32)}
    return {"model": "t5", "tokens": list(texts), **arrays, **more}


def test_unigram_takes_the_best_sum_of_scores(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, **t5(add_space_prefix=True))
    assert tokenizer.encode("ab") == [6, 5]  # -6 is above -8 and -9
    assert tokenizer.encode("ab ab") == [6, 5, 6, 5]
    assert tokenizer.encode("  a") == [3, 3, 6]
    assert tokenizer.encode("   ") == [3, 3, 3]  # before no word there is no prefix
    assert tokenizer.encode("xyz a") == [3, 2, 6]  # a run of what is unknown is one token
    assert tokenizer.encode("a<user>a") == [6, 9, 6]
    assert tokenizer.encode("[PAD10]") == [3, 2]
    assert tokenizer.encode(" 0 2") == [3, 3, 2, 3, 2]
    assert tokenizer.encode("a", add_special=True) == [6, 1]
    assert tokenizer.decode([6, 5]) == " ab"


def test_white_space_of_unigram(tmp_path: Path) -> None:
    merged = load(tmp_path, **t5(add_space_prefix=True, remove_extra_whitespaces=True))
    assert merged.encode("  a   a  ") == [6, 6]
    assert merged.encode("  ") == []
    bare = load(tmp_path, **t5())
    assert bare.encode("a a") == [4, 6]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (np.array([1, 2], np.uint8), "cut short or damaged"),
        (np.array([0, 0, 0, 0, 1], np.uint8), "cut short or damaged"),
        (np.array([255, 255, 0, 0, 1, 2, 3, 4, 5], np.uint8), "cut short or damaged"),
        (np.array([4, 0, 0, 0, 255, 255, 255, 255, 7], np.uint8), None),
        (np.array([1, 2], np.int32), r"must be bytes"),
    ],
)
def test_a_damaged_table_of_characters(tmp_path: Path, value: Any, line: str | None) -> None:
    keys = t5(precompiled_charsmap=value)
    if line is None:  # a table that leads nowhere: an error here or no change of a text, and no crash
        with contextlib.suppress(GGUFError):
            assert load(tmp_path, **keys).encode("a") == [4]
        return
    with pytest.raises(GGUFError, match=rf"precompiled_charsmap.*{line}"):
        load(tmp_path, **keys)


def test_scores_of_unigram_are_finite(tmp_path: Path) -> None:
    keys = t5()
    keys["scores"][4] = np.inf
    with pytest.raises(GGUFError, match="scores: a score is not finite"):
        load(tmp_path, **keys)


def gemma4(**more: Any) -> dict[str, Any]:
    tokens = ["<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab", "\n", "\n\n", "\n\n\n"]
    types = [CONTROL, *[BYTE] * 256, *[NORMAL] * 8]
    arrays = {"token_type": np.array(types, np.int32), "bos_token_id": np.uint32(0)}
    return {"model": "gemma4", "tokens": tokens, "merges": ["▁ a", "▁a b"], **arrays, **more}


def test_bpe_of_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, **gemma4(add_bos_token=False))
    assert tokenizer.encode(" ab a") == [261, 260]
    assert tokenizer.encode("\n\n\na\n") == [264, 258, 262]
    assert tokenizer.encode("é") == [1 + 0xC3, 1 + 0xA9]
    assert tokenizer.encode("a", add_special=True) == [0, 258]  # whatever the file says
    assert tokenizer.decode([261, 1 + 0xC3, 1 + 0xA9, 263]) == " abé\n\n"


def test_words_alone(tmp_path: Path) -> None:
    keys = gemma4(model="whitespace", pre="whitespace", normalizer__lowercase=True, merges=["a b"])
    keys["tokens"][257 + 3] = "ab"
    assert load(tmp_path, **keys).encode(" AB  a\n") == [260, 258]


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_kinds_without_a_pretokenizer_to_choose(tmp_path: Path, kind: str) -> None:
    keys = bert() if kind == "bert" else t5()
    with pytest.raises(GGUFError, match=f"'{kind}'.*leave --pre out"):
        load(tmp_path, "qwen2", **keys)
    assert load(tmp_path, "default", **keys).n_vocab == len(keys["tokens"])
    keys["pre"] = "bert-bge"  # which llama.cpp writes, and does not read
    assert load(tmp_path, **keys).n_vocab == len(keys["tokens"])


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("afmoe", "x1234567 ไทยa", ["x", "1", "234", "567", " ", "ไทย", "a"]),
        ("tiny_aya", "1234567 12", ["1", "234", "567", " ", "12"]),
        ("superbpe", "two words 1234", ["two words ", "1", "234"]),
        ("spark2_5", "a, \r\n12", ["a", ",", " \r\n", "1", "2"]),
        ("glm5", "It'S 1234", ["It", "'S", " ", "123", "4"]),
    ],
)
def test_how_newer_pretokenizers_cut(name: str, text: str, pieces: list[str]) -> None:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Sequence, Split

    splits = [Split(Regex(pattern), "isolated") for pattern in pretokenizers.get(name).patterns]
    assert [piece for piece, _ in Sequence(splits).pre_tokenize_str(text)] == pieces


def test_no_bos_is_made_up_for_glm(tmp_path: Path) -> None:
    tokens = [chr(0x100 + i) for i in range(20)]
    keys = {"model": "gpt2", "tokens": tokens, "merges": ["a b"]}
    assert load(tmp_path, **keys, pre="glm4").bos is None
    assert load(tmp_path, **keys, pre="qwen2").bos == 11


def test_the_normal_form_of_a_model(tmp_path: Path) -> None:
    keys = {"model": "gpt2", "tokens": ["Ã", "©", "e", "Ì", "ģ"], "merges": ["Ã ©"], "pre": "qwen2"}
    assert load(tmp_path, **keys).encode("e\u0301") == [2, 3, 4]
    assert load(tmp_path, **keys, normalizer__unicode_form="NFC").encode("e\u0301") == [0, 1]
    with pytest.raises(GGUFError, match=r"unicode_form is 'NFX'; it must be one of NFC, NFD, NFKC, NFKD"):
        load(tmp_path, **keys, normalizer__unicode_form="NFX")
