"""Grammars over real vocabularies: masks, ends, markers, tokens by name, and texts of a model that knows nothing."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from byte_vocabulary import write_vocabulary
from grammar_reference import SCHEMAS
from llm_fakes import EOS, VOCAB, FakeTokenizer, parts
from test_grammar_gbnf import JSON
from test_tokenizers import CONTROL, FAMILIES, USER, bpe_metadata

import ggufpy
from ggufpy import GGUFError
from ggufpy.generate.loading import Later, LoadOptions
from ggufpy.generate.sampling import Guides, Sampler, Sampling
from ggufpy.grammar import Constraint, Grammar, Vocabulary

PADDING = 70
PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["age"]}
TEXT = '{"name":"Jo Wörld 😀","age": 17}'


@cache
def vocabulary(path: Path) -> Vocabulary:
    tokenizer = ggufpy.load_tokenizer(path)
    return Vocabulary(tokenizer, tokenizer.n_vocab + PADDING)


def of_family(shared: Path, family: str) -> Vocabulary:
    return vocabulary(shared / "vocab" / f"ggml-vocab-{family}.gguf")


@pytest.fixture(params=FAMILIES)
def words(request: pytest.FixtureRequest, shared: Path) -> Vocabulary:
    return of_family(shared, request.param)


def allowed(constraint: Constraint, words: Vocabulary) -> list[int]:
    mask = constraint.mask()
    assert mask.dtype == np.uint32
    assert mask.shape == (-(-words.n_vocab // 32),)
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()  # type: ignore[no-any-return]


def wrote(constraint: Constraint, words: Vocabulary, text: str) -> None:
    """The text token by token, each of which must be allowed."""
    for token in words.writer.tokens(text):
        assert token in allowed(constraint, words), words.bytes_of[token]
        constraint.accept(token)


def test_masks_hold_what_may_come_and_nothing_else(words: Vocabulary) -> None:
    constraint = Constraint(Grammar.from_json_schema(PERSON), words)
    for token in words.writer.tokens(TEXT):
        tokens = allowed(constraint, words)
        assert token in tokens
        assert max(tokens) < words.tokenizer.n_vocab, "padding"
        assert words.special.isdisjoint(tokens)
        constraint.accept(token)
    assert tuple(allowed(constraint, words)) == words.ends
    constraint.accept(words.ends[-1])
    assert allowed(constraint, words) == []
    with pytest.raises(GGUFError, match="the text has ended"):
        constraint.accept(words.writer.tokens("a")[0])


def test_a_token_that_is_not_allowed_is_refused(words: Vocabulary) -> None:
    constraint = Constraint(Grammar.from_json_schema(PERSON), words)
    with pytest.raises(GGUFError, match=r"the grammar \(schema\) does not allow token \d+ \('x'\) here"):
        constraint.accept(words.writer.tokens("x")[0])
    with pytest.raises(GGUFError, match="not in the vocabulary"):
        Constraint(Grammar.any_json(), words).accept(words.n_vocab - 1)


def test_texts_are_written_in_tokens_of_the_same_bytes(words: Vocabulary) -> None:
    for text in ("", "a", " a", "  ", "\n", '{"a": 1}', "é", "日本", "😀", "\t\tx"):
        tokens = words.writer.tokens(text)
        assert b"".join(words.bytes_of[token] for token in tokens) == text.encode()


def test_an_end_may_come_wherever_the_text_may_end(words: Vocabulary) -> None:
    constraint = Constraint(Grammar.from_regex("[a-z]*"), words)
    assert set(words.ends) <= set(allowed(constraint, words))
    wrote(constraint, words, "abc")
    tokens = allowed(constraint, words)
    assert set(words.ends) <= set(tokens)
    assert len(tokens) > len(words.ends)


def test_gbnf_over_tokens(words: Vocabulary) -> None:
    constraint = Constraint(Grammar.from_gbnf(JSON), words)
    wrote(constraint, words, TEXT)
    assert set(words.ends) <= set(allowed(constraint, words))


def test_what_is_forced_is_what_the_masks_leave(words: Vocabulary) -> None:
    constraint = Constraint(Grammar.from_json_schema({"const": {"a long name": [1, "and a long value"]}}), words)
    length = 0
    while not set(words.ends) & set(allowed(constraint, words)):
        forced = constraint.forced(5)
        assert len(forced) <= 5
        for token in forced or [min(allowed(constraint, words), key=lambda t: (len(words.bytes_of[t]), t))]:
            tokens = allowed(constraint, words)
            assert tokens == [token] or not forced
            constraint.accept(token)
            length += len(forced) > 0
    assert length > 4
    assert constraint.forced(5) == []


def test_tokens_by_name(words: Vocabulary) -> None:
    end = words.tokenizer.vocab.texts[words.ends[0]]
    assert words.named(end) == words.ends[0]
    letter = words.writer.tokens("b")[0]
    for grammar in (
        Grammar.from_gbnf(f'root ::= "a" <[{letter}]> !<[{letter}]> "c"'),
        Grammar.from_lark(f'start: "a" <[{letter}]> <[^{letter}]> "c"'),
    ):
        constraint = Constraint(grammar, words)
        wrote(constraint, words, "a")
        assert allowed(constraint, words) == words.alike(letter)
        constraint.accept(letter)
        others = allowed(constraint, words)
        assert letter not in others
        assert not set(words.ends) & set(others)
        assert max(others) < words.n_known
    with pytest.raises(GGUFError, match=r"names the token <\|gone\|>, and the vocabulary has none"):
        Constraint(Grammar.from_lark('start: <|gone|> "x"'), words)
    with pytest.raises(GGUFError, match=rf"names token {words.n_known}; the vocabulary has"):
        Constraint(Grammar.from_gbnf(f"root ::= <[{words.n_known}]>"), words)


def test_control_tokens_come_where_a_grammar_names_them(shared: Path) -> None:
    words = of_family(shared, "llama-bpe")
    name = "<|start_header_id|>"
    tag = words.named(name)
    assert tag in words.special
    lark = f'start: {name} body // "{name}"\nbody: %json {{"type": "object", "properties": {{"a": {{"enum": [1]}}}}}}'
    constraint = Constraint(Grammar.from_lark(lark), words)
    assert allowed(constraint, words) == [tag]
    constraint.accept(tag)
    assert words.special.isdisjoint(allowed(constraint, words))
    wrote(constraint, words, '{"a":1}')
    assert tuple(allowed(constraint, words)) == words.ends


def test_tokens_between_which_answers_are_written_are_no_text(tmp_path: Path) -> None:
    """gpt-oss's are shown, as what a user defined is; within a string of JSON they would end it for whoever reads."""
    extra = ["<|channel|>", "<tool_call>", "</s>"]
    metadata = bpe_metadata()
    key = "tokenizer.ggml."
    metadata[key + "tokens"] = [*metadata[key + "tokens"], *extra]
    types = [*metadata[key + "token_type"].tolist(), CONTROL, USER, CONTROL]
    metadata[key + "token_type"] = np.array(types, np.int32)
    ggufpy.write(tmp_path / "v.gguf", metadata, {})
    tokenizer = ggufpy.load_tokenizer(tmp_path / "v.gguf")
    words = Vocabulary(tokenizer, tokenizer.n_vocab)
    channel, call = (tokenizer.vocab.ids[text] for text in extra[:2])
    constraint = Constraint(Grammar.from_json_schema({"type": "string"}), words)
    wrote(constraint, words, '"a')
    assert call in allowed(constraint, words)
    assert channel not in allowed(constraint, words)
    wrote(constraint, words, '<|channel|><tool_call>"')


def test_schemas_within_lark_are_checked() -> None:
    with pytest.raises(GGUFError, match=r"%json 1: properties\.a: not cannot be enforced"):
        Grammar.from_lark('start: "x" %json {"properties": {"a": {"not": {}}}}')
    with pytest.raises(GGUFError, match="%json 1: this is not JSON"):
        Grammar.from_lark('start: %json {"a": }')


@pytest.mark.parametrize("marker", ["</think>", "DONE", "aab"])
def test_a_grammar_begins_behind_a_marker(words: Vocabulary, marker: str) -> None:
    constraint = Constraint(Grammar.from_json_schema({"enum": [True]}), words, after=marker)
    assert len(allowed(constraint, words)) > words.n_known - 200
    assert words.n_known - 1 in allowed(constraint, words)
    wrote(constraint, words, f"I think {{ not {marker[:-1]} {marker[:2]} yet aa")
    assert not constraint.begun
    assert constraint.forced(3) == []
    wrote(constraint, words, marker)
    assert constraint.begun
    first = allowed(constraint, words)
    assert set(first) - words.line_ends == set(
        allowed(Constraint(Grammar.from_json_schema({"enum": [True]}), words), words)
    )
    if words.line_ends:
        constraint.accept(min(words.line_ends))
        assert set(allowed(constraint, words)) == set(first) - words.line_ends
    wrote(constraint, words, "true")
    assert tuple(allowed(constraint, words)) == words.ends


def test_no_token_runs_over_the_marker(shared: Path) -> None:
    words = of_family(shared, "gpt-2")
    constraint = Constraint(Grammar.from_regex("x"), words, after="the")
    over = [token for token, data in enumerate(words.bytes_of) if b"the" in data[:-1]]
    assert not set(over) & set(allowed(constraint, words))
    wrote(constraint, words, "th")
    assert words.writer.tokens("en")[0] not in allowed(constraint, words)
    assert words.writer.tokens("e")[0] in allowed(constraint, words)
    with pytest.raises(GGUFError, match="marker that a grammar begins after is empty"):
        Constraint(Grammar.from_regex("x"), words, after="")


def test_texts_of_several_threads_share_a_vocabulary(shared: Path) -> None:
    words = of_family(shared, "llama-spm")
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(5):
                wrote(Constraint(Grammar.from_json_schema(PERSON), words), words, TEXT)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_threads_end_with_their_vocabulary(shared: Path) -> None:
    before = set(threading.enumerate())
    tokenizer = ggufpy.load_tokenizer(shared / "vocab" / "ggml-vocab-llama-spm.gguf")
    words = Vocabulary(tokenizer, tokenizer.n_vocab)
    for _ in range(5):
        Constraint(Grammar.any_json(), words).mask()
    workers = set(threading.enumerate()) - before
    assert 1 <= len(workers) <= 2
    del words
    gc.collect()
    for thread in workers:
        thread.join(10)
        assert not thread.is_alive()


def test_a_vocabulary_without_an_end_or_without_the_characters(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "bytes.gguf")
    tokenizer = ggufpy.load_tokenizer(tmp_path / "bytes.gguf")
    with pytest.raises(GGUFError, match="needs an end token, and this vocabulary has none"):
        Vocabulary(tokenizer, 10)  # its end token is 11
    letters = Vocabulary(tokenizer, 200)  # no bytes of other scripts
    with pytest.raises(GGUFError, match="allows no token of this vocabulary after 0 tokens"):
        Constraint(Grammar.from_regex("日"), letters).mask()


def _drawn(schema: dict[str, Any], words: Vocabulary, seed: int) -> str | None:
    """A text of random logits that like ends, None if it has none after 300 tokens."""
    chance = np.random.default_rng(seed)
    guides = Guides(Constraint(Grammar.from_json_schema(schema), words))
    sampler = Sampler(Sampling(temp=1.0, seed=seed), words.n_vocab, words.n_known, guides)
    tokens: list[int] = []
    while len(tokens) < 300:
        logits = chance.normal(0, 3, words.n_vocab).astype(np.float32)
        token = sampler.sample(logits)
        if token in words.ends:
            return words.tokenizer.decode(tokens)
        sampler.accept(token)
        tokens.append(token)
    return None


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_texts_of_random_logits_validate(number: int, shared: Path) -> None:
    """As tools/structured.py checks of a real model."""
    name, _, schema = SCHEMAS[number]
    words = of_family(shared, FAMILIES[number % len(FAMILIES)])
    texts = [text for seed in range(3) if (text := _drawn(schema, words, seed)) is not None]
    assert texts or name in ("tree", "map", "joined", "contact"), "no text came to an end"
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    for text in texts:
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


class Bytes(FakeTokenizer):
    """The fake model's tokens with what a grammar needs of them."""

    def __init__(self) -> None:
        texts = [f"<{i}>" for i in range(VOCAB)]
        types = np.array([1] * 256 + [3, 3])
        self.vocab = SimpleNamespace(
            texts=texts, types=types, stored_types=types, ids={text: i for i, text in enumerate(texts)}
        )


def _model(rows: Any, lookup: int = 0) -> ggufpy.Llama:
    made = replace(parts(n_ctx=256, rows=rows), tokenizer=Later(Bytes))
    return ggufpy.Llama.from_parts(made, 0, LoadOptions(lookup=lookup))


def test_texts_of_a_model_that_end_with_the_grammar() -> None:
    """A model that would go on for ever, and whose likeliest token is never allowed."""

    def rows(held: Sequence[int]) -> np.ndarray:
        row = np.random.default_rng([*held[-3:], len(held)]).normal(0, 1, VOCAB).astype(np.float32)
        row[ord("!")], row[EOS] = 9, -9
        return row

    words = Vocabulary(Bytes(), VOCAB)  # type: ignore[arg-type]
    with _model(rows) as llm:
        for grammar, texts in (
            (Grammar.from_regex("yes|no"), ("yes", "no")),
            (Grammar.from_json_schema({"enum": ["a", 12]}), ('"a"', "12")),
            (Grammar.from_gbnf('root ::= "(" root ")" | "x"{3}'), None),
        ):
            stream = llm.generate([1, 2, 3], guides=Guides(Constraint(grammar, words)), temp=0.0, limit=100)
            text = bytes(stream).decode()
            assert stream.finish == "stop"
            assert texts is None or text in texts
            assert texts is not None or "xxx" in text
        stream = llm.generate([1], guides=Guides(Constraint(Grammar.from_regex("[a-z]{50}"), words)), limit=5)
        assert len(list(stream)) == 5
        assert stream.finish == "length"


def test_drafts_change_no_text() -> None:
    """Tokens are then drawn several a step, each from its own mask."""

    def rows(held: Sequence[int]) -> np.ndarray:
        return np.random.default_rng([*held[-2:]]).normal(0, 1, VOCAB).astype(np.float32)

    schema = {"type": "array", "items": {"enum": ["abcabc", "abcd", 123123]}, "minItems": 8, "maxItems": 8}
    words, grammar = Vocabulary(Bytes(), VOCAB), Grammar.from_json_schema(schema)  # type: ignore[arg-type]
    texts = []
    for lookup in (0, 8):
        with _model(rows, lookup) as llm:
            stream = llm.generate([1, 2, 3], guides=Guides(Constraint(grammar, words)), temp=0.7, seed=5, limit=200)
            texts.append(bytes(stream).decode())
            assert stream.finish == "stop"
            assert (stream.accepted > 0) == (lookup > 0)
    assert texts[0] == texts[1]
    jsonschema.validate(json.loads(texts[0]), schema)
