"""Small tokenizers of every kind, trained here, and the folders of checkpoints that they make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ggufpy.convert.vocabulary import probes

TEXTS = tuple(probes.texts(150, seed=21))


@cache
def corpus() -> tuple[str, ...]:
    """What they are trained on."""
    return tuple(text for text in probes.texts(600, seed=99) if len(text) < 2000)


def folder_of(tokenizer: Any, folder: Path, **settings: Any) -> Path:
    """`folder` with tokenizer.json and, where `settings` are given, tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings:
        write_json(folder / "tokenizer_config.json", settings)
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def byte_level(*patterns: str, use_regex: bool = False, prefix: bool = False) -> Any:
    """A pre-tokenizer of expressions, then of bytes."""
    splits = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)
    return pre_tokenizers.Sequence([*splits, last]) if splits else last


def byte_bpe(pre: Any, normalizer: Any = None, ignore_merges: bool = False) -> Any:
    """BPE of bytes with <s>, </s> and <|turn|> (special), and <user> (not special)."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "</s>", "<|turn|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus(), trainer)
    made.add_tokens([AddedToken("<user>", normalized=False)])
    made.model.ignore_merges = ignore_merges
    return made


@cache
def sentencepiece_model(kind: str, **options: Any) -> bytes:
    """A tokenizer.model of `kind` ("bpe", "unigram") with <x> as a token of its user."""
    lines: Iterator[str] = iter([text.replace("\n", " ").replace("\0", "") for text in corpus()])
    import io

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=writer, vocab_size=900, model_type=kind, byte_fallback=kind == "bpe",
        character_coverage=0.98, user_defined_symbols=["<x>"], minloglevel=2, **options,
    )  # fmt: skip
    return writer.getvalue()


def text_bpe(pieces: Sequence[tuple[str, float, int]], prefix: bool) -> Any:
    """SentencePiece's BPE as transformers writes it: every way to make a piece is a merge, in the order of scores."""
    ids = {text: i for i, (text, _, _) in enumerate(pieces)}
    usable = {text for text, _, kind in pieces if kind in (1, 4)}
    order = sorted((text for text, _, kind in pieces if kind == 1), key=lambda text: (-pieces[ids[text]][1], ids[text]))
    merges = [
        (text[:cut], text[cut:])
        for text in order
        for cut in range(1, len(text))
        if text[:cut] in usable and text[cut:] in usable
    ]
    made = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("\u2581")] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([AddedToken("<x>", normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


def wordpiece(**options: Any) -> Any:
    """BERT's tokenizer with its normaliser's `options`."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**options)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        corpus(), trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def unigram(pieces: Sequence[tuple[str, float, int]], charsmap: bytes) -> Any:
    """T5's tokenizer: characters replaced, words cut at white space, </s> last."""
    made = tokenizers.Tokenizer(models.Unigram([(text, score) for text, score, _ in pieces], 0, False))
    made.normalizer = normalizers.Precompiled(charsmap)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([AddedToken("<x>", normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return made
