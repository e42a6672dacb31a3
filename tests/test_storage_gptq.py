"""GPTQ: its layout written out here, packed from known codes and decoded; what fits blocks; what is wrong."""

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
from ggufpy.convert.storage import gptq
from ggufpy.errors import GGUFError
from ggufpy.models.changes import Transpose

CONFIG: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq"}


def random(rng: Any, out: int, columns: int, bits: int, size: int, symmetric: bool) -> tuple[Any, Any, Any]:
    """Codes (out, in), scales and zeros (groups, out)."""
    groups = -(-columns // size)
    q = rng.integers(0, 1 << bits, (out, columns))
    scales = (rng.standard_normal((groups, out)) / 8).astype(np.float16)
    zeros = np.full((groups, out), 1 << (bits - 1))
    # 0 cannot be less 1 without a change of its neighbour
    return q, scales, zeros if symmetric else rng.integers(1, 1 << bits, (groups, out))


def truth(q: Any, scales: Any, zeros: Any, order: Any) -> Any:
    """(q - z) · s of each column's group, float32."""
    return ((q - zeros.T[:, order]) * scales.T[:, order].astype(np.float64)).astype(np.float32)


def weight(arrays: Any, changes: Any = ()) -> Any:
    config = {"quantization_config": {**CONFIG, **dict(changes)}}
    name, made = storage.logical(config, stored.stored(stored.named("a.b", arrays)))
    assert name == "GPTQ"
    return made["a.b.weight"]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from((2, 3, 4, 8)), st.integers(1, 6), st.integers(1, 3), st.sampled_from((-1, 16, 32, 64, 128)),
    st.booleans(), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_weights_are_codes_less_zeros_times_scales(
    bits: int, eights: int, thirties: int, size: int, symmetric: bool, second: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    out, columns = (32 if bits == 3 else 16) * eights, 32 * thirties
    step = columns if size == -1 else size
    q, scales, zeros = random(rng, out, columns, bits, step, symmetric)
    arrays = stored.gptq(q, scales, zeros, bits, 0 if second else 1)
    changes = {"bits": bits, "group_size": size, "checkpoint_format": "gptq_v2" if second else "gptq"}
    order = np.arange(columns) // step
    stored.check_rows(weight(arrays, changes), truth(q, scales, zeros, order))
    shuffled = rng.permutation(order)
    arrays["g_idx"] = shuffled.astype(np.int32)
    made = weight(arrays, {**changes, "desc_act": True})
    stored.check_rows(made, truth(q, scales, zeros, shuffled))


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_scales_of_any_float_type(kind: str) -> None:
    q, scales, zeros = random(np.random.default_rng(0), 16, 64, 4, 32, True)
    other = {"F16": scales, "BF16": Bf16(scales), "F32": scales.astype(np.float32)}[kind]
    exact = other.floats if isinstance(other, Bf16) else scales
    made = weight(stored.gptq(q, other, zeros, 4))
    stored.check_rows(made, truth(q, exact, zeros, np.arange(64) // 32))
    stored.check_exact(made, "Q4_0")


def test_zeros_of_the_largest_code_carry_over_as_in_the_library() -> None:
    arrays = stored.gptq(np.zeros((8, 32), int), np.ones((1, 8), np.float16), np.full((1, 8), 8), 4)
    arrays["qzeros"] = np.array([[0x7777777F]], np.uint32).view(np.int32)  # + 0x11111111 = 0x88888890
    assert (-weight(arrays).to_numpy()[:, 0]).tolist() == [0, 9, 8, 8, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("bits", "size", "symmetric", "exact", "near"),
    [
        (4, 32, True, "Q4_0", ""), (4, 128, True, "Q4_0", ""), (4, -1, True, "Q4_0", ""), (3, 64, True, "Q4_0", ""),
        (2, 32, True, "Q4_0", ""), (8, 64, True, "Q8_0", ""), (2, 32, False, "Q4_0", ""), (4, 64, False, "Q5_0", ""),
        (4, 16, True, "", "Q8_0"), (8, 32, False, "", "Q8_0"),
    ],
)  # fmt: skip
def test_blocks(bits: int, size: int, symmetric: bool, exact: str, near: str) -> None:
    step = 128 if size == -1 else size
    q, scales, zeros = random(np.random.default_rng(1), 32, 128, bits, step, symmetric)
    made = weight(stored.gptq(q, scales, zeros, bits), {"bits": bits, "group_size": size})
    if exact:
        stored.check_exact(made, exact)
    else:
        # 8 bits have half a step of 1/127 of a block's largest
        stored.check_near(made, near, 2**bits / 254 * 1.01 * np.abs(scales).max())


def test_minima_without_loss_where_they_fit() -> None:
    q, _, zeros = random(np.random.default_rng(2), 16, 64, 4, 32, False)
    scales = np.exp2(np.random.default_rng(3).integers(-6, 2, (2, 16))).astype(np.float16)
    stored.check_exact(weight(stored.gptq(q, scales, zeros, 4)), "Q4_1")


def test_scales_that_do_not_fit_f16() -> None:
    q, scales, zeros = random(np.random.default_rng(2), 16, 64, 4, 32, True)
    finer = scales.astype(np.float32) * np.float32(1.0001)
    stored.check_near(weight(stored.gptq(q, finer, zeros, 4)), "Q4_0", np.abs(finer).max() * 8 * 2.0**-11)
    larger = np.full((2, 16), 1e6, np.float32)
    made = weight(stored.gptq(q, larger, zeros, 4))
    assert made.exact is None
    assert made.near is not None
    assert made.near.type == "Q8_0"


def test_columns_in_order_after_all() -> None:
    q, scales, zeros = random(np.random.default_rng(4), 16, 128, 4, 32, True)
    arrays = {**stored.gptq(q, scales, zeros, 4), "g_idx": np.arange(128, dtype=np.int32) // 32}
    stored.check_exact(weight(arrays, {"desc_act": True}), "Q4_0")
    arrays["g_idx"] = arrays["g_idx"][::-1].copy()
    made = weight(arrays, {"desc_act": True})
    assert made.exact is None
    assert made.near is not None


def test_layers_of_their_own_and_settings_elsewhere() -> None:
    rng = np.random.default_rng(5)
    first, second = random(rng, 32, 64, 8, 32, True), random(rng, 32, 128, 4, 64, False)
    arrays = stored.named("a", stored.gptq(*first, 8)) | stored.named("b", stored.gptq(*second, 4))
    arrays["b.bias"] = np.arange(32, dtype=np.float16)
    for said in ({**CONFIG, "group_size": 64, "dynamic": {"a": {"bits": 8, "group_size": 32}}}, None):
        _, made = storage.logical({} if said is None else {"quantization_config": said}, stored.stored(arrays))
        assert sorted(made) == ["a.weight", "b.bias", "b.weight"]
        stored.check_rows(made["a.weight"], truth(*first, np.arange(64) // 32))
        stored.check_rows(made["b.weight"], truth(*second, np.arange(128) // 64))
        np.testing.assert_array_equal(made["b.bias"].to_numpy(), np.arange(32))


def test_layers_of_gpt2_are_the_other_way_round() -> None:
    q, scales, zeros = random(np.random.default_rng(6), 16, 64, 4, 32, True)
    arrays = stored.named("h.0.mlp.c_fc", stored.gptq(q, scales, zeros, 4))
    config = {"model_type": "gpt2", "quantization_config": CONFIG}
    made = gptq.decode(config, stored.stored(arrays))["h.0.mlp.c_fc.weight"]
    np.testing.assert_array_equal(made.to_numpy(), truth(q, scales, zeros, np.arange(64) // 32).T)
    (back,) = Transpose().forward([made])
    stored.check_exact(back, "Q4_0")


def broken(part: str, value: Any) -> Any:
    arrays = stored.gptq(*random(np.random.default_rng(7), 16, 64, 4, 32, True), 4)
    if value is None:
        del arrays[part]
    else:
        arrays[part] = value
    return arrays


@pytest.mark.parametrize(
    ("part", "value", "changes", "message"),
    [
        ("scales", None, {}, "a.b.scales' is missing"), ("qweight", None, {}, "a.b.qweight' is missing"),
        ("qzeros", None, {}, "a.b.qzeros' is missing"), ("weight", np.ones(4, np.float32), {}, "has both"),
        ("scales", np.ones((2, 15), np.float16), {}, "qweight' has the shape"),
        ("scales", np.ones((3, 16), np.float16), {}, "qzeros' has the shape"),
        ("scales", np.ones(16, np.float16), {}, "scales' has the shape"),
        ("scales", np.ones((2, 16), np.int32), {}, "scales' is I32; it must be F16 or BF16 or F32"),
        ("qzeros", np.ones((2, 3), np.int32), {}, "qzeros have 3 words a row"),
        ("qweight", np.ones((9, 16), np.int32), {}, "have 2 groups, and 72 columns in groups of 32"),
        ("qweight", np.zeros((0, 16), np.int32), {}, "qweight' has the shape"),
        ("g_idx", np.full(64, 2, np.int32), {}, "g_idx names groups 2 to 2, of 2"),
        ("g_idx", np.full(64, -1, np.int32), {}, "g_idx names groups -1 to -1, of 2"),
        ("g_idx", np.zeros(65, np.int32), {}, "g_idx' has the shape"),
        ("g_idx", np.zeros(40, np.int32), {}, "qweight has 8 rows"),
        ("g_idx", np.zeros(64, np.float32), {}, "g_idx' is F32"), ("x", Bf16([0]), {"desc_act": True}, "has no g_idx"),
        ("x", Bf16([0]), {"bits": 5}, "bits is 5; ggufpy knows 2, 3, 4, 8"),
        ("x", Bf16([0]), {"bits": "4"}, "bits is '4'; it must be a whole number"),
        ("x", Bf16([0]), {"bits": 8}, "qzeros have 2 words a row; 16 zeros of 8 bits"),
        ("x", Bf16([0]), {"group_size": 128}, "have 2 groups, and 64 columns in groups of 128"),
        ("x", Bf16([0]), {"group_size": 0}, "group_size is 0"),
        ("x", Bf16([0]), {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; ggufpy knows gptq, gptq_v2"),
        ("x", Bf16([0]), {"is_marlin_format": True}, "checkpoint_format is 'marlin'"),
        ("x", Bf16([0]), {"pack_dtype": "int16"}, "pack_dtype is 'int16'"),
        ("x", Bf16([0]), {"checkpoint_format": 7}, "checkpoint_format is 7"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(part: str, value: Any, changes: Any, message: str) -> None:
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        weight(broken(part, value), changes)
    assert message in str(error.value)


def maker(symmetric: bool) -> stored.Maker:
    def make(rng: Any, out: int, columns: int) -> Any:
        q, scales, zeros = random(rng, out, columns, 4, 32, symmetric)
        scales = (np.abs(scales) / 16 + np.float16(2**-8)).astype(np.float16)
        return stored.gptq(q, scales, zeros, 4), truth(q, scales, zeros, np.arange(columns) // 32)

    return make


def test_a_checkpoint_is_kept(tmp_path: Path) -> None:
    exact = stored.llama(tmp_path, CONFIG, maker(True))
    path, report = stored.converted(tmp_path, keep=True)
    stored.check_file(path, exact, "Q4_0")
    assert any("kept without loss" in note and "14 as Q4_0" in note for note in report.notes)
    assert "the weights are stored as GPTQ" in report.notes


def test_a_checkpoint_with_zeros_has_a_bit_more(tmp_path: Path) -> None:
    exact = stored.llama(tmp_path, CONFIG, maker(False))
    path, report = stored.converted(tmp_path, keep=True)
    stored.check_file(path, exact, "Q5_0")
    assert any("14 as Q5_0" in note for note in report.notes)
    path, _ = stored.converted(tmp_path, "F32")
    stored.check_file(path, exact, "F32")
