"""The current text of a `Llama`: what is evaluated, sampled, gone back to, saved and loaded."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import SIZES, VOCABULARY, metadata, weights, write_model
from llm_fakes import VOCAB, fake_llama

import ggufpy
from ggufpy import GGUFError, Llama
from ggufpy import format as gguf
from ggufpy.generate import snapshots
from ggufpy.generate.scores import Scores
from ggufpy.generate.state import LlamaState

TOKENS = np.random.default_rng(4).integers(0, VOCABULARY, 200).tolist()
OTHERS = TOKENS[100:130]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf", {"context_length": 256})


def opened(path: Path, logits_all: bool = False, **options: Any) -> Llama:
    llm = Llama(path, n_threads=1, **options)
    llm._logits_all = logits_all
    return llm


@pytest.fixture
def llm(path: Path) -> Iterator[Llama]:
    with opened(path) as one:
        yield one


@pytest.fixture
def keeping(path: Path) -> Iterator[Llama]:
    with opened(path, logits_all=True) as one:
        yield one


def written(llm: Llama, tokens: list[int], count: int, **options: Any) -> list[int]:
    return list(itertools.islice(llm.generate(tokens, **(options or {"temp": 0.0})), count))


def likeliest(row: Any) -> int:
    return int(np.argmax(row))


def test_tokens_are_evaluated_behind_one_another(llm: Llama) -> None:
    llm.eval(TOKENS[:5])
    llm.eval(np.array(TOKENS[5:9], np.int32))
    assert llm.n_tokens == 9
    assert llm.input_ids.shape == (llm.n_ctx(),)
    assert llm.input_ids.dtype == np.intc
    assert llm.input_ids[: llm.n_tokens].tolist() == llm._input_ids.tolist() == list(llm.eval_tokens) == TOKENS[:9]
    expected = llm.logits(TOKENS[:9])
    assert llm.n_tokens == 9  # the text of that call, which is the same
    np.testing.assert_allclose(llm.scores[-1], expected[-1], atol=1e-2 * np.ptp(expected))
    assert llm.scores.shape == (1, llm.n_vocab())
    assert len(llm.eval_logits) == 1
    llm.reset()
    assert llm.n_tokens == 0
    assert llm.scores.shape == (0, llm.n_vocab())
    assert list(llm.eval_tokens) == []


def test_logits_of_all_tokens_are_kept_where_it_is_asked_for(keeping: Llama) -> None:
    keeping.eval(TOKENS[:20])
    first = keeping.scores.copy()
    keeping.eval(TOKENS[20:30])
    assert keeping.scores.shape == (30, keeping.n_vocab())
    np.testing.assert_array_equal(keeping.scores[:20], first)
    expected = keeping.logits(TOKENS[:30])
    np.testing.assert_allclose(keeping._scores, expected, atol=1e-2 * np.ptp(expected))
    assert len(keeping.eval_logits) == 30
    assert keeping.sample(temp=0.0, idx=7) == likeliest(expected[7])
    assert keeping.sample(temp=0.0, idx=-23) == likeliest(expected[7])
    written(keeping, OTHERS, 3)  # another text: its logits are not known, and are evaluated
    assert keeping.n_tokens == len(OTHERS) + 2
    assert keeping.scores.shape == (len(OTHERS) + 2, keeping.n_vocab())
    np.testing.assert_allclose(keeping.scores[: len(OTHERS)], keeping.logits(OTHERS), atol=1e-2 * np.ptp(expected))


def test_one_can_go_back(llm: Llama) -> None:
    llm.eval(TOKENS[:40])
    llm.n_tokens = 30
    assert llm.input_ids[:31].tolist() == [*TOKENS[:30], 0]
    llm.eval(OTHERS)
    assert list(llm.eval_tokens) == TOKENS[:30] + OTHERS
    expected = llm.logits(TOKENS[:30] + OTHERS)[-1]
    assert llm.sample(temp=0.0) == likeliest(expected)
    with pytest.raises(GGUFError, match=r"n_tokens is 100, and 60 tokens are evaluated"):
        llm.n_tokens = 100
    with pytest.raises(GGUFError, match="n_tokens is -1"):
        llm.n_tokens = -1


@pytest.mark.parametrize("keeps", [False, True])
def test_sampling_is_of_the_current_text(path: Path, keeps: bool) -> None:
    with opened(path, logits_all=keeps) as llm:
        with pytest.raises(GGUFError, match="nothing to sample from"):
            llm.sample()
        expected = written(llm, TOKENS[:10], 6)
        llm.reset()
        llm.eval(TOKENS[:10])
        found = []
        for _ in range(6):
            found.append(llm.sample(temp=0.0))
            llm.eval(found[-1:])
        assert found == expected
        llm.set_seed(7)
        first = [llm.sample(temp=2.0, top_k=0) for _ in range(12)]
        llm.set_seed(7)
        assert [llm.sample(temp=2.0, top_k=0) for _ in range(12)] == first
        assert len(set(first)) > 1


def test_sampling_hears_of_the_text(llm: Llama) -> None:
    llm.eval(TOKENS[:10])
    seen: list[list[int]] = []

    def favour(ids: Any, logits: Any) -> Any:
        seen.append(ids.tolist())
        logits[3] = 1e4
        return logits

    assert llm.sample(temp=0.0, logits_processor=[favour]) == 3
    assert llm.sample(temp=0.0, logits_processor=favour, idx=9) == 3
    assert seen == [TOKENS[:10]] * 2
    best = llm.sample(temp=0.0)
    assert best != 3
    llm.eval([best])
    again = llm.sample(temp=0.0)
    penalised = llm.sample(temp=0.0, repeat_penalty=1e6, logits_processor=lambda _, row: abs(row))
    assert penalised not in llm._input_ids
    assert llm.sample(temp=0.0, tfs_z=1.0, penalize_nl=True, mirostat_mode=0, mirostat_tau=5.0, typical_p=1.0) == again


def test_what_sampling_cannot_do(llm: Llama) -> None:
    llm.eval(TOKENS[:10])
    with pytest.raises(GGUFError, match="idx is 10, and 10 tokens"):
        llm.sample(idx=10)
    with pytest.raises(GGUFError, match=r"token 4 were not kept.*logits_all"):
        llm.sample(idx=4)
    with pytest.raises(GGUFError, match="logits_processor is 5"):
        llm.sample(logits_processor=5)
    with pytest.raises(GGUFError, match="grammar is 7"):
        llm.sample(grammar=7)
    with pytest.raises(TypeError, match="unknown sampling option 'heat'"):
        llm.sample(heat=1.0)
    with pytest.warns(UserWarning, match="tfs_z has no effect"):
        llm.sample(tfs_z=0.5)


def test_generate_goes_on_from_what_is_evaluated(llm: Llama) -> None:
    """As llama-cpp-python's own tests have it: the text and one token less than was produced is evaluated."""
    expected = written(llm, TOKENS[:8], 5)
    assert llm.n_tokens == 8 + 5 - 1
    llm.reset()
    llm.eval(TOKENS[:8])
    assert llm.sample(temp=0.0, idx=7) == expected[0]
    assert written(llm, TOKENS[:8], 5) == expected
    llm.eval(OTHERS)
    assert written(llm, TOKENS[:8], 5) == expected
    llm.reset()
    llm.eval(TOKENS[:5])
    assert written(llm, TOKENS[5:8], 5, reset=False, temp=0.0) == expected
    assert llm.n_tokens == 8 + 5 - 1


def test_criteria_end_a_text_before_the_token(llm: Llama) -> None:
    expected = written(llm, TOKENS[:8], 6)
    heard: list[list[int]] = []

    def enough(ids: Any, logits: Any) -> bool:
        assert logits.shape == (llm.n_vocab(),)
        heard.append(ids.tolist())
        return len(ids) >= 8 + 4

    stream = llm.generate(TOKENS[:8], temp=0.0, stopping_criteria=[enough])
    assert list(stream) == expected[:4]
    assert stream.finish == "stop"
    assert heard == [TOKENS[:8] + expected[:n] for n in range(5)]
    assert list(llm.generate(TOKENS[:8], temp=0.0, stopping_criteria=lambda ids, row: True)) == []
    with pytest.raises(GGUFError, match="stopping_criteria is"):
        llm.generate(TOKENS[:8], stopping_criteria=[enough, 3])
    with pytest.raises(ZeroDivisionError):
        next(llm.generate(TOKENS[:8], stopping_criteria=lambda ids, row: 1 / 0))


def test_seeds_go_on_from_one_another() -> None:
    llm = fake_llama(seed=3, rows=lambda held: np.zeros(VOCAB, np.float32))
    first, second = (written(llm, [1], 8, temp=1.0) for _ in range(2))
    assert first != second
    llm.set_seed(3)
    assert written(llm, [1], 8, temp=1.0) == first
    llm.set_seed(-1)
    assert llm._next_seed() is None
    with pytest.raises(GGUFError, match="seed is 'a'"):
        llm.set_seed("a")  # type: ignore[arg-type]


@pytest.mark.parametrize("keeps", [False, True])
def test_a_state_is_gone_back_to(path: Path, keeps: bool) -> None:
    with opened(path, logits_all=keeps, seed=5) as llm, opened(path, logits_all=keeps) as other:
        llm.eval(TOKENS[:150])
        state = llm.save_state()
        assert (state.n_tokens, state.input_ids.tolist(), len(state.scores)) == (150, TOKENS[:150], 150 if keeps else 1)
        expected = written(llm, TOKENS[:150], 6, temp=1.5)
        assert written(llm, TOKENS[:150], 6, temp=1.5) != expected
        for one in (llm, other):
            one.eval(OTHERS)
            one.load_state(state)
            assert one.n_tokens == 150
            assert one.input_ids[:150].tolist() == TOKENS[:150]
            np.testing.assert_array_equal(one.scores, state.scores)
            assert written(one, TOKENS[:150], 6, temp=1.5) == expected
            assert one.n_tokens == 155


def steps_of(llm: Llama, call: Callable[[], Any]) -> int:
    """How many tokens a call evaluates."""
    counts: list[int] = []
    step = llm.engine.step

    def counted(chunks: Any, out: Any = None) -> Any:
        counts.extend(len(chunk.tokens) for chunk in chunks)
        return step(chunks, out)

    llm.engine.step = counted  # type: ignore[method-assign]
    try:
        call()
    finally:
        del llm.engine.step
    return sum(counts)


def test_nothing_is_evaluated_for_a_state(path: Path) -> None:
    with opened(path) as llm, opened(path) as other:
        llm.eval(TOKENS[:150])
        states: list[LlamaState] = []
        assert steps_of(llm, lambda: states.append(llm.save_state())) == 0
        assert steps_of(other, lambda: other.load_state(states[0])) == 0
        assert steps_of(other, lambda: other.sample()) == 0
        assert steps_of(other, lambda: other.eval(OTHERS)) == len(OTHERS)


def test_the_state_of_any_text(path: Path) -> None:
    with opened(path) as llm, opened(path) as other:
        llm.eval(OTHERS)
        state = llm.state_of(TOKENS[:140])
        assert list(llm.eval_tokens) == TOKENS[:140]
        other.load_state(state)
        assert steps_of(other, lambda: written(other, TOKENS[:140], 1)) == 1
        assert written(other, TOKENS[:140], 4) == written(llm, TOKENS[:140], 4)


def test_a_state_of_nothing(llm: Llama) -> None:
    state = llm.save_state()
    assert (state.n_tokens, state.scores.shape) == (0, (0, llm.n_vocab()))
    llm.eval(OTHERS)
    llm.load_state(LlamaState.of_bytes(state.llama_state))
    assert llm.n_tokens == 0


def test_states_go_through_files(path: Path, tmp_path: Path) -> None:
    with opened(path, seed=9) as llm, opened(path) as other:
        llm.eval(TOKENS[:140])
        state = llm.save_state()
        state.save(tmp_path / "a.state")
        assert [p.name for p in tmp_path.iterdir()] == ["a.state"]
        found = LlamaState.load(tmp_path / "a.state")
        assert found.llama_state == state.llama_state == pickle.loads(pickle.dumps(state)).llama_state
        assert found.model == llm.model_fingerprint == other.model_fingerprint
        other.load_state(found)
        assert other._seed == 9
        assert written(other, TOKENS[:140], 5) == written(llm, TOKENS[:140], 5)
        with pytest.raises(GGUFError, match="cannot read"):
            LlamaState.load(tmp_path / "no.state")
        with pytest.raises(GGUFError, match="cannot write"):
            state.save(tmp_path / "no" / "a.state")


def test_states_that_are_refused(path: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "o.gguf", {"context_length": 256, "rope.freq_base": 5000.0})
    with opened(path) as llm, opened(other) as wrong, opened(path, n_ctx=100) as short:
        llm.eval(TOKENS[:150])
        state = llm.save_state()
        for one, why in ((wrong, "is not of"), (short, "the prompt is 150 tokens and the context holds 100")):
            one.eval(OTHERS)
            with pytest.raises(GGUFError, match=why):
                one.load_state(state)
            assert list(one.eval_tokens) == OTHERS
        with opened(path, cache_type_k="bf16") as typed, pytest.raises(GGUFError, match=r"is of a cache of .* f16"):
            typed.load_state(state)
        for name, value, why in (
            ("llama_state", b"", "bytes are wanted"), ("llama_state", "x", "bytes are wanted"),
            ("scores", None, "scores of the state"), ("scores", np.zeros((1, 5), np.float32), "scores of the state"),
            ("input_ids", np.zeros(150, np.intc), "input_ids of the state"), ("seed", "a", "seed of the state"),
        ):  # fmt: skip
            changed = llm.save_state()
            setattr(changed, name, value)
            with pytest.raises(GGUFError, match=why):
                llm.load_state(changed)
        found = snapshots.decode(state.llama_state)
        assert found.snapshot is not None
        rows = found.snapshot.groups[0].rows.copy()
        rows[40, 1] |= 0x7C
        groups = (replace(found.snapshot.groups[0], rows=rows),)
        data = snapshots.encode(replace(found, snapshot=replace(found.snapshot, groups=groups)))
        llm.reset()
        llm.eval(OTHERS)
        with pytest.raises(GGUFError, match="not finite"):
            llm.load_state(LlamaState.of_bytes(data))
        assert list(llm.eval_tokens) == OTHERS
        llm.load_state(state)
        with pytest.raises(GGUFError, match="a LlamaState is wanted"):
            llm.load_state(b"GGUF")  # type: ignore[arg-type]
        assert list(llm.eval_tokens) == TOKENS[:150]


def test_states_are_saved_and_loaded_while_others_write(path: Path) -> None:
    with opened(path, n_parallel=2) as llm:
        expected = written(llm, OTHERS, 40)
        llm.eval(TOKENS[:130])
        state = llm.save_state()
        found: list[list[int]] = []
        threads = [threading.Thread(target=lambda: found.append(written(llm, OTHERS, 40))) for _ in range(3)]
        for thread in threads:
            thread.start()
        after = []
        for _ in range(5):
            llm.load_state(state)
            after.append(written(llm, TOKENS[:130], 3))
        for thread in threads:
            thread.join()
        assert found == [expected] * 3
        assert len({tuple(some) for some in after}) == 1


def test_a_state_is_loaded_beside_a_text_that_nobody_goes_on_with(path: Path) -> None:
    """One place only, and it is taken."""
    with opened(path) as llm:
        llm.eval(TOKENS[:20])
        state = llm.save_state()
        stream = llm.generate(OTHERS, temp=0.0)
        first = next(stream)
        llm.load_state(state)
        assert llm.n_tokens == 20
        assert [first, *itertools.islice(stream, 3)] == written(llm, OTHERS, 4)


def test_a_text_goes_on_after_it_was_saved(path: Path) -> None:
    with opened(path) as llm:
        expected = written(llm, OTHERS, 8)
        stream = llm.generate(OTHERS, temp=0.0, limit=8)
        found = [next(stream) for _ in range(3)]
        state = llm.save_state()
        assert state.input_ids.tolist() == OTHERS + expected[:2]
        assert found + list(stream) == expected
        llm.load_state(state)
        assert written(llm, OTHERS + expected[:3], 5) == expected[3:]


def test_scores_keep_what_is_of_the_text() -> None:
    scores, rows = Scores(2), np.arange(20, dtype=np.float32).reshape(10, 2)
    scores.add([1, 2, 3], 0, rows[:3])
    scores.add([1, 2, 3, 4], 3, rows[3:4])
    np.testing.assert_array_equal(scores.rows([1, 2, 3, 4], 0), rows[:4])
    np.testing.assert_array_equal(scores.rows([1, 2], 1), rows[1:2])
    assert scores.rows([1, 5], 0) is None
    scores.add([1, 2, 9], 2, rows[5:6])
    np.testing.assert_array_equal(scores.rows([1, 2, 9], 0), rows[[0, 1, 5]])
    scores.add([7, 8, 9, 9], 3, rows[:1])
    assert scores.rows([7, 8, 9, 9], 2) is None
    np.testing.assert_array_equal(scores.rows([7, 8, 9, 9], 3), rows[:1])
    scores.only([4, 4], rows[2])
    assert scores.rows([4, 4], 0) is None
    np.testing.assert_array_equal(scores.rows([4, 4], 1), rows[2:3])
    scores.clear()
    assert scores.rows([4, 4], 1) is None


def test_what_llama_cpp_users_ask_a_model(llm: Llama) -> None:
    assert (llm.token_nl(), llm.token_eot(), llm.token_cls(), llm.token_sep()) == (-1, -1, -1, -1)
    assert llm.n_ctx_train() == 256
    assert llm.pooling_type() == 0
    assert not llm._is_recurrent
    assert not llm._is_hybrid
    for name in ("ctx", "model"):
        with pytest.raises(AttributeError, match=r"there is no llama\.cpp"):
            getattr(llm, name)


@pytest.mark.parametrize(
    ("kind", "texts", "more", "expected"),
    [
        ("gpt2", ["a", "Ċ", "<|im_end|>", "<|endoftext|>"], {}, {"nl": 1, "eot": 2, "cls": 11, "sep": -1}),
        ("gpt2", ["a", "Ċ", "b"], {"eot_token_id": 2, "bos_token_id": 0}, {"nl": 1, "eot": 2, "cls": 0}),
        ("llama", ["<unk>", "<s>", "</s>", "<0x0A>", "\n"], {}, {"nl": 3, "eot": -1, "cls": 1}),
        ("llama", ["<unk>", "<s>", "</s>", "\n"], {}, {"nl": 3}),
        ("llama", ["<unk>", "<s>", "</s>", "b"], {"padding_token_id": 2}, {"nl": 2}),
        ("bert", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"], {"padding_token_id": 0, "bos_token_id": 2,
         "seperator_token_id": 3, "unknown_token_id": 1}, {"nl": 0, "cls": 2, "sep": 3}),
    ],
)  # fmt: skip
def test_special_tokens(kind: str, texts: list[str], more: Any, expected: Any, tmp_path: Path) -> None:
    """llama.cpp: src/llama-vocab.cpp."""
    texts = texts + [f"w{i}" for i in range(VOCABULARY - len(texts))]
    keys = {"model": kind, "tokens": texts, "scores": [0.0] * VOCABULARY, "token_type": [1] * VOCABULARY, **more}
    keys |= {"pre": "gpt-2", "merges": ["a b"]} if kind == "gpt2" else {}
    said = {**metadata(SIZES), **{f"tokenizer.ggml.{key}": value for key, value in keys.items()}}
    gguf.write(tmp_path / "m.gguf", said, weights(SIZES, VOCABULARY, "F32"))
    with opened(tmp_path / "m.gguf") as llm:
        assert {name: getattr(llm, f"token_{name}")() for name in expected} == expected


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [([], [1], 0), ([1, 2, 3], [1, 2, 4], 2), ((1, 2), [1, 2, 3], 2), (np.array([5, 6]), [5, 6], 2), ([1], [2], 0)],
)
def test_prefixes_of_tokens(a: Any, b: Any, count: int) -> None:
    assert Llama.longest_token_prefix(a, b) == Llama.longest_token_prefix(b, a) == count


def test_logits_as_logarithms_of_probabilities() -> None:
    logits = np.random.default_rng(1).standard_normal((4, 9)).astype(np.float32) * 50
    logits[1, 3] = -np.inf
    for axis in (-1, 0):
        wide = logits.astype(np.float64)
        wide -= wide.max(axis=axis, keepdims=True)
        expected = wide - np.log(np.exp(wide).sum(axis=axis, keepdims=True))
        found = Llama.logits_to_logprobs(logits, axis)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert ggufpy.Llama.logits_to_logprobs([0.0, 0.0]).tolist() == pytest.approx([-np.log(2)] * 2)
