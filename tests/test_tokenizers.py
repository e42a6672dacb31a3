"""Tokenizers against llama.cpp's expected tokens, against the libraries below them, and themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.errors import GGUFError
from ggufpy.format import write
from ggufpy.tokenizers import Tokenizer, bpe, load_tokenizer, pretokenizers

FAMILIES = ("falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2")
BYTE_LETTERS = {byte: letter for letter, byte in bpe._bytes_of_characters().items() if byte < 256}
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MIXED = (
    " \n\n 日本語 \uff11\uff12\uff13 don't DON'T café É\u0301 \u0939\u093f\u0928\u094d  \t x\r\n 12345  "
    " a/b//\n. ,\u2003 ab\u00a0c 's 1 000"
)


def letter(byte: int) -> str:
    """The character of GPT-2's alphabet that stands for a byte."""
    return chr(BYTE_LETTERS.get(byte, byte))


def bpe_metadata(words: tuple[str, ...] = (), **extra: Any) -> dict[str, Any]:
    """A gpt2 vocabulary of the 256 bytes, <s>, </s>, <user> and `words`, merged from left to right."""
    tokens = [letter(byte) for byte in range(256)] + ["<s>", "</s>", "<user>"]
    types = [NORMAL] * 256 + [CONTROL, CONTROL, USER]
    merges = []
    for word in words:
        spelled = "".join(letter(byte) for byte in word.encode())
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in tokens:
                tokens.append(spelled[:end])
                types.append(NORMAL)
                merges.append(f"{spelled[: end - 1]} {spelled[end - 1]}")
    metadata = {
        "model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": np.array(types, np.int32),
        "merges": merges or ["a b"], "bos_token_id": np.uint32(256), "eos_token_id": np.uint32(257),
    }  # fmt: skip
    return named(metadata | extra)


def spm_metadata(pieces: tuple[tuple[str, float], ...] = (), **extra: Any) -> dict[str, Any]:
    """A llama vocabulary of <unk>, <s>, </s>, the 256 bytes, <user> and `pieces` with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<user>"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, USER, *[NORMAL] * len(pieces)]
    scores = [0.0] * len(tokens) + [score for _, score in pieces]
    metadata = {
        "model": "llama", "tokens": tokens + [text for text, _ in pieces],
        "token_type": np.array(types, np.int32), "scores": np.array(scores, np.float32),
    }  # fmt: skip
    return named(metadata | extra)


def named(metadata: dict[str, Any]) -> dict[str, Any]:
    """Keys under tokenizer.ggml; None leaves a key out."""
    found = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}
    return {"general.architecture": "llama", **found}


def load(tmp_path: Path, metadata: dict[str, Any], pre: str | None = None) -> Tokenizer:
    write(tmp_path / "v.gguf", metadata, {})
    return load_tokenizer(tmp_path / "v.gguf", pre)


@cache
def family(shared: Path, name: str) -> Tokenizer:
    return load_tokenizer(shared / "vocab" / f"ggml-vocab-{name}.gguf")


def expected(shared: Path, name: str) -> Iterator[tuple[str, list[int]]]:
    path = shared / "vocab" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_text(encoding="utf8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    return zip(texts, ([int(token) for token in line.split()] for line in lines), strict=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_expected_tokens_of_llama_cpp(shared: Path, name: str) -> None:
    tokenizer = family(shared, name)
    cases = list(expected(shared, name))
    assert len(cases) > 40
    for text, ids in cases:
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.encode(text.encode()) == ids
        assert tokenizer.decode(ids) == " " * (tokenizer.vocab.add_space_prefix and bool(ids)) + text


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_bpe_gives_every_text_back(shared: Path, name: str) -> None:
    tokenizer = family(shared, name)

    @settings(max_examples=60, deadline=None)
    @given(st.text())
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(ids, special=True) == text.encode()
        stream = tokenizer.stream(special=True)
        parts = [stream.push(token) for token in ids]
        assert "".join(parts) + stream.flush() == text
        assert "\ufffd" in text or not any("\ufffd" in part for part in parts)

    check()


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_spm_gives_every_text_back_after_bos(shared: Path, name: str) -> None:
    tokenizer = family(shared, name)

    @settings(max_examples=60, deadline=None)
    @given(st.text())
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special=True)
        assert ids[0] == tokenizer.bos == 1
        assert tokenizer.decode_bytes(ids) == text.replace("\u2581", " ").encode()

    check()


def test_spm_equals_sentencepiece_on_whole_text(shared: Path) -> None:
    tokenizer = family(shared, "llama-spm")
    text = (shared / "data" / "wikitext-2-test.txt").read_text(encoding="utf8")[:50_000] + MIXED
    assert tokenizer._by_words
    whole = tokenizer._backend.encode("\u2581" + text.replace(" ", "\u2581"), out_type=int)
    assert tokenizer.encode(text) == whole


@pytest.mark.parametrize("entry", pretokenizers.TABLE, ids=lambda entry: entry.names[0])
def test_long_texts_are_cut_where_every_pretokenizer_cuts(
    shared: Path, entry: pretokenizers.PreTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared / "vocab" / "ggml-vocab-gpt-2.gguf"
    tokenizer = _by_pre(path, entry.names[0])
    text = (shared / "data" / "wikitext-2-test.txt").read_text(encoding="utf8")[:20_000] + MIXED * 3
    cut = tokenizer.encode(text)
    monkeypatch.setattr(bpe, "_LONG", 1 << 40)
    assert tokenizer.encode(text) == cut
    assert tokenizer.decode(cut) == text


@cache
def _by_pre(path: Path, name: str) -> Tokenizer:
    return load_tokenizer(path, pre=name)


def pieces_of(name: str, text: str) -> list[str]:
    """How a pre-tokenizer cuts `text`, by the library alone."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Sequence, Split

    splits = [Split(Regex(pattern), "isolated") for pattern in pretokenizers.get(name).patterns]
    return [piece for piece, _ in Sequence(splits).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", "We'll pay 1234, OK?  ", ["We", "'ll", " pay", " 1234", ",", " OK", "?", "  "]),
        ("default", "pay 1234.", ["pay", " ", "123", "4", "."]),
        ("falcon", "a+b `x` 12345", ["a", "+", "b", " ", "`", "x", "`", " ", "123", "45"]),
        ("llama-bpe", "I'M 12345 a.b\n\n c", ["I", "'M", " ", "123", "45", " a", ".b", "\n\n", " c"]),
        ("qwen2", "I'm 123", ["I", "'m", " ", "1", "2", "3"]),
        ("smollm", "in 123 days", ["in", " ", "1", "2", "3", " days"]),
        ("command-r", "in 12", ["in", " ", "1", "2"]),
        ("deepseek-llm", "a b!\r\n中文 12  ", ["a", " b", "!", "\r", "\n", "中文", " ", "12", "  "]),
        ("deepseek-coder", "if x:\n 12", ["if", " x", ":", "\n", " ", "1", "2"]),
        ("deepseek-v3", "x1234 .ab中", ["x", "123", "4", " .", "ab", "中"]),
        ("tekken", "HelloWorld 12//", ["Hello", "World", " ", "1", "2", "//"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", " ", "123", "4"]),
        ("dbrx", "It'S 1234", ["It", "'S", " ", "123", "4"]),
        ("olmo", "don't 1234", ["don", "'t", " 1234"]),
        ("starcoder", "x 12", ["x", " ", "1", "2"]),
        ("refact", "x 12", ["x", " ", "1", "2"]),
        ("kimi-k2", "中文AB's 1234", ["中文", "AB's", " ", "123", "4"]),
        ("bloom", "a b, c", ["a", " b", ",", " c"]),
        ("viking", "a 12", ["a", " ", "1", "2"]),
        ("laguna", "a\n\nb", ["a", "\n\n", "b"]),
        ("exaone-moe", "two words 12", ["two words", " ", "1", "2"]),
    ],
)
def test_how_pretokenizers_cut(name: str, text: str, pieces: list[str]) -> None:
    assert pieces_of(name, text) == pieces


def test_no_pretokenizer_is_slow_on_long_runs() -> None:
    for entry in pretokenizers.TABLE:
        for run in (" ", "1", "a", "!", "\n", "中", "A"):
            text = run * 3_000 + "x1"
            assert "".join(pieces_of(entry.names[0], text)) == text


def test_pretokenizers_of_the_files_are_all_there() -> None:
    wanted = (
        "default gpt-2 llama-bpe smollm qwen2 falcon starcoder refact deepseek-llm deepseek-coder command-r "
        "tekken olmo dbrx"
    )
    assert set(wanted.split()) <= set(pretokenizers.names())
    assert pretokenizers.get(None) is pretokenizers.get("default") is pretokenizers.get("")


def test_streams_never_break_a_character(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, bpe_metadata())
    ids = tokenizer.encode("aé日🦙")
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == ["a", "", "é", "", "", "日", "", "", "", "🦙"]
    assert stream.flush() == ""
    assert [stream.push(token) for token in ids[3:5]] == ["", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(0xFF) == "\ufffd"
    assert stream.push(ids[1]) == ""
    assert stream.push(ids[0]) == "\ufffda"  # the beginning of a character, and then another one


@settings(max_examples=100, deadline=None)
@given(data=st.lists(st.integers(0, 255), max_size=12))
def test_streams_equal_decode_on_any_bytes(data: list[int]) -> None:
    tokenizer = _bytes_only()
    stream = tokenizer.stream()
    assert "".join(map(stream.push, data)) + stream.flush() == tokenizer.decode(data)
    assert tokenizer.decode_bytes(data) == bytes(data)


@cache
def _bytes_only() -> Tokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), bpe_metadata())


def test_special_tokens(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, bpe_metadata(("hi",)))
    hi = tokenizer.encode("hi")
    assert len(hi) == 1
    assert tokenizer.encode("<s>hi<user>hi</s>", parse_special=True) == [256, *hi, 258, *hi, 257]
    plain = tokenizer.encode("<s>hi<user>hi</s>")
    assert plain[3:6] == [*hi, 258, *hi]
    assert 256 not in plain
    assert 257 not in plain
    assert tokenizer.decode(plain) == "<s>hi<user>hi</s>"
    assert tokenizer.decode([256, *hi, 258, 257]) == "hi<user>"
    assert tokenizer.decode([256, *hi, 257], special=True) == "<s>hi</s>"
    assert (tokenizer.bos, tokenizer.eos, tokenizer.n_vocab) == (256, 257, 260)
    assert tokenizer.token_bytes(256) == b"<s>"
    assert tokenizer.token_bytes(256, special=False) == b""


def test_longer_special_tokens_come_first(tmp_path: Path) -> None:
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"] += ["<us", "<user><", "er><s>"]
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], [USER] * 3).astype(
        np.int32
    )
    tokenizer = load(tmp_path, metadata)
    assert tokenizer.encode("<user><s>", parse_special=True) == [260, *tokenizer.encode("s>")]
    assert tokenizer.encode("a<usb") == [ord("a"), 259, ord("b")]


@pytest.mark.parametrize(
    ("pre", "add_bos", "add_eos", "first", "last"),
    [
        ("gpt-2", None, None, False, False),
        ("llama-bpe", None, None, True, False),
        ("tekken", None, None, True, False),
        ("llama-bpe", False, None, False, False),
        ("gpt-2", True, True, True, True),
    ],
)
def test_bos_and_eos_rules_of_bpe(
    tmp_path: Path, pre: str, add_bos: bool | None, add_eos: bool | None, first: bool, last: bool
) -> None:
    tokenizer = load(tmp_path, bpe_metadata(pre=pre, add_bos_token=add_bos, add_eos_token=add_eos))
    assert (tokenizer.add_bos, tokenizer.add_eos) == (first, last)
    assert tokenizer.encode("a", add_special=True) == [256] * first + [ord("a")] + [257] * last
    assert tokenizer.encode("", add_special=True) == [256] * first + [257] * last
    assert tokenizer.encode("a") == [ord("a")]


def test_whole_pieces_are_taken_as_they_are_only_with_ignore_merges(tmp_path: Path) -> None:
    metadata = bpe_metadata(("ab",))
    metadata["tokenizer.ggml.tokens"].append("xyz")  # no merge leads there
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], 1).astype(np.int32)
    assert load(tmp_path, metadata).encode("xyz") == [*b"xyz"]
    assert load(tmp_path, metadata, "llama-bpe").encode("xyz") == [260]
    metadata["tokenizer.ggml.token_type"][260] = CONTROL  # and a control token is never found in plain text
    assert load(tmp_path, metadata, "llama-bpe").encode("xyz") == [*b"xyz"]


def test_end_tokens(tmp_path: Path) -> None:
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"] += [
        "<|im_end|>",
        "<|endoftext|>",
        "<|file_sep|>",
        "<|fim_prefix|>",
        "<|eom_id|>",
    ]
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], [1] * 5).astype(np.int32)
    tokenizer = load(tmp_path, metadata)
    assert tokenizer.end_tokens == {257, 259, 260, 261, 263}
    assert tokenizer.decode([259, 262]) == ""  # known by their texts, whatever the file's types say
    eot = load(tmp_path, metadata | {"tokenizer.ggml.eot_token_id": np.uint32(7)})
    assert 7 in eot.end_tokens


def test_end_of_a_part_is_no_end_in_gpt_oss(tmp_path: Path) -> None:
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"] += ["<|end|>", "<|return|>", "<|call|>", "<|channel|>"]
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], [CONTROL] * 4).astype(
        np.int32
    )
    tokenizer = load(tmp_path, metadata)
    assert tokenizer.end_tokens == {257, 260, 261}
    assert tokenizer.decode([259, 262]) == "<|end|><|channel|>"


def test_spm_prefix_bytes_and_special_tokens(tmp_path: Path) -> None:
    pieces = (
        ("\u2581", -5.0),
        ("h", -6.0),
        ("i", -7.0),
        ("hi", -1.0),
        ("\u2581hi", -2.0),
        ("\u2581\u2581", -1.5),
    )
    tokenizer = load(tmp_path, spm_metadata(pieces))
    space, hi, _hi = 260, 263, 264
    assert tokenizer.encode("hi") == [_hi]
    assert tokenizer.encode("hihi") == [_hi, hi]
    assert tokenizer.encode(" hi") == [
        265,
        hi,
    ]  # two spaces are one token, and its score is above that of " h"
    assert tokenizer.encode("hi", add_special=True) == [1, _hi]
    assert tokenizer.encode("é") == [space, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("a\0") == [space, 3 + ord("a"), 3]
    assert tokenizer.encode(b"hi\xff\xfehi") == [_hi, 3 + 0xFF, 3 + 0xFE, hi]
    assert tokenizer.encode("hi<user>hi<s>hi", parse_special=True) == [_hi, 259, _hi, 1, _hi]
    assert tokenizer.decode(tokenizer.encode("hi hi", add_special=True)) == "hi hi"
    assert tokenizer.decode(tokenizer.encode("hi hi")) == " hi hi"
    assert tokenizer.decode([1, _hi], special=True) == "<s>hi"
    bare = load(tmp_path, spm_metadata(pieces, add_space_prefix=False, add_bos_token=False))
    assert bare.encode("hi", add_special=True) == [hi]


def test_spm_with_pieces_across_words(tmp_path: Path) -> None:
    pieces = (("\u2581", -9.0), ("a", -9.0), ("b", -9.0), ("a\u2581", -2.0), ("a\u2581b", -1.0))
    tokenizer = load(tmp_path, spm_metadata(pieces))
    assert not tokenizer._by_words
    assert tokenizer.encode("a b a") == [260, 264, 260, 261]


def test_phi3_swallows_white_space_after_special_tokens(shared: Path) -> None:
    tokenizer = family(shared, "phi-3")
    user = tokenizer.encode("<|user|>", parse_special=True)
    assert tokenizer.encode("<|user|> \n Hi", parse_special=True) == user + tokenizer.encode("Hi")


def test_an_unknown_pretokenizer_is_named_and_another_one_can_be_given(tmp_path: Path) -> None:
    metadata = bpe_metadata(pre="new-bpe")
    with pytest.raises(GGUFError, match=r"'new-bpe'.*--pre NAME.*llama-bpe"):
        load(tmp_path, metadata)
    assert load(tmp_path, metadata, "qwen2").encode("a") == [ord("a")]
    with pytest.raises(GGUFError, match="no pre-tokenizer"):
        load(tmp_path, spm_metadata((("a", 0.0),)), "qwen2")


def test_a_program_called_like_the_library_does_not_hide_it(shared: Path, tmp_path: Path) -> None:
    vocab = shared / "vocab" / "ggml-vocab-gpt-2.gguf"
    program = tmp_path / "tokenizers.py"
    program.write_text(f"import ggufpy\nprint(ggufpy.load_tokenizer({str(vocab)!r}).encode('Hello'))\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, env=env)
    assert (done.stdout.strip(), done.stderr) == ("[15496]", "")
