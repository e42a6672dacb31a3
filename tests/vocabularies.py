"""What tests of vocabularies share: values of keys, tokenizers of both sides, and small descriptions of tokenizers."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from trained_tokenizers import TEXTS, sentencepiece_model, write_json

import ggufpy
from ggufpy.convert.vocabulary import Vocabulary, export_vocabulary, probes, vocabulary
from ggufpy.convert.vocabulary.sentencepiece import read_model
from ggufpy.tokenizers import Tokenizer
from ggufpy.tokenizers.bpe import byte_letters

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
WHOLE = "tokenizer.huggingface.json"
MARKED = ("<s>", "</s>", "<|turn|>", "<user>")


def value(made: Vocabulary, key: str) -> Any:
    """A value under `tokenizer.ggml.<key>`, None where it is not there."""
    typed = made.keys.get(f"tokenizer.ggml.{key}")
    return None if typed is None else typed.value


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


@cache
def trained(kind: str, **options: Any) -> tuple[bytes, Any]:
    """A tokenizer.model of a kind, as its bytes and as it is read."""
    data = sentencepiece_model(kind, **options)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(data)
        return data, read_model(Path(folder))


def pieces_of(kind: str, **options: Any) -> list[tuple[str, float, int]]:
    """Text, score and type of each piece of such a model."""
    return [(piece.text, piece.score, piece.kind) for piece in trained(kind, **options)[1].pieces]


def small(added: list[dict[str, Any]] | None = None, **parts: Any) -> dict[str, Any]:
    """A tokenizer.json of the 256 bytes."""
    base = {letter: byte for byte, letter in alphabet().items()}
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


def added(token: int, text: str, special: bool = True) -> dict[str, Any]:
    """An added token of tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": special, **flags}


def made_of(
    folder: Path,
    description: dict[str, Any],
    config: dict[str, Any] | None = None,
    size: int | None = None,
    **settings: Any,
) -> Vocabulary:
    """What comes of a tokenizer.json, with `settings` as tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "tokenizer.json", description)
    write_json(folder / "tokenizer_config.json", settings)
    return vocabulary(folder, config or {}, size)


ADDED = [added(256, "<s>"), added(257, "</s>"), added(258, "<|im_end|>", False), added(260, "a\u2581b", False)]


def alphabet() -> dict[int, str]:
    """The letter of each byte."""
    return {byte: chr(byte_letters().get(byte, byte)) for byte in range(256)}
