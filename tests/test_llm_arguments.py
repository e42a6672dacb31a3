"""Arguments of `llama_cpp.Llama`: what they change in a model, and what stands for them on small real models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import write_model
from llm_fakes import parts

import ggufpy
from ggufpy import format as gguf
from ggufpy.format.overlay import overlaid
from ggufpy.generate import loading
from ggufpy.generate.loading import LoadOptions
from ggufpy.tokenizers.base import Tokenizer

PROMPT = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf")


def logits(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    with ggufpy.Llama(path, n_ctx=32, n_threads=1, **options) as llm:
        return llm.logits(PROMPT)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"rope_freq_base": 500.0}, {"rope.freq_base": 500.0}),
        ({"rope_freq_scale": 0.5}, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
        (
            {"rope_scaling_type": 2, "rope_freq_scale": 0.25, "yarn_orig_ctx": 8, "yarn_beta_fast": 16.0},
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 8,
                "rope.scaling.yarn_beta_fast": 16.0,
            },
        ),
        ({"kv_overrides": {"llama.rope.freq_base": 77.0}}, {"rope.freq_base": 77.0}),
    ],
)
def test_arguments_are_as_good_as_metadata(options: Any, keys: dict[str, Any], model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", keys)
    found = logits(model, **options)
    np.testing.assert_array_equal(found, logits(other))
    assert not np.array_equal(found, logits(model))


def test_defaults_of_llama_cpp_change_nothing(model: Path) -> None:
    given: dict[str, Any] = {"rope_freq_base": 0.0, "rope_freq_scale": 0.0, "yarn_ext_factor": -1.0, "yarn_orig_ctx": 0}
    given |= {"yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "rope_scaling_type": -1}
    given |= {"pooling_type": -1, "attention_type": -1, "use_mmap": True, "use_mlock": False, "n_gpu_layers": 0}
    given |= {"split_mode": 1, "main_gpu": 0, "tensor_split": None, "kv_overrides": None, "n_ubatch": 512}
    given |= {"n_threads_batch": None, "logits_all": False, "offload_kqv": True, "flash_attn": False, "numa": False}
    given |= {"op_offload": None, "swa_full": None, "no_perf": False, "lora_base": None, "tokenizer": None}
    given |= {"type_k": None, "type_v": None, "chat_format": None, "chat_handler": None, "draft_model": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(logits(model, **given), logits(model))


def test_types_of_the_cache_by_ggmls_numbers(model: Path) -> None:
    named = logits(model, cache_type_k="bf16", cache_type_v="bf16")
    np.testing.assert_array_equal(logits(model, type_k=30, type_v="bf16"), named)


def test_metadata_over_a_file(model: Path) -> None:
    with gguf.open(model) as file:
        over = overlaid(file, {"{arch}.context_length": 5, "new.key": "text", "new.flag": True}).metadata
        assert over["llama.context_length"] == 5
        assert over.type("llama.context_length") == file.metadata.type("llama.context_length")
        assert over["new.key"] == "text"
        assert over["new.flag"] is True
        assert "new.key" not in file.metadata
        assert list(over) == [*file.metadata, "new.key", "new.flag"]
        assert len(over) == len(file.metadata) + 2
        assert over["llama.block_count"] == file.metadata["llama.block_count"]
        with pytest.raises(ggufpy.GGUFError, match="no metadata key"):
            over["nothing"]


def test_what_replaces_metadata_is_not_for_a_draft_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what the file says of its vocabulary, which both have."""
    asked: list[LoadOptions] = []

    def load(name: str, options: LoadOptions) -> Any:
        asked.append(options)
        return parts()

    monkeypatch.setattr(loading, "load_parts", load)
    changes = {"{arch}.rope.freq_base": 5.0, "llama.block_count": 2, "tokenizer.ggml.eos_token_id": 3}
    ggufpy.Llama.from_parts(parts(), None, LoadOptions(draft_model="small", changes=changes)).close()
    assert asked[0].changes == {"tokenizer.ggml.eos_token_id": 3}


@pytest.fixture(scope="module")
def vocabulary(shared: Path) -> ggufpy.Llama:
    keys = {f"tokenizer.ggml.fim_{part}_token_id": 1000 + i for i, part in enumerate(("pre", "suf", "mid"))}
    return ggufpy.Llama(shared / "vocab" / "ggml-vocab-qwen2.gguf", vocab_only=True, kv_overrides=keys)


def test_a_vocabulary_alone(vocabulary: ggufpy.Llama) -> None:
    assert vocabulary.detokenize(vocabulary.tokenize(b"Hello World")) == b"Hello World"
    assert vocabulary.n_vocab() == vocabulary.tokenizer.n_vocab
    for call in (lambda: vocabulary("a"), lambda: vocabulary.logits([1]), lambda: vocabulary.eval([1])):
        with pytest.raises(ggufpy.GGUFError, match="vocab_only"):
            call()  # type: ignore[no-untyped-call]


def test_a_vocabulary_that_is_reported(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ggufpy.Llama(shared / "vocab" / "ggml-vocab-qwen2.gguf", vocab_only=True, verbose=True) as llm:
        assert llm.tokenize(b"a")
    assert "tokens, no weights" in capsys.readouterr().err


def test_filling_in(vocabulary: ggufpy.Llama) -> None:
    a, b = vocabulary.tokenizer.encode("a"), vocabulary.tokenizer.encode("b")
    assert vocabulary.infill_tokens("a", "b") == [1000, *a, 1001, *b, 1002]
    vocabulary._spm_infill = True
    assert vocabulary.infill_tokens("a", "b") == [1001, *b, 1000, *a, 1002]
    vocabulary._spm_infill = False


def test_a_suffix_is_no_beginning(shared: Path) -> None:
    """A vocabulary of sentencepiece's kind puts a space before the first word, which is not there in the middle."""
    keys = {f"tokenizer.ggml.fim_{part}_token_id": 1000 + i for i, part in enumerate(("pre", "suf", "mid"))}
    with ggufpy.Llama(shared / "vocab" / "ggml-vocab-llama-spm.gguf", vocab_only=True, kv_overrides=keys) as llm:
        bos, ids = llm.token_bos(), llm.tokenizer.vocab.ids
        assert llm.infill_tokens("def", "return x") == [bos, 1000, ids["▁def"], 1001, ids["return"], ids["▁x"], 1002]
        assert llm.infill_tokens("def", " x") == [bos, 1000, ids["▁def"], 1001, ids["▁x"], 1002]
        assert llm.infill_tokens("def", "") == [bos, 1000, ids["▁def"], 1001, 1002]


@pytest.mark.parametrize(("name", "framed"), [("bert-bge", False), ("llama-spm", False), ("llama-spm", True)])
def test_pairs_of_texts(name: str, framed: bool, shared: Path) -> None:
    path = shared / "vocab" / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    keys = {"tokenizer.ggml.add_eos_token": framed, "tokenizer.ggml.add_sep_token": framed}
    keys = {**keys, "tokenizer.ggml.seperator_token_id": 2} if framed else {}
    with ggufpy.Llama(path, vocab_only=True, kv_overrides=keys) as llm:
        tokenizer: Tokenizer = llm.tokenizer
        bos, a, b = tokenizer.bos, tokenizer.encode("a"), tokenizer.encode("b")
        assert tokenizer.pair("a", "b") == ([bos, *a, 2, 2, *b, 2] if framed else [bos, *a, *b])
