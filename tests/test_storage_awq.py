"""AWQ: both of its layouts written out here, packed from known codes and decoded; what fits blocks; what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
from hypothesis import given, settings
from hypothesis import strategies as st
from test_storage_gptq import random, truth

from ggufpy.convert import storage
from ggufpy.errors import GGUFError

CONFIG: dict[str, Any] = {
    "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True,
    "modules_to_not_convert": None,
}  # fmt: skip
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # outputs of a word from its lowest bits on


def eights(codes: Any, bits: int = 4) -> Any:
    """Codes (n, out) in the order of their words, packed."""
    return stored.along_bits(codes.reshape(len(codes), -1, 8)[:, :, ORDER].reshape(len(codes), -1), bits)


def gemm(q: Any, scales: Any, zeros: Any, bits: int = 4) -> stored.Arrays:
    return {"qweight": eights(q.T, bits), "qzeros": eights(zeros, bits), "scales": scales}


def gemv(q: Any, scales: Any, zeros: Any) -> stored.Arrays:
    """Groups filled up to what kernels want: AutoAWQ's calculate_zeros_width."""
    groups = len(zeros)
    step = {32: 32, 64: 16}.get(q.shape[1] // groups, 8)
    width = -(-groups // step) * step
    filled = [np.pad(x.T, ((0, 0), (0, width - groups))) for x in (scales, zeros)]
    return {"qweight": stored.along_bits(q, 4), "qzeros": stored.along_bits(filled[1], 4), "scales": filled[0]}


def weight(arrays: Any, changes: Any = ()) -> Any:
    config = {"quantization_config": {**CONFIG, **dict(changes)}}
    name, made = storage.logical(config, stored.stored(stored.named("a.b", arrays)))
    assert name == "AWQ"
    return made["a.b.weight"]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 9), st.sampled_from((32, 64, 128)), st.integers(1, 3), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_weights_are_codes_less_zeros_times_scales(
    words: int, size: int, groups: int, symmetric: bool, vectors: bool, seed: int
) -> None:
    q, scales, zeros = random(np.random.default_rng(seed), 8 * words, size * groups, 4, size, symmetric)
    arrays = (gemv if vectors else gemm)(q, scales, zeros)
    made = weight(arrays, {"version": "GEMV" if vectors else "GEMM", "group_size": size})
    stored.check_rows(made, truth(q, scales, zeros, np.arange(size * groups) // size))


def test_one_group_and_older_names() -> None:
    q, scales, zeros = random(np.random.default_rng(0), 16, 96, 4, 96, False)
    said = {"quant_method": "awq", "w_bit": 4, "q_group_size": -1, "version": "gemm"}
    made = storage.logical({"quantization_config": said}, stored.stored(stored.named("m", gemm(q, scales, zeros))))[1]
    stored.check_rows(made["m.weight"], truth(q, scales, zeros, np.zeros(96, int)))


@pytest.mark.parametrize("vectors", [False, True])
def test_blocks(vectors: bool) -> None:
    for symmetric in (True, False):
        q, scales, zeros = random(np.random.default_rng(1), 24, 128, 4, 64, symmetric)
        arrays = (gemv if vectors else gemm)(q, scales, zeros)
        made = weight(arrays, {"version": "gemv" if vectors else "gemm", "group_size": 64})
        if symmetric:
            stored.check_exact(made, "Q4_0")
        else:
            stored.check_exact(made, "Q5_0")


def test_a_half_that_sees_keeps_its_floats_and_settings_are_in_the_text_half() -> None:
    q, scales, zeros = random(np.random.default_rng(2), 16, 32, 4, 32, False)
    arrays = {**stored.named("m", gemm(q, scales, zeros)), "visual.x.weight": np.ones((2, 2), np.float16)}
    config = {"text_config": {"quantization_config": CONFIG}}
    name, made = storage.logical(config, stored.stored(arrays))
    assert name == "AWQ"
    assert sorted(made) == ["m.weight", "visual.x.weight"]


@pytest.mark.parametrize(
    ("part", "value", "changes", "message"),
    [
        ("scales", None, {}, "a.b.scales' is missing"), ("qweight", None, {}, "a.b.qweight' is missing"),
        ("scales", np.ones((2, 15), np.float16), {}, "15 outputs, which are not whole words"),
        ("qzeros", np.ones((1, 2), np.int32), {}, "qzeros' has the shape [1, 2]; it must be [2, 2]"),
        ("qweight", np.ones((65, 2), np.int32), {}, "65 columns with scales for 2 groups are not groups of 32"),
        ("qweight", np.ones((64, 2), np.float32), {}, "qweight' is F32"),
        ("x", np.ones(1, np.float32), {"bits": 8}, "bits is 8; ggufpy knows 4"),
        ("x", np.ones(1, np.float32), {"version": "marlin"}, "version is 'marlin'; ggufpy knows gemm, gemv"),
        ("x", np.ones(1, np.float32), {"version": "exllama"}, "version is 'exllama'"),
        ("x", np.ones(1, np.float32), {"version": "gemv_fast"}, "version is 'gemv_fast'"),
        ("x", np.ones(1, np.float32), {"group_size": 0}, "are not groups of 0"),
        ("x", np.ones(1, np.float32), {"group_size": None, "q_group_size": 48}, "are not groups of 48"),
        ("x", np.ones(1, np.float32), {"version": "gemv"}, "16 columns with scales are not groups of 32"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(part: str, value: Any, changes: Any, message: str) -> None:
    arrays = gemm(*random(np.random.default_rng(7), 16, 64, 4, 32, False))
    arrays = {**arrays, part: value} if value is not None else {k: v for k, v in arrays.items() if k != part}
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        weight(arrays, changes)
    assert message in str(error.value)


def maker(symmetric: bool) -> stored.Maker:
    def make(rng: Any, out: int, columns: int) -> Any:
        q, scales, zeros = random(rng, out, columns, 4, 64, symmetric)
        scales = (np.abs(scales) / 16 + np.float16(2**-8)).astype(np.float16)
        return gemm(q, scales, zeros), truth(q, scales, zeros, np.arange(columns) // 64)

    return make


def test_a_checkpoint_is_kept(tmp_path: Path) -> None:
    for symmetric, kind in ((False, "Q5_0"), (True, "Q4_0")):
        exact = stored.llama(tmp_path, {**CONFIG, "group_size": 64}, maker(symmetric))
        path, report = stored.converted(tmp_path, keep=True)
        stored.check_file(path, exact, kind)
        assert any("kept without loss" in note for note in report.notes)
