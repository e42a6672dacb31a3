"""The table of tokens: types, gaps, rows that no token has, tokens that no row has, texts that stand there twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from trained_tokenizers import write_json
from vocabularies import (
    ADDED,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER,
    added,
    made_of,
    small,
    trained,
    value,
    written,
)

import ggufpy
from ggufpy.convert.vocabulary import vocabulary


def test_types_gaps_and_rows_that_no_token_has(tmp_path: Path) -> None:
    made = made_of(tmp_path, small(ADDED), size=264)
    texts, types = value(made, "tokens"), value(made, "token_type")
    assert made.n_tokens == len(texts) == len(types) == 264
    assert types[255:] == [NORMAL, CONTROL, CONTROL, CONTROL, UNUSED, USER, UNUSED, UNUSED, UNUSED]
    assert texts[258:] == ["<|im_end|>", "[PAD259]", "a b", "[PAD261]", "[PAD262]", "[PAD263]"]
    assert ggufpy.Typed("array[int32]", types) == made.keys["tokenizer.ggml.token_type"]


def test_added_tokens_without_rows_are_left_out(tmp_path: Path) -> None:
    made = made_of(tmp_path, small(ADDED), size=258)
    assert made.n_tokens == 258
    assert made.notes == ("2 added tokens have no row in the embedding and are left out: '<|im_end|>', 'a▁b'",)
    assert written(made, tmp_path).encode("a</s>", parse_special=True) == [97, 257]


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ggufpy.GGUFError, match=r"tokenizer.json has a token 255 .* embedding has 255 rows"):
        made_of(tmp_path, small(), size=255)


def test_tokens_of_one_text_get_texts_of_their_own(tmp_path: Path) -> None:
    made = made_of(tmp_path, small([added(256, "[PAD257]"), added(258, "a\u2581", False), added(259, "a ", False)]))
    texts = value(made, "tokens")
    assert len(set(texts)) == len(texts)
    assert texts[256:] == ["[PAD257]", "[PAD257]_", "a ", "[PAD259]"]


def test_special_tokens_without_a_tokenizer_json(tmp_path: Path) -> None:
    data, _ = trained("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    (tmp_path / "tokenizer.model").write_bytes(data)
    decoder = {"900": {"content": "<|im_end|>", "special": True}, "901": {"content": "a\u2581b", "special": False}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>"})
    made = vocabulary(tmp_path, {}, 910)
    assert value(made, "token_type")[900:903] == [CONTROL, USER, UNUSED]
    assert (value(made, "eos_token_id"), value(made, "bos_token_id")) == (900, 1)
    assert value(made, "scores")[900:903] == [-1000.0, -1000.0, -10000.0]
    assert written(made, tmp_path).encode("a b<|im_end|>", parse_special=True) == [901, 900]


def test_tokens_that_the_settings_alone_have_are_added(tmp_path: Path) -> None:
    """As transformers adds them: those of added_tokens_decoder, and tokens of the vocabulary that are named."""
    decoder = {"256": added(256, "<s>"), "257": added(257, "<new>", False) | {"lstrip": True}, "3": added(3, "<bad>")}
    made = made_of(tmp_path, small([added(256, "<s>")]), added_tokens_decoder=decoder, pad_token="!")
    texts, types = value(made, "tokens"), value(made, "token_type")
    assert (texts[256:], types[256:]) == (["<s>", "<new>"], [CONTROL, USER])
    assert types[texts.index("!")] == CONTROL
    assert "<bad>" not in texts
    assert written(made, tmp_path).encode("a<new><s>", parse_special=True) == [97, 257, 256]


def test_what_looks_like_a_byte_and_is_none(tmp_path: Path) -> None:
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "<0xZZ>", "a"]
    model = {"type": "BPE", "vocab": {text: i for i, text in enumerate(tokens)}, "merges": [], "unk_token": "<unk>",
             "byte_fallback": True, "fuse_unk": True}  # fmt: skip
    description = {"version": "1.0", "model": model, "added_tokens": [added(0, "<unk>")],
                   "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
                   "decoder": {"type": "ByteFallback"}}  # fmt: skip
    types = value(made_of(tmp_path, description), "token_type")
    assert types[:2] == [UNKNOWN, BYTE]
    assert types[256:] == [BYTE, NORMAL, NORMAL]


def test_words_of_one_text_get_texts_of_their_own(tmp_path: Path) -> None:
    """A beginning of a word and a special token may become the same text: the second is an unused token."""
    vocab = {"[UNK]": 0, "##[PAD2]": 1, "##a": 2, "a": 3, "##\u2581a": 4}
    model = {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100}  # fmt: skip
    description = {"version": "1.0", "model": model, "added_tokens": [added(0, "[UNK]")],
                   "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##",
                   "cleanup": True}}  # fmt: skip
    texts = value(made_of(tmp_path, description), "tokens")
    assert texts == ["[UNK]", "[PAD2]", "a", "\u2581a", "[PAD4]"]


def test_a_space_before_a_text_is_what_the_settings_say(tmp_path: Path) -> None:
    data, model = trained("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    assert model.prefix
    (tmp_path / "tokenizer.model").write_bytes(data)
    write_json(tmp_path / "tokenizer_config.json", {"add_prefix_space": False})
    assert value(vocabulary(tmp_path, {}, None), "add_space_prefix") is False
