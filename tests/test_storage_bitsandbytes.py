"""bitsandbytes: its layouts written out here, packed from known codes and decoded; what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import Bf16

from ggufpy.convert import storage
from ggufpy.errors import GGUFError

CONFIG: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
TABLE = np.sort(np.random.default_rng(0).uniform(-1, 1, 16)).astype(np.float32)
MAP = np.linspace(-1, 1, 256).astype(np.float32)


def four(rng: Any, shape: Any, block: int, nested: bool, kind: str = "nf4") -> tuple[stored.Arrays, Any]:
    """Tensors by what follows "weight", and the weights."""
    count = int(np.prod(shape))
    codes = rng.integers(0, 16, count + count % 2)
    said: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    blocks = -(-count // block)
    arrays: stored.Arrays = {
        "": (codes[::2] << 4 | codes[1::2]).astype(np.uint8)[:, None], ".quant_map": TABLE,
    }  # fmt: skip
    if nested:
        small = rng.integers(0, 256, blocks).astype(np.uint8)
        outer = rng.random(-(-blocks // 256)).astype(np.float32) + 1
        said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.3}
        arrays |= {".absmax": small, ".nested_absmax": outer, ".nested_quant_map": MAP}
        absmax = MAP[small] * np.repeat(outer, 256)[:blocks] + np.float32(0.3)
    else:
        absmax = arrays[".absmax"] = rng.random(blocks).astype(np.float32)
    arrays[f".quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    weights = TABLE[codes[:count]] * np.repeat(absmax, block)[:count]
    return arrays, weights.reshape(shape)


def full(arrays: Any, base: str = "a.b.weight") -> stored.Arrays:
    return {f"{base}{part}": value for part, value in arrays.items()}


def decode(arrays: Any, config: Any = CONFIG) -> Any:
    name, made = storage.logical({"quantization_config": config} if config else {}, stored.stored(arrays))
    assert name == "bitsandbytes"
    return made


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 70)), st.sampled_from((64, 128, 1024)), st.booleans(),
    st.sampled_from(("nf4", "fp4")), st.integers(0, 99),
)  # fmt: skip
def test_four_bits_are_codes_of_a_table_times_the_largest(
    shape: Any, block: int, nested: bool, kind: str, seed: int
) -> None:
    arrays, truth = four(np.random.default_rng(seed), shape, block, nested, kind)
    made = decode({**full(arrays), "norm.weight": np.ones(3, np.float16), "a.b.bias": np.ones(3, np.float16)})
    assert sorted(made) == ["a.b.bias", "a.b.weight", "norm.weight"]
    stored.check_rows(made["a.b.weight"], truth)


def test_codes_in_other_dtypes_experts_and_no_settings() -> None:
    arrays, truth = four(np.random.default_rng(1), (3, 8, 64), 64, True)
    bits = Bf16(0.0)
    bits.array = arrays[""].reshape(-1).view(np.uint16)[:, None]
    for other in (bits, arrays[""].view(np.int8), arrays[""].reshape(-1).view(np.float32)[:, None]):
        stored.check_rows(decode(full({**arrays, "": other}), None)["a.b.weight"], truth)


def test_int8_is_codes_times_the_largest_of_a_row() -> None:
    rng = np.random.default_rng(2)
    codes, largest = rng.integers(-127, 128, (24, 64)).astype(np.int8), rng.random(24).astype(np.float32) * 3
    arrays = {"a.weight": codes, "a.SCB": largest, "a.weight_format": np.array(0, np.uint8)}
    made = decode(arrays, {**CONFIG, "load_in_4bit": False, "load_in_8bit": True})
    assert list(made) == ["a.weight"]
    step = largest[:, None] * np.float32(7.874015718698502e-3)
    stored.check_rows(made["a.weight"], codes * largest[:, None] * np.float32(7.874015718698502e-3))
    stored.check_near(made["a.weight"], "Q8_0", 127 * step * 2.0**-11 * 1.01)


def test_the_nearest_blocks_of_four_bits() -> None:
    arrays, truth = four(np.random.default_rng(3), (16, 64), 64, False)
    stored.check_near(decode(full(arrays))["a.b.weight"], "Q8_0", np.abs(truth).max() / 250)
    arrays, _ = four(np.random.default_rng(3), (16, 40), 64, False)
    assert decode(full(arrays))["a.b.weight"].near is None


def state(**changes: Any) -> Any:
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [16, 64], **changes}
    return np.frombuffer(json.dumps(said).encode(), np.uint8)


STATE = ".quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("", None, "a.b.weight' is missing"), (".absmax", None, "a.b.weight.absmax' is missing"),
        (".quant_map", None, "quant_map' is missing"), (STATE, None, "has no quant_state or SCB beside it"),
        ("", np.ones((500, 1), np.uint8), "500 bytes of codes, and [16, 64] takes 512"),
        (".absmax", np.ones(15, np.float32), "absmax' has the shape [15]; it must be [16]"),
        (".absmax", np.ones(16, np.uint8), "absmax' is U8"), (".quant_map", np.ones(17, np.float32), "quant_map' has"),
        (".nested_absmax", np.ones(1, np.float32), "nested_quant_map' is missing"),
        (STATE, np.frombuffer(b"{", np.uint8), "is not valid JSON"),
        (STATE, np.frombuffer(b"[]", np.uint8), "a mapping"),
        (STATE, np.frombuffer(b"[" * 60000, np.uint8), "is not valid JSON"), (STATE, np.ones(4, np.float32), "is F32"),
        (STATE, state(blocksize=0), "blocksize is 0"), (STATE, state(blocksize="64"), "blocksize is '64'"),
        (STATE, state(shape=[16, -64]), "shape is [16, -64]"), (STATE, state(shape=None), "shape is None"),
        (STATE, state(shape=[1 << 40, 1 << 40]), "bytes of codes"), (STATE, state(quant_type="fp4"), "quant_type is"),
        (STATE, state(nested_offset="x"), "nested_offset is"),
        (".quant_state.bitsandbytes__int9", state(), "ggufpy knows nf4 and fp4"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(part: str, value: Any, message: str) -> None:
    arrays, _ = four(np.random.default_rng(7), (16, 64), 64, False)
    arrays = {**arrays, part: value} if value is not None else {k: v for k, v in arrays.items() if k != part}
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        decode(full(arrays))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("weight", None, "a.weight' is missing"),
        ("SCB", None, "has no quant_state or SCB beside it"),
        ("SCB", np.ones(3, np.float32), "SCB' has the shape [3]; it must be [2]"),
        ("weight", np.ones((2, 4), np.uint8), "weight' is U8; it must be I8"),
        ("weight_format", np.array(2, np.uint8), "weight_format is not 0"),
    ],
)
def test_what_is_wrong_with_int8(part: str, value: Any, message: str) -> None:
    arrays = {"weight": np.ones((2, 4), np.int8), "SCB": np.ones(2, np.float32), part: value}
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        decode(stored.named("a", {k: v for k, v in arrays.items() if v is not None}))
    assert message in str(error.value)


def test_a_checkpoint_becomes_the_nearest(tmp_path: Path) -> None:
    def make(rng: Any, out: int, columns: int) -> Any:
        arrays, weights = four(rng, (out, columns), 64, True)
        return {f"weight{part}": value for part, value in arrays.items()}, weights

    exact = stored.llama(tmp_path, CONFIG, make)
    path, report = stored.converted(tmp_path)
    stored.check_file(path, exact, "Q8_0", 2.5 / 250)
    assert any("became the nearest (Q8_0)" in note for note in report.notes)
    path, _ = stored.converted(tmp_path, "F32")
    stored.check_file(path, exact, "F32")
