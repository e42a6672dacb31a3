"""Vocabularies that contradict themselves: one clear line, or what llama.cpp makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tokenizers import CONTROL, bpe_metadata, load, spm_metadata

from ggufpy.errors import GGUFError
from ggufpy.format import write
from ggufpy.generate.loading import Later
from ggufpy.tokenizers import load_tokenizer
from ggufpy.tokenizers.library import guarded

PIECES = (("\u2581", -5.0), ("a", -6.0), ("\u2581a", -1.0))


@pytest.mark.parametrize("kind", ["rwkv", "plamo2", "bert2", ""])
def test_other_kinds_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(GGUFError, match=f"tokenizer.ggml.model.*'{kind}'.*gpt2, llama"):
        load(tmp_path, bpe_metadata(model=kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"model": "none"}, "tokenizer.ggml.model is none: the file has no tokenizer"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": [1, 2]}, "tokenizer.ggml.tokens"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": [1.5]}, "tokenizer.ggml.merges"),
        ({"token_type": np.ones(3, np.int32)}, "token_type has 3 entries"),
        ({"token_type": ["a"]}, "tokenizer.ggml.token_type"),
        ({"scores": np.ones(3, np.float32)}, "scores has 3 entries"),
        ({"scores": np.full(300, np.nan, np.float32)}, "scores"),
        ({"pre": 5}, "tokenizer.ggml.pre must be a text"),
        ({"bos_token_id": "x"}, "bos_token_id must be a token number"),
        ({"add_bos_token": "x"}, "add_bos_token must be true or false"),
        ({"tokens": np.ones(300, np.float32)}, "tokens.* is array.float32., not array.string."),
        ({"tokens": "abc"}, "tokens.* is string, not array.string."),
        ({"merges": np.ones(3, np.int32)}, "merges.* is array.int32., not array.string."),
        ({"token_type": np.ones(300, np.float32)}, "token_type is array.float32.; it must be an array of whole"),
        ({"token_type": [True] * 300}, "token_type is array.bool.; it must be an array of whole numbers"),
        ({"token_type": 1}, "token_type.* is uint32, not an array of numbers"),
        ({"scores": np.ones(300, np.int32)}, "scores is array.int32.; it must be an array of floats"),
        ({"scores": np.ones(300, np.uint8)}, "scores is array.uint8.; it must be an array of floats"),
        ({"scores": ["a"] * 300}, "scores.* is array.string., not an array of numbers"),
    ],
)
def test_wrong_keys_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=message) as caught:
        load(tmp_path, bpe_metadata(**change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [{"bos_token_id": np.uint32(1 << 31), "eos_token_id": np.int32(-7)}, {
    "bos_token_id": None, "eos_token_id": None}])  # fmt: skip
def test_ids_outside_the_vocabulary_count_as_missing(tmp_path: Path, ids: dict[str, Any]) -> None:
    """The defaults of a kind are llama.cpp's (src/llama-vocab.cpp), whatever type the tokens there have."""
    tokenizer = load(tmp_path, bpe_metadata(**ids))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.vocab.unknown) == (11, 11, None)
    assert (tokenizer.add_bos, tokenizer.add_eos, tokenizer.vocab.add_space_prefix) == (False, False, False)
    assert tokenizer.end_tokens == {11, 257}  # </s> by its text
    spm = load(tmp_path, spm_metadata(PIECES, **ids, token_type=None, scores=None))
    assert (spm.bos, spm.eos, spm.vocab.unknown) == (1, 2, 0)
    assert (spm.add_bos, spm.add_eos, spm.vocab.add_space_prefix) == (True, False, True)
    assert spm.encode("a", add_special=True)[0] == 1


@pytest.mark.parametrize("flag", ["bos", "eos"])
def test_a_vocabulary_too_short_for_its_default_ids(tmp_path: Path, flag: str) -> None:
    short = {"tokens": list("abcdefghijk"), "token_type": None, "bos_token_id": None, "eos_token_id": None}
    assert (load(tmp_path, bpe_metadata(**short)).bos, load(tmp_path, bpe_metadata(**short)).eos) == (None, None)
    with pytest.raises(GGUFError, match=f"add_{flag}_token is true"):
        load(tmp_path, bpe_metadata(**short, **{f"add_{flag}_token": True}))


def test_a_file_without_a_pre_tokenizer_has_the_default_one(tmp_path: Path) -> None:
    texts = "12345 don't stop!!"
    tokenizer = load(tmp_path, bpe_metadata(("345",), pre=None))
    assert tokenizer.encode(texts) == load(tmp_path, bpe_metadata(("345",)), "default").encode(texts)
    assert tokenizer.encode(texts) != load(tmp_path, bpe_metadata(("345",))).encode(texts)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_token_types_of_any_whole_number(tmp_path: Path, dtype: type[np.generic]) -> None:
    """Values that no type has, and those that 32 bits do not hold, are undefined ones and never others."""
    types = bpe_metadata()["tokenizer.ggml.token_type"].astype(dtype)
    types[97] = 100 if types.itemsize == 1 else (1 << 32) + CONTROL
    tokenizer = load(tmp_path, bpe_metadata(token_type=types))
    assert (tokenizer.vocab.stored_types[[96, 97, 256]] == [1, 0, CONTROL]).all()


def test_a_merge_whose_result_is_longer_than_every_token_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library panics at one (huggingface/tokenizers#2198), which prints lines of its own."""
    metadata = bpe_metadata(("ab", "cd"))
    metadata["tokenizer.ggml.tokens"][256:259] = ["x", "y", "z"]
    for merge, text, right in (("ab cd", "abcd", [259, 260]), ("\u0100 \u0100", "\0\0", [0, 0])):
        metadata["tokenizer.ggml.merges"] = ["a b", "c d", merge]
        assert load(tmp_path, metadata).encode(text) == right
    assert capfd.readouterr().err == ""


def test_a_panic_in_a_library_is_one_error() -> None:
    class PanicException(BaseException):
        """What PyO3 raises, as it is derived there."""

    def failing(error: BaseException) -> Callable[[], None]:
        def call() -> None:
            raise error

        return call

    with pytest.raises(GGUFError, match=r"^reading: range end index 4$"):
        guarded("reading", failing(PanicException("range end index 4\nstack backtrace")))
    with pytest.raises(GGUFError, match=r"^reading: ValueError$"):
        guarded("reading", failing(ValueError()))
    for error in (KeyboardInterrupt(), SystemExit(3), GGUFError("ours")):
        with pytest.raises(type(error)) as caught:
            guarded("reading", failing(error))
        assert caught.value is error


@pytest.mark.parametrize("metadata", [bpe_metadata(), spm_metadata(PIECES)])
def test_a_panic_while_a_text_is_read_is_one_error(tmp_path: Path, metadata: dict[str, Any]) -> None:
    class Panicking:
        """A backend whose every call ends as a panic does."""

        def encode(self, *_: Any, **__: Any) -> None:
            raise BaseException("search failed")

        encode_batch_fast = encode

    tokenizer = load(tmp_path, metadata)
    tokenizer._backend = Panicking()  # type: ignore[attr-defined]
    for text in ("a", "a b\n" * 3000):
        with pytest.raises(GGUFError, match=r"^the text cannot be tokenized: search failed$"):
            tokenizer.encode(text)


def test_a_panic_while_a_model_loads_reaches_whoever_asks() -> None:
    def make() -> None:
        raise BaseException("boom")

    later: Later[None] = Later(make)
    later.start()
    with pytest.raises(BaseException, match="boom"):
        later.get()


def test_merges_of_absent_tokens_are_left_out(tmp_path: Path) -> None:
    merges = ["a b", "ab c", "nowhere x", "x", "", " ", "b nothing"]
    metadata = bpe_metadata(("ab",))
    metadata["tokenizer.ggml.merges"] = merges
    tokenizer = load(tmp_path, metadata)
    assert tokenizer.decode(tokenizer.encode("abc nowhere")) == "abc nowhere"
    assert tokenizer.encode("ab") == [259]


def test_duplicates_and_odd_texts_of_bpe(tmp_path: Path) -> None:
    odd = ["a", "", "%d%s", 'qu"ote\\', "line\nend", "\x01", "\uffff", "\0", "日本"]
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"] += odd
    metadata["tokenizer.ggml.token_type"] = np.ones(259 + len(odd), np.int32)
    for merges in (["a b"], ["% d"], ['" q', "\\ a"]):
        metadata["tokenizer.ggml.merges"] = merges
        tokenizer = load(tmp_path, metadata)
        assert tokenizer.encode("a") == [ord("a")]
        assert tokenizer.encode('%d"\\ 日') == [*'%d"\\ 日'.encode()]
        assert tokenizer.token_bytes(260) == b"[EMPTY_260]"
        assert tokenizer.decode([259, 261, 262, 263, 267]) == 'a%d%squ"ote\\line\nend日本'


def test_texts_that_are_not_utf8(tmp_path: Path) -> None:
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"].append("\udcff\udcfe")
    metadata["tokenizer.ggml.token_type"] = np.ones(260, np.int32)
    tokenizer = load(tmp_path, metadata)
    assert tokenizer.token_bytes(259) == b"\xff\xfe"
    assert tokenizer.encode(b"a\xffb") == [*"a\ufffdb".encode()]
    assert tokenizer.encode("a\ud800b") == [*"a\ufffdb".encode()]


def test_duplicates_and_odd_texts_of_spm(tmp_path: Path) -> None:
    odd = (
        ("a", 5.0),
        ("", 1.0),
        ("\0", 1.0),
        ("x\0y", 1.0),
        ("<0x41>", 1.0),
        ("\udcff", 1.0),
        ("\uffff5", 9.0),
    )
    tokenizer = load(tmp_path, spm_metadata(PIECES + odd))
    assert tokenizer.encode("a") == [262]
    assert tokenizer.encode("A\0") == [260, 3 + 0x41, 3]
    assert tokenizer.token_bytes(263) == b"a"


def test_spm_without_all_byte_tokens(tmp_path: Path) -> None:
    metadata = spm_metadata(PIECES)
    metadata["tokenizer.ggml.tokens"][3 + 0x42] = "<0xZZ>"
    tokenizer = load(tmp_path, metadata)
    assert tokenizer.encode("aB") == [262, 0]
    assert tokenizer.token_bytes(3 + 0x42) == b"<0xZZ>"
    metadata["tokenizer.ggml.token_type"] = np.full(263, 1, np.int32)
    untyped = load(tmp_path, metadata | {"tokenizer.ggml.add_bos_token": False})
    assert untyped.vocab.unknown == 0
    assert untyped.encode("aB") == [262, 0]
    assert untyped.decode([0]) == "<unk>"


def test_spm_refuses_control_texts_in_plain_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, spm_metadata((("<", -1.0), ("s", -1.0), (">", -1.0), ("<s", -1.0), ("\u2581", -1.0))))
    ids = tokenizer.encode("<s>")
    assert 1 not in ids
    assert tokenizer.decode(ids) == " <s>"


@pytest.mark.parametrize("token", [-1, 259, 1 << 40])
def test_decoding_ids_outside_the_vocabulary(tmp_path: Path, token: int) -> None:
    tokenizer = load(tmp_path, bpe_metadata())
    for decode in (tokenizer.token_bytes, tokenizer.stream().push, lambda i: tokenizer.decode([1, i])):
        with pytest.raises(GGUFError, match=f"token {token} is not in the vocabulary of 259"):
            decode(token)


def test_things_that_are_no_text_and_no_id(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, bpe_metadata())
    with pytest.raises(GGUFError, match="must be str or bytes, not int"):
        tokenizer.encode(5)  # type: ignore[arg-type]
    with pytest.raises(GGUFError, match="must be a whole number, not float"):
        tokenizer.decode([1.5])  # type: ignore[list-item]
    assert tokenizer.decode(np.array([97, 98])) == "ab"


def test_a_file_without_a_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "x.gguf", {"general.architecture": "llama"}, {})
    with pytest.raises(GGUFError, match=r"tokenizer\.ggml\.model is missing"):
        load_tokenizer(tmp_path / "x.gguf")


def test_thousands_of_special_tokens(tmp_path: Path) -> None:
    metadata = bpe_metadata()
    many = [f"<|reserved_{i}|>" for i in range(5000)]
    metadata["tokenizer.ggml.tokens"] += many
    metadata["tokenizer.ggml.token_type"] = np.append(
        metadata["tokenizer.ggml.token_type"], [CONTROL] * len(many)
    ).astype(np.int32)
    tokenizer = load(tmp_path, metadata)
    text = "word " * 1000 + many[4321]
    assert tokenizer.encode(text, parse_special=True)[-1] == 259 + 4321
