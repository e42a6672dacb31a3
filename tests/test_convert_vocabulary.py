"""Tokenizers of checkpoints as GGUF's keys, against the libraries that they are from; and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from trained_tokenizers import (
    TEXTS,
    byte_bpe,
    byte_level,
    folder_of,
    sentencepiece_model,
    text_bpe,
    unigram,
    wordpiece,
    write_json,
)

import ggufpy
from ggufpy.convert.vocabulary import Vocabulary, export_vocabulary, probes, vocabulary
from ggufpy.convert.vocabulary.sentencepiece import read_model
from ggufpy.tokenizers import Tokenizer, pretokenizers

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
WHOLE = "tokenizer.huggingface.json"
MARKED = ("<s>", "</s>", "<|turn|>", "<user>")
QWEN = pretokenizers.get("qwen2").patterns[0]


def value(made: Vocabulary, key: str) -> Any:
    """A value under `tokenizer.ggml.<key>`, None where it is not there."""
    found = made.keys.get(f"tokenizer.ggml.{key}")
    return None if found is None else found.value


def written(made: Vocabulary, folder: Path) -> Tokenizer:
    """The tokenizer of a GGUF file that has these keys and nothing else."""
    folder.mkdir(exist_ok=True)
    path = folder / "vocabulary.gguf"
    ggufpy.write(path, {"general.architecture": "llama", **made.keys}, {})
    return ggufpy.load_tokenizer(path)


def agree(own: Tokenizer, library: Any, special: tuple[str, ...] = ()) -> None:
    """Both give the same ids: of plain texts, of texts with special tokens, and framed as the model wants it."""
    for text in TEXTS:
        assert own.encode(text) == library.encode(text, add_special_tokens=False).ids, text
        assert own.encode(text, True, True) == library.encode(text).ids, text
    for text in probes.texts(60, seed=22, special=special) if special else ():
        assert own.encode(text, parse_special=True) == library.encode(text, add_special_tokens=False).ids, text


def exported(made: Vocabulary, folder: Path) -> Any:
    """The library's tokenizer of the tokenizer.json that is made of a GGUF file."""
    own = written(made, folder)
    assert own.n_vocab == made.n_tokens
    with ggufpy.open(folder / "vocabulary.gguf") as file:
        export_vocabulary(file.metadata, folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


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
    pieces = _pieces("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    llama = text_bpe(pieces, prefix=False)
    llama.add_special_tokens([AddedToken("<end>", rstrip=True)])
    kept = vocabulary(folder_of(llama, tmp_path / "llama"), {}, None)
    assert WHOLE in kept.keys
    own = written(kept, tmp_path)
    for text in ("a <end>  b", "<end>\n\nb<end> ", "<end> <x> c"):
        assert own.encode(text, parse_special=True) == llama.encode(text, add_special_tokens=False).ids
        assert own.encode(text, parse_special=False) != own.encode(text, parse_special=True)


@cache
def _model(kind: str, **options: Any) -> tuple[bytes, Any]:
    import tempfile

    data = sentencepiece_model(kind, **options)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(data)
        return data, read_model(Path(folder))


def _pieces(kind: str, **options: Any) -> list[tuple[str, float, int]]:
    return [(piece.text, piece.score, piece.kind) for piece in _model(kind, **options)[1].pieces]


@pytest.mark.parametrize("prefix", [True, False])
def test_bpe_of_text_becomes_a_llama_vocabulary(tmp_path: Path, prefix: bool) -> None:
    library = text_bpe(_pieces("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False), prefix)
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
    data, _ = _model("bpe", **options)
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
    data, _ = _model("unigram")
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
    library = unigram(_pieces("unigram"), _model("unigram")[1].charsmap)
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
    letters = {letter: byte for byte, letter in _alphabet().items()}
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


def _alphabet() -> dict[int, str]:
    from ggufpy.tokenizers.bpe import byte_letters

    return {byte: chr(byte_letters().get(byte, byte)) for byte in range(256)}


def _small(added: list[dict[str, Any]] | None = None, **parts: Any) -> dict[str, Any]:
    """A tokenizer.json of the 256 bytes."""
    base = {letter: byte for byte, letter in _alphabet().items()}
    model = {"type": "BPE", "vocab": base, "merges": []}
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "model": model,
        "pre_tokenizer": pre,
        "decoder": pre,
        "added_tokens": added or [],
        **parts,
    }


def _added(token: int, text: str, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": special, **flags}


def _made(folder: Path, description: dict[str, Any], config: dict[str, Any] | None = None, size: int | None = None,
          **settings: Any) -> Vocabulary:  # fmt: skip
    folder.mkdir(exist_ok=True)
    write_json(folder / "tokenizer.json", description)
    write_json(folder / "tokenizer_config.json", settings)
    return vocabulary(folder, config or {}, size)


ADDED = [_added(256, "<s>"), _added(257, "</s>"), _added(258, "<|im_end|>", False), _added(260, "a\u2581b", False)]


def test_types_gaps_and_rows_that_no_token_has(tmp_path: Path) -> None:
    made = _made(tmp_path, _small(ADDED), size=264)
    texts, types = value(made, "tokens"), value(made, "token_type")
    assert made.n_tokens == len(texts) == len(types) == 264
    assert types[255:] == [NORMAL, CONTROL, CONTROL, CONTROL, UNUSED, USER, UNUSED, UNUSED, UNUSED]
    assert texts[258:] == ["<|im_end|>", "[PAD259]", "a b", "[PAD261]", "[PAD262]", "[PAD263]"]
    assert ggufpy.Typed("array[int32]", types) == made.keys["tokenizer.ggml.token_type"]


def test_added_tokens_without_rows_are_left_out(tmp_path: Path) -> None:
    made = _made(tmp_path, _small(ADDED), size=258)
    assert made.n_tokens == 258
    assert made.notes == ("2 added tokens have no row in the embedding and are left out: '<|im_end|>', 'a▁b'",)
    assert written(made, tmp_path).encode("a</s>", parse_special=True) == [97, 257]


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ggufpy.GGUFError, match=r"tokenizer.json has a token 255 .* embedding has 255 rows"):
        _made(tmp_path, _small(), size=255)


def test_tokens_of_one_text_get_texts_of_their_own(tmp_path: Path) -> None:
    made = _made(tmp_path, _small([_added(256, "[PAD257]"), _added(258, "a\u2581", False), _added(259, "a ", False)]))
    texts = value(made, "tokens")
    assert len(set(texts)) == len(texts)
    assert texts[256:] == ["[PAD257]", "[PAD257]_", "a ", "[PAD259]"]


def test_special_tokens_of_several_files(tmp_path: Path) -> None:
    write = {"eos_token_id": [257, 258, 260]}
    tmp_path.mkdir(exist_ok=True)
    write_json(tmp_path / "generation_config.json", write)
    made = _made(tmp_path, _small(ADDED), {"bos_token_id": 256}, eos_token="</s>", pad_token={"content": "</s>"})
    keys = [key.removeprefix("tokenizer.ggml.") for key in made.keys]
    assert keys == [
        "model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "padding_token_id",
        "eot_token_id", "eom_token_id", "add_bos_token", "add_eos_token",
    ]  # fmt: skip
    named = ("bos", "eos", "padding", "eot", "eom")
    assert [value(made, f"{name}_token_id") for name in named] == [256, 257, 257, 258, 260]
    assert {257, 258, 260} <= written(made, tmp_path).end_tokens


@pytest.mark.parametrize(
    ("single", "settings", "flags"),
    [
        ("<s> $A", {"bos_token": "<s>"}, (True, False)),
        ("$A </s>", {"eos_token": "</s>"}, (False, True)),
        ("<s> $A </s>", {}, (True, True)),
        ("$A", {"bos_token": "<s>", "add_bos_token": True}, (True, False)),
        (None, {"eos_token": "</s>", "add_eos_token": True}, (False, True)),
        (None, {"bos_token": "<s>"}, (False, False)),
    ],
)
def test_what_is_put_around_a_text(
    tmp_path: Path, single: str | None, settings: dict[str, Any], flags: tuple[bool, bool]
) -> None:
    description = _small(ADDED)
    if single is not None:
        used = [(name, token) for name, token in (("<s>", 256), ("</s>", 257)) if name in single]
        template = processors.TemplateProcessing(single=single, pair=None, special_tokens=used)
        description["post_processor"] = json.loads(template.__getstate__())
    made = _made(tmp_path, description, **settings)
    assert (value(made, "add_bos_token"), value(made, "add_eos_token")) == flags
    own = written(made, tmp_path)
    assert own.encode("a", add_special=True) == [256] * flags[0] + [97] + [257] * flags[1]


def test_what_ends_a_turn_stays_known_where_another_token_ends_a_text(tmp_path: Path) -> None:
    template = processors.TemplateProcessing(single="$A </s>", pair=None, special_tokens=[("</s>", 257)])
    description = _small(ADDED) | {"post_processor": json.loads(template.__getstate__())}
    made = _made(tmp_path, description, eos_token="<|im_end|>")
    assert (value(made, "eos_token_id"), value(made, "eot_token_id"), value(made, "add_eos_token")) == (257, 258, True)


def test_roberta_and_the_order_of_processors(tmp_path: Path) -> None:
    roberta = {"type": "RobertaProcessing", "sep": ["</s>", 257], "cls": ["<s>", 256], "trim_offsets": True,
               "add_prefix_space": False}  # fmt: skip
    made = _made(tmp_path, _small(ADDED) | {"post_processor": roberta})
    flags = [value(made, f"add_{name}_token") for name in ("bos", "eos", "sep")]
    assert flags == [True, True, True]
    assert [value(made, f"{name}_token_id") for name in ("bos", "eos", "seperator", "cls")] == [256, 257, 257, 256]
    byte_level_alone = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    byte_first = {"type": "Sequence", "processors": [byte_level_alone]}
    made = _made(tmp_path, _small(ADDED) | {"post_processor": byte_first}, bos_token="<s>", add_bos_token=True)
    assert value(made, "add_bos_token") is False  # the processor has the last word, as in llama.cpp


def test_settings_of_transformers_5(tmp_path: Path) -> None:
    made = _made(
        tmp_path, _small(ADDED), backend="tokenizers", bos_token="<s>", eos_token="</s>", is_local=True,
        extra_special_tokens=["<|im_end|>"], model_specific_special_tokens={"x_token": "</s>"},
    )  # fmt: skip
    assert (value(made, "bos_token_id"), value(made, "eos_token_id")) == (256, 257)


def test_special_tokens_without_a_tokenizer_json(tmp_path: Path) -> None:
    data, _ = _model("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    (tmp_path / "tokenizer.model").write_bytes(data)
    decoder = {"900": {"content": "<|im_end|>", "special": True}, "901": {"content": "a\u2581b", "special": False}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>"})
    made = vocabulary(tmp_path, {}, 910)
    assert value(made, "token_type")[900:903] == [CONTROL, USER, UNUSED]
    assert (value(made, "eos_token_id"), value(made, "bos_token_id")) == (900, 1)
    assert value(made, "scores")[900:903] == [-1000.0, -1000.0, -10000.0]
    assert written(made, tmp_path).encode("a b<|im_end|>", parse_special=True) == [901, 900]


def test_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}]
    made = _made(tmp_path, _small(), chat_template=named)
    found = {key: typed.value for key, typed in made.keys.items() if "chat_template" in key}
    assert found == {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_template.tool_use": "T",
        "tokenizer.chat_templates": ["tool_use"],
    }
    (tmp_path / "chat_template.jinja").write_text("J\n", newline="")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R")
    made = _made(tmp_path, _small(), chat_template="D")
    assert made.keys["tokenizer.chat_template"].value == "J\n"
    assert made.keys["tokenizer.chat_template.rag"].value == "R"
    assert "another template" in made.notes[0]
    exported(made, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "J\n"
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").read_text() == "R"
    old = tmp_path / "old"
    old.mkdir()
    write_json(old / "chat_template.json", {"chat_template": "O"})
    assert _made(old, _small()).keys["tokenizer.chat_template"].value == "O"


def test_probes_are_the_same_everywhere() -> None:
    assert probes.texts(3, seed=4) == probes.texts(3, seed=4)
    assert len(set(probes.texts(200, seed=5))) > 190
    assert all("<s>" in text for text in probes.texts(20, seed=6, special=["<s>"]))
