"""Arguments of a wrong kind: one line that names the argument, what came and what is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_vocabulary import write_vocabulary
from llm_fakes import VOCAB, fake_llama

import ggufpy
from ggufpy.generate.loading import LoadOptions
from ggufpy.quantizer import QuantizeOptions, quantize_file
from ggufpy.support import checks

NAN = float("nan")
NO_NUMBERS: tuple[Any, ...] = ("5", b"5", [], {}, object(), 1j, True, np.array([1, 2]))
NO_WHOLE = (*NO_NUMBERS, 1.5, NAN)
NO_REAL = (*NO_NUMBERS, NAN, float("inf"), 10**400)
NO_TEXT: tuple[Any, ...] = (5, b"x", [], {}, 1.5, np.zeros((2, 2)))
NO_FLAG: tuple[Any, ...] = ("yes", 1, 0, [], np.zeros((2, 2)))
NO_PATH: tuple[Any, ...] = (None, 5, 1.5, b"x.gguf", [], {}, object())
NO_IDS: tuple[Any, ...] = (None, 5, "abc", b"abc", {1: 2}, {1}, [1.0], ["1"], [True], [None], [-1], [VOCAB], [[1]],
                           np.array([1.0]), np.array(3), [10**30])  # fmt: skip

LOADING = {
    "n_ctx": NO_WHOLE, "n_threads": NO_WHOLE, "n_batch": NO_WHOLE, "n_gpu_layers": NO_WHOLE, "lookup": NO_WHOLE,
    "n_parallel": NO_WHOLE, "cache_type_k": NO_TEXT, "cache_type_v": NO_TEXT, "verbose": NO_FLAG,
    "seed": (*NO_WHOLE, -2, 2**64), "draft_model": NO_PATH[1:],
}  # fmt: skip
SAMPLING = {
    "temperature": NO_REAL, "top_k": NO_WHOLE, "top_p": (*NO_REAL, -1, 2), "min_p": NO_REAL, "typical_p": NO_REAL,
    "repeat_penalty": (*NO_REAL, 0), "repeat_last_n": NO_WHOLE, "presence_penalty": NO_REAL,
    "frequency_penalty": NO_REAL, "seed": (*NO_WHOLE, -2, 2**64), "top_n_sigma": NO_REAL,
    "xtc_probability": (*NO_REAL, 2), "xtc_threshold": (*NO_REAL, -1),
    "logit_bias": (5, "x", b"x", [1], {"x": 1}, {1: "x"}, {1: None}, {-1: 1.0}, {1: NAN}, {VOCAB: 1.0}),
}  # fmt: skip
COMPLETION = {
    **SAMPLING, "max_tokens": NO_WHOLE, "stream": NO_FLAG, "stop": (5, b"x", [5], [""], {"a": 1}, 1.5),
    "model": NO_TEXT, "echo": NO_FLAG, "logprobs": (*NO_WHOLE, -1, VOCAB + 1),
}  # fmt: skip
CHAT = {**COMPLETION, "logprobs": NO_FLAG, "top_logprobs": COMPLETION["logprobs"]}
del CHAT["echo"]
OTHER_NAMES = {"temperature": "temp", "typical_p": "typical"}


def cases(table: dict[str, Sequence[Any]]) -> list[Any]:
    """(name, value) of each wrong value."""
    return [pytest.param(name, v, id=f"{name}-{i}") for name, values in table.items() for i, v in enumerate(values)]


def refused(name: str, call: Callable[[], object]) -> None:
    """`call` raises GGUFError with one line that has `name` as a word."""
    with pytest.raises(ggufpy.GGUFError) as caught:
        call()
    message = str(caught.value)
    assert re.search(rf"\b{re.escape(OTHER_NAMES.get(name, name))}\b", message), message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(("name", "value"), cases(LOADING))
def test_llama(name: str, value: object, tmp_path: Path) -> None:
    refused(name, lambda: ggufpy.Llama(tmp_path / "none.gguf", **{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NO_PATH)
def test_paths(value: Any, tmp_path: Path) -> None:
    refused("model_path", lambda: ggufpy.Llama(value))
    refused("path", lambda: ggufpy.open(value))
    refused("source", lambda: ggufpy.load_tokenizer(value))
    refused("path", lambda: ggufpy.write(value, {}, {}))
    refused("path", lambda: ggufpy.Writer(value, {}, []))


def test_no_name_is_no_folder() -> None:
    with pytest.raises(ggufpy.GGUFError, match="no such file: ''"):
        ggufpy.Llama("")


@pytest.mark.parametrize(("name", "value"), cases(COMPLETION))
def test_completion(name: str, value: object) -> None:
    llm = fake_llama()
    refused(name, lambda: llm.create_completion("a", **{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), cases(CHAT))
def test_chat_completion(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value} | ({"logprobs": True} if name == "top_logprobs" else {})
    llm = fake_llama()
    refused(name, lambda: llm.create_chat_completion([{"role": "user", "content": "a"}], **options))


@pytest.mark.parametrize("value", [*NO_IDS, []])
def test_prompts(value: Any) -> None:
    llm = fake_llama()
    if isinstance(value, list) and value in (["1"], [[1]]):  # several prompts
        assert len(llm(value)["choices"]) == 1
    elif value != "abc":
        refused("prompt", lambda: llm(value))


@pytest.mark.parametrize("value", NO_IDS)
def test_token_ids(value: Any) -> None:
    llm = fake_llama()
    for call in (llm.eval, llm.logits, llm.generate):
        refused("tokens", lambda call=call: call(value))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    cases({"sampling": (5, "x", {}), "ignore_eos": NO_FLAG, "context_shift": NO_FLAG, "keep": (*NO_WHOLE, -2)}),
)
def test_generate(name: str, value: object) -> None:
    refused(name, lambda: fake_llama().generate([1], **{name: value}))  # type: ignore[arg-type]


def test_names_that_there_are_not_are_pythons_own_error() -> None:
    llm = fake_llama()
    with pytest.raises(TypeError, match="hot"):
        llm("a", hot=1)
    with pytest.raises(TypeError, match="hot"):
        ggufpy.Llama("smollm2", hot=1)  # type: ignore[call-arg]


def test_null_as_json_has_it_is_the_default() -> None:
    llm = fake_llama()
    nothing = dict.fromkeys([*SAMPLING, "max_tokens", "stream", "stop", "model", "echo", "logprobs"])
    nothing["temperature"] = 0.0  # type: ignore[assignment]
    assert llm.create_completion("x", **nothing)["choices"][0]["text"] == "yz"  # type: ignore[arg-type, index, call-overload]


def test_numpys_numbers_are_numbers() -> None:
    found = ggufpy.Sampling(temp=np.float32(0.5), top_k=np.int64(3), repeat_last_n=np.int32(2), seed=np.uint8(1))  # type: ignore[arg-type]
    assert {type(v) for v in (found.top_k, found.repeat_last_n, found.seed)} == {int}
    assert type(found.temp) is float
    LoadOptions(n_ctx=np.int64(8)).check()  # type: ignore[arg-type]
    assert fake_llama().logits(np.array([1, 2], np.int16)).shape == (2, VOCAB)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer of 256 bytes."""
    path = tmp_path_factory.mktemp("arguments") / "v.gguf"
    write_vocabulary(path)
    return ggufpy.load_tokenizer(path)


def test_tokenizers(vocabulary: Any) -> None:
    for value in (None, 5, 1.5, [], object()):
        refused("text", lambda value=value: vocabulary.encode(value))
    for value in NO_FLAG:
        refused("add_special", lambda value=value: vocabulary.encode("a", add_special=value))
        refused("parse_special", lambda value=value: vocabulary.encode("a", parse_special=value))
        refused("special", lambda value=value: vocabulary.decode([1], special=value))
    for value in (None, 5, "x", b"x", {1: 2}, 1.5, np.array(3)):
        refused("ids", lambda value=value: vocabulary.decode(value))
        refused("ids", lambda value=value: vocabulary.decode_bytes(value))
    for value in ([None], ["x"], [1.5], [True], [-1], [256], [10**30], [[1]], np.array([1.5])):
        refused("token", lambda value=value: vocabulary.decode(value))
    assert vocabulary.encode("a") == vocabulary.encode(b"a") == vocabulary.encode(bytearray(b"a")) == [97]


def test_llamas_tokenize_takes_text_and_bytes() -> None:
    llm = fake_llama()
    for value in (None, 5, "x", b"x", 1.5):
        refused("tokens", lambda value=value: llm.detokenize(value))  # type: ignore[misc]
    assert llm.tokenize("ab") == llm.tokenize(b"ab") == [256, 97, 98]
    for value in NO_FLAG:
        refused("add_bos", lambda value=value: llm.tokenize(b"a", add_bos=value))  # type: ignore[misc]
        refused("special", lambda value=value: llm.tokenize(b"a", special=value))  # type: ignore[misc]


def test_types_and_arrays() -> None:
    x, blocks = np.zeros((1, 32), np.float32), np.zeros((1, 18), np.uint8)
    for value in (None, 5, b"Q4_0", [], np.zeros((2, 2))):
        refused("type", lambda value=value: ggufpy.quantize(x, value))
        refused("type", lambda value=value: ggufpy.dequantize(blocks, value))
    for value in (None, "x", b"x", {}, object(), [[1.0], [1.0, 2.0]], [None]):
        refused("x", lambda value=value: ggufpy.quantize(value, "Q4_0"))
        refused("Q4_0", lambda value=value: ggufpy.dequantize(value, "Q4_0"))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    info = ggufpy.TensorInfo("a", (1, 32), "F32")
    for value in (None, 5, "x", [], b"x"):
        refused("metadata", lambda value=value: ggufpy.write(path, value, {}))
        refused("tensors", lambda value=value: ggufpy.write(path, {}, value))
    for value in (None, 5, "x", [None], ["a"], {"a": info}):
        refused("tensors", lambda value=value: ggufpy.Writer(path, {}, value))
    for value in (None, 5, "x", [1.5], [None]):
        refused("shape", lambda value=value: ggufpy.Writer(path, {}, [ggufpy.TensorInfo("a", value, "F32")]))
    for value in ("3", None, 1.5, 4, np.zeros((2, 2))):
        refused("version", lambda value=value: ggufpy.write(path, {}, {}, version=value))
    for value in (5, None, [], b"little", "middle"):
        refused("byteorder", lambda value=value: ggufpy.write(path, {}, {}, byteorder=value))
    for value in (None, 5, b"uint8", np.zeros((2, 2))):
        refused("type", lambda value=value: ggufpy.write(path, {"a": ggufpy.Typed(value, 1)}, {}))
    for value in (np.zeros((2, 2)), [1, 2], None):
        refused("uint8", lambda value=value: ggufpy.write(path, {"a": ggufpy.Typed("uint8", value)}, {}))
    refused("array", lambda: ggufpy.write(path, {"a": ggufpy.Typed("array[uint8]", np.array(3))}, {}))
    for value in (None, 5, "x", [1.0], object()):
        with ggufpy.Writer(path, {}, [info]) as writer:
            refused("tensor", lambda value=value, writer=writer: writer.append("a", value))
            writer.append("a", np.zeros((1, 32), np.float32))
    with ggufpy.Writer(path, {}, [info]) as writer:
        refused("name", lambda: writer.append(5, b""))  # type: ignore[arg-type]
        writer.append("a", np.zeros((1, 32), np.float32))


QUANTIZING = {
    "imatrix": NO_PATH[1:], "pure": NO_FLAG, "leave_output_tensor": NO_FLAG, "keep_split": NO_FLAG, "dry_run": NO_FLAG,
    "allow_requantize": NO_FLAG, "allow_nonfinite": NO_FLAG, "threads": (*NO_WHOLE, 0), "target_bpw": NO_REAL,
    "tensor_types": (5, "attn_v=Q8_0", ["attn_v"], [("a",)], [(1, "Q8_0")], {"a": 1}), "output_tensor_type": NO_TEXT,
    "token_embedding_type": NO_TEXT,
}  # fmt: skip
SAID = {"output_tensor_type": "type", "token_embedding_type": "type", "target_bpw": "target"}


@pytest.mark.parametrize(("name", "value"), cases(QUANTIZING))
def test_quantize_options(name: str, value: object) -> None:
    with pytest.raises(ggufpy.GGUFError) as caught:
        QuantizeOptions(**{name: value})  # type: ignore[arg-type]
    assert SAID.get(name, name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quantize_file(tmp_path: Path) -> None:
    path, target = tmp_path / "v.gguf", tmp_path / "out.gguf"
    write_vocabulary(path)
    for value in NO_PATH:
        refused("path", lambda value=value: quantize_file(value, target, "Q8_0"))
        refused("target", lambda value=value: quantize_file(path, value, "Q8_0"))
    for value in NO_TEXT:
        refused("type", lambda value=value: quantize_file(path, target, value))
    for value in (5, "x", {}, []):
        refused("options", lambda value=value: quantize_file(path, target, "Q8_0", value))
    refused("importance matrix", lambda: quantize_file(path, target, "Q8_0", QuantizeOptions(imatrix="a\0imatrix")))
    assert not target.exists()


def test_what_came_is_shown_short_and_on_one_line() -> None:
    assert checks.shown("x") == "'x'"
    assert checks.shown(np.zeros((2, 2))) == "ndarray array([[0., 0... [0., 0.]])"
    assert len(checks.shown("x" * 10**6)) < 60
    assert len(checks.shown(list(range(10**6)))) < 60
