"""Final hidden states and what is made of them: encoders without an output matrix, pooling, `Llama.embed`, `embed`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine import BEST, difference
from llm_fakes import VOCAB, FakeTokenizer
from test_plan import source_of

from ggufpy import cli
from ggufpy.backends.cpu.model import Model, load_kernels, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.generate import loading
from ggufpy.generate.loading import Later, LoadOptions, Parts
from ggufpy.jit.cache import library
from ggufpy.llm import Llama
from ggufpy.models.base import Inventory, Keys
from ggufpy.models.classifier import read_classifier
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Attend, Embed, Gate, Heads, MatMul, Norm, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.runtime import trial
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.runtime.trial import Trial, error_of

WIDTH, HIDDEN, CONTEXT = 64, 96, 150
HEADS = Heads(2, 2, 32, 32)
TEXTS = ["a" * 140, "hello", "h"]
ONE, OTHER = (list(range(40, 40 + n)) for n in (9, 30))


def layer(i: int, causal: bool) -> tuple[Op, ...]:
    """As BERT has them: what is added is normed behind it."""

    def product(x: str, y: str, rows: int, columns: int, add: bool = False) -> MatMul:
        return MatMul(x, Weight(f"{i}.{y}.{x}", (rows, columns)), y, Weight(f"{i}.{y}.{x}.bias", (rows,)), add)

    def norm(name: str) -> Norm:
        weight, bias = (Weight(f"{i}.{name}.{kind}", (WIDTH,)) for kind in ("norm", "bias"))
        return Norm("x", weight, "x", 1e-5, kind="layer", bias=bias)

    return (
        *([norm("embedded")] if i == 0 else []),
        *(product("x", name, 64, WIDTH) for name in "qkv"), StoreKv(i, "k", "v", HEADS),
        Attend(i, "q", "attn", HEADS, 0.2, 0 if i else 20, causal=causal), product("attn", "x", WIDTH, 64, True),
        norm("attended"), product("x", "up", HIDDEN, WIDTH), Gate("up", None, "up", HIDDEN, "gelu_erf"),
        product("up", "x", WIDTH, HIDDEN, True), norm("fed"),
    )  # fmt: skip


def plan_of(causal: bool = False, head: bool = False) -> Plan:
    embed = Embed(
        Weight("embedding", (VOCAB, WIDTH)), "x", positions=Weight("positions", (CONTEXT, WIDTH)),
        constant=Weight("types", (2, WIDTH)),
    )  # fmt: skip
    layers = tuple(layer(i, causal) for i in range(2))
    end = (Norm("x", Weight("norm", (WIDTH,)), "norm", 1e-5), MatMul("norm", Weight("o", (VOCAB, WIDTH)), "logits"))
    return Plan(CONTEXT, VOCAB, embed, layers, end if head else ())


def engine_of(plan: Plan, file: ArraySource, n_batch: int = 64, **options: int) -> Engine:
    chosen, kernels = EngineOptions(n_threads=1, **options), library(BEST)
    load_kernels(file, plan, chosen, kernels)
    return Engine(Model(file, plan, chosen, kernels), n_batch)


def truth(plan: Plan, file: ArraySource, tokens: list[int]) -> Any:
    return Interpreter(plan, {name: t.to_numpy() for name, t in file.tensors.items()}).hidden(tokens)


@pytest.fixture(scope="module")
def encoder() -> tuple[Plan, ArraySource]:
    return plan_of(), source_of(plan_of())


@pytest.fixture(scope="module")
def llm(encoder: tuple[Plan, ArraySource]) -> Iterator[Llama]:
    with llama(*encoder, n_parallel=2) as made:
        yield made


def llama(plan: Plan, file: ArraySource, **options: int) -> Llama:
    held: Any = SimpleNamespace(metadata={"general.architecture": "fake"}, tensors=file.tensors, close=lambda: None)
    tokenizer: Any = Later(FakeTokenizer)
    nothing: Any = Later(lambda: None)
    return Llama.from_parts(Parts("fake.gguf", engine_of(plan, file, **options), held, tokenizer, nothing))


# -- the engine ------------------------------------------------------------------------------------------------------


def test_what_a_plan_says_of_its_hidden_state() -> None:
    encoder, decoder = plan_of(), plan_of(head=True, causal=True)
    assert (encoder.hidden, encoder.makes_logits, encoder.whole_texts) == (((), "x", WIDTH), False, True)
    assert (decoder.hidden, decoder.makes_logits, decoder.whole_texts) == (
        ((decoder.head[0],), "norm", WIDTH), True, False,
    )  # fmt: skip
    assert replace(encoder, head=decoder.head[:1]).hidden[1] == "norm"


def test_hidden_states_are_those_of_the_interpreter(encoder: tuple[Plan, ArraySource]) -> None:
    engine = engine_of(*encoder, n_parallel=2)
    sequences = [engine.sequence() for _ in range(2)]
    found = engine.step([Chunk(s, t, "all", hidden=True) for s, t in zip(sequences, (ONE, OTHER), strict=True)])
    for rows, tokens in zip(found, (ONE, OTHER), strict=True):
        assert difference(truth(*encoder, tokens), rows) < 0.01
    with pytest.raises(GGUFError, match="the model has no output matrix: it makes embeddings, not text"):
        engine.step([Chunk(engine.sequence(), ONE)])
    assert engine.step([Chunk(engine.sequence(), ONE, "none")])[0].size == 0
    engine.close()


def test_a_head_without_logits_may_have_another_width() -> None:
    """Matrices behind a mean stand before it: the mean of products is the product of the mean."""
    plan = plan_of(head=True)
    plan = replace(plan, head=(plan.head[0], MatMul("norm", Weight("dense", (40, WIDTH)), "dense")), pooling="mean")
    file = source_of(plan)
    with llama(plan, file) as llm:
        assert llm.engine.n_hidden == 40
        exact = truth(replace(plan, head=plan.head[:1]), file, tokens_of("hello")).mean(axis=0)
        exact = file.tensors["dense"].to_numpy().astype(np.float64) @ exact
        assert difference(exact, np.array(llm.embed("hello"))) < 0.02


def test_logits_and_hidden_states_of_one_step_have_the_bits_that_they_have_alone() -> None:
    plan = plan_of(causal=True, head=True)
    file = source_of(plan)
    engine = engine_of(plan, file, n_parallel=2)

    def both(hidden: tuple[bool, bool], together: bool) -> list[Any]:
        chunks = [
            Chunk(engine.sequence(), tokens, "all", False, wanted)
            for tokens, wanted in zip((ONE, OTHER), hidden, strict=True)
        ]
        return engine.step(chunks) if together else [engine.step([chunk])[0] for chunk in chunks]

    mixed = both((True, False), True)
    assert [rows.shape for rows in mixed] == [(9, WIDTH), (30, VOCAB)]
    for a, b in zip(mixed, both((True, False), False), strict=True):
        np.testing.assert_array_equal(a, b)
    assert difference(truth(plan, file, ONE), mixed[0]) < 0.01
    np.testing.assert_array_equal(engine.read(engine.sequence(), ONE, "all", hidden=True), mixed[0])
    engine.close()


def test_a_trial_of_an_encoder_runs_its_kernels(encoder: tuple[Plan, ArraySource]) -> None:
    plan, file = encoder
    options, kernels = EngineOptions(), library(BEST)
    wanted = load_kernels(file, plan, options, kernels)
    tried = Trial(BEST.name, *trial.small(plan, dict.fromkeys(plan.weights, "F32")))
    assert set(load_kernels(trial.source_of(tried), tried.plan, options, kernels)) == set(wanted)
    assert error_of(tried) < trial.LARGEST_ERROR / 2


def test_learned_positions_end_where_their_table_does(encoder: tuple[Plan, ArraySource]) -> None:
    plan, file = encoder
    with pytest.raises(GGUFError, match=r"a context of 200 was asked for; the model has learned 150 positions \(posit"):
        engine_of(replace(plan, context=200), file)
    with engine_of(replace(plan, context=200), file, n_ctx=150) as engine:
        assert engine.rows == 150  # a step has the whole context, n_batch or not


# -- texts -----------------------------------------------------------------------------------------------------------


def tokens_of(text: str) -> list[int]:
    return FakeTokenizer().encode(text, add_special=True)


@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last"])
def test_a_text_becomes_a_vector(llm: Llama, encoder: tuple[Plan, ArraySource], pooling: str | None) -> None:
    found = np.array(llm.embed(TEXTS, pooling=pooling))
    assert found.shape == (3, WIDTH)
    for row, text in zip(found, TEXTS, strict=True):
        exact = truth(*encoder, tokens_of(text))
        wanted = {"cls": exact[0], "last": exact[-1]}.get(pooling or "mean", exact.mean(axis=0))
        assert difference(wanted, row) < 0.02
    np.testing.assert_array_equal(found[1], llm.embed(TEXTS[1], pooling=pooling))
    unit = np.array(llm.embed(TEXTS, pooling=pooling, normalize=True))
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), rtol=1e-12)


def test_without_pooling_a_text_has_a_vector_a_token(llm: Llama, encoder: tuple[Plan, ArraySource]) -> None:
    found = llm.embed("hello", pooling="none")
    assert difference(truth(*encoder, tokens_of("hello")), np.array(found)) < 0.01
    with pytest.raises(GGUFError, match="without pooling a text has a vector for each token"):
        llm.embed(["a", "b"], pooling="none")


def test_embeddings_in_the_shape_of_openai(llm: Llama) -> None:
    found = llm.create_embedding(["hello", "h"], model="mine")
    assert (found["object"], found["model"], found["usage"]) == (
        "list", "mine", {"prompt_tokens": 8, "total_tokens": 8}
    )  # fmt: skip
    assert [(one["object"], one["index"]) for one in found["data"]] == [("embedding", 0), ("embedding", 1)]
    rows = llm.embed(["hello", "h"], normalize=True)
    np.testing.assert_array_equal([one["embedding"] for one in found["data"]], rows)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "input is an empty list"),
        (3, {}, "input is 3; a text"),
        (["a", 3], {}, r"input\[1\] is 3; it must be a text"),
        ("a", {"pooling": "median"}, "pooling is 'median'; it must be rank or one of none, mean, cls, last"),
        ("a", {"pooling": "rank"}, r"the model has no classifier \(cls\.weight\)"),
        ("a", {"normalize": 1}, "normalize is 1; it must be True or False"),
        ("a" * 150, {}, "a text of 151 tokens is longer than the context of 150: shorten it"),
    ],
)
def test_what_cannot_be_embedded(llm: Llama, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        llm.embed(given, **options)


def test_an_encoder_writes_no_text_and_a_decoder_embeds_too(llm: Llama) -> None:
    with pytest.raises(GGUFError, match="it makes embeddings, not text"):
        next(llm.generate([1, 2], temp=0.0))
    plan = plan_of(causal=True, head=True)
    file = source_of(plan)
    with llama(plan, file) as decoder:
        exact = truth(plan, file, tokens_of("hello"))
        assert difference(exact[-1], np.array(decoder.embed("hello"))) < 0.02
        assert len(list(decoder.generate([1, 2], temp=0.0, limit=3))) == 3
        with llama(replace(plan, pooling="mean"), file) as other:
            np.testing.assert_array_equal(other.embed("hello"), decoder.embed("hello", pooling="mean"))
        with llama(replace(plan, pooling="rank"), file) as other, pytest.raises(GGUFError, match="no classifier"):
            other.embed("hello")


# -- ranks -----------------------------------------------------------------------------------------------------------


def classifier_of(table: ArraySource, **more: Any) -> Any:
    keys = Keys({"general.architecture": "a", **{f"a.{key}": value for key, value in more.items()}})
    return read_classifier(keys, Inventory(table.tensors), WIDTH)


def test_a_model_that_ranks_gives_scores(encoder: tuple[Plan, ArraySource]) -> None:
    plan, file = encoder
    rng = np.random.default_rng(4)
    shapes: dict[str, tuple[int, ...]] = {"cls.weight": (WIDTH, WIDTH), "cls.output.weight": (3, WIDTH)}
    shapes |= {"cls.bias": (WIDTH,), "cls.norm.weight": (WIDTH,)}
    given = {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    whole = ArraySource({}, {**{name: t.to_numpy() for name, t in file.tensors.items()}, **given})
    found = classifier_of(whole, **{"classifier.output_labels": ["a", "b", "c"]})
    assert found is not None
    row = truth(plan, file, tokens_of("hello"))[0]
    x = np.tanh(given["cls.weight"] @ row + given["cls.bias"])
    x = given["cls.output.weight"] @ ((x - x.mean()) / np.sqrt(x.var() + 1e-5) * given["cls.norm.weight"])
    for softmax, exact in ((False, x), (True, np.exp(x) / np.exp(x).sum())):
        ranks = replace(plan, pooling="rank", classifier=replace(found, softmax=softmax))
        with llama(ranks, whole) as llm:
            np.testing.assert_allclose(llm.embed("hello"), exact, rtol=0, atol=0.02 * np.abs(exact).max())
            assert llm.embed("hello", normalize=True) == llm.embed("hello")


def test_classifiers_that_do_not_fit() -> None:
    def source(**shapes: tuple[int, ...]) -> ArraySource:
        names = {name.replace("_", "."): shape for name, shape in shapes.items()}
        return ArraySource({}, {name: np.ones(shape, np.float32) for name, shape in names.items()})

    assert classifier_of(source(other=(3,))) is None
    assert classifier_of(source(cls_weight=(1, WIDTH))).dense.shape == (1, WIDTH)
    for table, labels, message in (
        (source(cls_weight=(7, WIDTH)), ["a"], r"cls\.weight has 7 rows, for 1 labels"),
        (source(cls_weight=(WIDTH,)), ["a"], "a matrix is expected"),
        (source(cls_output_weight=(2, WIDTH)), ["a"], r"cls\.output\.weight has shape \(2, 64\); \(1, 64\) expected"),
        (source(cls_output_weight=(1, WIDTH)), [], "must have 1 to 1,048,576 texts"),
    ):
        with pytest.raises(GGUFError, match=message):
            classifier_of(table, **{"classifier.output_labels": labels})


# -- metadata --------------------------------------------------------------------------------------------------------


def test_pooling_is_read_from_the_metadata() -> None:
    def pooling(**more: Any) -> Any:
        return Keys({"general.architecture": "a", **{f"a.{key}": value for key, value in more.items()}}).pooling()

    assert pooling() is None
    assert [pooling(pooling_type=i) for i in range(5)] == ["none", "mean", "cls", "last", "rank"]
    with pytest.raises(GGUFError, match=r"a\.pooling_type is 5"):
        pooling(pooling_type=5)


def test_attention_by_distance_is_refused() -> None:
    source: Any = SimpleNamespace(
        metadata={"general.architecture": "llama", "llama.attention.max_alibi_bias": 8.0}, tensors={}
    )
    with pytest.raises(GGUFError, match="ALiBi"):
        read_plan(source)
    source.metadata["llama.attention.max_alibi_bias"] = 0.0
    with pytest.raises(GGUFError, match="embedding_length"):
        read_plan(source)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command(
    encoder: tuple[Plan, ArraySource], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    def load(model: str, options: LoadOptions) -> Parts:
        return llama(*encoder)._parts

    def run(*words: str) -> str:
        assert cli.main(["embed", "model", *words]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(loading, "load_parts", load)
    texts = tmp_path / "texts"
    texts.write_text("hello\n\nh\n")
    rows = np.array([line.split() for line in run("-p", "hello", "-p", "h").splitlines()], np.float64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert run("-f", str(texts), "--lines") == run("-p", "hello", "-p", "h")
    long = np.array([run("-p", "h", "--no-normalize").split()], np.float64)
    assert np.linalg.norm(long) > 1.5
    found = json.loads(run("-p", "h", "--pooling", "none", "--json"))
    assert (len(found["data"]), found["usage"]["total_tokens"]) == (2, 2)
    assert cli.main(["embed", "model", "-p", "a", "-p", "b", "--pooling", "none"]) == 2
    (tmp_path / "none").write_text(" \n")
    assert cli.main(["embed", "model", "-f", str(tmp_path / "none")]) == 1
    assert "there is no text to embed" in capsys.readouterr().err
