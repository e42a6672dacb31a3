"""Files of tokenizers that are damaged or made to do harm: one clear line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ggufpy
from ggufpy.convert import reading
from ggufpy.convert.vocabulary import files, vocabulary

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def described(model: Any = None, **parts: Any) -> dict[str, Any]:
    """A tokenizer.json of a few letters, with other parts."""
    usual = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate("abcĠ")}, "merges": []}
    return {"version": "1.0", "model": usual if model is None else model, "pre_tokenizer": BYTE_LEVEL, **parts}


def converted(folder: Path, description: Any, size: int | None = None, **others: Any) -> Any:
    """What comes of a tokenizer.json (a text, or a value that becomes one) and further files."""
    text = description if isinstance(description, str) else json.dumps(description)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    for name, value in others.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return vocabulary(folder, {}, size)


def bpe(vocab: Any = None, merges: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": {"a": 0, "b": 1} if vocab is None else vocab, "merges": merges or [], **more}


def cut_by(expression: str) -> dict[str, Any]:
    """A pre-tokenizer of one expression, then of bytes."""
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]}


def unigram(vocab: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Unigram", "vocab": vocab, "unk_id": 0, **more}


WRONG: list[tuple[str, Any, str]] = [
    ("no JSON", "{", "tokenizer.json is not valid JSON"),
    ("a list", "[]", "tokenizer.json holds a list"),
    ("nested too deep", "[" * 100_000, "tokenizer.json is nested too deep"),
    ("nested too deep within", '{"model":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}", "nested too deep"),
    ("no model", {"version": "1.0"}, "the kind 'None' of tokenizer cannot be converted"),
    ("a model that is a text", {"model": "BPE"}, "'model' is a str, and must be an object"),
    ("words as they are", described({"type": "WordLevel", "vocab": {"a": 0}}), "'WordLevel' of tokenizer cannot"),
    ("a vocabulary that is a list", described(bpe([1, 2])), "the vocabulary is a list"),
    ("an id that is a text", described(bpe({"a": "0"})), "the id of 'a' is 0, and must be a whole number"),
    ("an id that is true", described(bpe({"a": True})), "must be a whole number"),
    ("an id below 0", described(bpe({"a": -1})), "the id of 'a' is -1"),
    ("an id of a fraction", described(bpe({"a": 0.5})), "the id of 'a' is 0.5"),
    ("an enormous id", described(bpe({"a": 0, "b": 10**9})), "its highest token is 1,000,000,000, but it has 2 tokens"),
    ("an id beyond 32 bits", described(bpe({"a": 10**30})), "must be a whole number"),
    ("two texts of one id", described(bpe({"a": 0, "b": 0})), "'a' and 'b' both have the id 0"),
    ("a token that is too long", described(bpe({"a" * 70_000: 0})), "has 70,000 characters"),
    ("half a character", '{"model":{"type":"BPE","vocab":{"\\ud800":0},"merges":[]}}', "token 0 is not valid Unicode"),
    ("merges that are missing", described({"type": "BPE", "vocab": {"a": 0}}), "the merges of its BPE are missing"),
    ("a merge of three", described(bpe(merges=["a b a"])), "merge 0 is 'a b a', and must be two tokens"),
    ("a merge that is a number", described(bpe(merges=[7])), "merge 0 is '7'"),
    ("a merge of no token", described(bpe(merges=["a z"])), "merge 0 is of 'z', which is no token"),
    ("added tokens that are no list", described(added_tokens={"a": 1}), "'added_tokens' must be a list"),
    ("an added token that is a text", described(added_tokens=["a"]), "an added token is a str"),
    ("an added token of no text", described(added_tokens=[{"id": 9, **FLAGS}]), "an added token has no text"),
    ("an added token of no id", described(added_tokens=[{"content": "x", **FLAGS}]), "the id of 'x' is None"),
    (
        "an added token of an enormous id",
        described(added_tokens=[{"content": "x", "id": 1 << 30, **FLAGS}]),
        "highest token",
    ),
    (
        "a flag that is a text",
        described(added_tokens=[{"content": "x", "id": 4, "special": "yes"}]),
        "'special' of 'x'",
    ),
    (
        "two added tokens of one id",
        described(added_tokens=[{"content": "x", "id": 4, **FLAGS}, {"content": "y", "id": 4, **FLAGS}]),
        "'x' and 'y' both have the id 4",
    ),
    (
        "an added token in the place of another",
        described(added_tokens=[{"content": "x", "id": 0, **FLAGS}]),
        "both have the id 0",
    ),
    (
        "an added token of two ids",
        described(added_tokens=[{"content": "a", "id": 9, **FLAGS}]),
        "id 9, but 0 in the vocabulary",
    ),
    ("scores that are texts", described(unigram([["a", "1"]])), "the score of entry 0 is 1"),
    ("scores without end", '{"model":{"type":"Unigram","vocab":[["a",1e999]]}}', "must be a finite number"),
    ("scores that are none", '{"model":{"type":"Unigram","vocab":[["a",NaN]]}}', "must be a finite number"),
    ("an entry of three", described(unigram([["a", 0.0, 1]])), "must be a text and a score"),
    ("two entries of one text", described(unigram([["a", 0.0], ["a", 0.0]])), "two entries of the vocabulary"),
    (
        "characters that are no base64",
        described(unigram([["a", 0.0]]), normalizer={"type": "Precompiled", "precompiled_charsmap": "%"}),
        "'precompiled_charsmap' is not base64",
    ),
    (
        "characters that are cut short",
        described(unigram([["a", 0.0]]), normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "precompiled_charsmap",
    ),
    ("a normaliser that is not known", described(normalizer={"type": "Nonsense"}), "tokenizer.json"),
    ("a pre-tokenizer that is a number", described(pre_tokenizer=5, decoder=BYTE_LEVEL), "tokenizer.json"),
    ("an entry whose text is a list", described(unigram([[["a"], 0.0]])), "must be a text and a score"),
    ("an expression that is none", described(pre_tokenizer=cut_by("([")), "tokenizer.json"),
    ("an expression without end", described(pre_tokenizer=cut_by("(a+)+$")), "its pre-tokenizer fails on a text"),
    (
        "words without their longest",
        described({"type": "WordPiece", "vocab": {"a": 0}}, pre_tokenizer={"type": "BertPreTokenizer"}),
        "tokenizer.json: missing field",
    ),
]


@pytest.mark.parametrize(("description", "line"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, description: Any, line: str) -> None:
    with pytest.raises(ggufpy.GGUFError) as caught:
        converted(tmp_path, description)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("tokenizer_config", [], "tokenizer_config.json holds a list"),
        ("generation_config", "text", "generation_config.json holds a str"),
        ("special_tokens_map", None, "special_tokens_map.json holds a NoneType"),
    ],
)
def test_other_files_are_checked_too(tmp_path: Path, name: str, value: Any, line: str) -> None:
    with pytest.raises(ggufpy.GGUFError, match=line):
        converted(tmp_path, described(), **{name: value})


def test_what_settings_say_wrongly_is_left_out(tmp_path: Path) -> None:
    settings = {"bos_token": 7, "eos_token": {"content": None}, "pad_token": "absent", "add_bos_token": "yes",
                "chat_template": 5, "added_tokens_decoder": [], "extra_special_tokens": 3}  # fmt: skip
    generation = {"eos_token_id": ["x", -1, 10**12, True, None]}
    made = converted(tmp_path, described(), tokenizer_config=settings, generation_config=generation)
    keys = [key.removeprefix("tokenizer.ggml.") for key in made.keys]
    assert keys == ["model", "pre", "tokens", "token_type", "merges", "add_bos_token", "add_eos_token"]
    assert "chat_template" in made.notes[0]


def test_steps_in_a_hundred_thousand_sequences_are_read_at_once(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"type": "Sequence", "pretokenizers": []}
    node = {"type": "Sequence", "pretokenizers": [inner] * 200_000 + [BYTE_LEVEL] * 3}
    assert files.steps(node, "pretokenizers") == [BYTE_LEVEL] * 3


def test_files_of_more_than_a_hundred_megabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reading.LIMIT == 100_000_000
    monkeypatch.setattr(reading, "LIMIT", 1000)
    with pytest.raises(ggufpy.GGUFError, match=r"tokenizer\.json is larger than 1,000 bytes"):
        converted(tmp_path, described() | {"x": "y" * 1000})


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ggufpy.GGUFError, match=r"has no tokenizer: none of tokenizer.json.*download"):
        vocabulary(tmp_path, {}, None)
    with pytest.raises(ggufpy.GGUFError, match="is no folder"):
        vocabulary(tmp_path / "absent", {}, None)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xff" * 40, b"\x0a\x7f", b"\x0a\x03\x0a\x01\xff", b"\x0a\x00", b"\x0a\x05\x15\x00\x00\xc0\x7f",
     b"\x0a\x05\x0a\x01a\x18\x63", b"\x0b\x0b", b"\x80" * 30],
)  # fmt: skip
def test_a_damaged_sentencepiece_file_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ggufpy.GGUFError, match=r"^tokenizer.model[: ][^\n]*$"):
        vocabulary(tmp_path, {}, None)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"config": {"pattern": "x", "default_num_special_tokens": 1, "default_vocab_size": 1 << 40}, "vocab": []},
        {
            "config": {"pattern": "x", "default_num_special_tokens": 1, "default_vocab_size": 3},
            "vocab": [{"token_bytes": "%"}],
        },
        {
            "config": {"pattern": "x", "default_num_special_tokens": 1, "default_vocab_size": 9},
            "vocab": [{"token_bytes": "YQ=="}, {"token_bytes": "YQ=="}],
        },
        {
            "config": {"pattern": "x", "default_num_special_tokens": 1, "default_vocab_size": 9},
            "vocab": [{"token_bytes": "YWFh" * 4000}],
        },
    ],
)
def test_a_damaged_tekken_file_is_one_line(tmp_path: Path, value: Any) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(value))
    with pytest.raises(ggufpy.GGUFError, match=r"^tekken.json: [^\n]*$"):
        vocabulary(tmp_path, {}, None)


KEPT = "tokenizer.huggingface.json"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (5, "must be a text, not int"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "makes no tokenizer"),
        (
            json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "z": 99}, "merges": []}}),
            "has a token 99",
        ),
    ],
)
def test_a_damaged_kept_file_is_one_line(tmp_path: Path, text: Any, line: str) -> None:
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": ["a b"],
        KEPT: text,
    }
    ggufpy.write(tmp_path / "v.gguf", {"general.architecture": "llama", **keys}, {})
    with pytest.raises(ggufpy.GGUFError) as caught:
        ggufpy.load_tokenizer(tmp_path / "v.gguf")
    assert str(caught.value).startswith(KEPT)
    assert line in str(caught.value)
