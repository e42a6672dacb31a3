"""HQQ: its layout written out here, packed from known codes and decoded; what fits blocks; what is wrong."""

from __future__ import annotations

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

CONFIG: dict[str, Any] = {"quant_method": "hqq", "skip_modules": ["lm_head"], "quant_config": {}}
PACKINGS = {8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}


def packed(q: Any, bits: int) -> Any:
    """Codes (n, columns): the first rows in the highest bits."""
    if bits >= 5:
        return q.astype(np.uint8)
    planes, dtype = (10, np.int32) if bits == 3 else (8 // bits, np.uint8)
    step = -(-len(q) // planes)
    q = np.pad(q, ((0, step * planes - len(q)), (0, 0)))
    return sum(q[i * step : (i + 1) * step] << (bits * (planes - 1 - i)) for i in range(planes)).astype(dtype)


def letters(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


def hqq(q: Any, scales: Any, zeros: Any, bits: int, axis: int, shape: Any) -> stored.Arrays:
    """The tensors of codes (groups, size) or (size, groups) and of scales and zeros beside or above them."""
    return {
        "W_q": packed(q, bits), "scale": scales, "zero": zeros, "nbits": np.array(bits, np.int32),
        "group_size": np.array(q.shape[1 - (1 - axis)] if axis == 1 else q.shape[0], np.int32),
        "axis": np.array(axis, np.int32), "shape": np.array(shape, np.int64), "packing": letters(PACKINGS[bits]),
        "unpack_view_dtype": letters("torch.uint8"), "view_as_float": np.array(0, np.uint8),
        "compute_dtype": letters("torch.float16"), "channel_wise": np.array(1, np.uint8),
        "encoded_state_dict": np.array(1, np.uint8),
    }  # fmt: skip


def random(rng: Any, shape: Any, bits: int, size: int, axis: int, whole: bool = False) -> tuple[Any, Any, Any]:
    groups = shape[0] * shape[1] // size
    q = rng.integers(0, 1 << bits, (groups, size) if axis == 1 else (size, groups))
    side = (groups, 1) if axis == 1 else (1, groups)
    zeros = rng.integers(0, 1 << bits, side) if whole else rng.random(side) * (1 << bits)
    return q, ((rng.random(side) + 0.1) / 8).astype(np.float16), zeros.astype(np.float16)


def truth(q: Any, scales: Any, zeros: Any, shape: Any) -> Any:
    """Each step in float32."""
    return ((q.astype(np.float32) - zeros.astype(np.float32)) * scales.astype(np.float32)).reshape(shape)


def weight(arrays: Any) -> Any:
    name, made = storage.logical({"quantization_config": CONFIG}, stored.stored(stored.named("a.b", arrays)))
    assert name == "HQQ"
    assert list(made) == ["a.b.weight"]
    return made["a.b.weight"]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from((8, 6, 5, 4, 3, 2, 1)), st.integers(0, 1), st.sampled_from((8, 16, 32, 64, 128)), st.integers(1, 3),
    st.integers(0, 99),
)  # fmt: skip
def test_weights_are_codes_less_zeros_times_scales(bits: int, axis: int, size: int, wide: int, seed: int) -> None:
    shape = (64, 48 * wide)
    values = random(np.random.default_rng(seed), shape, bits, size, axis)
    stored.check_rows(weight(hqq(*values, bits, axis, shape)), truth(*values, shape))


@pytest.mark.parametrize("kind", ["BF16", "F32"])
def test_scales_of_other_float_types_and_codes_seen_as_floats(kind: str) -> None:
    shape = (16, 64)
    q, scales, zeros = random(np.random.default_rng(0), shape, 4, 64, 1)
    arrays = hqq(q, scales, zeros, 4, 1, shape)
    if kind == "BF16":
        some = [Bf16(scales), Bf16(zeros)]
        arrays |= {"scale": some[0], "zero": some[1], "view_as_float": np.array(1, np.uint8)}
        arrays["W_q"] = arrays["W_q"].view(np.float16)
        exact = [x.floats for x in some]
    else:
        exact = [scales.astype(np.float32) * np.float32(1.00001), zeros.astype(np.float32)]
        arrays |= {"scale": exact[0], "zero": exact[1]}
    stored.check_rows(weight(arrays), truth(q, *exact, shape))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_the_nearest_blocks(bits: int) -> None:
    shape = (32, 128)
    values = random(np.random.default_rng(1), shape, bits, 64, 1)
    made = weight(hqq(*values, bits, 1, shape))
    kind = "Q4_1" if bits <= 4 else "Q5_1" if bits == 5 else "Q8_0"
    stored.check_near(made, kind, 2**bits * values[1].max() * (2.0**-11 if bits < 8 else 1 / 250))
    across = weight(hqq(*random(np.random.default_rng(1), shape, bits, 64, 0), bits, 0, shape))
    assert across.exact is None
    assert across.near is not None
    assert across.near.type == "Q8_0"


def test_whole_zeros_fit_blocks() -> None:
    shape = (32, 128)
    q, scales, zeros = random(np.random.default_rng(2), shape, 4, 64, 1, whole=True)
    stored.check_exact(weight(hqq(q, scales, zeros, 4, 1, shape)), "Q5_0")
    stored.check_exact(weight(hqq(q, scales, np.full_like(zeros, 8), 4, 1, shape)), "Q4_0")
    powers = np.exp2(np.random.default_rng(3).integers(-6, 2, scales.shape)).astype(np.float16)
    stored.check_exact(weight(hqq(q, powers, zeros + np.float16(0.25), 4, 1, shape)), "Q4_1")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("scale", None, "a.b.scale' is missing"), ("nbits", None, "a.b.nbits' is missing"),
        ("packing", None, "a.b.packing' is missing"),
        ("nbits", np.array(7, np.int32), "nbits is 7; ggufpy knows 8, 6, 5, 4, 3, 2, 1"),
        ("nbits", np.array(1.58, np.float32), "nbits is F32 []; it must be one whole number"),
        ("nbits", np.array(2, np.int32), "packing is '4bit_u8'; 2 bits are packed as 2bit_u8"),
        ("axis", np.array(2, np.int32), "axis is 2"), ("group_size", np.array(0, np.int32), "is not groups of 0"),
        ("group_size", np.array(48, np.int32), "is not groups of 48"),
        ("shape", np.array([16, 65], np.int64), "is not groups of 64"), ("shape", np.array([-16, -64]), "of shape"),
        ("shape", np.array([32, 64], np.int64), "bytes; 4 bits each take 1,024"),
        ("shape", np.array([16, 64, 1], np.int64), "shape' has the shape"),
        ("scale", np.ones(1, np.float16), "scale is F16 [1], of 16 groups"),
        ("zero", np.ones(16, np.int32), "zero is I32"),
        ("weight", np.ones((2, 2), np.float16), "has both"), ("packing", letters("\n"), "packing is"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(part: str, value: Any, message: str) -> None:
    arrays = hqq(*random(np.random.default_rng(7), (16, 64), 4, 64, 1), 4, 1, (16, 64))
    arrays = {**arrays, part: value} if value is not None else {k: v for k, v in arrays.items() if k != part}
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        weight(arrays)
    assert message in str(error.value)


def test_a_checkpoint_becomes_the_nearest(tmp_path: Path) -> None:
    def make(rng: Any, out: int, columns: int) -> Any:
        values = random(rng, (out, columns), 4, 64, 1)
        return hqq(*values, 4, 1, (out, columns)), truth(*values, (out, columns))

    exact = stored.llama(tmp_path, CONFIG, make)
    path, report = stored.converted(tmp_path)
    stored.check_file(path, exact, "Q4_1", 2.0**-9)
    assert any("became the nearest (Q4_1)" in note for note in report.notes)
    with pytest.raises(GGUFError, match=r"^tensor [^\n]* cannot be kept as it is: [^\n]*$"):
        stored.converted(tmp_path, keep=True)
